"""What every rule says, word for word: observed, required, and where the value stands."""

from __future__ import annotations

from datetime import timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from typing import Any

import pytest

from flows.core.placement.decision import Reason
from flows.core.placement.relax import nearness
from flows.core.placement.request import Resources
from flows.core.placement.scene import resolve
from flows.core.placement.score import Pricer
from tests.core.placement.world import AT, FREE_EGRESS, catalog, conditions, decide, estate, offer, pool, relaxation_of, request, site

SPOTTY = {"spot": True, "spot_interruptions_per_hour": 7, "spot_wait_minutes": 30, "startup_minutes": 6}
PUBLIC = {"name": "ehr", "home": "iad", "size_gb": 90, "label": {"classification": "public", "residency": "anywhere"}}


def only(*, offers: list[dict[str, Any]] | None = None, **more: Any) -> Any:
    """An estate with one pool, at `fra`."""
    return estate(pools=[pool("fra-k8s", "fra", **more)], offers=offers or [offer("fra")])


def reserved(use: dict[str, int]) -> Any:
    """Someone else's reservation, all day and night."""
    return conditions(reservations=[{"pool": "fra-k8s", "use": use, "from": "2026-01-05T00:00:00Z", "until": "2026-01-07T00:00:00Z"}])


def scoring(**latency: Any) -> Any:
    """A scoring for users in France and Norway, within 60 ms."""
    return request(step="score", latency={"from": ["FR", "NO"], "max_ms": 60, "service_ms": 15, **latency})


NEAR = [{"country": "FR", "site": "fra", "p50_ms": 10, "p99_ms": 45.5}, {"country": "NO", "site": "fra", "p50_ms": 20}]

