"""SkyPilot's own optimizer on given requests: run by `bench.skypilot` in the interpreter that has SkyPilot, never imported.

Reads a JSON list of requests (`resources`, and how many of the same task stand in a `chain`), prints one JSON object: SkyPilot's version,
and for each request the seconds of the first choice, the median of the following ones (`repeats`; none: the first stands for them), and USD
per hour. Clouds are taken as enabled without credentials; the catalogs are those in HOME.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from statistics import median
from typing import Any

import sky
import sky.check
from sky import clouds, optimizer


def measured(request: dict[str, Any]) -> dict[str, float]:
    """Seconds of one choice, and what the chosen machines cost an hour."""
    first, chosen = optimized(request)
    spans = [optimized(request)[0] for _ in range(request["repeats"])]
    usd = sum(task.best_resources.get_cost(3600) for task in chosen)
    return {"first_s": first, "seconds": median(spans or [first]), "usd_per_hour": usd}


def optimized(request: dict[str, Any]) -> tuple[float, list[Any]]:
    """Seconds, and the tasks with what was chosen for them."""
    with sky.Dag() as dag:
        tasks = [sky.Task(f"step{number}", run="true") for number in range(request["chain"])]
        for task in tasks:
            task.set_resources(sky.Resources(**request["resources"]))
        for before, after in pairwise(tasks):
            before >> after
    began = time.perf_counter()
    optimizer.Optimizer.optimize(dag, quiet=True)
    return time.perf_counter() - began, tasks


if __name__ == "__main__":
    sky.check.get_cached_enabled_clouds_or_refresh = lambda *_, **__: [clouds.AWS(), clouds.GCP()]
    found = [measured(request) for request in json.load(sys.stdin)]
    print("\n" + json.dumps({"version": sky.__version__, "requests": found}))  # noqa: T201 - the output of the command
