"""Offers that are only counted change no byte of any decision."""

from __future__ import annotations

import random
from datetime import datetime
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.core.placement import place, score, shelf
from flows.core.placement.joint import Edge, place_jointly
from tests.core.placement import seeded
from tests.core.placement.strategies import World, worlds
from tests.core.placement.world import AT, TinyPolicy, decide, estate, offer, pool, request, site

NONE = 10**9
"""More offers than any pool here has: none is left out."""
RULES = TinyPolicy()


@st.composite
def crowded(draw: st.DrawFn) -> World:
    """A world whose sites rent up to nine offers each, many of them alike, some without a price, in prices that nearly tie."""
    return crowd(draw(worlds()), random.Random(draw(st.integers(0, 2**32))))


def crowd(world: World, chance: random.Random) -> World:
    """The world with other offers, and what tells them apart: capacity that some fill, speeds and runtimes that some have, cheap nights."""
    pick = chance.choice
    sites = [{**site, "off_peak": pick((site["off_peak"], NIGHT))} for site in world.estate["sites"]]
    offers = [_offer(site["id"], name, chance) for site in sites for name in chance.sample("abcdefghi", chance.randint(0, 9))]
    pools = [
        {
            **pool,
            "offers": pick((["*"], ["*"], ["[a-e]"])),
            "capacity": pick((pool["capacity"], {}, {"cpus": 8}, {"cpus": 20}, {"cpus": 20}, {"A100": 1})),
        }
        for pool in world.estate["pools"]
    ]
    speeds = [{"hardware": name, "relative": pick((0.5, 2)), "source": "a table"} for name in chance.sample("abc", 2)]
    estate = {**world.estate, "sites": sites, "offers": offers, "pools": pools, "speeds": pick(([], [], speeds))}
    request, conditions = dict(world.request), dict(world.conditions)
    request["restrict"] = pick((request["restrict"], {}, {"offers": ["[b-g]"]}))
    request["resources"] = pick((request["resources"], *({"accelerators": each} for each in WANTED)))
    if chance.random() < 0.2:
        hours = [(name, pick((0.5, 1, 3))) for name in chance.sample("abcdef", 3)]
        request["runtime"] = None
        conditions["runtimes"] = [
            {"workload": "nafld", "step": request["step"], "offer": name, "p50_hours": hour, "p90_hours": hour, "runs": 20}
            for name, hour in hours
        ]
    if chance.random() < 0.8:  # a budget makes every offer a contender
        request["budget_usd"], conditions["budget_left_usd"] = None, {}
    name = pick([pool["name"] for pool in pools])
    taken = {"pool": name, "use": {"cpus": 6}, "from": "2026-01-05T18:00:00Z", "until": "2026-01-06T08:00:00Z"}
    conditions["reservations"] = pick((world.conditions["reservations"], [], [taken]))
    conditions["cooling"] = pick(({}, {}, {}, {name: "2026-01-05T21:00:00Z"}))
    return World(request, estate, world.catalog, conditions)


NIGHT = [{"from": "18:00", "to": "08:00", "multiplier": 0.001}]
"""So cheap that totals tie in six decimals where prices do not."""
WANTED: tuple[dict[str, int], ...] = ({"A100": 2}, {"A100": 1, "T4": 4}, {"B200": 1, "T4": 4}, {"H100": 1, "A100": 1})
"""Either of two accelerators will do; no site rents a B200 or an H100."""