SAID: dict[str, tuple[dict[str, Any], tuple[Reason, ...]]] = {
    "clouds": (
        {"asked": request(restrict={"clouds": ["gcp", "aws"]}), "where": only()},
        (Reason("restrict-clouds", "restrict", "cloud", "one of aws, gcp", "request: restrict.clouds"),),
    ),
    "sites": (
        {"asked": request(restrict={"sites": ["muc", "iad"]}), "where": only()},
        (Reason("restrict-sites", "restrict", "fra", "one of iad, muc", "request: restrict.sites"),),
    ),
    "pools": (
        {"asked": request(restrict={"pools": ["other"]}), "where": estate(pools=[pool("fra-k8s", "fra"), pool("other", "muc")])},
        (Reason("restrict-pools", "restrict", "fra-k8s", "one of other", "request: restrict.pools"),),
    ),
    "offers": (
        {"asked": request(restrict={"offers": ["big*"]}), "where": only()},
        (Reason("restrict-offers", "restrict", "small", "one of big*", "request: restrict.offers"),),
    ),
    "spot wanted": (
        {"asked": request(restrict={"spot": True}), "where": only()},
        (Reason("restrict-spot", "restrict", "on demand", "spot", "request: restrict.spot"),),
    ),
    "cpus": (
        {"asked": request(resources={"cpus": 8.5}), "where": only()},
        (Reason("cpus", "fit", "8", "at least 8.5 per node", "request: resources.cpus"),),
    ),
    "memory": (
        {"asked": request(resources={"memory_gib": 33}), "where": only()},
        (Reason("memory_gib", "fit", "32", "at least 33 per node", "request: resources.memory_gib"),),
    ),
    "unknown size": (
        {
            "asked": request(resources={"cpus": 1, "memory_gib": 1}),
            "where": only(offers=[{"site": "fra", "InstanceType": "small", "Price": 1}]),
        },
        (
            Reason("cpus", "fit", "unknown", "at least 1 per node", "request: resources.cpus"),
            Reason("memory_gib", "fit", "unknown", "at least 1 per node", "request: resources.memory_gib"),
        ),
    ),
    "arch": (
        {"asked": request(resources={"arch": "arm64"}), "where": only()},
        (Reason("arch", "fit", "x86_64", "arm64", "request: resources.arch"),),
    ),
    "unknown arch": (
        {"asked": request(resources={"arch": "arm64"}), "where": only(offers=[offer("fra", Arch=None)])},
        (Reason("arch", "fit", "unknown", "arm64", "request: resources.arch"),),
    ),
    "accelerators": (
        {"asked": request(resources={"accelerators": {"T4": 4, "A100": 2}}), "where": only()},
        (Reason("accelerators", "fit", "none", "at least 2 A100 or 4 T4 per node", "request: resources.accelerators"),),
    ),
    "too few accelerators": (
        {
            "asked": request(resources={"accelerators": {"A100": 2}}),
            "where": only(offers=[offer("fra", AcceleratorName="A100", AcceleratorCount=1)]),
        },
        (Reason("accelerators", "fit", "1 A100", "at least 2 A100 per node", "request: resources.accelerators"),),
    ),
    "more nodes than a run has": (
        {"asked": request(resources={"nodes": 2}), "where": only(type="kubernetes")},
        (Reason("nodes", "fit", "one node a run on `kubernetes`", "2 nodes", "request: resources.nodes"),),
    ),
    "spot that does not end": (
        {
            "asked": request(interruptible=True, restrict={"spot": True}, resources={"nodes": 2}),
            "where": only(offers=[offer("fra", price=4, SpotPrice=1)], **SPOTTY),
        },
        (
            Reason(
                "spot",
                "fit",
                "14 interruptions per hour, no checkpoint",
                "at most 20 interruptions per checkpoint interval or start",
                "request: checkpoint_minutes",
            ),
        ),
    ),
    "spot that does not reach a checkpoint": (
        {
            "asked": request(interruptible=True, restrict={"spot": True}, checkpoint_minutes=172.5),
            "where": only(offers=[offer("fra", price=4, SpotPrice=1)], **SPOTTY),
        },
        (
            Reason(
                "spot",
                "fit",
                "7 interruptions per hour, a checkpoint each 172.5 minutes",
                "at most 20 interruptions per checkpoint interval or start",
                "request: checkpoint_minutes",
            ),
        ),
    ),
    "nodes": (
        {"asked": request(resources={"nodes": 2}), "where": only(capacity={"nodes": 3}), "moment": reserved({"nodes": 2})},
        (Reason("capacity", "capacity", "nodes: 2 reserved + 2", "at most 3", "estate: pools.fra-k8s.capacity.nodes"),),
    ),
    "memory of the pool": (
        {"asked": request(resources={"nodes": 3}), "where": only(capacity={"memory_gib": 95, "cpus": 24})},
        (Reason("capacity", "capacity", "memory_gib: 0 reserved + 96", "at most 95", "estate: pools.fra-k8s.capacity.memory_gib"),),
    ),
    "accelerators of the pool": (
        {
            "asked": request(resources={"nodes": 3}),
            "where": only(capacity={"A100": 5}, offers=[offer("fra", AcceleratorName="A100", AcceleratorCount=2)]),
        },
        (Reason("capacity", "capacity", "A100: 0 reserved + 6", "at most 5", "estate: pools.fra-k8s.capacity.A100"),),
    ),
    "unproven": (
        {"where": only(), "moment": conditions(unproven={"fra": {"secrets": "failed at noon", "transit": "expired"}})},
        (
            Reason("unproven", "data", "`fra`: secrets failed at noon", "a proof of secrets that holds", "conditions: unproven.fra"),
            Reason("unproven", "data", "`fra`: transit expired", "a proof of transit that holds", "conditions: unproven.fra"),
        ),
    ),
    "unproven and unknown": (
        {
            "where": estate(pools=[pool("fra-k8s", "fra")], egress=[]),
            "labels": catalog(PUBLIC),
            "moment": conditions(unproven={"fra": {"secrets": "failed at noon"}}),
        },
        (
            Reason("egress-unknown", "data", "iad -> fra has no price", "a row for it", "estate: egress.csv"),
            Reason("unproven", "data", "`fra`: secrets failed at noon", "a proof of secrets that holds", "conditions: unproven.fra"),
        ),
    ),
    "cordoned": (
        {"where": only(), "moment": conditions(cordoned=["fra"])},
        (Reason("cordoned", "capacity", "`fra` is cordoned", "an open site", "conditions: cordoned"),),
    ),
    "cooling": (
        {"where": only(), "moment": conditions(cooling={"fra-k8s": None})},
        (Reason("cooling-down", "capacity", "a run on `fra-k8s` failed", "another pool", "conditions: cooling.fra-k8s"),),
    ),
    "cooling until": (
        {
            "asked": request(window={"deadline": "2026-01-05T07:59:00Z"}, runtime={"p50_hours": 0.5, "p90_hours": 0.5}),
            "where": only(),
            "moment": conditions(cooling={"fra-k8s": "2026-01-05T07:00:01Z"}),
        },
        (
            Reason(
                "cooling-down",
                "capacity",
                "a run on `fra-k8s` failed",
                "a start at 2026-01-05T07:00:01Z or later",
                "conditions: cooling.fra-k8s",
            ),
        ),
    ),
    "latency not measured": (
        {"asked": scoring(percentile=99), "where": estate(pools=[pool("fra-k8s", "fra")], latency=NEAR)},
        (
            Reason("latency", "latency", "FR: 45.5 + 15 ms", "at most 60 ms at p99", "request: latency.max_ms"),
            Reason("latency-unknown", "latency", "NO -> fra is not measured", "at most 60 ms at p99", "estate: latency.csv"),
        ),
    ),
    "latency": (
        {"asked": scoring(max_ms=34.5), "where": estate(pools=[pool("fra-k8s", "fra")], latency=NEAR)},
        (Reason("latency", "latency", "NO: 20 + 15 ms", "at most 34.5 ms at p50", "request: latency.max_ms"),),
    ),
    "deadline": (
        {"asked": request(window={"deadline": "2026-01-05T09:59:59Z"}), "where": only()},
        (Reason("deadline", "time", "ends 2026-01-05T10:00:00Z at p90", "by 2026-01-05T09:59:59Z", "request: window.deadline"),),
    ),
    "deadline of spot": (
        {
            "asked": request(
                interruptible=True,
                restrict={"spot": True},
                window={"deadline": "2026-01-05T07:41:59Z"},
                runtime={"p50_hours": 0.5, "p90_hours": 0.5},
            ),
            "where": only(offers=[offer("fra", price=4, SpotPrice=1)], **{**SPOTTY, "spot_interruptions_per_hour": 0.1}),
        },
        (
            Reason(
                "deadline",
                "time",
                "with a fallback ends 2026-01-05T07:42:00Z at p90",
                "by 2026-01-05T07:41:59Z",
                "request: window.deadline",
            ),
        ),
    ),
    "horizon": (
        {"asked": request(runtime={"p50_hours": 1, "p90_hours": 87_600}), "where": only(startup_minutes=1)},
        (Reason("horizon", "time", "takes more than ten years", "at most ten years", "engine"),),
    ),
    "budget": (
        {"asked": request(budget_usd=2.9), "where": only(), "moment": conditions(budget_left_usd={"nafld": 3})},
        (Reason("budget", "budget", "3 USD at p90", "at most 2.9 USD", "request: budget_usd"),),
    ),
    "budget left": (
        {"asked": request(budget_usd=9), "where": only(), "moment": conditions(budget_left_usd={"nafld": 2.5, "other": 1})},
        (Reason("budget", "budget", "3 USD at p90", "at most 2.5 USD", "conditions: budget_left_usd.nafld"),),
    ),
    "egress": (
        {"where": estate(pools=[pool("fra-k8s", "fra")], egress=[]), "labels": catalog(PUBLIC)},
        (Reason("egress-unknown", "data", "iad -> fra has no price", "a row for it", "estate: egress.csv"),),
    ),
    "runtime": (
        {
            "asked": request(runtime=None),
            "where": only(),
            "moment": conditions(
                runtimes=[{"workload": "nafld", "step": "train", "offer": "big", "p50_hours": 2, "p90_hours": 3, "runs": 20}]
            ),
        },
        (
            Reason(
                "runtime-unknown",
                "data",
                "no estimate of `train` on `small`",
                "a runtime in the request or the conditions",
                "conditions: runtimes",
            ),
        ),
    ),
}


