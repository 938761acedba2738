"""What must hold for every decision, over random small estates; a naive second implementation is the judge."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.core.placement import place
from tests.core.placement.oracle import Found, feasible
from tests.core.placement.strategies import World, worlds
from tests.core.placement.world import TinyPolicy

AT = datetime(2026, 1, 5, 18, 40, tzinfo=UTC)
relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def decide(world: World):
    """The decision of a world under the tiny policy."""
    request, estate, catalog, conditions = world.parts()
    return place(request, estate, TinyPolicy(), catalog, conditions, AT)


def judged(world: World) -> list[Found]:
    """What the naive implementation finds feasible, best first."""
    request, estate, catalog, conditions = world.parts()
    return feasible(request, estate, TinyPolicy(), catalog, conditions, AT)


def told(candidate: Any) -> Found | None:
    """A candidate of a decision, as the judge names it."""
    return None if candidate is None else Found(candidate.usd.total, candidate.start, candidate.pool, candidate.offer, candidate.spot)


@relaxed
@given(worlds())
def test_the_chosen_candidate_is_the_best_that_brute_force_finds(world):
    """Same winner at the same price, same best of every other pool, and nothing else survives."""
    best = judged(world)
    first = {found.pool: found for found in reversed(best)}
    decision = decide(world)
    assert told(decision.chosen) == (best[0] if best else None)
    assert [told(other) for other in decision.alternatives] == sorted(first.values())[1:]


@pytest.mark.nightly
@pytest.mark.timeout(14_400)
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(worlds())
def test_the_chosen_candidate_is_the_best_that_brute_force_finds_at_length(world):
    """The same over many more worlds."""
    best = judged(world)
    first = {found.pool: found for found in reversed(best)}
    decision = decide(world)
    assert told(decision.chosen) == (best[0] if best else None)
    assert [told(other) for other in decision.alternatives] == sorted(first.values())[1:]


def in_a_hurry_on_spot(world: World) -> World:
    """The world with spot in every pool, frequent interruptions and a deadline that leaves little room for them."""
    pools = [
        {**pool, "spot": True, "spot_interruptions_per_hour": 2, "spot_wait_minutes": 30, "capacity": {}} for pool in world.estate["pools"]
    ]
    window = {"earliest": "2026-01-05T19:10:00Z", "deadline": "2026-01-05T23:30:00Z"}
    runtime = {"p50_hours": 2, "p90_hours": 3}
    hurry = {
        "interruptible": True,
        "window": window,
        "runtime": runtime,
        "restrict": {},
        "budget_usd": None,
        "resources": {},
        "outputs": [],
    }
    asked = {**world.request, **hurry, "datasets": [{"name": "open"}], "checkpoint_minutes": world.request["checkpoint_minutes"] or 10}
    egress = [{"src": "*", "dst": "*", "usd_per_gb": 0.02, "gbit_per_s": 1}]
    return World(asked, {**world.estate, "pools": pools, "egress": egress}, world.catalog, {})


@relaxed
@given(worlds().map(in_a_hurry_on_spot))
def test_brute_force_agrees_where_spot_and_on_demand_are_mixed(world):
    """The expected bill of a run that leaves spot in time for its deadline."""
    best = judged(world)
    assert told(decide(world).chosen) == (best[0] if best else None)


@relaxed
@given(worlds())
def test_every_pool_survives_or_says_why_not(world):
    """A pool is among the survivors, or has rejections; each rejection has reasons; an offer that survives is in no rejection."""
    best = judged(world)
    decision = decide(world)
    survivors = {candidate.pool for candidate in (decision.chosen, *decision.alternatives) if candidate is not None}
    assert survivors == {found.pool for found in best}
    assert survivors | {row.pool for row in decision.rejected} == {pool["name"] for pool in world.estate["pools"]}
    assert all(row.reasons for row in decision.rejected)
    alive = {(found.pool, found.offer) for found in best}
    assert not alive & {(row.pool, row.offer) for row in decision.rejected}


TIGHTER: dict[str, Any] = {
    "budget": lambda request: {**request, "budget_usd": min(request["budget_usd"] or 99, 3)},
    "deadline": lambda request: {**request, "window": {**request["window"], "deadline": "2026-01-05T22:00:00Z"}},
    "restrict": lambda request: {**request, "restrict": {**request["restrict"], "offers": ["small"]}},
    "fit": lambda request: {**request, "resources": {**request["resources"], "cpus": 8}},
    "roles": lambda request: {**request, "requested_by": {"user": "ada"}},
}


@relaxed
@given(worlds(), st.sampled_from(sorted(TIGHTER)))
def test_tightening_never_adds_a_survivor(world, what):
    """Less money, less time, fewer places, bigger needs or fewer roles: never a pool more."""
    before = {candidate.pool for candidate in _survivors(decide(world))}
    after = {candidate.pool for candidate in _survivors(decide(world._replace(request=TIGHTER[what](world.request))))}
    assert after <= before


def _survivors(decision: Any) -> list[Any]:
    return [candidate for candidate in (decision.chosen, *decision.alternatives) if candidate is not None]


@relaxed
@given(worlds())
def test_without_the_chosen_pool_the_first_alternative_wins(world):
    """The runners-up are what would be chosen next, with the same numbers."""
    decision = decide(world)
    if decision.chosen is None:
        return
    left = [pool for pool in world.estate["pools"] if pool["name"] != decision.chosen.pool]
    again = decide(world._replace(estate={**world.estate, "pools": left}))
    assert (again.chosen, again.alternatives) == (
        (decision.alternatives[0], decision.alternatives[1:]) if decision.alternatives else (None, ())
    )


def shuffled(value: Any, chance: random.Random) -> Any:
    """The same data with every list and mapping in another order."""
    if isinstance(value, dict):
        items = [(key, shuffled(inner, chance)) for key, inner in value.items()]
        return dict(chance.sample(items, len(items)))
    if isinstance(value, list):
        return chance.sample([shuffled(inner, chance) for inner in value], len(value))
    return value


@relaxed
@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_no_byte(world, chance):
    """Rows, keys and sets in another order are the same inputs, and the same decision."""
    other = World(*(shuffled(part, chance) for part in world))
    assert decide(other).to_bytes() == decide(world).to_bytes()


@settings(max_examples=25, deadline=None)
@given(worlds())
def test_a_relaxation_of_budget_or_deadline_lets_the_pool_in_at_the_price_it_says(world):
    """What a row promises comes true once the request is changed as it says."""
    for row in decide(world).rejected:
        if row.relaxation is None or ";" in row.relaxation.change:
            continue
        path, _, change = row.relaxation.change.partition(": ")
        new = change.split(" -> ")[1]
        if path == "budget_usd":
            asked = {**world.request, "budget_usd": new}
        elif path == "window.deadline":
            asked = {**world.request, "window": {**world.request["window"], "deadline": new}}
        else:
            continue
        pools = [pool for pool in world.estate["pools"] if pool["name"] == row.pool]
        again = decide(world._replace(request=asked, estate={**world.estate, "pools": pools}))
        assert any(told(candidate).total <= row.relaxation.would_cost_usd for candidate in _survivors(again))


FRESH = """
import json, sys
from datetime import datetime
from tests.core.placement.strategies import World
from tests.core.placement.world import TinyPolicy
from flows.core.placement import place
request, estate, catalog, conditions = World(*json.load(sys.stdin)).parts()
decision = place(request, estate, TinyPolicy(), catalog, conditions, datetime.fromisoformat(sys.argv[1]))
sys.stdout.buffer.write(decision.to_bytes())
"""


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_a_fresh_process_under_any_hash_seed_gives_the_same_bytes(seed):
    """No order of a set or a dictionary leaks into a decision."""
    world = example()
    fresh = subprocess.run(
        [sys.executable, "-c", FRESH, AT.isoformat()],
        input=json.dumps(world, default=str).encode(),
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert fresh.stdout == decide(world).to_bytes()


def example() -> World:
    """A world with several survivors and many kinds of rejections."""
    sites = [
        {"id": id, "cloud": cloud, "country": country, "operator_country": "US", "max_classification": "restricted", "certifications": held}
        for id, cloud, country, held in (
            ("fra", "onprem", "DE", {"hipaa": None, "scc": None}),
            ("muc", "aws", "DE", {"hipaa": "2026-12-31", "pci": None, "scc": None}),
            ("iad", "aws", "US", {"dpf": None, "hipaa": None}),
        )
    ]
    pools = [
        {
            "name": f"{site}-{kind}",
            "site": site,
            "type": "ecs",
            "spot": True,
            "spot_interruptions_per_hour": 0.05,
            "capacity": {"nodes": 4, "A100": 2},
        }
        for site in ("fra", "muc", "iad")
        for kind in ("x", "y")
    ]
    offers = [
        {"site": site, "InstanceType": f"m{n}", "vCPUs": n, "MemoryGiB": 4 * n, "Price": n / 7, "SpotPrice": n / 20}
        for site in ("fra", "muc", "iad")
        for n in (2, 8)
    ]
    label = {"classification": "restricted", "regimes": ["hipaa", "gdpr"], "residency": ["EU", "NO", "CH"]}
    return World(
        {
            "workload": "nafld",
            "step": "train",
            "requested_by": {"user": "ada", "roles": ["data-scientist", "operator"]},
            "datasets": [{"name": "ehr"}],
            "resources": {"cpus": 4},
            "runtime": {"p50_hours": 2, "p90_hours": 3},
            "interruptible": True,
        },
        {
            "sites": sites,
            "pools": pools,
            "offers": offers,
            "egress": [{"src": "*", "dst": "*", "usd_per_gb": 0.02, "gbit_per_s": 5}],
            "blocs": {"blocs": {"EU": ["DE"]}},
        },
        {"as_of": "2026-01-05T12:00:00Z", "entries": [{"name": "ehr", "home": "fra", "size_gb": 40, "label": label}]},
        {},
    )
