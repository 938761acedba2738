"""Empirical runtimes: which quantile, from how many runs, and what a decision says of them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.core.fields import MAX_HOURS
from flows.core.placement import Conditions
from flows.core.placement.estate import Speed
from flows.core.placement.model import Restrict, Runtime, RuntimeEstimate
from flows.core.placement.runtimes import ENOUGH_RUNS, estimates, nearest_rank
from flows.core.placement.speeds import scaled
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


FASTER = {"hardware": "A100", "relative": 4, "source": "a benchmark"}
SLOWER = {"hardware": "small", "relative": "0.5", "source": "a benchmark"}


def estate_with(*speeds: dict[str, Any]) -> Any:
    """Two offers at `fra`, one of them with an accelerator, and these speeds."""
    gpu = offer("fra", "gpu", price=3, AcceleratorName="A100", AcceleratorCount=2)
    return estate_of(offers=[offer("fra", "small", price=2), gpu], speeds=speeds)


def timed(decision: Any) -> tuple[str, float, float]:
    """The chosen offer, and its hours at p50 and p90."""
    chosen = decision.chosen
    return chosen.offer, *((end - chosen.start).total_seconds() / 3600 for end in (chosen.finish_p50, chosen.finish_p90))


def test_an_estate_without_speeds_is_the_estate_it_was():
    """Same hash, so that no decision over it changes a byte."""
    assert "speeds" not in estate_with().document
    assert decide(where=estate_with()).to_bytes() == decide(where=estate_of(offers=estate_with().offers)).to_bytes()
    assert estate_with().hash != estate_with(FASTER).hash


def test_slower_hardware_lengthens_median_and_tail():
    """Half the speed takes twice as long, and the decision says by what it was scaled."""
    decision = decide(where=estate_with(SLOWER), asked=request(restrict={"offers": ["small"]}))
    assert timed(decision) == ("small", 4, 6)
    assert (
        "runtime on `small`: 4 h at p50, 6 h at p90, as declared, scaled by `small` at 0.5 times the speed (a benchmark)"
        in decision.warnings
    )


def test_faster_hardware_shortens_the_median_alone():
    """The tail, which deadlines and budgets are held to, stays as declared; two accelerators count as one."""
    decision = decide(where=estate_with(FASTER))
    assert timed(decision) == ("gpu", 0.5, 3)
    (line,) = [line for line in decision.warnings if line.startswith("runtime")]
    assert line.endswith("as declared, scaled by `A100` at 4 times the speed, p50 only (a benchmark)")


def test_a_speed_of_the_offer_itself_goes_before_its_accelerators():
    """Somebody measured this very machine."""
    decision = decide(where=estate_with(FASTER, {"hardware": "gpu", "relative": 2, "source": "our own"}))
    assert timed(decision) == ("gpu", 1, 3)


def test_hardware_without_a_speed_keeps_what_was_declared():
    """Nothing is guessed, and the decision says that."""
    decision = decide(where=estate_with(FASTER), asked=request(restrict={"offers": ["small"]}))
    assert timed(decision) == ("small", 2, 3)
    assert "runtime on `small`: 2 h at p50, 3 h at p90, as declared" in decision.warnings


def test_measured_runtimes_are_not_scaled():
    """Twenty runs know more than a factor."""
    rows = estimates("nafld", "train", {"gpu": HOURS}, DECLARED)
    only = UNTIMED.model_copy(update={"restrict": Restrict(offers=("gpu",))})
    decision = decide(only, estate_with(FASTER), moment=Conditions(runtimes=rows))
    assert "runtime on `gpu`: 10 h at p50, 18 h at p90, from 20 runs" in decision.warnings


def test_a_service_is_priced_for_its_hours_on_any_hardware():
    """Its runtime is a time to pay for, not work."""
    assert timed(decide(where=estate_with(FASTER), asked=request(step="serve", restrict={"offers": ["gpu"]})))[1] == 2


@given(st.decimals("0.01", 50, places=2), st.decimals("0.001", 1000, places=3))
def test_scaling_never_promises_more_than_its_factor(hours, relative):
    """The median by the factor, rounded up; the tail never below what was declared; the order of both kept."""
    declared = Runtime(p50_hours=hours, p90_hours=hours * 2)
    found = scaled(declared, Speed(hardware="x", relative=relative, source="s"))
    assert found.p50_hours * relative >= hours or found.p50_hours == MAX_HOURS
    assert found.p90_hours >= declared.p90_hours
    assert found.p50_hours <= found.p90_hours
    if relative == 1:
        assert found == declared