@pytest.mark.parametrize("case", SAID)
def test_a_rule_says_what_it_saw_what_it_wants_and_where(case: str) -> None:
    """All of the row, so that no word of it can change unnoticed."""
    parts, reasons = SAID[case]
    decision = decide(**parts)
    assert [row.reasons for row in decision.rejected if row.pool == "fra-k8s"] == [reasons]


def test_spot_that_is_not_wanted_says_so() -> None:
    """The spot lane is told only where it is the nearer miss."""
    where = only(offers=[offer("fra", price=4, SpotPrice=1)], **{**SPOTTY, "spot_interruptions_per_hour": 0.1}, capacity={"nodes": 0})
    (row,) = decide(request(interruptible=True, restrict={"spot": True}), where).rejected
    assert {reason.rule for reason in row.reasons} == {"capacity"}


def test_a_latency_of_exactly_what_is_allowed_is_near_enough() -> None:
    """At most means at most."""
    where = estate(pools=[pool("fra-k8s", "fra")], latency=NEAR)
    assert decide(scoring(max_ms=35), where).chosen is not None


def test_a_run_of_exactly_ten_years_is_placed() -> None:
    """The horizon is beyond ten years, not at them."""
    assert decide(request(runtime={"p50_hours": 1, "p90_hours": 87_600}), only()).chosen is not None


