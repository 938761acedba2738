"""Ten thousand small random worlds, a million at night: each is judged by brute force and asked one further question."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from flows.core.governance.labels import Catalog
from flows.core.placement import Conditions, Decision, Estate, Request, place
from flows.core.placement.decision import Chosen
from flows.core.placement.whatif import Given, apply, changes
from tests.core.placement.oracle import Found, feasible
from tests.core.placement.seeded import AT, worlds
from tests.core.placement.strategies import World
from tests.core.placement.test_properties import shuffled
from tests.core.placement.world import TinyPolicy

PORTIONS, AT_NIGHT = range(8), range(80)
"""So that several workers can share them, and a night that was cut short can go on: `-k` names the portions that are left."""
BY_DAY, BY_NIGHT = 10_000 // len(PORTIONS), 1_000_000 // len(AT_NIGHT)


class Case(NamedTuple):
    """A world with its validated parts, what was decided, and dice of its own."""

    world: World
    given: Given
    decision: Decision
    dice: random.Random

    def asking(self, **fields: Any) -> Decision:
        """The decision on a request with other values."""
        return decide(replace(self.given, request=Request.model_validate({**self.world.request, **fields})))

    def where(self, **tables: Any) -> Decision:
        """The decision in an estate with other tables."""
        return decide(replace(self.given, estate=Estate.model_validate({**self.world.estate, **tables})))


def decide(given: Given) -> Decision:
    """The decision under the tiny policy."""
    return place(given.request, given.estate, TinyPolicy(), given.catalog, given.conditions, AT)


def survivors(decision: Decision) -> tuple[Chosen, ...]:
    """The best of every pool that has one, best first."""
    return () if decision.chosen is None else (decision.chosen, *decision.alternatives)


def pools(decision: Decision) -> set[str]:
    """The pools that may run it."""
    return {found.pool for found in survivors(decision)}


def cases(seed: int, count: int) -> Iterator[Case]:
    """So many cases; an estate is validated once for all the requests that meet it."""
    data: dict[str, Any] = {}
    for number, world in enumerate(worlds(seed, count)):
        if world.estate is not data:
            data, estate = world.estate, Estate.model_validate(world.estate)
        parts = Request.model_validate(world.request), estate, Catalog.model_validate(world.catalog)
        given = Given(*parts, Conditions.model_validate(world.conditions))
        yield Case(world, given, decide(given), random.Random(number))


def brute_force_finds_the_same(case: Case) -> None:
    """The same winner at the same price, the same best of every other pool, and nothing else survives; the others say why not."""
    given = case.given
    best = feasible(given.request, given.estate, TinyPolicy(), given.catalog, given.conditions, AT)
    first = {found.pool: found for found in reversed(best)}
    told = [Found(one.usd.total, one.start, one.pool, one.offer, one.spot) for one in survivors(case.decision)]
    assert told == sorted(first.values())
    assert {row.pool for row in case.decision.rejected} | set(first) == {pool.name for pool in given.estate.pools}
    assert all(row.reasons for row in case.decision.rejected)
    assert not {(found.pool, found.offer) for found in best} & {(row.pool, row.offer) for row in case.decision.rejected}


def tightening_adds_no_survivor(case: Case) -> None:
    """Less money, bigger needs, fewer roles, a stricter label, a lower ceiling, no certificate, less room: never a pool more."""
    request = case.world.request
    tighter: list[Callable[[], Decision]] = [
        lambda: case.asking(budget_usd=min(request["budget_usd"] or 9, 1)),
        lambda: case.asking(resources={**request["resources"], "cpus": 16}),
        lambda: case.asking(requested_by={"user": "ada"}),
        lambda: decide(replace(case.given, conditions=case.given.conditions.model_copy(update={"cordoned": ("fra", "iad")}))),
        lambda: case.where(sites=[{**site, "max_classification": "public"} for site in case.world.estate["sites"]]),
        lambda: case.where(sites=[{**site, "certifications": {}} for site in case.world.estate["sites"]]),
        lambda: case.where(pools=[{**pool, "capacity": {**pool["capacity"], "nodes": 1}} for pool in case.world.estate["pools"]]),
        lambda: case.where(egress=[]),
    ]
    assert pools(case.dice.choice(tighter)()) <= pools(case.decision)


def an_earlier_deadline_adds_no_survivor(case: Case) -> None:
    """Budgets aside, since a run that leaves spot sooner may cost less."""
    open_end = {"budget_usd": None, "window": case.world.request["window"]}
    given = replace(case.given, conditions=case.given.conditions.model_copy(update={"budget_left_usd": {}}))
    late = decide(replace(given, request=Request.model_validate({**case.world.request, **open_end})))
    hurry = {**open_end, "window": {**open_end["window"], "deadline": "2026-01-05T20:00:00Z"}}
    assert pools(decide(replace(given, request=Request.model_validate({**case.world.request, **hurry})))) <= pools(late)


def dearer_never_wins_more(case: Case) -> None:
    """An offer at a higher price wins nowhere where it did not win; nothing gets cheaper by it."""
    raised = case.dice.choice(case.world.estate["offers"])
    spot = raised["SpotPrice"] and raised["SpotPrice"] + 0.3
    offers = [{**row, "Price": row["Price"] + 0.3, "SpotPrice": spot} if row is raised else row for row in case.world.estate["offers"]]
    after = case.where(offers=offers)

    def won(decision: Decision) -> set[str]:
        return {one.pool for one in survivors(decision) if (one.site, one.offer) == (raised["site"], raised["InstanceType"])}

    assert won(after) <= won(case.decision)
    assert pools(after) <= pools(case.decision)
    before = {one.pool: one.usd.total for one in survivors(case.decision)}
    assert all(one.usd.total >= before[one.pool] for one in survivors(after))
    if case.decision.chosen is not None and case.decision.chosen.pool not in won(case.decision):
        assert after.chosen == case.decision.chosen


def narrowing_never_widens(case: Case) -> None:
    """Only what is named is left of the survivors, each as it was."""
    request, restrict = case.world.request, case.world.request["restrict"]
    field, of = case.dice.choice([("pools", "pool"), ("sites", "site")])
    name = case.dice.choice("abc") if field == "pools" else case.dice.choice(["fra", "iad"])
    if field in restrict:
        return
    after = case.asking(restrict={**request["restrict"], field: [name]})
    assert survivors(after) == tuple(one for one in survivors(case.decision) if getattr(one, of) == name)


def without_the_chosen_pool_the_first_alternative_wins(case: Case) -> None:
    """The runners-up are what would be chosen next, with the same numbers."""
    if case.decision.chosen is not None:
        left = [pool for pool in case.world.estate["pools"] if pool["name"] != case.decision.chosen.pool]
        assert survivors(case.where(pools=left)) == case.decision.alternatives


def the_order_of_rows_changes_no_byte(case: Case) -> None:
    """Rows, keys and sets in another order are the same inputs."""
    other = World(*(shuffled(part, case.dice) for part in case.world))
    request, estate, catalog, conditions = other.parts()
    assert decide(Given(request, estate, catalog, conditions)).to_bytes() == case.decision.to_bytes()


def a_relaxation_applied_places(case: Case) -> None:
    """What is printed lets the pool in, at the price it says unless more than that gets in; rules are changed where the rules are."""
    rows = [row for row in case.decision.rejected if row.relaxation is not None and not row.relaxation.change.startswith("policies.")]
    if rows:
        row = case.dice.choice(rows)
        again = decide(apply(changes(row.relaxation.change), case.given))
        let_in = [one for one in survivors(again) if one.pool == row.pool]
        assert let_in and let_in[0].usd.total <= row.relaxation.would_cost_usd, row.relaxation.change
        if row.pool not in pools(case.decision) and row.reasons[0].rule not in HOURLY:
            assert let_in[0].usd.total == row.relaxation.would_cost_usd, row.relaxation.change


HOURLY = {"capacity", "cooling-down", "deadline", "restrict-spot"}
"""What fails at some hours or on some terms only: then offers get in too that the decision told another change for."""

FURTHER: tuple[Callable[[Case], None], ...] = (
    tightening_adds_no_survivor,
    an_earlier_deadline_adds_no_survivor,
    dearer_never_wins_more,
    narrowing_never_widens,
    without_the_chosen_pool_the_first_alternative_wins,
    the_order_of_rows_changes_no_byte,
    a_relaxation_applied_places,
)


def examine(seed: int, count: int) -> Counter[str]:
    """Judge every case and ask one further question, in turn; what was seen, by kind."""
    seen: Counter[str] = Counter()
    for number, case in enumerate(cases(seed, count)):
        further = FURTHER[number % len(FURTHER)]
        try:
            brute_force_finds_the_same(case)
            further(case)
        except AssertionError as error:
            raise AssertionError(f"world {number} of seed {seed}, {further.__name__}: {case.world!r}") from error
        chosen = case.decision.chosen
        seen["nowhere" if chosen is None else "spot" if chosen.spot else "on demand"] += 1
        seen.update({f"rule {reason.rule}" for row in case.decision.rejected for reason in row.reasons})
        seen["several pools"] += len(case.decision.alternatives) > 0
    return seen


@pytest.mark.parametrize("portion", PORTIONS)
def test_ten_thousand_worlds(portion: int) -> None:
    """Each outcome many times, and every rule that these worlds can break, so that no question goes unasked."""
    seen = examine(portion, BY_DAY)
    assert min(seen[kind] for kind in ("nowhere", "spot", "on demand", "several pools")) > BY_DAY / 40
    assert {name.removeprefix("rule ") for name in seen if name.startswith("rule ")} >= RULES


RULES = {
    *("residency", "classification", "hipaa-baa", "default-deny", "egress-unknown", "restrict-clouds", "restrict-sites", "restrict-pools"),
    *("restrict-offers", "restrict-spot", "nodes", "cpus", "memory_gib", "arch", "accelerators", "capacity", "cordoned", "latency"),
    *("latency-unknown", "deadline", "budget"),
}


@pytest.mark.nightly
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("portion", AT_NIGHT)
def test_a_million_worlds(portion: int) -> None:
    """The same over a hundred times as many others."""
    seen = examine(1000 + portion, BY_NIGHT)
    assert seen["nowhere"] + seen["spot"] + seen["on demand"] == BY_NIGHT


FRESH = """
import hashlib, sys
from tests.core.placement.test_seeded import cases
print(hashlib.sha256(b"".join(case.decision.to_bytes() for case in cases(7, 150))).hexdigest())
"""


@pytest.mark.parametrize(
    "surroundings",
    [
        {"PYTHONHASHSEED": "0"},
        {"PYTHONHASHSEED": "4242", "TZ": "Pacific/Kiritimati"},
        {"PYTHONHASHSEED": "1", "TZ": "America/St_Johns", "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONOPTIMIZE": "0"},
    ],
    ids=["hash seed 0", "east of the date line", "Newfoundland in Turkish", "plain C"],
)
def test_a_fresh_process_gives_the_same_bytes_in_any_surroundings(surroundings: dict[str, str]) -> None:
    """Hash seed, time zone and locale: none is in a decision."""
    here = hashlib.sha256(b"".join(case.decision.to_bytes() for case in cases(7, 150))).hexdigest()
    path = os.pathsep.join(entry for entry in sys.path if entry)
    fresh = subprocess.run(
        [sys.executable, "-c", FRESH], capture_output=True, check=True, text=True, env={**os.environ, "PYTHONPATH": path, **surroundings}
    )
    assert fresh.stdout.strip() == here
