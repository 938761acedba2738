"""Evidently's drift report: an HTML page for people and the numbers behind it.

Above `internal`, the page must show no row: numbers are clipped to their inner 98 % and put on a coarse grid, categories that few rows
share become one, and every column is shuffled on its own. Drift is a matter of single columns, so that nothing is lost by it; what
Evidently draws are then shares of groups, and nobody's values stand side by side.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS = 5000
"""Rows of each side that Evidently sees; more cost time and change little."""
MIN_ROWS = 50
"""Rows of each side below which no report is made: it would describe persons, not a population."""
RARE = 20
GRID = 50
NUMERIC_METHOD, CATEGORICAL_METHOD = "wasserstein", "jensenshannon"
THRESHOLD = 0.1
"""Evidently's own default for both methods: normed Wasserstein distance, Jensen-Shannon distance."""
OTHER = "(other)"


@dataclass(frozen=True, slots=True)
class DriftReport:
    """`html` is a page that loads nothing from elsewhere; `scores` the drift score by compared column, `drifted` those at or above 0.1.

    `skipped` are columns that hold no value on one side; `rows` is (reference, current) as compared.
    """

    html: str
    scores: Mapping[str, float]
    drifted: tuple[str, ...]
    skipped: tuple[str, ...]
    rows: tuple[int, int]


def drift_report(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    *,
    numeric: Sequence[str],
    categorical: Sequence[str],
    seed: int,
    show_rows: bool,
) -> DriftReport:
    """Compare two frames column by column; each side is sampled to at most `MAX_ROWS` rows with the seed.

    `show_rows` False (data above `internal`) coarsens both sides first. The same inputs and seed give the same numbers.

    Raises:
        UserError: a side has fewer than `MIN_ROWS` rows, or no column can be compared.
    """
    if min(len(reference), len(current)) < MIN_ROWS:
        raise UserError(
            f"a drift report needs at least {MIN_ROWS} rows on each side",
            expected=f"reference {len(reference)} and current {len(current)} to be enough",
            fix="widen the workload's `watch` window",
        )
    columns = [name for name in (*numeric, *categorical) if _has_values(reference, name) and _has_values(current, name)]
    if not columns:
        raise UserError("no column holds values on both sides", fix="see what `materialize` made")
    before, after = (_prepare(side, columns, numeric, seed) for side in (reference, current))
    if not show_rows:
        before, after = _coarsen(before, after, [name for name in numeric if name in columns], seed)
    scores, html = _evidently(before, after, columns, set(numeric))
    drifted = tuple(sorted(name for name, score in scores.items() if score >= THRESHOLD))
    skipped = tuple(name for name in (*numeric, *categorical) if name not in columns)
    return DriftReport(html, scores, drifted, skipped, (len(before), len(after)))


def _has_values(frame: pd.DataFrame, name: str) -> bool:
    import numpy as np

    values = frame[name]
    return bool(np.isfinite(values).any()) if values.dtype.kind == "f" else bool(values.notna().any())


def _prepare(frame: pd.DataFrame, columns: list[str], numeric: Sequence[str], seed: int) -> pd.DataFrame:
    """A seeded sample without the index, numbers as float64 and categories as text."""
    sample = frame[columns].sample(n=min(len(frame), MAX_ROWS), random_state=seed).reset_index(drop=True)
    types = {name: "float64" if name in numeric else "str" for name in columns}
    return sample.assign(**{name: sample[name].fillna("(missing)") for name in columns if name not in numeric}).astype(types)


def _coarsen(before: pd.DataFrame, after: pd.DataFrame, numeric: list[str], seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    import numpy as np
    import pandas as pd

    generator = np.random.default_rng(seed)
    sides: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for name in before.columns:
        pair = (before[name], after[name])
        if name in numeric:
            values = pd.concat(pair).replace([np.inf, -np.inf], np.nan)
            low, high = (float(bound) for bound in np.nanquantile(values, [0.01, 0.99]))
            step = _nice((high - low) / GRID)
            coarse = [(side.clip(low, high) / step).round() * step for side in pair]
        else:
            rare = {value for side in pair for value, rows in side.value_counts().items() if rows < RARE}
            coarse = [side.where(~side.isin(rare), OTHER) for side in pair]
        for side, values in zip(sides, coarse, strict=True):
            side[name] = generator.permutation(values.to_numpy())
    return pd.DataFrame(sides[0]), pd.DataFrame(sides[1])


def _nice(step: float) -> float:
    """The next 1, 2 or 5 times a power of ten at or above a step; 1 for a column that hardly varies."""
    if not step > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= step * (1 - 1e-9))


def _evidently(before: pd.DataFrame, after: pd.DataFrame, columns: list[str], numeric: set[str]) -> tuple[dict[str, float], str]:
    os.environ.setdefault("DO_NOT_TRACK", "1")  # before the import: Evidently would tell its makers of each use
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("evidently").setLevel(logging.ERROR)
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        kinds = DataDefinition(
            numerical_columns=[name for name in columns if name in numeric],
            categorical_columns=[name for name in columns if name not in numeric],
        )
        preset = DataDriftPreset(columns=columns, num_method=NUMERIC_METHOD, cat_method=CATEGORICAL_METHOD, threshold=THRESHOLD)
        report = Report([preset], include_tests=False)
        snapshot = report.run(Dataset.from_pandas(after, kinds), Dataset.from_pandas(before, kinds))
        scores = _scores(snapshot.dict()["metrics"])
        return scores, str(snapshot.get_html_str(as_iframe=False))


def _scores(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found = {
        metric["config"]["column"]: round(float(metric["value"]), 6)
        for metric in metrics
        if metric.get("config", {}).get("type", "").endswith(":ValueDrift")
    }
    return {name: found[name] for name in sorted(found)}