@pytest.mark.parametrize(("size_gb", "placed"), [(315_360, True), (315_361, False)])
def test_data_that_is_on_its_way_for_more_than_ten_years_is_beyond_the_horizon(size_gb: int, placed: bool) -> None:
    """One gigabyte in 1000 seconds: waiting for data counts like running."""
    where = estate(pools=[pool("fra-k8s", "fra")], egress=[{"src": "*", "dst": "*", "usd_per_gb": 0, "gbit_per_s": 0.008}])
    assert (decide(where=where, labels=catalog({**PUBLIC, "size_gb": size_gb})).chosen is not None) is placed


def test_an_offer_of_unknown_size_takes_no_cpus_and_no_memory() -> None:
    """Zero, so that a limit in either does not shut it out."""
    where = only(capacity={"cpus": 0.5, "memory_gib": 0.5}, offers=[{"site": "fra", "InstanceType": "small", "Price": 1}])
    assert decide(where=where).chosen is not None


def test_reasons_come_in_the_order_of_the_filters_and_sorted_within_one() -> None:
    """Whatever order the rules of one kind are looked at in."""
    asked = request(
        restrict={"sites": ["muc"], "clouds": ["aws"], "spot": True},
        resources={"memory_gib": 99, "cpus": 99, "arch": "arm64"},
        budget_usd=1,
    )
    (row,) = decide(asked, only()).rejected
    told = [reason.rule for reason in row.reasons]
    assert told == ["restrict-clouds", "restrict-sites", "restrict-spot", "arch", "cpus", "memory_gib", "budget"]


def test_fractions_of_a_second_count_in_the_delay() -> None:
    """Half a second before the hour: two hours and half a second from the first slot, at 7200 dollars an hour."""
    at = AT + timedelta(microseconds=500_000)
    asked = request(objective={"usd_per_hour_of_delay": 7200}, runtime={"p50_hours": 1, "p90_hours": 1})
    late = conditions(cooling={"fra-k8s": "2026-01-05T08:00:00Z"})
    found = decide(asked, only(), moment=late, at=at).chosen
    assert found is not None and found.usd.delay == Decimal(7200) * 2 - 1


def test_off_peak_windows_count_their_minutes() -> None:
    """From 07:15 to 07:45: half an hour of the two is half price."""
    cheap = [{"from": "07:15", "to": "07:45", "multiplier": 0.5}]
    where = estate(sites=[site("fra", off_peak=cheap)], pools=[pool("fra-k8s", "fra")], offers=[offer("fra")], egress=[FREE_EGRESS])
    found = decide(request(window={"deadline": "2026-01-05T10:00:00Z"}), where).chosen
    assert found is not None and found.usd.compute == Decimal("1.75")


HOUR = {"p50_hours": 1, "p90_hours": 1}
FEBRUARY = {"deadline": "2026-02-01T00:00:00Z"}
SAID_ELSEWHERE = {"classification": "confidential", "residency": ["EU"]}
IMPORTED = {
    "name": "ehr",
    "home": "fra",
    "size_gb": 10,
    "label": SAID_ELSEWHERE,
    "imported": [{"source": "atlas", "label": SAID_ELSEWHERE, "as_of": "2026-01-01T00:00:00Z", "max_age_hours": 24}],
}

