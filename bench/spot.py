"""What spot really takes, by simulation: run `python -m bench.spot`, or `make bench`. Seeded: the same figures everywhere.

Interruptions are a Poisson process at the rates that the declared estate ships (those of AWS follow from published monthly bands, those of
Google Cloud are assumed) and at synthetic ones, invented to see what happens under stress. A run starts, works, writes checkpoints, is
interrupted, waits for capacity and starts again. It leaves for on demand when the time to the deadline is just enough for a start and for
the work that no checkpoint holds. Told per case: deadlines missed, what is saved against on demand, and the mean bill beside the engine's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.adapters.estate import load_estate
from flows.core.placement import Estate
from flows.core.placement.spot import SpotTerms, latest_start, spot_run

ESTATE = Path(__file__).resolve().parents[1] / "deployments" / "estate"
HOUR = 3600
SYNTHETIC = (Decimal("0.05"), Decimal("0.3"), Decimal(1))
"""Interruptions per hour that nobody measured: about one a day, one in three hours, one an hour."""
JOBS: tuple[tuple[int, int | None, int], ...] = ((6, None, 0), (6, 10, 1), (48, 30, 2))
"""Hours of work, minutes between checkpoints, minutes to write one."""
ROOMS: tuple[Decimal | None, ...] = (None, Decimal(3), Decimal("1.5"), Decimal("1.1"), Decimal("1.02"), Decimal(1))
"""Time to the deadline, as a multiple of what the engine asks at least; None: no deadline."""
SOONER = Decimal("0.7")
"""A run that is shorter than planned, as a part of the plan: the safety net is set for p90, and most runs end before it."""
RUNS = 2000

Floats = NDArray[np.float64]
Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Per run: seconds billed on spot and on demand, and from begin to end."""

    spot: Floats
    on_demand: Floats
    wall: Floats


def simulate(terms: SpotTerms, work: Decimal, plan: Decimal, until_deadline: Decimal | None, *, runs: int, seed: int) -> Outcome:
    """Runs of `work` seconds whose safety net is set for `plan` seconds, with `until_deadline` seconds left (None: no net).

    Capacity returns after a wait that is exponential with the mean of the terms; nothing is billed meanwhile. Starts are interrupted like
    work. The last piece of work needs no checkpoint.
    """
    chance = np.random.default_rng(seed)
    rate, restart, wait, write = (float(value) for value in (terms.rate, terms.restart, terms.wait, terms.write))
    interval = float(work if terms.interval is None else terms.interval)
    total, planned, steady = float(work), float(plan), float(terms.on_demand(plan) / plan)
    net = np.inf if until_deadline is None else float(until_deadline)
    now, done, spot, on_demand = (np.zeros(runs) for _ in range(4))
    starting = np.ones(runs, dtype=bool)
    live = np.arange(runs)
    while live.size:
        left = np.maximum(net - restart - steady * (planned - done[live]) - now[live], 0.0)
        piece = np.minimum(interval, total - done[live])
        last = done[live] + piece >= total - 1e-6
        needed = np.where(starting[live], restart, 0.0) + piece + np.where(last, 0.0, write)
        holds = chance.exponential(1 / rate, live.size) if rate else np.full(live.size, np.inf)
        spent = np.minimum(np.minimum(needed, holds), left)
        waits = np.minimum(chance.exponential(wait, live.size), left - spent)
        finished = needed <= spent
        gone = ~finished & (spent + waits >= left)
        spot[live] += spent
        now[live] += spent + np.where(finished, 0.0, waits)
        done[live] += np.where(finished, piece, 0.0)
        starting[live] = ~finished
        over = live[gone]
        rest = total - done[over]
        on_demand[over] = restart + rest + write * (np.ceil(rest / interval - 1e-9) - 1)
        now[over] += on_demand[over]
        live = live[~gone & ~(finished & last)]
    return Outcome(spot, on_demand, now)


@dataclass(frozen=True, slots=True)
class Rate:
    """Interruptions per hour of a node, where from, and what spot costs there, as a part of the on-demand price."""

    per_hour: Decimal
    source: str
    discounted: Decimal
    restart: Decimal
    wait: Decimal


def rates(estate: Estate) -> list[Rate]:
    """Every rate that the estate ships, at the dearest spot of each and the longest start and wait; then the synthetic ones, likewise."""
    shipped: dict[Decimal, list[Rate]] = {}
    for pool in estate.pools:
        for offer in estate.offers_of(pool) if pool.spot else ():
            own = offer.spot_interruptions_per_hour
            per_hour = pool.spot_interruptions_per_hour if own is None else own
            if per_hour is not None and offer.usd_per_hour and offer.spot_usd_per_hour:
                ratio = offer.spot_usd_per_hour / offer.usd_per_hour
                times = pool.startup_minutes * 60, pool.spot_wait_minutes * 60
                shipped.setdefault(per_hour, []).append(Rate(per_hour, "shipped", ratio, *times))
    found = [_worst(per_hour, "shipped", shipped[per_hour]) for per_hour in sorted(shipped)]
    return [*found, *(_worst(per_hour, "synthetic", found) for per_hour in SYNTHETIC)]


