"""A plain Feast repository: one module a workload; `feature_store.<profile>.yaml` says where registry and online store are.

Modules read one variable, `TRADEWIND_FEATURES`: the absolute folder (or bucket prefix) of one site's features. The source of a
feature table is `<TRADEWIND_FEATURES>/<workload>/<table>.parquet`. Nothing of Tradewind is imported here.

A view's tag `stale` says what happens when its newest row is older than its ttl: `warn` (left out: the same) or `error`.
"""
