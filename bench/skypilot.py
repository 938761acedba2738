"""SkyPilot's own optimizer and ours on the same requests over the same catalogs: run `python -m bench.skypilot`, or `make bench`.

The variable TRADEWIND_BENCH_SKYPILOT names the Python of an environment that has SkyPilot; without it nothing is compared. What is counted
on which side, and what is not comparable, stands in README.md beside this file.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from flows.adapters.estate import load_estate
from flows.adapters.estate_import import Sources, import_estate
from flows.adapters.policy import CedarPolicy
from flows.core.governance.labels import Catalog
from flows.core.placement import Conditions, Estate, Request, place
from flows.core.placement.joint import Edge, place_jointly

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
POLICIES = ROOT / "deployments" / "policies"
AT = datetime(2026, 1, 5, 7, tzinfo=UTC)
PYTHON = "TRADEWIND_BENCH_SKYPILOT"
"""Names the Python of an environment that has SkyPilot; it is not among the project's dependencies."""
CLOUDS = ("aws", "gcp")
LIMITS = "wall time; AWS and GCP, on demand, one slot, no data, like steps; SkyPilot: no reasons, few families without a GPU"
Figures = dict[str, Any]
REQUEST = {
    "workload": "bench",
    "step": "train",
    "requested_by": {"user": "ada", "roles": ["ml-engineer"]},
    "runtime": {"p50_hours": 1, "p90_hours": 1},
    "window": {"deadline": "2026-01-05T08:00:00Z"},
}
GPU = ({"accelerators": {"A100": 1}, "cpus": "8+", "memory": "32+"}, {"accelerators": {"A100": 1}, "cpus": 8, "memory_gib": 32})
CPU = ({"cpus": "8+", "memory": "32+"}, {"cpus": 8, "memory_gib": 32})
REQUESTS: dict[str, tuple[Figures, Figures, int, int]] = {
    "one_a100": (*GPU, 1, 5),
    "eight_cpus": (*CPU, 1, 5),
    "chain_of_10": (*CPU, 10, 3),
    "chain_of_100": (*CPU, 100, 0),
}
"""The same needs in SkyPilot's words and in ours, how many such tasks stand in a chain, and how often SkyPilot is asked again."""


def compared(data: Path = DATA) -> Figures:
    """Seconds of both on each request, first and again, with the ratio; and of both as a fresh process that answers one request."""
    python, catalogs = os.environ.get(PYTHON), data / "sky_catalogs" / "v8"
    if not python:
        return {"skipped": f"{PYTHON} names no interpreter that has SkyPilot"}
    if not catalogs.is_dir() or not (data / "regions.csv").exists():
        return {"skipped": f"no sky_catalogs and regions.csv in {data.name}/"}
    with tempfile.TemporaryDirectory() as home:
        shutil.copytree(catalogs, Path(home, ".sky", "catalogs", "v8"))
        for cloud in CLOUDS:
            shutil.copytree(catalogs / cloud, Path(home, "catalogs", cloud))
        import_estate(Sources(Path(home, "catalogs"), data / "regions.csv", assume_certified=True), Path(home, "estate"))
        wanted = [{"resources": theirs, "chain": chain, "repeats": again} for theirs, _, chain, again in REQUESTS.values()]
        try:
            fresh_theirs, _ = _spent(lambda: _peer(python, home, [{**wanted[1], "repeats": 0}]))
            _, theirs = _spent(lambda: _peer(python, home, wanted))
        except subprocess.CalledProcessError as error:
            return {"skipped": f"SkyPilot failed: {error.stderr.strip().splitlines()[-1:]}"}
        fresh_ours, _ = _spent(lambda: _command(home))
        where = load_estate(Path(home, "estate"))
    policy = CedarPolicy.load(POLICIES, where.blocs)
    figures: Figures = {"peer": f"SkyPilot {theirs['version']}", "limits": LIMITS, "offers": len(where.offers), "sites": len(where.sites)}
    figures["fresh_process"] = {
        "theirs_s": round(fresh_theirs, 2),
        "ours_s": round(fresh_ours, 2),
        "ratio": round(fresh_theirs / fresh_ours, 1),
    }
    for (name, (_, needs, chain, _)), seen in zip(REQUESTS.items(), theirs["requests"], strict=True):
        first, ours, usd = _ours(where, policy, needs, chain)
        figures[name] = {
            "theirs_s": round(seen["seconds"], 4),
            "ours_s": round(ours, 4),
            "ratio": round(seen["seconds"] / ours, 1),
            "theirs_first_s": round(seen["first_s"], 4),
            "ours_first_s": round(first, 4),
            "theirs_usd": round(seen["usd_per_hour"], 4),
            "ours_usd": round(float(usd), 4),
        }
    return figures


def _spent(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = call()
    return time.perf_counter() - began, found


def _peer(python: str, home: str, wanted: list[Figures]) -> Any:
    """What SkyPilot says in a process of its own."""
    command = [python, str(ROOT / "bench" / "skypilot_peer.py")]
    environment = {**os.environ, "HOME": home}
    ran = subprocess.run(command, input=json.dumps(wanted), env=environment, capture_output=True, text=True, check=True)
    return json.loads(ran.stdout.splitlines()[-1])


def _command(home: str) -> None:
    """Our command in a process of its own, over the same catalogs as an estate: it reads and checks all of it, and prints every reason."""
    asked = Path(home, "request.yaml")
    asked.write_text(json.dumps({**REQUEST, "resources": CPU[1]}))
    command = [sys.executable, "-m", "deployments.cli.main", "place", str(asked), "--estate", str(Path(home, "estate"))]
    subprocess.run([*command, "--at", "2026-01-05T07:00:00Z", "--json"], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def _ours(where: Estate, policy: CedarPolicy, needs: Figures, chain: int) -> tuple[float, float, Decimal]:
    """Seconds of our first choice over an estate just read, of the median of nine more, and its USD for an hour."""
    steps = {f"step-{number:03}": Request.model_validate({**REQUEST, "resources": needs}) for number in range(chain)}
    edges = [Edge.model_validate({"from": a, "to": b, "dataset": "made", "size_gb": 0}) for a, b in pairwise(steps)]
    nothing = Catalog.model_validate({"as_of": AT})
    unseen = Estate.model_validate(where.model_dump(by_alias=True))

    def choose(estate: Estate) -> Decimal:
        if chain == 1:
            chosen = place(steps["step-000"], estate, policy, nothing, Conditions(), AT).chosen
            return Decimal(0) if chosen is None else chosen.usd.compute
        return place_jointly(steps, edges, estate, policy, nothing, Conditions(), AT).usd_total or Decimal(0)

    first, usd = _spent(lambda: choose(unseen))
    return first, median(_spent(lambda: choose(unseen))[0] for _ in range(9)), usd


if __name__ == "__main__":
    print(json.dumps(compared(), indent=2))  # noqa: T201 - the output of the command
