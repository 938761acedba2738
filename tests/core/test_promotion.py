"""The promotion gate: how two models are measured on one holdout, and what lets a challenger pass."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flows.core.promotion import (
    EvaluationNumbers,
    Gain,
    ModelNumbers,
    PromotionVerdict,
    SliceNumbers,
    auc,
    auc_gain,
    brier,
    calibration_error,
    judge,
    measure,
    roc_points,
)
from flows.core.workload import PromotionGate

GATE = PromotionGate(min_auc=0.6, min_auc_gain=0.0, max_slice_auc_drop=0.05, min_slice_rows=100, max_calibration_error=0.1)
labels_and_scores = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30)


def numbers(**changes: object) -> EvaluationNumbers:
    """A challenger that passes, with changes."""
    good = {
        "rows": 1000,
        "positives": 200,
        "challenger": ModelNumbers(auc=0.75, brier=0.15, calibration_error=0.03, latency_ms_per_1k_rows=20.0),
        "champion": ModelNumbers(auc=0.70, brier=0.16, calibration_error=0.05),
        "gain": Gain(estimate=0.05, low=0.01, high=0.09),
        "slices": (SliceNumbers(column="origin", value="JFK", rows=400, challenger_auc=0.74, champion_auc=0.72),),
    }
    return EvaluationNumbers.model_validate({**good, **changes})


def rules(verdict: PromotionVerdict) -> list[str]:
    """The rules that failed."""
    return [reason.rule for reason in verdict.reasons]


def a_holdout(rows: int = 2000, noise: float = 1.0, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Labels and a score that tells more of them the less noise it has."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, 2, rows)
    return label, 1 / (1 + np.exp(-(label - 0.5) - noise * generator.normal(size=rows)))


@given(labels_and_scores)
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[bool, int]]) -> None:
    """AUC equals the count over all pairs of a positive and a negative, ties half."""
    positives = [score for label, score in rows if label]
    negatives = [score for label, score in rows if not label]
    assume(positives and negatives)
    won = [1.0 if high > low else 0.5 if high == low else 0.0 for high, low in itertools.product(positives, negatives)]
    assert auc([label for label, _ in rows], [score for _, score in rows]) == pytest.approx(sum(won) / len(won))


def test_auc_of_one_class_is_unknown() -> None:
    """A holdout without both outcomes says nothing."""
    assert auc([1, 1], [0.2, 0.4]) is None


def test_a_score_that_is_no_number_is_refused() -> None:
    """A NaN never becomes a number of a verdict."""
    with pytest.raises(ValueError, match="finite"):
        auc([0, 1], [0.5, float("nan")])


def test_brier_and_calibration_of_a_perfect_forecast_are_zero() -> None:
    """Certain and right is the best there is."""
    assert brier([0, 1], [0.0, 1.0]) == 0.0
    assert calibration_error([0, 1], [0.0, 1.0]) == 0.0


def test_calibration_error_is_the_gap_between_score_and_share() -> None:
    """A model that always says 0.9 where half are positive is off by 0.4."""
    assert calibration_error([0, 1] * 50, [0.9] * 100) == pytest.approx(0.4)


def test_the_roc_curve_spans_the_same_area() -> None:
    """The points that are drawn hold the AUC that is told."""
    label, score = a_holdout()
    false_rate, true_rate = roc_points(label, score, points=1001)
    area = np.sum(np.diff(false_rate) * (true_rate[1:] + true_rate[:-1]) / 2)
    assert area == pytest.approx(auc(label, score), abs=2e-3)


def test_the_same_seed_gives_the_same_interval() -> None:
    """The bootstrap is repeatable."""
    label, first = a_holdout(noise=0.8)
    _, second = a_holdout(noise=1.5)
    assert auc_gain(label, first, second, seed=7) == auc_gain(label, first, second, seed=7)
    assert auc_gain(label, first, second, seed=7) != auc_gain(label, first, second, seed=8)


def test_a_clearly_better_model_has_an_interval_above_zero() -> None:
    """A gain far beyond chance is seen."""
    label, good = a_holdout(noise=0.5)
    weak = np.random.default_rng(3).random(label.size)
    gain = auc_gain(label, good, weak, seed=1)
    assert gain is not None and 0 < gain.low < gain.estimate < gain.high


def test_a_model_gains_nothing_over_itself() -> None:
    """Equal scores give an interval of zero width: the pairing is kept."""
    label, score = a_holdout()
    gain = auc_gain(label, score, score, seed=1)
    assert gain is not None and (gain.estimate, gain.low, gain.high) == (0.0, 0.0, 0.0)


def test_the_interval_covers_the_true_gain_about_as_often_as_it_says() -> None:
    """Over 100 fresh holdouts the 95 % interval holds the true gain in most cases."""
    label, first = a_holdout(200_000, noise=1.0, seed=99)
    second = first + np.random.default_rng(98).normal(scale=0.2, size=label.size)
    truth = (auc(label, first) or 0) - (auc(label, second) or 0)
    covered = 0
    for part in range(100):
        here = slice(part * 400, (part + 1) * 400)
        gain = auc_gain(label[here], first[here], second[here], seed=part, resamples=300)
        covered += gain is not None and gain.low <= truth <= gain.high
    assert 88 <= covered <= 100


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_the_interval_does_not_depend_on_the_order_of_equal_scores(seed: int, rows: int) -> None:
    """A resample's AUC equals the AUC of the rows it drew, ties included."""
    generator = np.random.default_rng(seed)
    label = np.r_[0, 1, generator.integers(0, 2, rows)]
    score = generator.integers(0, 3, label.size) / 3
    gain = auc_gain(label, score, np.zeros(label.size), seed=seed, resamples=50)
    assert gain is not None
    assert -0.5 <= gain.low <= gain.high <= 0.5
    assert gain.estimate == pytest.approx((auc(label, score) or 0) - 0.5, abs=1e-6)


