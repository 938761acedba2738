"""A shared starting point for tabular workloads: boosted trees that take missing numbers and unseen categories."""

from __future__ import annotations

from typing import Any

from flows.core.workload import ModelSpec


def boosted_trees(spec: ModelSpec) -> Any:
    """A seeded scikit-learn pipeline over a frame with `spec.features`, shape (n_rows, n_features).

    `spec.parameters` go to `HistGradientBoostingClassifier`. A category not seen in training counts as missing.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OrdinalEncoder

    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1)
    columns = ColumnTransformer(
        [("numeric", "passthrough", list(spec.numeric)), ("categorical", encoder, list(spec.categorical))],
        verbose_feature_names_out=False,
    )
    first = len(spec.numeric)
    categorical = list(range(first, first + len(spec.categorical)))
    trees = HistGradientBoostingClassifier(
        categorical_features=categorical or None, random_state=spec.seed, early_stopping=False, **dict(spec.parameters)
    )
    return Pipeline([("columns", columns), ("trees", trees)])
