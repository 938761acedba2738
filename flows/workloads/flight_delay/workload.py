"""The workload object of flight_delay: windows, model, gate and thresholds, chosen on the data (README.md of this folder)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from flows.core.workload import DriftThresholds, ModelSpec, PromotionGate, Windows
from flows.workloads.estimators import boosted_trees
from flows.workloads.flight_delay import features, source
from flows.workloads.flight_delay.tables import TABLES

if TYPE_CHECKING:
    import pandas as pd


class FlightDelay:
    """Arrival more than 15 minutes after schedule, forecast at the scheduled departure."""

    name = "flight_delay"
    title = "Late arrivals of flights from New York"
    tables = TABLES
    feature_service = "flight_delay_v1"
    windows = Windows(train=timedelta(days=60), holdout=timedelta(days=14), score=timedelta(days=7), watch=timedelta(days=14))
    model = ModelSpec(
        numeric=(
            "distance",
            "scheduled_hour",
            "arrival_hour",
            "weekday",
            "temp",
            "dewp",
            "dew_spread",
            "humid",
            "wind_speed",
            "precip",
            "pressure",
            "visib",
            "mean_delay_7d",
            "late_share_7d",
            "built",
            "seats",
        ),
        categorical=("carrier", "origin", "dest"),
        slices=("origin", "carrier"),
        seed=20130101,
        parameters={"max_iter": 80, "learning_rate": 0.1, "max_leaf_nodes": 31, "min_samples_leaf": 40, "l2_regularization": 1.0},
    )
    gate = PromotionGate(min_auc=0.55, min_auc_gain=0.0, max_slice_auc_drop=0.05, min_slice_rows=500, max_calibration_error=0.1)
    drift = DriftThresholds(max_auc_drop=0.05, max_prediction_drift=0.6, max_input_share=0.5, min_rows=2000)

    def read(self, table: str, until: datetime) -> pd.DataFrame:
        """All source rows of the table known at `until`."""
        import pandas as pd

        frame = source.READERS[table]()
        known_at = next(each.known_at for each in TABLES if each.name == table)
        return frame if known_at is None else frame[frame[known_at] <= pd.Timestamp(until)].reset_index(drop=True)

    def feature_tables(self, raw: Mapping[str, pd.DataFrame]) -> Mapping[str, pd.DataFrame]:
        """`weather_hourly` (origin), `plane_facts` (tailnum) and `carrier_recent` (carrier)."""
        return {
            "weather_hourly": features.weather_hourly(raw["weather"]),
            "plane_facts": features.plane_facts(raw["planes"]),
            "carrier_recent": features.carrier_recent(raw["arrivals"]),
        }

    def examples(self, raw: Mapping[str, pd.DataFrame], as_of: datetime) -> pd.DataFrame:
        """One row per scheduled departure up to `as_of`, with what the schedule itself says as request features."""
        return features.examples(raw, as_of)

    def estimator(self) -> Any:
        """Boosted trees over ordinal-encoded categories."""
        return boosted_trees(self.model)