RELAXED: dict[str, tuple[dict[str, Any], str | None]] = {
    "latency at p50": (
        {"asked": scoring(max_ms=34.5), "where": estate(pools=[pool("fra-k8s", "fra")], latency=NEAR)},
        "latency.max_ms: 34.5 -> 35",
    ),
    "latency at p99": (
        {"asked": scoring(**{"from": ["FR"], "percentile": 99}), "where": estate(pools=[pool("fra-k8s", "fra")], latency=NEAR)},
        "latency.max_ms: 60 -> 60.5",
    ),
    "latency of nothing": (
        {
            "asked": scoring(**{"from": ["FR"], "max_ms": 10}),
            "where": estate(pools=[pool("fra-k8s", "fra")], latency=[{"country": "FR", "site": "fra", "p50_ms": 0, "p99_ms": 1}]),
        },
        "latency.max_ms: 10 -> 15",
    ),
    "cordons": (
        {"where": only(), "moment": conditions(cordoned=["fra", "iad", "muc"])},
        "conditions.cordoned: [fra, iad, muc] -> [iad, muc]",
    ),
    "more nodes than a run has": (
        {"asked": request(resources={"nodes": 3}), "where": only(type="ecs")},
        "resources.nodes: 3 -> 1",
    ),
    "two resources": (
        {"asked": request(resources={"nodes": 2}), "where": only(capacity={"nodes": 1, "cpus": 15, "memory_gib": 64})},
        "estate.pools.fra-k8s.capacity.cpus: 15 -> 16; estate.pools.fra-k8s.capacity.nodes: 1 -> 2",
    ),
    "unknown cpus": (
        {"asked": request(resources={"cpus": 1}), "where": only(offers=[{"site": "fra", "InstanceType": "small", "Price": 1}])},
        "resources.cpus: 1 -> 0",
    ),
    "unknown memory": (
        {"asked": request(resources={"memory_gib": 1}), "where": only(offers=[{"site": "fra", "InstanceType": "small", "Price": 1}])},
        "resources.memory_gib: 1 -> 0",
    ),
    "unknown arch": (
        {"asked": request(resources={"arch": "arm64"}), "where": only(offers=[offer("fra", Arch=None)])},
        "resources.arch: arm64 -> null",
    ),
    "no accelerator": (
        {"asked": request(resources={"accelerators": {"T4": 4, "A100": 2}}), "where": only()},
        "resources.accelerators: {A100: 2, T4: 4} -> {}",
    ),
    "age": ({"where": only(), "labels": catalog(as_of="2026-01-04T00:29:00Z")}, "catalog.max_age_hours: 24 -> 31"),
    "age of full hours": ({"where": only(), "labels": catalog(as_of="2026-01-04T00:00:00Z")}, "catalog.max_age_hours: 24 -> 31"),
    "old age": ({"where": only(), "labels": catalog(as_of="2025-01-01T00:00:00Z")}, "catalog.max_age_hours: 24 -> 8863"),
    "two budgets": (
        {"asked": request(budget_usd=2.5), "where": only(), "moment": conditions(budget_left_usd={"nafld": 2})},
        "budget_usd: 2.5 -> 3; conditions.budget_left_usd.nafld: 2 -> 3",
    ),
    "spot": ({"asked": request(restrict={"spot": True}), "where": only()}, "restrict.spot: true -> null"),
    "sites": (
        {"asked": request(restrict={"sites": ["muc", "iad"]}), "where": only()},
        "restrict.sites: [iad, muc] -> [fra, iad, muc]",
    ),
    "horizon": ({"asked": request(runtime={"p50_hours": 1, "p90_hours": 87_600}), "where": only(startup_minutes=1)}, None),
    "the highest age": ({"where": only(), "at": AT + timedelta(hours=999_999)}, "catalog.max_age_hours: 24 -> 1000000"),
    "a higher age": ({"where": only(), "at": AT + timedelta(hours=999_999, seconds=1)}, None),
    "stale import": ({"where": only(), "labels": catalog(IMPORTED)}, None),
    "stale catalog and import": ({"where": only(), "labels": catalog(IMPORTED, as_of="2026-01-01T00:00:00Z")}, None),
    "the highest budget": (
        {"asked": request(budget_usd=1, runtime=HOUR), "where": only(offers=[offer("fra", price=10**9)])},
        "budget_usd: 1 -> 1000000000",
    ),
    "a higher budget": (
        {"asked": request(budget_usd=1, runtime=HOUR), "where": only(offers=[offer("fra", price=10**9)], startup_minutes=1)},
        None,
    ),
    "the latest deadline": (
        {"asked": request(window=FEBRUARY, runtime={"p50_hours": 8784, "p90_hours": 8784}), "where": only()},
        "window.deadline: 2026-02-01T00:00:00Z -> 2027-01-06T07:00:00Z",
    ),
    "the latest deadline from then on": (
        {
            "asked": request(window={**FEBRUARY, "earliest": "2026-01-06T07:00:00Z"}, runtime={"p50_hours": 8784, "p90_hours": 8784}),
            "where": only(),
        },
        "window.deadline: 2026-02-01T00:00:00Z -> 2027-01-07T07:00:00Z",
    ),
    "a later deadline": (
        {"asked": request(window=FEBRUARY, runtime={"p50_hours": 8784, "p90_hours": 8784}), "where": only(startup_minutes=1)},
        None,
    ),
    "the slowest": (
        {"asked": scoring(service_ms=10**9 - 20), "where": estate(pools=[pool("fra-k8s", "fra")], latency=NEAR)},
        "latency.max_ms: 60 -> 1000000000",
    ),
    "slower": ({"asked": scoring(service_ms=10**9), "where": estate(pools=[pool("fra-k8s", "fra")], latency=NEAR)}, None),
    "the most nodes": (
        {"where": only(capacity={"nodes": 1}), "moment": reserved({"nodes": 10**9 - 1})},
        "estate.pools.fra-k8s.capacity.nodes: 1 -> 1000000000",
    ),
    "more nodes": ({"where": only(capacity={"nodes": 1}), "moment": reserved({"nodes": 10**9})}, None),
}


