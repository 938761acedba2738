"""Small random worlds from a seed, cheap to make: many requests meet each estate, and windows are short."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from tests.core.placement.strategies import World
from tests.core.placement.world import BLOCS

AT = datetime(2026, 1, 5, 18, 40, tzinfo=UTC)
SITES = {"fra": "DE", "iad": "US"}
REQUESTS_PER_ESTATE = 10


def worlds(seed: int, count: int) -> Iterator[World]:
    """So many worlds, the same for the same seed."""
    dice = random.Random(seed)
    given: dict[str, Any] = {}
    for number in range(count):
        if number % REQUESTS_PER_ESTATE == 0:
            given = estate(dice)
        yield World(request(dice), given, catalog(dice), conditions(dice))


def estate(dice: random.Random) -> dict[str, Any]:
    """Two sites, one to three pools, two offers a site; certificates that end tonight, cheap nights, grids, capacity, spot."""
    pick = dice.choice
    sites = [
        {
            "id": id,
            "cloud": pick(["aws", "gcp"]),
            "country": country,
            "operator_country": country,
            "max_classification": pick(["internal", "restricted", "restricted"]),
            "certifications": pick([{"hipaa": None}, {"hipaa": "2026-01-05"}, {}]),
            "grid_zone": pick([None, "A"]),
            "pue": pick([1, 1.25]),
            "timezone": pick(["UTC", "Europe/Berlin"]),
            "storage_usd_per_gb_month": pick([0, 0.02]),
            "off_peak": pick([[], [{"from": "22:00", "to": "06:00", "multiplier": 0.6}]]),
        }
        for id, country in SITES.items()
    ]
    pools = [
        {
            "name": name,
            "site": pick(list(SITES)),
            "type": pick(["sagemaker", "sagemaker", "ecs"]),
            "offers": pick([["*"], ["*"], ["small"]]),
            "spot": pick([True, True, False]),
            "capacity": pick([{}, {}, {}, {}, {"nodes": 2}, {"cpus": 8}, {"A100": 1, "nodes": 3}]),
            "startup_minutes": pick([0, 7]),
            "spot_interruptions_per_hour": pick([None, 0, 0.05, 2]),
            "spot_wait_minutes": pick([0, 30]),
        }
        for name in dice.sample("abc", dice.randint(1, 3))
    ]
    offers = [
        {
            "site": site,
            "InstanceType": name,
            "vCPUs": cpus,
            "MemoryGiB": 4 * cpus,
            "Arch": pick(["x86_64", "x86_64", "arm64"]),
            "Price": pick([0.4, 1, 2.5]),
            "SpotPrice": pick([None, 0.3, 0.3, 0.71]),
            "Watts": pick([None, 100, 400]),
            **({"AcceleratorName": "A100", "AcceleratorCount": 1} if name == "large" else {}),
        }
        for site in SITES
        for name, cpus in (("small", 4), ("large", 16))
    ]
    pairs = pick([[("*", "*")], [("*", "*")], [("*", "*"), ("fra", "iad")], [("fra", "*")]])
    return {
        "sites": sites,
        "pools": pools,
        "offers": offers,
        "egress": [{"src": src, "dst": dst, "usd_per_gb": pick([0, 0.09]), "gbit_per_s": pick([None, 1, 0.03])} for src, dst in pairs],
        "carbon": [{"grid_zone": "A", "month": 1, "hour_utc": hour, "g_per_kwh": 50 * (hour % 5)} for hour in range(0, 24, pick([1, 2]))],
        "latency": [{"country": "FR", "site": "fra", "p50_ms": 10, "p99_ms": pick([None, 30])}, *pick([[], [US]])],
        "blocs": BLOCS,
    }


US = {"country": "FR", "site": "iad", "p50_ms": 90, "p99_ms": 140}


def request(dice: random.Random) -> dict[str, Any]:
    """Trainings and scorings that narrow, hurry, save and wait."""
    pick = dice.choice
    p50, checkpoint = pick([0.25, 0.5, 1, 2]), pick([None, 10, 45])
    latency = pick([None, None, None, None, {"from": ["FR"], "max_ms": pick([50, 100]), "percentile": pick([50, 99]), "service_ms": 15}])
    return {
        "workload": "nafld",
        "step": "train" if latency is None else "score",
        "latency": latency,
        "requested_by": {"user": "ada", "roles": pick([["data-scientist"]] * 19 + [[]])},
        "datasets": [{"name": name} for name in pick([["ehr"], ["open"], ["ehr", "open"]])],
        "outputs": pick([[], [], [{"name": "model", "size_gb": 2, "home": "fra", "keep_days": 30}], [{"name": "model", "size_gb": 2}]]),
        "resources": pick(
            [{}, {}, {}, {}, {"nodes": 2}, {"cpus": 8}, {"memory_gib": 32}, {"arch": "arm64"}, {"accelerators": {"A100": 1}}]
        ),
        "runtime": {"p50_hours": p50, "p90_hours": p50 + pick([0, 0.5])},
        "interruptible": pick([True, True, True, False]),
        "checkpoint_minutes": checkpoint,
        "checkpoint_write_minutes": 0 if checkpoint is None else pick([0, 2]),
        "window": {
            "earliest": pick([None, "2026-01-05T19:10:00Z"]),
            "deadline": pick(["2026-01-05T20:10:00Z", "2026-01-05T22:20:00Z", "2026-01-05T22:40:00Z"]),
        },
        "budget_usd": pick([None, None, None, 1.5, 4]),
        "objective": {"usd_per_hour_of_delay": pick([0, 0.3]), "usd_per_kg_co2": pick([0, 2])},
        "restrict": pick(
            [{}, {}, {}, {}, {}, {}, {}, {"clouds": ["aws"]}, {"sites": ["fra"]}, {"pools": ["a", "b"]}, {"offers": ["l*"]}, {"spot": True}]
        ),
    }


def catalog(dice: random.Random) -> dict[str, Any]:
    """`ehr`, labelled more or less strictly, and `open`, public."""
    label = {
        "classification": dice.choice(["internal", "internal", "restricted"]),
        "regimes": dice.choice([[], [], [], ["hipaa"]]),
        "residency": dice.choice([["EU"], "anywhere", "anywhere", "anywhere"]),
    }
    open_label = {"classification": "public", "residency": "anywhere"}
    entries = [
        {"name": "ehr", "home": "fra", "size_gb": 12, "label": label},
        {"name": "open", "home": "iad", "size_gb": 3, "label": open_label},
    ]
    return {"as_of": "2026-01-05T12:00:00Z", "entries": entries}


def conditions(dice: random.Random) -> dict[str, Any]:
    """Reservations, queues, replicas, a budget, a closed site."""
    rows = [(dice.choice("abc"), dice.choice(["nodes", "cpus", "A100"]), dice.randint(1, 4)) for _ in range(dice.choice([0, 0, 1, 3]))]
    spans = (("18", "20"), ("19", "23"), ("21", "22"))
    return {
        "reservations": [
            {"pool": pool, "use": {what: amount}, "from": f"2026-01-05T{begin}:00:00Z", "until": f"2026-01-05T{end}:30:00Z"}
            for (pool, what, amount), (begin, end) in ((row, dice.choice(spans)) for row in rows)
        ],
        "queue_hours": dice.choice([{}, {}, {"a": 0.3}, {"b": 2}]),
        "replicas": dice.choice([{}, {}, {"ehr": ["iad"]}, {"open": ["fra"]}]),
        "budget_left_usd": dice.choice([{}, {}, {}, {"nafld": 2}]),
        "cordoned": dice.choice([[], [], [], [], [], [], ["iad"]]),
    }
