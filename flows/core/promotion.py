"""Whether a challenger may become champion: how two models compare on one fresh holdout, judged against a gate. Pure numpy.

Only aggregates leave these functions, never a row: an `EvaluationNumbers` may go to control for any dataset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict

from flows.core.workload import PromotionGate

Floats = NDArray[np.float64]
CONFIDENCE = 0.95
RESAMPLES = 1000
DIGITS = 6
"""Decimal places of every number here: finer than any threshold, coarser than the last bits that differ between machines."""
_CHUNK_CELLS = 1_000_000


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelNumbers(_Model):
    """One model on the holdout; `auc` is None where the holdout holds one class only, `latency_ms_per_1k_rows` (p95) where not measured."""

    auc: float | None
    brier: float
    calibration_error: float
    latency_ms_per_1k_rows: float | None = None


class Gain(_Model):
    """AUC(challenger) - AUC(champion) on the same rows, with its paired-bootstrap percentile interval."""

    estimate: float
    low: float
    high: float
    confidence: float = CONFIDENCE
    resamples: int = RESAMPLES
    seed: int = 0


class SliceNumbers(_Model):
    """Both models on the rows where `column` equals `value`; an AUC is None where only one class is present."""

    column: str
    value: str
    rows: int
    challenger_auc: float | None
    champion_auc: float | None = None


class EvaluationNumbers(_Model):
    """All that promotion may look at. Without a champion, `champion`, `gain` and the slices' `champion_auc` are None.

    `fresh` is False where the challenger was trained on rows of this holdout, which voids the comparison.
    """

    rows: int
    positives: int
    challenger: ModelNumbers
    champion: ModelNumbers | None = None
    gain: Gain | None = None
    slices: tuple[SliceNumbers, ...] = ()
    fresh: bool = True
    start: datetime | None = None
    end: datetime | None = None


class Check(_Model):
    """One rule of the gate: what was seen, what was required."""

    rule: str
    passed: bool
    observed: float | str | None
    required: str
    message: str


class PromotionVerdict(_Model):
    """The frozen result of a gate: every check made, the numbers it looked at and the thresholds it held them to."""

    passed: bool
    checks: tuple[Check, ...]
    numbers: EvaluationNumbers
    thresholds: Mapping[str, float]

    @property
    def reasons(self) -> tuple[Check, ...]:
        """The checks that failed; empty for a verdict that passed."""
        return tuple(check for check in self.checks if not check.passed)

    def to_json(self) -> dict[str, Any]:
        """The verdict as JSON data: `passed`, `reasons` (failed checks), `checks`, `numbers`, `thresholds`."""
        return {**self.model_dump(mode="json"), "reasons": [reason.model_dump(mode="json") for reason in self.reasons]}


def auc(label: ArrayLike, score: ArrayLike) -> float | None:
    """Area under the ROC curve as the Mann-Whitney statistic, ties counted half; labels 0/1, shape (n_rows,). None for a single class.

    Source: Hanley and McNeil 1982, doi 10.1148/radiology.143.1.7063747.
    """
    truth, scores = _pair(label, score)
    positives, negatives = scores[truth], np.sort(scores[~truth])
    if not positives.size or not negatives.size:
        return None
    below = np.searchsorted(negatives, positives, side="left") + np.searchsorted(negatives, positives, side="right")
    return float(below.sum()) / (2.0 * positives.size * negatives.size)


def brier(label: ArrayLike, score: ArrayLike) -> float:
    """Mean squared difference of score and outcome, 0 (perfect) to 1. Source: Brier 1950."""
    truth, scores = _pair(label, score)
    return float(np.mean((scores - truth) ** 2))


def reliability(label: ArrayLike, score: ArrayLike, bins: int = 10) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Mean score, share of positives and rows of each of `bins` equally wide score bins that hold a row, each shape (n_used_bins,)."""
    truth, scores = _pair(label, score)
    index = np.clip((scores * bins).astype(np.int64), 0, bins - 1)
    rows = np.bincount(index, minlength=bins)
    used = rows > 0
    mean_score = np.bincount(index, weights=scores, minlength=bins)[used] / rows[used]
    share = np.bincount(index, weights=truth.astype(np.float64), minlength=bins)[used] / rows[used]
    return mean_score, share, rows[used]


