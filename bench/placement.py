"""How fast placement decides: run `python -m bench.placement`, or `make bench`. Figures, no promises: they depend on the machine.

10,080 candidates with every reason under the declared Cedar rules; all offers of a public price list x 24 slots, if it is there; a cold
start of the command; decisions per second; memory; and SkyPilot's own optimizer on the same requests as a ratio, if the variable
TRADEWIND_BENCH_SKYPILOT names the Python of an environment that has it.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles
from typing import Any

from bench import skypilot
from flows.adapters.estate import load_blocs
from flows.adapters.policy import CedarPolicy
from flows.core.governance.labels import Catalog
from flows.core.placement import Conditions, Decision, Estate, Request, place

ROOT = Path(__file__).resolve().parents[1]
DEPLOYMENTS = ROOT / "deployments"
DATA = ROOT.parent / "shared" / "data"
AT = datetime(2026, 1, 5, 7, tzinfo=UTC)
LABEL = {"classification": "confidential", "regimes": ["gdpr"], "residency": "anywhere"}
REQUEST = {
    "workload": "bench",
    "step": "train",
    "requested_by": {"user": "ada", "roles": ["ml-engineer"]},
    "datasets": [{"name": "table"}],
    "outputs": [{"name": "model", "size_gb": 1, "home": "s0", "keep_days": 30}],
    "runtime": {"p50_hours": 2, "p90_hours": 3},
    "resources": {"cpus": 2, "memory_gib": 8},
    "interruptible": True,
    "checkpoint_minutes": 10,
    "objective": {"usd_per_hour_of_delay": 0.5, "usd_per_kg_co2": 0.1},
}
SLOTS = 24
COUNTRIES = ("DE", "NL", "FR", "SE", "US", "CH", "IN", "NO", "GB", "BR")

Figures = dict[str, Any]


def main() -> None:
    """Measure, and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description="How fast placement decides.")
    parser.add_argument("--repeats", type=int, default=100, help="decisions over 10,080 candidates (default 100)")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with unified_prices.csv and regions.csv")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    figures: Figures = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}, one core",
        "ten_thousand_candidates": ten_thousand(options.repeats),
        "many_rules_fail": ten_thousand(max(options.repeats // 4, 2), residency=["DE"]),
        "price_list": price_list(options.data),
        "cold_start": cold_start(),
        "skypilot": skypilot.compared(options.data),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    print(json.dumps(figures) if options.json else "\n".join(_lines(figures)))  # noqa: T201 - the output of the command


def estate(pools: int = 10, offers: int = 21) -> Estate:
    """Ten countries, one pool each, with spot, cheap nights, carbon, capacity: 10 pools x 21 offers x 24 slots x 2 = 10,080 candidates."""
    night = [{"from": "22:00", "to": "06:00", "multiplier": 0.5}]
    site = {"cloud": "aws", "max_classification": "restricted", "customer_managed_keys": True, "grid_zone": "A", "off_peak": night}
    return Estate.model_validate(
        {
            "sites": [
                {"id": f"s{n}", "country": COUNTRIES[n % 10], "operator_country": "US", "certifications": {"dpf": None}, **site}
                for n in range(pools)
            ],
            "pools": [
                {
                    "name": f"p{n}",
                    "site": f"s{n}",
                    "type": "kubernetes",
                    "spot": True,
                    "spot_interruptions_per_hour": 0.05,
                    "startup_minutes": 3,
                    "capacity": {"nodes": 5},
                }
                for n in range(pools)
            ],
            "offers": [
                {"site": f"s{n}", "InstanceType": f"o{k}", "vCPUs": k, "MemoryGiB": 4 * k, "Price": k, "SpotPrice": k / 4, "Watts": 50 * k}
                for n in range(pools)
                for k in range(1, offers + 1)
            ],
            "egress": [{"src": "*", "dst": "*", "usd_per_gb": 0.02, "gbit_per_s": 5}],
            "carbon": [{"grid_zone": "A", "month": 1, "hour_utc": hour, "g_per_kwh": 100 + hour} for hour in range(24)],
            "blocs": json.loads(load_blocs(DEPLOYMENTS / "estate").model_dump_json()),
        }
    )


def ten_thousand(repeats: int, residency: object = "anywhere") -> Figures:
    """Milliseconds of one decision over 10,080 candidates under the declared rules, every reason kept."""
    where, labels, asked = estate(), catalog("s0", residency), Request.model_validate(REQUEST)
    policy = CedarPolicy.load(DEPLOYMENTS / "policies", where.blocs)
    decision, spans = repeated(lambda: place(asked, where, policy, labels, Conditions(), AT), repeats)
    cuts = quantiles(spans, n=100, method="inclusive")
    return {
        "candidates": 10 * 21 * SLOTS * 2,
        "decisions": repeats,
        "p50_ms": round(cuts[49] * 1000, 1),
        "p99_ms": round(cuts[98] * 1000, 1),
        "decisions_per_second": round(repeats / sum(spans), 2),
        "reasons": sum(len(row.reasons) for row in decision.rejected),
        "summary": decision.summary,
    }


def catalog(home: str, residency: object = "anywhere") -> Catalog:
    """One confidential table under the GDPR."""
    entry = {"name": "table", "home": home, "size_gb": 10, "label": {**LABEL, "residency": residency}}
    return Catalog.model_validate({"as_of": AT, "entries": [entry]})


def repeated(decide: Callable[[], Decision], repeats: int) -> tuple[Decision, list[float]]:
    """The decision, and how many seconds each repeat took; the first, which fills caches of the estate, is left out."""
    decision, spans = decide(), []
    for _ in range(repeats):
        began = time.perf_counter()
        decision = decide()
        spans.append(time.perf_counter() - began)
    return decision, spans


def price_list(data: Path) -> Figures:
    """Every offer of the price list x 24 slots, on demand and spot: one decision."""
    if not (data / "unified_prices.csv").exists() or not (data / "regions.csv").exists():
        return {"skipped": f"no unified_prices.csv and regions.csv in {data.name}/"}
    began = time.perf_counter()
    where = priced_estate(data)
    read = time.perf_counter() - began
    policy = CedarPolicy.load(DEPLOYMENTS / "policies", where.blocs)
    home = where.sites[0].id
    asked = Request.model_validate({**REQUEST, "outputs": [], "resources": {"cpus": 8, "memory_gib": 32, "accelerators": {"A100": 1}}})
    began = time.perf_counter()
    decision = place(asked, where, policy, catalog(home), Conditions(), AT)
    first = time.perf_counter() - began
    spots = sum(offer.spot_usd_per_hour is not None and offer.usd_per_hour is not None for offer in where.offers)
    candidates = (len(where.offers) + spots) * SLOTS
    return {
        "offers": len(where.offers),
        "sites": len(where.sites),
        "candidates": candidates,
        "read_s": round(read, 2),
        "decide_s": round(first, 2),
        "us_per_candidate": round(first / candidates * 1e6, 1),
        "summary": decision.summary,
    }


def priced_estate(data: Path) -> Estate:
    """A site and an unlimited pool per region of the price list; invented spot rate, no carbon, flat egress."""
    with (data / "regions.csv").open(encoding="utf-8") as table:
        regions = {f"{row['cloud']}-{row['region']}": row["country"] for row in csv.DictReader(table)}
    with (data / "unified_prices.csv").open(encoding="utf-8") as table:
        offers = list(_offers(csv.DictReader(table), regions))
    sites = sorted({offer["site"] for offer in offers})
    facts = {"operator_country": "US", "max_classification": "restricted", "certifications": {"dpf": None}, "customer_managed_keys": True}
    return Estate.model_validate(
        {
            "sites": [{"id": site, "cloud": site.partition("-")[0], "country": regions[site], **facts} for site in sites],
            "pools": [
                {"name": f"{site}-any", "site": site, "type": "ecs", "spot": True, "spot_interruptions_per_hour": 0.05} for site in sites
            ],
            "offers": offers,
            "egress": [{"src": "*", "dst": "*", "usd_per_gb": 0.02, "gbit_per_s": 5}],
            "blocs": json.loads(load_blocs(DEPLOYMENTS / "estate").model_dump_json()),
        }
    )


def _offers(rows: Iterator[Mapping[str, str]] | csv.DictReader[str], regions: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    columns = ("AcceleratorName", "AcceleratorCount", "vCPUs", "MemoryGiB", "Price", "SpotPrice", "Arch")
    seen: set[tuple[str, str]] = set()
    for row in rows:
        site = f"{row['cloud']}-{row['Region']}"
        name, zone = row["InstanceType"], row["AvailabilityZone"]
        if (site, name) in seen:  # the same machine in another zone, or with other accelerators, at a price of its own
            name = f"{name}@{zone}" if (site, f"{name}@{zone}") not in seen else f"{name}@{zone}:{row['AcceleratorName'] or len(seen)}"
        seen.add((site, name))
        if site in regions:
            yield {"site": site, "InstanceType": name, **{column: row[column] for column in columns if row[column]}}


def cold_start() -> Figures:
    """Seconds of `tradewind place` in a fresh process over the declared estate, best and worst of five."""
    words = ["place", "docs/examples/nafld-train.yaml", "--at", "2026-01-05T08:00:00Z", "--json"]
    spans = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "deployments.cli.main", *words], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        spans.append(time.perf_counter() - began)
    return {"command": " ".join(["tradewind", *words]), "best_s": round(min(spans), 2), "worst_s": round(max(spans), 2)}


def _lines(figures: Figures) -> Iterator[str]:
    for name, value in figures.items():
        if isinstance(value, dict):
            yield f"{name.replace('_', ' ')}"
            yield from (f"  {key.replace('_', ' '):<22}{inner}" for key, inner in value.items())
        else:
            yield f"{name.replace('_', ' '):<24}{value}"


if __name__ == "__main__":
    main()
