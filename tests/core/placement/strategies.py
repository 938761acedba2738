"""Random small estates, requests and moments, for properties of the engine."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, NamedTuple

from hypothesis import strategies as st

from flows.core.governance.labels import Catalog
from flows.core.placement import Conditions, Estate, Request
from tests.core.placement.world import BLOCS

SITES = ("fra", "muc", "iad")
COUNTRIES = {"fra": "DE", "muc": "DE", "iad": "US"}


class World(NamedTuple):
    """The inputs of a decision, as plain data: tests shuffle, narrow and remove before they are validated."""

    request: dict[str, Any]
    estate: dict[str, Any]
    catalog: dict[str, Any]
    conditions: dict[str, Any]

    def parts(self) -> tuple[Request, Estate, Catalog, Conditions]:
        """The validated models."""
        return (
            Request.model_validate(self.request),
            Estate.model_validate(self.estate),
            Catalog.model_validate(self.catalog),
            Conditions.model_validate(self.conditions),
        )


def tenths(low: int, high: int) -> st.SearchStrategy[Decimal]:
    """Decimals with one place."""
    return st.integers(low * 10, high * 10).map(lambda tenth: Decimal(tenth) / 10)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """A world of at most three sites, four pools and two offers a site."""
    return World(draw(requests()), draw(estates()), draw(catalogs()), draw(conditions()))


@st.composite
def estates(draw: st.DrawFn) -> dict[str, Any]:
    """Sites with ceilings, certificates that end tonight, cheap nights and grids; pools with capacity, startup and spot."""
    sites = [
        {
            "id": id,
            "cloud": draw(st.sampled_from(["aws", "gcp"])),
            "country": COUNTRIES[id],
            "operator_country": COUNTRIES[id],
            "max_classification": draw(st.sampled_from(["internal", "restricted", "restricted", "restricted"])),
            "certifications": draw(st.sampled_from([{"hipaa": None}, {"hipaa": "2026-01-05"}, {}])),
            "grid_zone": draw(st.sampled_from([None, "A", "B"])),
            "pue": draw(st.sampled_from([1, 1.25])),
            "timezone": draw(st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"])),
            "storage_usd_per_gb_month": draw(st.sampled_from([0, 0.02])),
            "off_peak": draw(st.sampled_from([[], [{"from": "22:00", "to": "06:00", "multiplier": 0.6}]])),
        }
        for id in SITES
    ]
    names = draw(st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=4, unique=True))
    pools = [
        {
            "name": name,
            "site": draw(st.sampled_from(SITES)),
            "type": draw(st.sampled_from(["sagemaker", "sagemaker", "ecs"])),
            "offers": draw(st.sampled_from([["*"], ["small"]])),
            "spot": draw(st.sampled_from([True, True, False])),
            "capacity": draw(st.sampled_from([{}, {}, {"nodes": 2}, {"cpus": 8}, {"A100": 1, "nodes": 3}])),
            "startup_minutes": draw(st.sampled_from([0, 7])),
            "spot_interruptions_per_hour": draw(st.sampled_from([None, 0, 0.05, 0.3, 2])),
            "spot_wait_minutes": draw(st.sampled_from([0, 30])),
        }
        for name in names
    ]
    offers = [
        {
            "site": site,
            "InstanceType": name,
            "vCPUs": cpus,
            "MemoryGiB": 16,
            "Price": draw(tenths(1, 4)),
            "SpotPrice": draw(st.sampled_from([None, Decimal("0.3"), Decimal("0.71"), Decimal("1.5")])),
            "Watts": draw(st.sampled_from([None, 100, 400])),
            **({"AcceleratorName": "A100", "AcceleratorCount": 1} if name == "large" else {}),
        }
        for site in SITES
        for name, cpus in (("small", 4), ("large", 16))
    ]
    rows = draw(st.lists(st.tuples(st.sampled_from([*SITES, "*"]), st.sampled_from([*SITES, "*"])), unique=True, max_size=4))
    if ("*", "*") not in rows and draw(st.integers(0, 4)):
        rows.append(("*", "*"))
    egress = [
        {"src": src, "dst": dst, "usd_per_gb": draw(st.sampled_from([0, 0.02, 0.09])), "gbit_per_s": draw(st.sampled_from([None, 1, 0.03]))}
        for src, dst in rows
    ]
    carbon = [
        {"grid_zone": "A", "month": 1, "hour_utc": hour, "g_per_kwh": 50 * (hour % 5)}
        for hour in range(0, 24, draw(st.sampled_from([1, 2])))
    ]
    return {"sites": sites, "pools": pools, "offers": offers, "egress": egress, "carbon": carbon, "blocs": BLOCS}


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """Trainings that narrow, hurry, save and wait in all combinations."""
    p50 = draw(st.sampled_from([0.25, 2, 5]))
    checkpoint = draw(st.sampled_from([None, 10, 45]))
    return {
        "workload": "nafld",
        "step": "train",
        "requested_by": {"user": "ada", "roles": ["data-scientist"]},
        "datasets": [{"name": name} for name in draw(st.sets(st.sampled_from(["ehr", "open"]))) or ["open"]],
        "outputs": draw(
            st.sampled_from([[], [], [{"name": "model", "size_gb": 2, "home": "fra", "keep_days": 30}], [{"name": "model", "size_gb": 2}]])
        ),
        "resources": draw(st.sampled_from([{}, {}, {"nodes": 2}, {"cpus": 8}, {"accelerators": {"A100": 1}}])),
        "runtime": {"p50_hours": p50, "p90_hours": draw(st.sampled_from([p50, p50 + 1]))},
        "interruptible": draw(st.sampled_from([True, True, False])),
        "checkpoint_minutes": checkpoint,
        "checkpoint_write_minutes": 0 if checkpoint is None else draw(st.sampled_from([0, 2])),
        "window": {
            "earliest": draw(st.sampled_from([None, "2026-01-05T19:10:00Z"])),
            "deadline": draw(st.sampled_from([None, "2026-01-05T23:30:00Z", "2026-01-06T02:00:00Z"])),
        },
        "budget_usd": draw(st.sampled_from([None, None, 3, 20])),
        "objective": {"usd_per_hour_of_delay": draw(st.sampled_from([0, 0.3])), "usd_per_kg_co2": draw(st.sampled_from([0, 2]))},
        "restrict": draw(
            st.sampled_from(
                [{}, {}, {}, {}, {"clouds": ["aws"]}, {"sites": ["fra", "iad"]}, {"pools": ["a", "b"]}, {"spot": True}, {"spot": False}]
            )
        ),
    }


@st.composite
def catalogs(draw: st.DrawFn) -> dict[str, Any]:
    """`ehr`, labelled more or less strictly, and `open`, public."""
    residency = draw(st.sampled_from([["EU"], "anywhere", "anywhere"]))
    label = {
        "classification": draw(st.sampled_from(["internal", "restricted"])),
        "regimes": draw(st.sampled_from([[], [], ["hipaa"]])),
        "residency": residency,
    }
    entries = [
        {"name": "ehr", "home": "fra", "size_gb": 12, "label": label},
        {"name": "open", "home": "iad", "size_gb": 3, "label": {"classification": "public", "residency": "anywhere"}},
    ]
    return {"as_of": "2026-01-05T12:00:00Z", "entries": entries}


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, Any]:
    """Reservations, queues, replicas and a budget."""
    spans = st.sampled_from([("18", "20"), ("19", "23"), ("21", "22")])
    rows = draw(
        st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["nodes", "cpus", "A100"]), st.integers(1, 4), spans), max_size=4)
    )
    return {
        "reservations": [
            {"pool": pool, "use": {what: amount}, "from": f"2026-01-05T{span[0]}:00:00Z", "until": f"2026-01-05T{span[1]}:30:00Z"}
            for pool, what, amount, span in rows
        ],
        "queue_hours": draw(st.dictionaries(st.sampled_from("abcd"), st.sampled_from([0.3, 2]), max_size=2)),
        "replicas": draw(st.sampled_from([{}, {"ehr": ["muc"]}, {"open": ["fra", "muc"]}])),
        "budget_left_usd": draw(st.sampled_from([{}, {}, {"nafld": 9}])),
    }
