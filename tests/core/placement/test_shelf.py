"""Offers that are only counted change no byte of any decision."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.core.placement import place, score, shelf
from flows.core.placement.joint import Edge, place_jointly
from tests.core.placement.strategies import SITES, World, worlds
from tests.core.placement.world import AT, TinyPolicy

NONE = 10**9
"""More offers than any pool here has: none is left out."""
RULES = TinyPolicy()


@st.composite
def crowded(draw: st.DrawFn) -> World:
    """A world whose sites rent up to nine offers each, many of them alike, some without a price, in prices that nearly tie."""
    world = draw(worlds())
    chance = random.Random(draw(st.integers(0, 2**32)))
    offers = [_offer(site, name, chance) for site in SITES for name in chance.sample("abcdefghi", draw(st.integers(0, 9)))]
    pools = [{**pool, "offers": chance.choice((["*"], ["*"], ["[a-e]"]))} for pool in world.estate["pools"]]
    speeds = [{"hardware": name, "relative": chance.choice((0.5, 2)), "source": "a table"} for name in chance.sample("abc", 2)]
    estate = {**world.estate, "offers": offers, "pools": pools, "speeds": chance.choice(([], [], speeds))}
    request = {**world.request, "restrict": chance.choice((world.request["restrict"], {"offers": ["[b-g]"]}))}
    if chance.random() < 0.7:  # without what makes every offer a contender
        request["budget_usd"] = None
        given_ = {**world.conditions, "budget_left_usd": {}, "reservations": []}
    else:
        given_ = world.conditions
    return World(request, estate, world.catalog, given_)


def _offer(site: str, name: str, chance: random.Random) -> dict[str, Any]:
    price = chance.choice((None, Decimal("0.5"), Decimal("0.5"), Decimal("0.5000001"), Decimal("0.50001"), Decimal(1), Decimal(2)))
    return {
        "site": site,
        "InstanceType": name,
        "vCPUs": chance.choice((None, 4, 4, 16)),
        "MemoryGiB": chance.choice((16, 16, 64)),
        "Arch": chance.choice((None, "x86_64", "arm64")),
        "Price": price,
        "SpotPrice": None if price is None else chance.choice((None, Decimal("0.3"), Decimal("0.3"), Decimal("0.3000001"), Decimal("0.7"))),
        "Watts": chance.choice((None, 100, 100, 400)),
        "SpotInterruptionsPerHour": chance.choice((None, None, 2)),
        **chance.choice(({}, {}, {"AcceleratorName": "A100", "AcceleratorCount": 1}, {"AcceleratorName": "T4", "AcceleratorCount": 4})),
    }


def decided(world: World, few: int) -> bytes:
    """The decision's bytes, pools of more than `few` offers having only their contenders priced."""
    request, estate, catalog, conditions = world.parts()
    with mock.patch.object(score, "FEW", few):
        return place(request, estate, RULES, catalog, conditions, AT).to_bytes()


relaxed = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


@relaxed
@given(crowded())
def test_a_decision_that_looks_at_every_offer_is_the_same_byte_for_byte(world: World) -> None:
    """Chosen, runners-up, counts, nearest misses, relaxations and warnings do not depend on what was only counted."""
    assert decided(world, 0) == decided(world, NONE)


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


def test_most_offers_of_a_long_list_are_only_counted() -> None:
    """So that the property above is not one of pools that are looked at as a whole: the offer that wins stands for all that are dearer."""
    counted = 0
    original = shelf.contenders

    def noted(*parts: Any) -> Any:
        nonlocal counted
        found = original(*parts)
        counted += sum(alike - 1 for _, alike in found)
        return found

    @settings(max_examples=50, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(crowded())
    def many(world: World) -> None:
        decided(world, 0)

    with mock.patch.object(shelf, "contenders", noted):
        many()
    assert counted > 50