@pytest.mark.parametrize("case", RELAXED)
def test_a_relaxation_is_written_as_it_can_be_read_back(case: str) -> None:
    """Path, old value, new value."""
    parts, change = RELAXED[case]
    assert relaxation_of(decide(**parts), "fra-k8s") == change


def test_of_two_misses_the_one_whose_hardest_rule_is_easier_to_relax_is_nearer() -> None:
    """Latency and time before capacity and budget, though a budget is the easiest of all."""
    where = only()
    with localcontext(Context(prec=28, rounding=ROUND_HALF_EVEN)):
        scene = resolve(request(), where, catalog(), conditions(), AT)
        candidate = Pricer(scene).priced(where.pools[0])[0].at(AT, None)

    def near(*kinds: Any) -> Any:
        return nearness(candidate, [Reason(kind, kind, "", "", "") for kind in kinds])

    assert near("latency", "time") < near("capacity", "budget") < near("time", "budget", "latency")


@pytest.mark.parametrize(("deadline", "p50_hours", "usd"), [("2026-01-05T08:30:00Z", 1, 1), ("2026-01-05T08:59:00Z", 2, 8)])
def test_the_price_of_a_relaxation_is_that_under_the_deadline_it_needs(deadline: str, p50_hours: int, usd: int) -> None:
    """Until nine, an hour's work fits on spot with an hour to spare, and two hours' work on demand only."""
    asked = request(
        interruptible=True,
        restrict={"spot": True},
        window={"deadline": deadline},
        runtime={"p50_hours": p50_hours, "p90_hours": 2},
    )
    where = only(offers=[offer("fra", price=4, SpotPrice=1)], spot=True, spot_interruptions_per_hour=0, startup_minutes=0)
    (row,) = decide(asked, where).rejected
    assert row.relaxation is not None and row.relaxation.would_cost_usd == usd


def cheaper(since: str, multiplier: float, *offers: dict[str, Any], **more: Any) -> Any:
    """An estate with one pool, at `fra`, where it is cheaper until six."""
    off_peak = [{"from": since, "to": "06:00", "multiplier": multiplier}]
    return estate(sites=[site("fra", off_peak=off_peak)], pools=[pool("fra-k8s", "fra", **more)], offers=offers or [offer("fra", price=3)])


