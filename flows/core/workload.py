"""The one interface between a workload and the flows: what a data scientist writes, and nothing else.

A workload is a module ``flows/workloads/<name>/`` whose package exposes ``WORKLOAD``, an object that satisfies `Workload`.
Frames are pandas; every instant is timezone-aware UTC with microsecond precision. Nothing here reads a clock or a disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import pandas as pd

ROW_ID = "row_id"
"""Column of an example's own key: unique, a string; carried through every join so that rows in = rows out can be checked."""
EVENT_TIMESTAMP = "event_timestamp"
"""Column of the instant a prediction is made for: no feature known after it may be used."""
LABEL = "label"
"""Column of the target, 0 or 1, null while unknown."""
LABEL_AT = "label_at"
"""Column of the instant the label became known; an example whose `LABEL_AT` lies after `as_of` has no label yet."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """One Great Expectations expectation by its snake-case type, and what a failure does.

    `quarantine` moves the failing rows aside and goes on (row-level expectations only); `stop` lands nothing.
    """

    type: str
    arguments: Mapping[str, Any]
    on_failure: Literal["stop", "quarantine"] = "stop"


@dataclass(frozen=True, slots=True)
class Table:
    """One raw table of a workload.

    `columns` maps each column to its Arrow type name (`string`, `int64`, `float64`, `timestamp[us, tz=UTC]`, `bool`): a source that
    no longer has this schema is a hard stop. `known_at` names the column with the instant a row became known (None: static, known
    from the start); rows known after `as_of` are not landed. `partition_by` names the instant column whose month partitions the files.
    """

    name: str
    columns: Mapping[str, str]
    key: tuple[str, ...]
    known_at: str | None = None
    partition_by: str | None = None
    expectations: tuple[Expectation, ...] = ()


@dataclass(frozen=True, slots=True)
class Windows:
    """Spans of event time, counted back from `as_of`, half open `[start, end)`.

    holdout: the newest `holdout` of labelled examples; train: the `train` before the holdout begins; score: the newest `score` of
    examples, labelled or not; watch: current data of a drift check, its `watch` newest labelled examples for performance.
    """

    train: timedelta
    holdout: timedelta
    score: timedelta
    watch: timedelta


@dataclass(frozen=True, slots=True)
class PromotionGate:
    """What a challenger must show on the fresh holdout before it may become champion.

    `min_auc` absolute floor; `min_auc_gain` lower bound (of the 95 % paired-bootstrap interval) of AUC(challenger) - AUC(champion);
    `max_slice_auc_drop` most AUC any slice of at least `min_slice_rows` rows may lose; `max_calibration_error` expected calibration
    error, 0..1; `max_latency_ms_per_1k_rows` p95 of prediction time for 1,000 rows.
    """

    min_auc: float = 0.5
    min_auc_gain: float = 0.0
    max_slice_auc_drop: float = 0.05
    min_slice_rows: int = 200
    max_calibration_error: float = 0.1
    max_latency_ms_per_1k_rows: float = 500.0


@dataclass(frozen=True, slots=True)
class DriftThresholds:
    """When a champion needs a retrain. Input drift alone never does: on seasonal data it cries wolf.

    `max_auc_drop` loss of AUC against the champion's own holdout once labels are in; `max_prediction_drift` distance of the
    prediction distribution (population stability index); `max_input_share` share of drifted inputs, reported and, together with
    prediction drift, weighed only while labels are missing.
    """

    max_auc_drop: float = 0.05
    max_prediction_drift: float = 0.25
    max_input_share: float = 0.5
    min_rows: int = 500


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What the model sees: feature columns of the training set, by kind, and the seed that makes a training repeatable."""

    numeric: tuple[str, ...]
    categorical: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()
    seed: int = 20130101
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def features(self) -> tuple[str, ...]:
        """All feature columns in the order the model takes them."""
        return self.numeric + self.categorical


@runtime_checkable
class Workload(Protocol):
    """One ML product, as the flows see it."""

    name: str
    title: str
    tables: tuple[Table, ...]
    feature_service: str
    windows: Windows
    model: ModelSpec
    gate: PromotionGate
    drift: DriftThresholds

    def read(self, table: str, until: datetime) -> pd.DataFrame:
        """All source rows of the table known at `until`, shape (n_rows, len(columns)), typed as the table declares."""
        ...

    def feature_tables(self, raw: Mapping[str, pd.DataFrame]) -> Mapping[str, pd.DataFrame]:
        """The Feast source tables by name, each with its join keys and `event_timestamp` = when the row became known."""
        ...

    def examples(self, raw: Mapping[str, pd.DataFrame], as_of: datetime) -> pd.DataFrame:
        """One row per prediction with `event_timestamp` <= as_of: row_id, event_timestamp, join keys, request features, label, label_at."""
        ...

    def estimator(self) -> Any:
        """A fresh scikit-learn classifier or pipeline over `model.features`, seeded, with `predict_proba`."""
        ...
