"""Floats decide which slots are looked at, never what is decided."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, localcontext
from math import inf
from unittest import mock

from hypothesis import given, settings

from flows.core.placement import place
from flows.core.placement.scene import resolve
from flows.core.placement.score import NEAR, PricedLane, Pricer
from tests.core.placement.seeded import worlds as seeded
from tests.core.placement.strategies import World, worlds
from tests.core.placement.world import AT, TinyPolicy


def decided(world: World) -> bytes:
    """The decision's bytes."""
    request, *others = world.parts()
    estate, catalog, conditions = others
    return place(request, estate, TinyPolicy(), catalog, conditions, AT).to_bytes()


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_a_decision_that_looks_at_every_slot_is_the_same_byte_for_byte(world: World) -> None:
    """Chosen, runners-up, nearest misses, relaxations and warnings do not depend on what was left out."""

    def all_of_them(lane: PricedLane) -> list[tuple[float, object]]:
        return [(-inf, slot) for slot in lane._scene.slots]

    with mock.patch.object(PricedLane, "slots", all_of_them):
        exhaustive = decided(world)
    assert decided(world) == exhaustive


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_a_float_total_is_near_the_exact_one(world: World) -> None:
    """Nearer than what pruning allows for, wherever a total is given."""
    request, estate, catalog, conditions = world.parts()
    with localcontext(Context(prec=28, rounding=ROUND_HALF_EVEN)):
        scene = resolve(request, estate, catalog, conditions, AT)
        pricer = Pricer(scene)
        for lane in (lane for pool in scene.pools for lane in pricer.priced(pool)):
            for total, slot in lane.slots():
                exact = float(lane.at(slot, scene.deadline).usd.total)
                assert total == -inf or abs(total - exact) < NEAR / 2 + exact * 1e-9


def test_a_float_total_is_near_the_exact_one_in_seeded_worlds() -> None:
    """The same where every run looks at the same worlds; minus infinity only on spot, and only under a deadline."""
    told = 0
    for world in seeded(5, 60):
        request, estate, catalog, conditions = world.parts()
        with localcontext(Context(prec=28, rounding=ROUND_HALF_EVEN)):
            scene = resolve(request, estate, catalog, conditions, AT)
            pricer = Pricer(scene)
            for lane in (lane for pool in scene.pools for lane in pricer.priced(pool)):
                totals = lane.slots()
                assert sorted(slot for _, slot in totals) == list(scene.slots)
                assert [total for total, _ in totals] == sorted(total for total, _ in totals)
                for total, slot in totals:
                    candidate = lane.at(slot, scene.deadline)
                    exact = float(candidate.usd.total)
                    told += total != -inf
                    assert abs(total - exact) < NEAR / 2 + exact * 1e-9 if total != -inf else lane.lane.spot is not None
    assert told > 300