ONE_NODE: dict[str, tuple[Any, Any]] = {
    "on demand": (request(resources={"nodes": 4}), only(type="ecs")),
    "spot, less often interrupted": (
        request(resources={"nodes": 4}, interruptible=True),
        only(type="ecs", offers=[offer("fra", price=3, SpotPrice=1)], **{**SPOTTY, "spot_interruptions_per_hour": 0.2}),
    ),
    "spot, which pays for one node": (
        request(resources={"nodes": 9}, interruptible=True),
        only(type="ecs", offers=[offer("fra", price=1, SpotPrice=0.5)], spot=True, spot_interruptions_per_hour=0.2),
    ),
    "at once, since waiting saves less than it costs": (
        request(resources={"nodes": 4}, objective={"usd_per_hour_of_delay": 0.5}),
        cheaper("08:00", 0.95, type="ecs"),
    ),
    "spot that ends on one node only": (
        request(resources={"nodes": 5}, interruptible=True),
        only(type="ecs", offers=[offer("fra", price=3, SpotPrice=0.0001)], spot=True, spot_interruptions_per_hour=2.5),
    ),
}


@pytest.mark.parametrize("case", ONE_NODE)
def test_the_price_of_one_node_is_that_of_the_pool_if_one_node_is_asked_for(case: str) -> None:
    """On another hour, and on spot or not, if that is then cheaper."""
    asked, where = ONE_NODE[case]
    (row,) = decide(asked, where).rejected
    found = decide(asked.model_copy(update={"resources": Resources()}), where).chosen
    assert row.relaxation is not None and found is not None
    assert row.relaxation.change.startswith("resources.nodes: ")
    assert row.relaxation.would_cost_usd == found.usd.total


def test_one_node_that_ends_when_other_facts_hold_than_policy_was_asked_about_is_not_promised() -> None:
    """On spot it would take a month, in which a certificate ends; on demand it would not."""
    where = estate(
        sites=[site("fra", certifications={"hipaa": "2026-01-31"})],
        pools=[pool("fra-k8s", "fra", type="ecs", spot=True, spot_interruptions_per_hour=2.5)],
        offers=[offer("fra", price=3, SpotPrice=0.0001)],
    )
    (row,) = decide(request(resources={"nodes": 5}, interruptible=True), where).rejected
    assert row.relaxation is not None and row.relaxation.would_cost_usd == 6


@pytest.mark.parametrize(("interruptions", "rule"), [(7, "spot"), (5, "horizon")])
def test_where_spot_never_ends_on_demand_is_let_in(interruptions: int, rule: str) -> None:
    """The row says what is wrong with spot, and the change what lets the pool in: at the price of its cheapest offer and hour."""
    offers = offer("fra", "cheap", 4, SpotPrice=2), offer("fra", "dear", 5, SpotPrice=1)
    where = cheaper("22:00", 0.5, *offers, spot=True, spot_interruptions_per_hour=interruptions)
    asked = request(interruptible=True, restrict={"spot": True}, runtime={"p50_hours": 3, "p90_hours": 3})
    (row,) = decide(asked, where).rejected
    assert [reason.rule for reason in row.reasons] == [rule]
    assert row.relaxation is not None
    assert (row.relaxation.change, row.relaxation.would_cost_usd) == ("restrict.spot: true -> null", 6)


def test_what_else_fails_on_demand_stays_without_a_change() -> None:
    """Two rules: no single change helps."""
    where = only(offers=[offer("fra", price=4, SpotPrice=1)], **SPOTTY)
    (row,) = decide(request(interruptible=True, restrict={"spot": True}, budget_usd=11, resources={"cpus": 8}), where).rejected
    assert [reason.rule for reason in row.reasons] == ["spot"]
    assert row.relaxation is None


def test_reservations_add_up_and_end_together() -> None:
    """Two of one node each over the same hours: room for two nodes only after both."""
    span = {"pool": "fra-k8s", "from": "2026-01-05T07:00:00Z", "until": "2026-01-05T11:00:00Z"}
    taken = conditions(reservations=[{**span, "use": {"nodes": 1}}, {**span, "use": {"nodes": 1}}])
    for nodes, capacity, hour in ((1, 2, 11), (1, 3, 7), (2, 2, 11)):
        found = decide(request(resources={"nodes": nodes}), only(capacity={"nodes": capacity}), moment=taken).chosen
        assert found is not None and found.start.hour == hour
