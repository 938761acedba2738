"""Compare challenger and champion where the data is; only aggregates and a verdict leave the site."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from flows.adapters.models import load_model
from flows.core.canonical import instant
from flows.core.promotion import judge, measure
from flows.core.workload import LABEL
from flows.services.context import StepContext, StepResult
from flows.services.frames import INTERNAL, between, guarded, read_features, require_classes, scores, split
from flows.services.model_folders import signed_model, train_end

if TYPE_CHECKING:
    import pandas as pd

LATENCY_ROWS = 1000
LATENCY_CALLS = 20


def evaluate(ctx: StepContext) -> StepResult:
    """Score the holdout with both models and judge the challenger by the workload's gate.

    `numbers["verdict"]` is the `PromotionVerdict` as JSON with `challenger` and `champion` (dataset versions; champion None at first).
    A holdout that reaches into the challenger's training is cut; nothing left of it, the verdict says that it was not fresh.

    Raises:
        UserError: the holdout has no rows of both outcomes.
        IntegrityError: the features or a model are not what was published.
    """
    started = time.monotonic()
    champion = ctx.inputs.get("champion")
    with guarded(ctx):
        parts = split(read_features(ctx), ctx)
        seen_until = train_end(ctx, "challenger")
        start = max(parts.boundary, seen_until)
        fresh = start < parts.end
        holdout = between(parts.holdout, start, parts.end) if fresh else parts.holdout
        require_classes(holdout, "holdout", ctx)
        new = load_model(signed_model(ctx, "challenger"))
        new_scores = scores(new, holdout, ctx)
        old_scores = None if champion is None else scores(load_model(signed_model(ctx, "champion")), holdout, ctx)
        numbers = measure(
            holdout[LABEL].to_numpy(),
            new_scores,
            old_scores,
            slices={name: _slice(holdout[name], ctx) for name in ctx.workload.model.slices},
            min_slice_rows=ctx.workload.gate.min_slice_rows,
            seed=ctx.workload.model.seed,
        )
        latency = _latency_ms(new, holdout, ctx)
    numbers = numbers.model_copy(
        update={
            "challenger": numbers.challenger.model_copy(update={"latency_ms_per_1k_rows": latency}),
            "fresh": fresh,
            "start": start if fresh else parts.boundary,
            "end": parts.end,
        }
    )
    verdict = judge(numbers, ctx.workload.gate)
    body: dict[str, Any] = {
        **verdict.to_json(),
        "challenger": str(ctx.inputs["challenger"]),
        "champion": None if champion is None else str(champion),
        "as_of": instant(ctx.as_of),
    }
    told = "passes" if verdict.passed else "does not pass: " + "; ".join(reason.message for reason in verdict.reasons)
    against = "no champion yet" if numbers.champion is None else f"champion {numbers.champion.auc:.4f}"
    summary = f"challenger AUC {numbers.challenger.auc:.4f}, {against}, {numbers.rows:,} rows: {told}"
    ctx.log.info(summary)
    return StepResult(numbers={"verdict": body, "rows": numbers.rows, "seconds": round(time.monotonic() - started, 3)}, summary=summary)


def _slice(values: pd.Series[Any], ctx: StepContext) -> Any:
    """The groups of a column; above `internal` by their number in the order of their names, since the verdict is read in control."""
    if ctx.label.level <= INTERNAL:
        return values.to_numpy(dtype=object)
    codes, _ = values.astype(str).factorize(sort=True)
    return [f"group {code + 1}" for code in codes]


def _latency_ms(estimator: Any, rows: pd.DataFrame, ctx: StepContext) -> float:
    """p95 of the wall time of a prediction for 1,000 rows by one thread, in milliseconds, after one call to warm up."""
    import numpy as np

    seed = ctx.workload.model.seed
    batch = rows.sample(n=LATENCY_ROWS, replace=len(rows) < LATENCY_ROWS, random_state=seed).reset_index(drop=True)
    scores(estimator, batch, ctx)
    spans = []
    for _ in range(LATENCY_CALLS):
        begun = time.perf_counter()
        scores(estimator, batch, ctx)
        spans.append((time.perf_counter() - begun) * 1000)
    return round(float(np.quantile(spans, 0.95)), 3)