def _offer(site: str, name: str, chance: random.Random) -> dict[str, Any]:
    pick = chance.choice
    price = pick(
        (None, Decimal("0.5"), Decimal("0.5"), Decimal("0.5000001"), Decimal("0.50001"), Decimal("0.5001"), Decimal(1), Decimal(2))
    )
    return {
        "site": site,
        "InstanceType": name,
        "vCPUs": pick((None, 4, 4, 8, 16)),
        "MemoryGiB": pick((16, 16, 64)),
        "Arch": pick((None, "x86_64", "arm64")),
        "Price": price,
        "SpotPrice": None if price is None else pick((None, Decimal("0.3"), Decimal("0.3"), Decimal("0.3000001"), Decimal("0.7"))),
        "Watts": pick((None, 100, 100, 400)),
        "SpotInterruptionsPerHour": pick((None, None, 2)),
        **pick(
            (
                {},
                {},
                *({"AcceleratorName": kind, "AcceleratorCount": count} for kind, count in (("A100", 1), ("A100", 2), ("L4", 1), ("T4", 4))),
            )
        ),
    }


def decided(world: World, few: int, at: datetime = AT) -> bytes:
    """The decision's bytes, pools of more than `few` offers having only their contenders priced."""
    request, estate, catalog, conditions = world.parts()
    with mock.patch.object(score, "FEW", few):
        return place(request, estate, RULES, catalog, conditions, at).to_bytes()


relaxed = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


@relaxed
@given(crowded())
def test_a_decision_that_looks_at_every_offer_is_the_same_byte_for_byte(world: World) -> None:
    """Chosen, runners-up, counts, nearest misses, relaxations and warnings do not depend on what was only counted."""
    assert decided(world, 0) == decided(world, NONE)


def test_seeded_worlds_are_the_same_byte_for_byte() -> None:
    """The same worlds each time, for `make mutation`."""
    chance = random.Random(11)
    for small in seeded.worlds(11, 600):
        world = crowd(small, chance)
        assert decided(world, 0, seeded.AT) == decided(world, NONE, seeded.AT), world


@settings(relaxed, max_examples=60)
@given(crowded())
def test_steps_placed_together_are_the_same_byte_for_byte(world: World) -> None:
    """Three steps that ask for the same, and one that does not, in a chain."""
    request, estate, catalog, conditions = world.parts()
    steps = {"a": request, "b": request, "c": request, "d": request.model_copy(update={"interruptible": not request.interruptible})}
    edges = [Edge.model_validate({"from": a, "to": b, "dataset": f"made-{a}", "size_gb": 2}) for a, b in ("ab", "bc", "cd")]
    found = []
    for few in (0, NONE):
        with mock.patch.object(score, "FEW", few):
            found.append(place_jointly(steps, edges, estate, RULES, catalog, conditions, AT).to_bytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("co2", [0, 2])
def test_an_offer_that_is_dearer_but_for_its_spot_price_is_looked_at(co2: int) -> None:
    """It may be the cheapest of all, whatever carbon costs."""
    asked = request(
        datasets=[], interruptible=True, checkpoint_minutes=10, objective={"usd_per_kg_co2": co2}, resources={"cpus": 1, "memory_gib": 1}
    )
    where = estate(
        sites=[site("fra")],
        pools=[pool("fra-k8s", "fra", spot=True)],
        offers=[
            offer("fra", "a", 1, SpotPrice="0.9", SpotInterruptionsPerHour="0.05", Watts=100),
            offer("fra", "b", 2, SpotPrice="0.1", SpotInterruptionsPerHour="0.05", Watts=100),
        ],
    )
    with mock.patch.object(score, "FEW", 0):
        chosen = decide(asked, where).chosen
    assert chosen is not None and (chosen.offer, chosen.spot) == ("b", True)


def test_most_offers_of_a_long_list_are_only_counted() -> None:
    """So that the property above is not one of pools that are looked at as a whole: the offer that wins stands for all that are dearer."""
    counted = 0
    original = shelf.contenders

    def noted(*parts: Any) -> Any:
        nonlocal counted
        found = original(*parts)
        counted += sum(alike - 1 for _, alike in found)
        return found

    @settings(max_examples=150, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(crowded())
    def many(world: World) -> None:
        decided(world, 0)

    with mock.patch.object(shelf, "contenders", noted):
        many()
    assert counted > 50
