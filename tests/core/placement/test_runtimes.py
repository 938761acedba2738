"""Empirical runtimes: which quantile, from how many runs, and what a decision says of them."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.core.placement import Conditions
from flows.core.placement.model import Runtime, RuntimeEstimate
from flows.core.placement.runtimes import ENOUGH_RUNS, estimates, nearest_rank
from tests.core.placement.world import decide, offer, request
from tests.core.placement.world import estate as estate_of

DECLARED = Runtime(p50_hours=Decimal(2), p90_hours=Decimal(3))
HOURS = [3600.0 * hour for hour in range(1, 21)]
UNTIMED = request(runtime=None)


def decimals(*numbers: int) -> list[Decimal]:
    """Whole decimals."""
    return [Decimal(number) for number in numbers]


@pytest.mark.parametrize(
    ("values", "share", "found"),
    [
        ((15, 20, 35, 40, 50), "0.3", 20),
        ((15, 20, 35, 40, 50), "0.4", 20),
        ((15, 20, 35, 40, 50), "0.5", 35),
        ((15, 20, 35, 40, 50), "1", 50),
        ((7,), "0.9", 7),
        (tuple(range(1, 21)), "0.9", 18),
        (tuple(range(1, 22)), "0.9", 19),
    ],
)
def test_nearest_rank_is_the_ceil_of_n_times_share(values, share, found):
    """Hyndman and Fan's first definition, by hand."""
    assert nearest_rank(decimals(*values), Decimal(share)) == found


@pytest.mark.parametrize(("values", "share"), [((), "0.5"), ((1,), "0"), ((1,), "1.1")])
def test_a_quantile_of_nothing_or_beyond_all_is_refused(values, share):
    """There is no such time."""
    with pytest.raises(ValueError, match="a quantile needs values"):
        nearest_rank(decimals(*values), Decimal(share))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(1, 100))
def test_the_quantile_is_the_smallest_value_that_enough_runs_kept_to(numbers, percent):
    """At least the share lies at or below it, and less than the share below it."""
    values, share = decimals(*numbers), Decimal(percent) / 100
    found = nearest_rank(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


def test_twenty_runs_make_an_estimate_and_the_declared_runtime_holds_elsewhere():
    """The estimate says from how many runs; the declared one from none."""
    assert estimates("nafld", "train", {"small": HOURS, "large": HOURS[:19]}, DECLARED) == (
        RuntimeEstimate(workload="nafld", step="train", offer="small", p50_hours=Decimal(10), p90_hours=Decimal(18), runs=20),
        RuntimeEstimate(workload="nafld", step="train", p50_hours=Decimal(2), p90_hours=Decimal(3)),
    )


def test_too_few_runs_anywhere_make_no_estimate():
    """Then the declared runtime stays in the request."""
    assert estimates("nafld", "train", {"small": HOURS[: ENOUGH_RUNS - 1]}, DECLARED) == ()


def test_without_a_declared_runtime_only_measured_offers_have_one():
    """Nothing is made up for the others."""
    assert [row.offer for row in estimates("nafld", "train", {"small": HOURS}, None)] == ["small"]


@given(st.lists(st.floats(0, 10**6), min_size=ENOUGH_RUNS, max_size=50))
def test_hours_are_never_less_than_what_was_recorded(seconds):
    """Rounded up, above zero, and the median no more than the tail."""
    (row,) = estimates("nafld", "train", {"small": seconds}, None)
    assert 0 < row.p50_hours <= row.p90_hours
    assert row.runs == len(seconds)
    assert any(abs(float(row.p90_hours) * 3600 - took) <= 0.0037 for took in seconds)


def test_a_decision_is_priced_by_the_measured_runtime_and_says_so():
    """Ten hours at the median on the offer that twenty runs were recorded on."""
    conditions = Conditions(runtimes=estimates("nafld", "train", {"small": HOURS}, DECLARED))
    decision = decide(UNTIMED, moment=conditions)
    assert decision.chosen is not None
    assert (decision.chosen.finish_p50 - decision.chosen.start).total_seconds() > 10 * 3600 - 1
    assert "runtime on `small`: 10 h at p50, 18 h at p90, from 20 runs" in decision.warnings


def test_a_decision_for_an_offer_without_runs_says_that_its_runtime_is_declared():
    """Measured offers beside it, but the chosen one is not among them."""
    conditions = Conditions(runtimes=estimates("nafld", "train", {"large": HOURS}, DECLARED))
    decision = decide(UNTIMED, moment=conditions)
    assert "runtime on `small`: 2 h at p50, 3 h at p90, as declared: too few runs are recorded there" in decision.warnings


def test_measured_runtimes_decide_between_offers():
    """Twice as fast is cheaper than half the price."""
    where = estate_of(offers=[offer("fra", "small", price=2), offer("fra", "large", price=3)])
    rows = estimates("nafld", "train", {"small": [36000.0] * 20, "large": [18000.0] * 20}, None)
    assert decide(UNTIMED, where, moment=Conditions(runtimes=rows)).chosen.offer == "large"


def test_without_recorded_runs_nothing_is_said():
    """A runtime in the request, or a declared default, is what everybody expects."""
    default = RuntimeEstimate(workload="nafld", step="train", p50_hours=Decimal(2), p90_hours=Decimal(3))
    assert not [line for line in decide(UNTIMED, moment=Conditions(runtimes=(default,))).warnings if line.startswith("runtime")]
    assert not [line for line in decide().warnings if line.startswith("runtime")]