def test_measure_leaves_small_slices_out() -> None:
    """A slice of few rows says little of the model and too much of the rows."""
    label, score = a_holdout(300)
    names = np.array(["large"] * 290 + ["small"] * 10, dtype=object)
    found = measure(label, score, None, slices={"group": names}, min_slice_rows=100, seed=1)
    assert [(part.column, part.value, part.rows) for part in found.slices] == [("group", "large", 290)]


def test_measure_without_a_champion_has_no_gain() -> None:
    """The first model is compared with nothing."""
    found = measure(*a_holdout(), None, slices={}, min_slice_rows=100, seed=1)
    assert found.champion is None and found.gain is None


def test_a_good_challenger_passes() -> None:
    """Every check is made and told, none fails."""
    verdict = judge(numbers(), GATE)
    assert verdict.passed and not verdict.reasons
    assert {check.rule for check in verdict.checks} == {"fresh-holdout", "min-auc", "calibration", "latency", "auc-gain", "slices"}


def test_the_first_model_passes_on_absolute_rules_alone() -> None:
    """Without a champion neither gain nor slices are asked for."""
    first = numbers(champion=None, gain=None)
    assert judge(first, GATE).passed
    weak = first.challenger.model_copy(update={"auc": 0.55})
    assert rules(judge(numbers(champion=None, gain=None, challenger=weak), GATE)) == ["min-auc"]


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("min-auc", {"challenger": {"auc": 0.59}}),
        ("min-auc", {"challenger": {"auc": None}}),
        ("calibration", {"challenger": {"calibration_error": 0.11}}),
        ("latency", {"challenger": {"latency_ms_per_1k_rows": 501.0}}),
        ("latency", {"challenger": {"latency_ms_per_1k_rows": None}}),
        ("auc-gain", {"gain": {"low": 0.0}}),
        ("auc-gain", {"gain": None}),
        ("fresh-holdout", {"fresh": False}),
    ],
)
def test_one_rule_broken_refuses_and_names_it(rule: str, changes: dict[str, object]) -> None:
    """What lies beyond a threshold, or was not measured, does not pass; the reason has number and threshold."""
    good = numbers()
    update = {name: getattr(good, name).model_copy(update=value) if isinstance(value, dict) else value for name, value in changes.items()}
    verdict = judge(good.model_copy(update=update), GATE)
    assert not verdict.passed and rules(verdict) == [rule]
    assert verdict.reasons[0].required


def test_a_slice_that_loses_too_much_refuses() -> None:
    """A gain for all is not bought with a loss for some."""
    worse = SliceNumbers(column="sex", value="f", rows=150, challenger_auc=0.60, champion_auc=0.70)
    (reason,) = judge(numbers(slices=(worse,)), GATE).reasons
    assert reason.rule == "slices" and reason.observed == 0.1 and "`sex=f` loses 0.1 AUC" in reason.message


def test_a_model_never_replaces_itself() -> None:
    """No gain is no real improvement: the bound has to lie above the threshold, not on it."""
    label, score = a_holdout(noise=0.3)
    found = measure(label, score, score, slices={}, min_slice_rows=100, seed=1)
    found = found.model_copy(update={"challenger": found.challenger.model_copy(update={"latency_ms_per_1k_rows": 1.0})})
    assert "auc-gain" in rules(judge(found, GATE))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 100_000), st.floats(0.2, 3), st.floats(0.2, 3))
def test_a_challenger_that_is_worse_on_the_holdout_never_passes(seed: int, one: float, other: float) -> None:
    """Whatever the rows and however close the two, a lower AUC than the champion's is refused."""
    generator = np.random.default_rng(seed)
    label = np.r_[0, 1, generator.integers(0, 2, 298)]
    pair = [1 / (1 + np.exp(-(label - noise * generator.normal(size=label.size)))) for noise in (one, other)]
    worse, better = sorted(pair, key=lambda score: auc(label, score) or 0.0)
    found = measure(label, worse, better, slices={}, min_slice_rows=100, seed=seed, resamples=100)
    found = found.model_copy(update={"challenger": found.challenger.model_copy(update={"latency_ms_per_1k_rows": 1.0})})
    assert "auc-gain" in rules(judge(found, PromotionGate(min_auc=0.0, max_calibration_error=1.0)))


def test_a_verdict_survives_json() -> None:
    """What a site sends to control is judged there with the same outcome."""
    data = judge(numbers(), GATE).to_json()
    assert judge(EvaluationNumbers.model_validate(data["numbers"]), GATE).to_json() == data
