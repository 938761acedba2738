"""Whether a champion still serves: labels weigh first, then predictions; inputs alone never ask for a retrain.

On seasonal data nearly every input drifts while the model stays right, so that inputs are reported and decide nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from flows.core.workload import DriftThresholds


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DriftNumbers(_Model):
    """What a drift check saw: aggregates only.

    `rows` current rows, `labelled_rows` of them (or before them) with a known outcome that the champion was not trained on;
    `auc_reference` the champion's on its own holdout, `auc_current` on the labelled rows (None: unknown, or one class only);
    `prediction_psi` None where too few rows were scored; `inputs` the drift score of each compared feature, `drifted_inputs` those
    above their threshold.
    """

    rows: int
    labelled_rows: int = 0
    auc_reference: float | None = None
    auc_current: float | None = None
    prediction_psi: float | None = None
    inputs: Mapping[str, float] = {}
    drifted_inputs: tuple[str, ...] = ()

    @property
    def auc_drop(self) -> float | None:
        """AUC lost since the champion was measured; negative for a gain; None where either side is unknown."""
        if self.auc_reference is None or self.auc_current is None:
            return None
        return round(self.auc_reference - self.auc_current, 6)

    @property
    def input_share(self) -> float | None:
        """Share of compared inputs that drifted, 0..1; None where none was compared."""
        return round(len(self.drifted_inputs) / len(self.inputs), 6) if self.inputs else None


class Finding(_Model):
    """One observation against its threshold. `exceeded` None: not enough data to tell. `counts`: it may ask for a retrain."""

    about: Literal["labels", "predictions", "inputs"]
    observed: float | None
    threshold: float
    exceeded: bool | None
    counts: bool
    message: str


class DriftVerdict(_Model):
    """`passed`: nothing that counts lies beyond its threshold; `basis`: which evidence weighed, None where there was not enough of any."""

    passed: bool
    needs_retrain: bool
    basis: Literal["labels", "predictions"] | None
    reasons: tuple[Finding, ...]
    numbers: DriftNumbers
    thresholds: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """The verdict as JSON data, the numbers with `auc_drop` and `input_share`."""
        data = self.model_dump(mode="json")
        data["numbers"] |= {"auc_drop": self.numbers.auc_drop, "input_share": self.numbers.input_share}
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DriftVerdict:
        """Read what `to_json` wrote; what a step added to it (the champion, `as_of`) is passed over."""
        derived = {"auc_drop", "input_share"}
        numbers = {name: value for name, value in data["numbers"].items() if name not in derived}
        return cls.model_validate({name: data[name] for name in cls.model_fields if name in data} | {"numbers": numbers})


def judge_drift(numbers: DriftNumbers, thresholds: DriftThresholds) -> DriftVerdict:
    """Weigh the evidence. With enough labelled rows the loss of AUC decides; without, the drift of predictions does.

    `reasons` holds every finding, those that ask for a retrain first; predictions that moved while the labels say all is well are
    told and do not count.
    """
    labels = _labels(numbers, thresholds)
    predictions = _predictions(numbers, thresholds, counts=labels.exceeded is None)
    inputs = _inputs(numbers, thresholds)
    findings = (labels, predictions, inputs)
    needs_retrain = any(finding.counts and finding.exceeded for finding in findings)
    basis: Literal["labels", "predictions"] | None = None
    if labels.exceeded is not None:
        basis = "labels"
    elif predictions.exceeded is not None:
        basis = "predictions"
    return DriftVerdict(
        passed=not needs_retrain,
        needs_retrain=needs_retrain,
        basis=basis,
        reasons=tuple(sorted(findings, key=lambda finding: not (finding.counts and finding.exceeded))),
        numbers=numbers,
        thresholds=asdict(thresholds),
    )


def _labels(numbers: DriftNumbers, thresholds: DriftThresholds) -> Finding:
    drop, limit = numbers.auc_drop, thresholds.max_auc_drop
    if drop is None or numbers.labelled_rows < thresholds.min_rows:
        told = f"{numbers.labelled_rows} labelled rows since training: performance is not known yet (needs {thresholds.min_rows})"
        return Finding(about="labels", observed=drop, threshold=limit, exceeded=None, counts=True, message=told)
    change = f"AUC went from {numbers.auc_reference:.3f} to {numbers.auc_current:.3f} on {numbers.labelled_rows} labelled rows"
    told = f"{change}: a loss of {drop:.3f}, allowed {limit:g}"
    return Finding(about="labels", observed=drop, threshold=limit, exceeded=drop > limit, counts=True, message=told)


def _predictions(numbers: DriftNumbers, thresholds: DriftThresholds, *, counts: bool) -> Finding:
    moved, limit = numbers.prediction_psi, thresholds.max_prediction_drift
    if moved is None or numbers.rows < thresholds.min_rows:
        told = f"{numbers.rows} current rows: prediction drift is not known (needs {thresholds.min_rows})"
        return Finding(about="predictions", observed=moved, threshold=limit, exceeded=None, counts=counts, message=told)
    told = f"predictions moved by PSI {moved:.3f}, allowed {limit:g}" + ("" if counts else "; labels weigh more")
    return Finding(about="predictions", observed=moved, threshold=limit, exceeded=moved > limit, counts=counts, message=told)


def _inputs(numbers: DriftNumbers, thresholds: DriftThresholds) -> Finding:
    share, limit = numbers.input_share, thresholds.max_input_share
    if share is None:
        told, exceeded = "no input was compared", None
    else:
        told = f"{len(numbers.drifted_inputs)} of {len(numbers.inputs)} inputs drifted; never a reason on its own"
        exceeded = share > limit
    return Finding(about="inputs", observed=share, threshold=limit, exceeded=exceeded, counts=False, message=told)
