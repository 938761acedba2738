"""Spot: when it is offered, how long it takes, what it costs, and that the deadline holds anyway."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from flows.core.placement.spot import SpotRun, SpotTerms, latest_start, spot_run, unhurried
from tests.core.placement.world import AT, decide, estate, offer, pool, request, rules

SPOT_OFFER = offer("fra", price=4, SpotPrice=1)


def spotty(**more):
    """An estate of one pool with spot capacity that is interrupted once in ten hours."""
    usual = {"spot": True, "spot_interruptions_per_hour": 0.1, "spot_wait_minutes": 30, "startup_minutes": 6}
    return estate(pools=[pool("fra-k8s", "fra", **{**usual, **more})], offers=[SPOT_OFFER])


def test_spot_is_chosen_if_it_may_be_interrupted():
    """A quarter of the price, three interruptions in thirty hours: spot wins, and its on-demand twin stands by."""
    decision = decide(request(interruptible=True), spotty())
    assert decision.chosen is not None and decision.chosen.spot
    assert decision.chosen.usd_per_hour == 1
    assert decision.chosen.fallback is not None and not decision.chosen.fallback.spot
    assert decision.chosen.fallback.usd.compute == Decimal("8.4")


@pytest.mark.parametrize(
    "where",
    [
        spotty(spot=False),
        spotty(spot_interruptions_per_hour=None),
        estate(pools=[pool("fra-k8s", "fra", spot=True)], offers=[offer("fra")]),
    ],
    ids=["no spot in the pool", "unknown rate", "no spot price"],
)
def test_spot_needs_a_pool_a_rate_and_a_price(where):
    """What is missing makes it on demand, never free of risk."""
    decision = decide(request(interruptible=True), where)
    assert decision.chosen is not None and not decision.chosen.spot


def test_the_offers_own_rate_beats_the_pools():
    """An offer that is never interrupted takes exactly its work."""
    where = estate(
        pools=[pool("fra-k8s", "fra", spot=True, spot_interruptions_per_hour=9)], offers=[{**SPOT_OFFER, "SpotInterruptionsPerHour": 0}]
    )
    decision = decide(request(interruptible=True), where)
    assert decision.chosen is not None and decision.chosen.usd.compute == 2


def test_without_interruptions_spot_takes_as_long_as_on_demand_with_checkpoints():
    """Two hours, a minute of writing each nine minutes: 2 h 13 min 20 s."""
    asked = request(interruptible=True, checkpoint_minutes=9, checkpoint_write_minutes=1)
    decision = decide(asked, spotty(spot_interruptions_per_hour=0, startup_minutes=0))
    assert decision.chosen is not None
    assert decision.chosen.finish_p50 == AT + timedelta(hours=2, minutes=13, seconds=20)


def test_expected_time_and_bill_follow_daly():
    """Four nodes, ten-minute checkpoints: the numbers of the published formula, computed in floating point."""
    where = spotty()
    asked = request(interruptible=True, resources={"nodes": 4}, checkpoint_minutes=10, checkpoint_write_minutes=1)
    decision = decide(asked, where)
    rate, restart, wait, interval, write, work = 0.4, 0.1, 0.5, 1 / 6, 1 / 60, 2.0
    billed = work * math.exp(rate * restart) * (math.exp(rate * (interval + write)) - 1) / (rate * interval)
    assert decision.chosen is not None and decision.chosen.spot
    assert float(decision.chosen.usd.compute) == pytest.approx(4 * (restart + billed), abs=4 / 3600)
    took = (decision.chosen.finish_p50 - AT) / timedelta(hours=1)
    assert took == pytest.approx(restart + billed * (1 + rate * wait), abs=2 / 3600)


def test_a_tight_deadline_mixes_spot_and_on_demand():
    """Enough time for the safety net, not for all interruptions: part of the work is billed on demand, and it ends at the deadline."""
    asked = request(
        interruptible=True, window={"deadline": "2026-01-05T10:25:00Z"}, runtime={"p50_hours": 3, "p90_hours": 3}, checkpoint_minutes=10
    )
    decision = decide(asked, spotty(spot_wait_minutes=600))
    assert decision.chosen is not None and decision.chosen.spot
    assert decision.chosen.finish_p90 == datetime(2026, 1, 5, 10, 25, tzinfo=UTC)
    assert 3 < decision.chosen.usd.compute < Decimal("12.4")


def test_the_safety_net_needs_room_for_two_starts():
    """Three hours at p90 and two starts of six minutes: a second less is too little for spot, not for on demand."""
    for deadline, spot in (("10:12:00", True), ("10:11:59", False)):
        asked = request(interruptible=True, window={"deadline": f"2026-01-05T{deadline}Z"}, checkpoint_minutes=10)
        decision = decide(asked, spotty())
        assert decision.chosen is not None and decision.chosen.spot is spot


@pytest.mark.parametrize(
    ("deadline", "more", "spot"),
    [
        ("11:12:00", {}, True),
        ("11:11:59", {}, False),
        ("09:28:30", {"checkpoint_minutes": 10, "checkpoint_write_minutes": 0.5}, True),
        ("09:28:29", {"checkpoint_minutes": 10, "checkpoint_write_minutes": 0.5}, False),
    ],
)
def test_spot_needs_slack_for_one_piece_of_work_to_be_worth_it(deadline, more, spot):
    """Two hours, in one piece or in ten minutes and a half: with a second less to spare the net is due before the first checkpoint."""
    window = {"window": {"deadline": f"2026-01-05T{deadline}Z"}, "runtime": {"p50_hours": 2, "p90_hours": 2}}
    decision = decide(request(interruptible=True, **window, **more), spotty(spot_interruptions_per_hour=0.001))
    assert decision.chosen is not None and decision.chosen.spot is spot


def test_what_spot_did_in_vain_is_billed_on_top_of_all_work_on_demand():
    """54 minutes of slack and two hours in one piece: an hour on spot at one dollar, then 2.1 on demand at four, until the deadline."""
    asked = request(
        interruptible=True,
        restrict={"spot": True},
        window={"deadline": "2026-01-05T10:06:00Z"},
        runtime={"p50_hours": 2, "p90_hours": 2},
    )
    chosen = decide(asked, spotty()).chosen
    assert chosen is not None and chosen.usd.compute == Decimal("9.4")
    assert chosen.finish_p50 == datetime(2026, 1, 5, 10, 6, tzinfo=UTC)


def test_the_safety_net_holds_even_if_nothing_ever_interrupts():
    """The second start is kept free although no interruption is expected."""
    asked = request(interruptible=True, window={"deadline": "2026-01-05T10:09:00Z"})
    decision = decide(asked, spotty(spot_interruptions_per_hour=0))
    assert decision.chosen is not None and not decision.chosen.spot


def test_with_too_little_time_a_run_is_two_starts_and_all_work_on_demand():
    """However late that is: it is rejected, and told with the end that it would have."""
    terms = SpotTerms(Decimal("0.0001"), Decimal(60), Decimal(60), Decimal(600), Decimal(6))
    assert spot_run(terms, Decimal(6000), Decimal(5)) == SpotRun(Decimal(60), Decimal(6120), Decimal(6180))


def test_work_that_would_not_end_on_spot_is_rejected_as_such():
    """Seven interruptions an hour and three hours without a checkpoint."""
    asked = request(interruptible=True, restrict={"spot": True})
    decision = decide(asked, spotty(spot_interruptions_per_hour=7))
    assert decision.chosen is None
    assert rules(decision, "fra-k8s") == {"spot"}
    assert (
        decide(request(interruptible=True, restrict={"spot": True}, checkpoint_minutes=30), spotty(spot_interruptions_per_hour=5)).chosen
        is not None
    )


seconds = st.decimals(0, 7200, places=0)


@given(
    rate=st.decimals(0, "0.001", places=6),
    restart=seconds,
    wait=seconds,
    interval=st.decimals(60, 7200, places=0),
    write=st.decimals(0, 60, places=0),
    work=st.decimals(60, 36_000, places=0),
    slack=st.decimals(0, 100_000, places=0),
)
def test_spot_never_misses_a_deadline_that_the_safety_net_allows(rate, restart, wait, interval, write, work, slack):
    """With room for two starts and the work on demand, the expected run ends in time and does all of its work."""
    terms = SpotTerms(rate, restart, wait, interval, write)
    left = latest_start(terms, work) + slack
    run = spot_run(terms, work, left)
    assert run.wall <= left
    assert run.spot >= restart and run.on_demand >= 0
    assert run.spot + run.on_demand >= terms.on_demand(work)


@given(
    rate=st.decimals("0.00001", "0.001", places=6),
    restart=seconds,
    wait=seconds,
    work=st.decimals(600, 36_000, places=0),
    short=st.integers(1, 99),
)
def test_a_mixed_run_does_all_of_its_work_in_exactly_the_time_that_is_left(rate, restart, wait, work, short):
    """Between the safety net and the full spot run: R + s*b on spot, R + (H-s)*i on demand, and R + s*a + R + (H-s)*i of time."""
    terms = SpotTerms(rate, restart, wait, Decimal(600), Decimal(10))
    alone = spot_run(terms, work, None)
    least = latest_start(terms, work) + terms.piece(work)
    assume(alone.wall > least)
    left = least + (alone.wall - least) * short / 100
    run = spot_run(terms, work, left)
    steady, billed = terms.on_demand(work) / work, (alone.spot - restart) / work
    on_spot = (run.spot - restart) / billed
    on_demand = (run.on_demand - restart) / steady
    assert float(on_spot + on_demand) == pytest.approx(float(work))
    assert float(2 * restart + on_spot * billed * (1 + rate * wait) + on_demand * steady) == pytest.approx(float(left))
    assert run.wall == left


@given(
    rate=st.decimals(0, "0.001", places=6),
    restart=seconds,
    wait=seconds,
    interval=st.none() | st.decimals(60, 7200, places=0),
    work=st.decimals(60, 36_000, places=0),
    more=st.decimals(-600, 100_000, places=0),
)
@example(rate=Decimal("0.0005"), restart=Decimal(600), wait=Decimal(7200), interval=Decimal(600), work=Decimal(36_000), more=Decimal(0))
@example(rate=Decimal(0), restart=Decimal(600), wait=Decimal(0), interval=Decimal(600), work=Decimal(36_000), more=Decimal(0))
def test_a_deadline_far_enough_away_changes_nothing_and_a_nearer_one_does(rate, restart, wait, interval, work, more):
    """Where it begins to matter is told exactly: pricing by slots relies on it."""
    terms = SpotTerms(rate, restart, wait, interval, Decimal(0))
    assume(not terms.endless(work))
    left = unhurried(terms, work) + more
    assert (spot_run(terms, work, left) == spot_run(terms, work, None)) == (more >= 0)


@given(rate=st.decimals("0.000001", "0.001", places=6), work=st.decimals(60, 10_000, places=0))
def test_more_interruptions_never_take_less_time(rate, work):
    """Expected time grows with the rate, and is never less than the work."""
    calm, rough = (spot_run(SpotTerms(factor * rate, Decimal(60), Decimal(60), Decimal(600), Decimal(10)), work, None) for factor in (1, 2))
    assert work <= calm.wall <= rough.wall
    assert calm.spot <= rough.spot
