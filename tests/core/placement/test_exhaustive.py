"""A small world in all of its states: every combination of what can differ, each judged by brute force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from flows.core.governance.labels import Catalog
from flows.core.placement import Conditions, Estate, Request
from flows.core.placement.whatif import Given
from tests.core.placement.oracle import Found, feasible
from tests.core.placement.seeded import AT
from tests.core.placement.test_seeded import decide, survivors
from tests.core.placement.world import BLOCS, TinyPolicy

LABELS = (
    {"classification": "internal", "residency": "anywhere"},
    {"classification": "internal", "residency": ["EU"]},
    {"classification": "restricted", "regimes": ["hipaa"], "residency": ["EU", "US"]},
)
ROLES: tuple[list[str], ...] = (["data-scientist"], [])
WINDOWS = ("2026-01-05T19:50:00Z", "2026-01-05T21:00:00Z")
"""One slot after the first each, with room for an hour of work and a start, or for more."""
BUDGETS = (None, 1.2)
CPUS = (0, 8)
SPOTS = (False, True)
"""Whether the work may be interrupted."""
NARROWED: tuple[dict[str, Any], ...] = ({}, {"spot": True})

CERTIFICATES: tuple[dict[str, Any], ...] = ({"hipaa": None}, {"hipaa": "2026-01-04"})
CEILINGS = ("internal", "restricted")
CAPACITIES: tuple[dict[str, int], ...] = ({}, {"nodes": 1})
RESERVED: tuple[list[dict[str, Any]], ...] = (
    [],
    [{"pool": "a", "use": {"nodes": 1}, "from": "2026-01-05T18:00:00Z", "until": "2026-01-05T19:30:00Z"}],
)
PRICES = (1, 3)
"""Of the machine that costs two at the other site."""


def estates() -> Iterator[Estate]:
    """Two sites with a pool each, two offers a site; what one of them holds, allows, has room for and costs."""
    for held, ceiling, capacity, price in product(CERTIFICATES, CEILINGS, CAPACITIES, PRICES):
        common = {"cloud": "c", "max_classification": "restricted", "certifications": {"hipaa": None}}
        sites = [
            {"id": "fra", "country": "DE", "operator_country": "DE", **common, "certifications": held, "max_classification": ceiling},
            {"id": "iad", "country": "US", "operator_country": "US", **common},
        ]
        spot = {"type": "ecs", "spot": True, "spot_interruptions_per_hour": 0.3, "startup_minutes": 5, "spot_wait_minutes": 20}
        pools = [{"name": "a", "site": "fra", "capacity": capacity, **spot}, {"name": "b", "site": "iad", **spot}]
        offers = [
            {"site": site, "InstanceType": name, "vCPUs": cpus, "Price": usd * factor, "SpotPrice": usd * factor * 0.3}
            for site, usd in (("fra", price), ("iad", 2))
            for name, cpus, factor in (("small", 4, 0.4), ("large", 8, 0.6))
        ]
        egress = [{"src": "*", "dst": "*", "usd_per_gb": 0.01, "gbit_per_s": 1}]
        yield Estate.model_validate({"sites": sites, "pools": pools, "offers": offers, "egress": egress, "blocs": BLOCS})


def requests() -> Iterator[Request]:
    """Who asks, by when, for how much money and how large a machine, interruptible or not, on spot only or not."""
    for roles, deadline, budget, cpus, interruptible, narrowed in product(ROLES, WINDOWS, BUDGETS, CPUS, SPOTS, NARROWED):
        yield Request.model_validate(
            {
                "workload": "w",
                "step": "train",
                "requested_by": {"user": "ada", "roles": roles},
                "datasets": [{"name": "d"}],
                "resources": {"cpus": cpus},
                "runtime": {"p50_hours": 0.5, "p90_hours": 0.75},
                "interruptible": interruptible,
                "checkpoint_minutes": 10 if interruptible else None,
                "window": {"deadline": deadline},
                "budget_usd": budget,
                "restrict": narrowed,
            }
        )


def moments() -> Iterator[tuple[Catalog, Conditions]]:
    """How the dataset is labelled, and whether somebody else holds the room."""
    for label, reservations in product(LABELS, RESERVED):
        entry = {"name": "d", "home": "fra", "size_gb": 10, "label": label}
        catalog = Catalog.model_validate({"as_of": "2026-01-05T12:00:00Z", "entries": [entry]})
        yield catalog, Conditions.model_validate({"reservations": reservations})


@pytest.mark.parametrize("labelled", range(len(LABELS) * len(RESERVED)))
def test_every_state_of_a_small_world_is_decided_as_brute_force_does(labelled: int) -> None:
    """6,144 decisions: the same survivors at the same prices, and reasons for all that is left."""
    catalog, conditions = list(moments())[labelled]
    seen: Counter[bool] = Counter()
    asked = list(requests())
    for estate in estates():
        for request in asked:
            decision = decide(Given(request, estate, catalog, conditions))
            best = feasible(request, estate, TinyPolicy(), catalog, conditions, AT)
            first = {found.pool: found for found in reversed(best)}
            told = [Found(one.usd.total, one.start, one.pool, one.offer, one.spot) for one in survivors(decision)]
            assert told == sorted(first.values()), (estate.document, request)
            assert {row.pool for row in decision.rejected} | set(first) == {"a", "b"}
            assert all(row.reasons for row in decision.rejected)
            seen[bool(told)] += 1
    assert seen[True] > 100 and seen[False] > 100 and seen.total() == 1024
