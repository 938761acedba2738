"""Spot by simulation: seeded interruptions, against the closed form that placement reckons with and the deadline that it promises."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from bench.spot import ESTATE, Rate, cases, rates, simulate, summary
from flows.adapters.estate import load_estate
from flows.core.placement.spot import SpotTerms, latest_start, spot_run

HOUR = 3600
RUNS = 4000


def terms(per_hour: str, checkpoint_minutes: int | None, write_minutes: int = 0, restart_minutes: int = 3) -> SpotTerms:
    """Capacity that returns after a quarter of an hour."""
    interval = None if checkpoint_minutes is None else Decimal(checkpoint_minutes * 60)
    return SpotTerms(Decimal(per_hour) / HOUR, Decimal(restart_minutes * 60), Decimal(900), interval, Decimal(write_minutes * 60))


@pytest.mark.parametrize("per_hour", ["0.01", "0.05", "0.3", "1"])
@pytest.mark.parametrize(("hours", "checkpoint_minutes"), [(2, None), (6, 10), (24, 30)])
def test_without_a_deadline_the_mean_run_is_the_published_one(per_hour, hours, checkpoint_minutes):
    """Daly's expected time, and the waits on top, within four standard errors and the interruptions of the first start."""
    on, work = terms(per_hour, checkpoint_minutes), Decimal(hours * HOUR)
    seen, said = simulate(on, work, work, None, runs=RUNS, seed=7), spot_run(on, work, None)
    first_start = float(on.rate * on.restart * (on.restart + on.wait))
    assert not seen.on_demand.any()
    for mean, runs in ((said.spot, seen.spot), (said.wall, seen.wall)):
        error = 4 * float(runs.std()) / RUNS**0.5 + 1e-6
        assert -error < float(runs.mean()) - float(mean) < error + first_start


def test_the_closed_form_counts_at_most_one_write_too_many():
    """The last piece of work needs no checkpoint; the formula has one for each."""
    on, work = terms("0", 10, write_minutes=2), Decimal(6 * HOUR)
    seen, said = simulate(on, work, work, None, runs=2, seed=1), spot_run(on, work, None)
    assert float(said.wall) - seen.wall[0] == 120


@pytest.mark.parametrize("per_hour", ["0.01", "0.3", "1", "6"])
@pytest.mark.parametrize("checkpoint_minutes", [None, 7, 60])
@pytest.mark.parametrize("room", ["1", "1.001", "1.1", "1.6", "3"])
def test_no_run_misses_a_deadline_that_placement_finds_feasible(per_hour, checkpoint_minutes, room):
    """However often it is interrupted, and however much shorter than planned it turns out to be."""
    on, plan = terms(per_hour, checkpoint_minutes, write_minutes=1 if checkpoint_minutes else 0), Decimal(5 * HOUR)
    deadline = latest_start(on, plan) * Decimal(room)
    for part in ("0.001", "0.5", "0.93", "1"):
        seen = simulate(on, plan * Decimal(part), plan, deadline, runs=500, seed=11)
        assert seen.wall.max() <= float(deadline) + 0.001


def test_a_deadline_too_near_is_missed_so_that_the_check_above_can_fail():
    """A minute less than placement asks for, and interruptions that keep spot from starting."""
    on, plan = terms("30", 10), Decimal(5 * HOUR)
    deadline = latest_start(on, plan) - on.restart - 60
    assert simulate(on, plan, plan, deadline, runs=50, seed=3).wall.min() > float(deadline)


@pytest.mark.parametrize("checkpoint_minutes", [None, 45])
def test_less_slack_than_one_piece_of_work_ends_on_demand_as_placement_says(checkpoint_minutes):
    """To the second, where nothing interrupts: the slack on spot in vain, then a start and all the work on demand."""
    on, work = terms("0", checkpoint_minutes), Decimal(6 * HOUR)
    deadline = latest_start(on, work) + on.piece(work) - 1
    seen, said = simulate(on, work, work, deadline, runs=2, seed=1), spot_run(on, work, deadline)
    assert (seen.spot[0], seen.on_demand[0], seen.wall[0]) == pytest.approx((float(said.spot), float(said.on_demand), float(said.wall)))
    again = simulate(on, work, work, deadline + 1, runs=2, seed=1)
    assert again.on_demand[0] == 0 and again.spot[0] == pytest.approx(float(spot_run(on, work, deadline + 1).spot))


def test_the_same_seed_gives_the_same_runs_and_another_does_not():
    """Figures can be repeated anywhere."""
    on, work = terms("0.3", 10), Decimal(6 * HOUR)
    first, same, other = (simulate(on, work, work, None, runs=20, seed=seed).wall for seed in (1, 1, 2))
    assert np.array_equal(first, same) and not np.array_equal(first, other)


def test_at_the_shipped_rates_spot_saves_what_placement_says_and_misses_nothing():
    """All rates of the declared estate, at its dearest spot prices: the engine's saving is at most a tenth of the price too high."""
    shipped = [row for row in summary(list(cases(load_estate(ESTATE), 400))) if row["interruptions_per_hour"].endswith("shipped")]
    assert len(shipped) == len([rate for rate in rates(load_estate(ESTATE)) if rate.source == "shipped"]) >= 5
    for row in shipped:
        assert row["missed"] == 0 and row["cheaper_on_spot"] > 0
        assert row["saved"] > 0.25 and row["most_too_cheap"] < 0.1 and row["most_too_dear"] < 0.02


def test_synthetic_rates_are_called_so():
    """Nobody takes an invented rate for a measured one."""
    found = rates(load_estate(ESTATE))
    assert {rate.source for rate in found} == {"shipped", "synthetic"}
    assert all(isinstance(rate, Rate) and 0 < rate.discounted < 1 for rate in found)
