"""How fast steps are placed together: run `python -m bench.joint`. Figures, no promises: they depend on the machine.

Per size: the exact choice after pruning, and the same problem as one plain MILP (a binary per step and pool, a flow per pair, nothing
pruned) in the same run; both must find the same total. Then the whole of `place_jointly`, its pricing of every pool and slot included.
"""

from __future__ import annotations

import random
import sys
import time
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

from flows.core.governance.labels import Catalog
from flows.core.placement import Conditions, Estate, Request
from flows.core.placement.joint import Edge, place_jointly
from flows.core.placement.joint_solve import Problem, milp_choice, solve
from flows.core.placement.policy import Answer, Question

AT = datetime(2026, 1, 5, 7, tzinfo=UTC)
SIZES = ((10, 30, 5), (20, 50, 10), (100, 50, 0))
"""Steps, pools, and edges beside the chain."""
PLAIN_UP_TO = 20
"""Steps beyond which the plain formulation takes too long to wait for."""
SEEDS = (0, 1, 2)
USD_PER_GB = (0, 20_000, 50_000, 90_000, 120_000)
"""Millionths of a USD, as clouds ask for egress."""


class Open:
    """Rules that allow everything: only placement is measured."""

    hash = "open"
    engine = "open 1"
    last_days: frozenset[Any] = frozenset()

    def ask(self, questions: list[Question]) -> list[Answer]:
        """Yes."""
        return [Answer(allowed=True) for _ in questions]


def edges_of(n_steps: int, extra: int, chance: random.Random) -> set[tuple[int, int]]:
    """A chain, and some edges that skip up to four steps."""
    found = {(step, step + 1) for step in range(n_steps - 1)}
    while len(found) < n_steps - 1 + extra:
        target = chance.randrange(2, n_steps)
        found.add((chance.randrange(max(0, target - 5), target), target))
    return found


def problem(n_steps: int, n_pools: int, extra: int, seed: int) -> Problem:
    """Pools at a site each, 1 to 20 USD a step, 1 to 200 GB an edge, a third of the pools closed to what comes from elsewhere."""
    chance = random.Random(seed)
    costs = [[chance.randint(1_000_000, 20_000_000) for _ in range(n_pools)] for _ in range(n_steps)]
    price = [[0 if src == dst else chance.choice(USD_PER_GB) for dst in range(n_pools)] for src in range(n_pools)]
    pairs: dict[tuple[int, int], list[list[int | None]]] = {}
    for key in sorted(edges_of(n_steps, extra, chance)):
        gb, closed = chance.choice((1, 5, 20, 50, 200)), {pool for pool in range(n_pools) if chance.random() < 0.33}
        pairs[key] = [[None if dst in closed and src != dst else gb * price[src][dst] for dst in range(n_pools)] for src in range(n_pools)]
    return Problem.of(costs, pairs)


def world(n_steps: int, n_pools: int, seed: int) -> tuple[dict[str, Request], list[Edge], Estate]:
    """The same shape as an estate of one pool and one offer a site, and requests with a day of slots."""
    chance = random.Random(seed)
    place = {"cloud": "c", "country": "DE", "operator_country": "DE", "max_classification": "restricted"}
    estate = Estate.model_validate(
        {
            "sites": [{"id": f"s{n}", **place} for n in range(n_pools)],
            "pools": [{"name": f"p{n}", "site": f"s{n}", "type": "kubernetes"} for n in range(n_pools)],
            "offers": [{"site": f"s{n}", "InstanceType": "m", "Price": str(chance.randint(100, 2000) / 1000)} for n in range(n_pools)],
            "egress": [
                {"src": f"s{n}", "dst": "*", "usd_per_gb": str(chance.choice(USD_PER_GB) / 1e6), "gbit_per_s": 1} for n in range(n_pools)
            ],
        }
    )
    runtime = {"p50_hours": 2, "p90_hours": 3}
    steps = {f"step-{n:02}": Request.model_validate({"workload": "w", "step": "train", "runtime": runtime}) for n in range(n_steps)}
    edges = [
        Edge.model_validate({"from": f"step-{a:02}", "to": f"step-{b:02}", "dataset": "made", "size_gb": chance.choice((1, 20, 200))})
        for a, b in ((n, n + 1) for n in range(n_steps - 1))
    ]
    return steps, edges, estate


def timed(call: Any) -> tuple[float, Any]:
    """Seconds that the call takes, and what it gives."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def main() -> None:
    """Print one line a figure."""
    say = sys.stdout.write
    milp_choice([Problem.of([[1]], {}).costs[0]], {})  # the import of the solver is no part of any figure
    for n_steps, n_pools, extra in SIZES:
        ours, plain = [], []
        for seed in SEEDS:
            asked = problem(n_steps, n_pools, extra, seed)
            seconds, choice = timed(lambda asked=asked: solve(asked))
            ours.append(seconds)
            if n_steps <= PLAIN_UP_TO:
                seconds, other = timed(lambda asked=asked: milp_choice(asked.costs, asked.pairs, asked.forbidden - 1))
                plain.append(seconds)
                if asked.total(choice) != asked.total(other):
                    raise SystemExit(f"seed {seed}: {asked.total(choice)} is not {asked.total(other)}")
        ratio = f"; plain MILP {median(plain):.2f} s, {median(plain) / median(ours):.0f} x; equal totals" if plain else ""
        size = f"{n_steps} steps x {n_pools} pools, {n_steps - 1 + extra} edges"
        say(f"choice, {size}: median {median(ours):.4f} s, worst {max(ours):.4f} s{ratio}\n")
        sys.stdout.flush()
    entry = {"name": "made", "home": "s0", "size_gb": 1, "label": {"classification": "internal", "residency": "anywhere"}}
    catalog = Catalog.model_validate({"as_of": (AT - timedelta(hours=1)).isoformat(), "entries": [entry]})
    for n_steps, n_pools, _ in SIZES[:2]:
        steps, edges, estate = world(n_steps, n_pools, 0)
        parts = (steps, edges, estate, Open(), catalog, Conditions(), AT)
        seconds, decision = timed(lambda parts=parts: place_jointly(*parts))
        say(f"place_jointly, {n_steps} steps x {n_pools} pools x 25 slots: {seconds:.2f} s, {decision.usd_total} USD\n")


if __name__ == "__main__":
    main()
