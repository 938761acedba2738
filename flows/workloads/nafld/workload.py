"""The workload object of nafld: windows, model, gate and thresholds (README.md of this folder)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from flows.core.workload import DriftThresholds, ModelSpec, PromotionGate, Windows
from flows.workloads.estimators import boosted_trees
from flows.workloads.nafld import features, source
from flows.workloads.nafld.tables import TABLES

if TYPE_CHECKING:
    import pandas as pd

YEAR = timedelta(days=365)


class Nafld:
    """Diabetes within five years of the index date, forecast at that date."""

    name = "nafld"
    title = "Diabetes within five years, NAFLD cohort"
    tables = TABLES
    feature_service = "nafld_v1"
    windows = Windows(train=9 * YEAR, holdout=features.HORIZON + 3 * YEAR, score=YEAR, watch=features.HORIZON + 2 * YEAR)
    model = ModelSpec(
        numeric=(
            "age",
            "male",
            "weight",
            "height",
            "bmi",
            "hdl",
            "sbp",
            "fib4",
            "smoke",
            "had_htn",
            "had_dyslipidemia",
            "had_nafld",
            "had_cardiac",
            "diagnoses",
        ),
        categorical=(),
        slices=("sex",),
        seed=19970101,
        parameters={"max_iter": 60, "learning_rate": 0.05, "max_leaf_nodes": 6, "min_samples_leaf": 40, "l2_regularization": 5.0},
    )
    gate = PromotionGate(min_auc=0.6, min_auc_gain=0.0, max_slice_auc_drop=0.08, min_slice_rows=300, max_calibration_error=0.1)
    drift = DriftThresholds(max_auc_drop=0.08, max_prediction_drift=0.5, max_input_share=0.5, min_rows=300)

    def read(self, table: str, until: datetime) -> pd.DataFrame:
        """All source rows of the table known at `until`."""
        import pandas as pd

        frame = source.READERS[table]()
        known_at = next(each.known_at for each in TABLES if each.name == table)
        return frame if known_at is None else frame[frame[known_at] <= pd.Timestamp(until)].reset_index(drop=True)

    def feature_tables(self, raw: Mapping[str, pd.DataFrame]) -> Mapping[str, pd.DataFrame]:
        """`demographics`, `labs` and `history`, all by `patient`."""
        return {
            "demographics": features.demographics(raw["patients"]),
            "labs": features.labs(raw["labs"]),
            "history": features.history(raw["events"]),
        }

    def examples(self, raw: Mapping[str, pd.DataFrame], as_of: datetime) -> pd.DataFrame:
        """One row per person at risk with an index date up to `as_of`; `sex` is for slices only."""
        return features.examples(raw, as_of)

    def estimator(self) -> Any:
        """Small boosted trees: a few hundred positives carry no more."""
        return boosted_trees(self.model)