def calibration_error(label: ArrayLike, score: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error over equally wide bins, 0..1. Source: Naeini, Cooper and Hauskrecht, AAAI 2015."""
    mean_score, share, rows = reliability(label, score, bins)
    return float(np.sum(np.abs(mean_score - share) * rows)) / float(rows.sum())


def roc_points(label: ArrayLike, score: ArrayLike, points: int = 101) -> tuple[Floats, Floats]:
    """The ROC curve at `points` evenly spaced false-positive rates, (fpr, tpr): a summary that tells no single row's score."""
    truth, scores = _pair(label, score)
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), scores.size - 1)
    hits = np.cumsum(truth[order])[last]
    tpr = np.concatenate([[0.0], hits / max(int(truth.sum()), 1)])
    fpr = np.concatenate([[0.0], (last + 1 - hits) / max(int((~truth).sum()), 1)])
    grid = np.linspace(0.0, 1.0, points)
    return grid, np.interp(grid, fpr, tpr)


def auc_gain(label: ArrayLike, challenger: ArrayLike, champion: ArrayLike, *, seed: int, resamples: int = RESAMPLES) -> Gain | None:
    """AUC(challenger) - AUC(champion) with its 95 % interval; None where only one class is present.

    Paired bootstrap, percentile interval: each resample draws rows with replacement within each class and scores both models on the
    same draw, which keeps their correlation. Source: Efron and Tibshirani 1993, chapter 13; stratified as in pROC (Robin et al. 2011,
    doi 10.1186/1471-2105-12-77). The same seed gives the same interval.
    """
    truth, first = _pair(label, challenger)
    _, second = _pair(label, champion)
    n_positive, n_negative = int(truth.sum()), int((~truth).sum())
    if not n_positive or not n_negative:
        return None
    placed = [_placements(truth, scores) for scores in (first, second)]
    generator = np.random.default_rng(seed)
    chunk = max(1, min(resamples, _CHUNK_CELLS // truth.size))
    differences: list[Floats] = []
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        positive, negative = _draws(generator, size, n_positive), _draws(generator, size, n_negative)
        areas = [_areas(positive, negative, *each) for each in placed]
        differences.append(areas[0] - areas[1])
    low, high = np.quantile(np.concatenate(differences), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    estimate = (auc(truth, first) or 0.0) - (auc(truth, second) or 0.0)
    return Gain(estimate=_round(estimate), low=_round(low), high=_round(high), resamples=resamples, seed=seed)


def measure(
    label: ArrayLike,
    challenger: ArrayLike,
    champion: ArrayLike | None,
    *,
    slices: Mapping[str, ArrayLike],
    min_slice_rows: int,
    seed: int,
    resamples: int = RESAMPLES,
) -> EvaluationNumbers:
    """Compare two score vectors on one holdout, all of shape (n_rows,); `slices` maps a column to its values by row.

    Slices with fewer than `min_slice_rows` rows are left out: they say little of the model and too much of the rows.
    """
    truth = np.asarray(label, dtype=np.float64) > 0.5
    found: list[SliceNumbers] = []
    for column, values in slices.items():
        texts = np.asarray(values, dtype=object).astype(str)
        for value, rows in zip(*np.unique(texts, return_counts=True), strict=True):
            if rows >= min_slice_rows:
                here = texts == value
                before = None if champion is None else _rounded(auc(truth[here], np.asarray(champion)[here]))
                after = _rounded(auc(truth[here], np.asarray(challenger)[here]))
                found.append(SliceNumbers(column=column, value=str(value), rows=int(rows), challenger_auc=after, champion_auc=before))
    return EvaluationNumbers(
        rows=int(truth.size),
        positives=int(truth.sum()),
        challenger=_numbers(truth, challenger),
        champion=None if champion is None else _numbers(truth, champion),
        gain=None if champion is None else auc_gain(truth, challenger, champion, seed=seed, resamples=resamples),
        slices=tuple(found),
    )


def judge(numbers: EvaluationNumbers, gate: PromotionGate) -> PromotionVerdict:
    """Hold the numbers to the gate. What was not measured does not pass; without a champion only the absolute rules count."""
    new, old = numbers.challenger, numbers.champion
    latency = new.latency_ms_per_1k_rows
    checks = [
        Check(
            rule="fresh-holdout",
            passed=numbers.fresh,
            observed="fresh" if numbers.fresh else "seen in training",
            required="rows that the challenger was not trained on",
            message="the holdout is fresh" if numbers.fresh else "the challenger was trained on rows of this holdout",
        ),
        _check("min-auc", new.auc, new.auc is not None and new.auc >= gate.min_auc, f">= {gate.min_auc:g}", "AUC"),
        _check(
            "calibration",
            new.calibration_error,
            new.calibration_error <= gate.max_calibration_error,
            f"<= {gate.max_calibration_error:g}",
            "expected calibration error",
        ),
        _check(
            "latency",
            latency,
            latency is not None and latency <= gate.max_latency_ms_per_1k_rows,
            f"<= {gate.max_latency_ms_per_1k_rows:g} ms per 1,000 rows",
            "p95 latency",
        ),
    ]
    if old is not None:
        low = None if numbers.gain is None else min(numbers.gain.low, numbers.gain.estimate)
        required = f"lower bound of the {CONFIDENCE:.0%} interval > {gate.min_auc_gain:g}"
        checks.append(_check("auc-gain", low, low is not None and low > gate.min_auc_gain, required, "AUC gain over the champion"))
        checks.append(_slices(numbers, gate))
    return PromotionVerdict(passed=all(check.passed for check in checks), checks=tuple(checks), numbers=numbers, thresholds=asdict(gate))


def _slices(numbers: EvaluationNumbers, gate: PromotionGate) -> Check:
    drops = {
        f"{part.column}={part.value}": part.champion_auc - part.challenger_auc
        for part in numbers.slices
        if part.rows >= gate.min_slice_rows and part.champion_auc is not None and part.challenger_auc is not None
    }
    worst = max(drops, key=lambda name: (drops[name], name)) if drops else None
    loss = _round(drops[worst]) if worst is not None else None
    required = f"no slice of {gate.min_slice_rows} rows or more loses more than {gate.max_slice_auc_drop:g} AUC"
    if loss is None or worst is None:
        return Check(rule="slices", passed=True, observed=None, required=required, message="no slice is large enough to compare")
    text = f"`{worst}` loses {loss:g} AUC" if loss > 0 else "no slice loses AUC"
    return Check(rule="slices", passed=loss <= gate.max_slice_auc_drop, observed=loss, required=required, message=text)


def _check(rule: str, observed: float | None, passed: bool, required: str, what: str) -> Check:
    value = "not known" if observed is None else f"{observed:g}"
    return Check(rule=rule, passed=passed, observed=observed, required=required, message=f"{what} is {value}, required {required}")


def _numbers(truth: NDArray[np.bool_], score: ArrayLike) -> ModelNumbers:
    return ModelNumbers(
        auc=_rounded(auc(truth, score)), brier=_round(brier(truth, score)), calibration_error=_round(calibration_error(truth, score))
    )


def _pair(label: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    truth, scores = np.asarray(label, dtype=np.float64) > 0.5, np.asarray(score, dtype=np.float64)
    if truth.shape != scores.shape or truth.ndim != 1 or not truth.size:
        raise ValueError(f"labels and scores must be two vectors of one length, at least 1; got {truth.shape} and {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not a finite number")
    return truth, scores


def _placements(truth: NDArray[np.bool_], scores: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Order of the negatives by score, and for each positive how many of them lie below it, ties excluded and included."""
    order = np.argsort(scores[~truth], kind="stable")
    ranked = scores[~truth][order]
    return order, np.searchsorted(ranked, scores[truth], side="left"), np.searchsorted(ranked, scores[truth], side="right")


def _draws(generator: np.random.Generator, resamples: int, rows: int) -> Floats:
    """How often each of `rows` rows is in each resample, shape (resamples, rows)."""
    picked = generator.integers(0, rows, size=(resamples, rows)) + np.arange(resamples)[:, None] * rows
    return np.bincount(picked.ravel(), minlength=resamples * rows).reshape(resamples, rows).astype(np.float64)


def _areas(positive: Floats, negative: Floats, order: NDArray[np.intp], below: NDArray[np.intp], up_to: NDArray[np.intp]) -> Floats:
    """AUC of every resample, shape (resamples,), from the weights of positives and negatives."""
    counted = np.zeros((negative.shape[0], negative.shape[1] + 1))
    np.cumsum(negative[:, order], axis=1, out=counted[:, 1:])
    won = (counted[:, below] + counted[:, up_to]) * positive
    return np.asarray(won.sum(axis=1) / (2.0 * positive.shape[1] * negative.shape[1]), dtype=np.float64)


def _round(value: float) -> float:
    return round(float(value), DIGITS) + 0.0


def _rounded(value: float | None) -> float | None:
    return None if value is None else _round(value)