def _worst(per_hour: Decimal, source: str, of: list[Rate]) -> Rate:
    return Rate(per_hour, source, *(max(getattr(rate, name) for rate in of) for name in ("discounted", "restart", "wait")))


def cases(estate: Estate, runs: int) -> Iterator[Figures]:
    """Every rate x job x room for the deadline that the engine allows: for runs as long as planned, and for shorter ones."""
    for rate in rates(estate):
        for hours, interval, write in JOBS:
            every = None if interval is None else Decimal(interval * 60)
            terms = SpotTerms(rate.per_hour / HOUR, rate.restart, rate.wait, every, Decimal(write * 60))
            plan = Decimal(hours * HOUR)
            for room in ROOMS if not terms.endless(plan) else ():
                deadline = None if room is None else latest_start(terms, plan) * room
                yield _case(rate, terms, plan, room, deadline, runs)


def _case(rate: Rate, terms: SpotTerms, plan: Decimal, room: Decimal | None, deadline: Decimal | None, runs: int) -> Figures:
    whole = simulate(terms, plan, plan, deadline, runs=runs, seed=1)
    sooner = simulate(terms, plan * SOONER, plan, deadline, runs=runs, seed=2)
    due = np.inf if deadline is None else float(deadline) + 0.001
    said = spot_run(terms, plan, deadline)
    twin, part = float(terms.restart + plan), float(rate.discounted)
    bill = whole.spot * part + whole.on_demand
    return {
        "interruptions_per_hour": f"{rate.per_hour} {rate.source}",
        "work_h": int(plan / HOUR),
        "checkpoint_min": None if terms.interval is None else int(terms.interval / 60),
        "deadline": "none" if room is None else f"{room} x least",
        "missed": int((whole.wall > due).sum() + (sooner.wall > due).sum()),
        "left_spot": round(float((whole.on_demand > 0).mean()), 3),
        "saved": round(1 - float(bill.mean()) / twin, 3),
        "engine_says_saved": round(1 - (float(said.spot) * part + float(said.on_demand)) / twin, 3),
        "billed_h": round(float((whole.spot + whole.on_demand).mean()) / HOUR, 3),
        "engine_says_billed_h": round(float(said.spot + said.on_demand) / HOUR, 3),
    }


def summary(found: list[Figures]) -> Iterator[Figures]:
    """Per rate: what is saved, by simulation and by the engine's word, in the cases where the engine finds spot the cheaper."""
    for rate in dict.fromkeys(case["interruptions_per_hour"] for case in found):
        of = [case for case in found if case["interruptions_per_hour"] == rate]
        spot = [case for case in of if case["engine_says_saved"] > 0]
        gaps = [case["engine_says_saved"] - case["saved"] for case in spot]
        yield {
            "interruptions_per_hour": rate,
            "cases": len(of),
            "missed": sum(case["missed"] for case in of),
            "cheaper_on_spot": len(spot),
            "saved": round(float(np.mean([case["saved"] for case in spot])), 3),
            "engine_says_saved": round(float(np.mean([case["engine_says_saved"] for case in spot])), 3),
            "most_too_cheap": round(max(gaps), 3),
            "most_too_dear": round(-min(gaps), 3),
        }


def main() -> None:
    """Simulate, and print a table or a JSON object a line."""
    parser = argparse.ArgumentParser(description="What spot really takes, by simulation.")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"runs of each case, twice (default {RUNS})")
    parser.add_argument("--all", action="store_true", help="every case, not only a summary of each rate")
    parser.add_argument("--json", action="store_true", help="print JSON objects")
    options = parser.parse_args()
    found = list(cases(load_estate(ESTATE), options.runs))
    rows = found if options.all else list(summary(found))
    lines = (json.dumps(row) for row in rows) if options.json else _table(rows)
    print(*lines, sep="\n")  # noqa: T201 - the output of the command


def _table(rows: list[Figures]) -> Iterator[str]:
    widths = {name: max(len(name), *(len(str(row[name])) for row in rows)) for name in rows[0]}
    yield "  ".join(name.replace("_", " ").rjust(width) for name, width in widths.items())
    for row in rows:
        yield "  ".join(str("-" if row[name] is None else row[name]).rjust(width) for name, width in widths.items())


if __name__ == "__main__":
    main()
