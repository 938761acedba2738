"""Prices where it is easy to be off by one term."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext

import pytest

from flows.core.placement.request import Conditions
from flows.core.placement.scene import resolve
from flows.core.placement.score import NEAR, Pricer
from flows.core.placement.spot import SpotTerms
from tests.core.placement.world import AT, catalog, conditions, decide, estate, offer, pool, request, rules, site

PUBLIC = {"name": "ehr", "home": "iad", "size_gb": 90, "label": {"classification": "public", "residency": "anywhere"}}
SPOTTY = {"spot": True, "spot_interruptions_per_hour": 0.1, "spot_wait_minutes": 30, "startup_minutes": 6}
HURRY = {
    "interruptible": True,
    "restrict": {"spot": True},
    "window": {"deadline": "2026-01-05T10:06:00Z"},
    "runtime": {"p50_hours": 2, "p90_hours": 2},
}


def spotty(**more):
    """One pool with spot at a quarter of the price."""
    return estate(pools=[pool("fra-k8s", "fra", **{**SPOTTY, **more})], offers=[offer("fra", price=4, SpotPrice=1)])


def test_cash_at_p90_has_compute_egress_and_storage():
    """Three dollars, 90 GB at two cents, and 27 cents for three hours of staged data."""
    sites = [site("fra", storage_usd_per_gb_month=0.73), site("iad", "US")]
    egress = [{"src": "*", "dst": "*", "usd_per_gb": 0.02}]
    where = estate(sites=sites, pools=[pool("fra-k8s", "fra")], offers=[offer("fra")], egress=egress)
    chosen = decide(where=where, labels=catalog(PUBLIC)).chosen
    assert chosen is not None and chosen.usd_p90 == Decimal("5.07")


def test_a_run_that_leaves_spot_costs_as_much_at_p90_if_it_takes_as_long():
    """What the deadline does to the bill holds at p90 too."""
    chosen = decide(request(**HURRY), spotty()).chosen
    assert chosen is not None and chosen.usd_p90 == chosen.usd.compute == Decimal("9.4")


@pytest.mark.parametrize("deadline", [None, "2026-01-05T12:00:00Z"])
def test_spot_that_is_interrupted_all_the_time_is_rejected_and_not_reckoned(deadline):
    """Ten million interruptions an hour: no number is large enough for how long that takes."""
    asked = request(interruptible=True, restrict={"spot": True}, window={"deadline": deadline})
    where = spotty(spot_interruptions_per_hour=10_000_000)
    assert rules(decide(asked, where), "fra-k8s") == {"spot"}
    assert "spot" in rules(decide(asked, where, moment=conditions(queue_hours={"fra-k8s": 9})), "fra-k8s")


def test_a_spot_run_that_would_not_end_is_told_at_the_price_of_one_that_nothing_interrupts():
    """So that it ranks among the misses: 2.1 hours at one dollar beat 2.1 at two."""
    offers = [offer("fra", "cheap", 4, SpotPrice=1), offer("fra", "dear", 4, SpotPrice=2)]
    where = estate(pools=[pool("fra-k8s", "fra", **{**SPOTTY, "spot_interruptions_per_hour": 9})], offers=offers)
    asked = request(interruptible=True, restrict={"spot": True})
    with localcontext(Context(prec=28, rounding=ROUND_HALF_EVEN)):
        scene = resolve(asked, where, catalog(), Conditions(), AT)
        priced = [lane.at(AT, None) for lane in Pricer(scene).priced(where.pools[0]) if lane.lane.spot is not None]
    assert [(found.endless, found.usd.compute) for found in priced] == [(True, Decimal("2.1")), (True, Decimal("4.2"))]
    assert {found.finish_p50 for found in priced} == {AT.replace(hour=9, minute=6)}


def test_every_slot_of_a_lane_is_priced_under_the_deadline():
    """As each of them alone."""
    where = spotty()
    with localcontext(Context(prec=28, rounding=ROUND_HALF_EVEN)):
        scene = resolve(request(**HURRY), where, catalog(), Conditions(), AT)
        pricer = Pricer(scene)
        for priced in pricer.priced(where.pools[0]):
            found = [priced.at(slot, scene.deadline) for slot in scene.slots]
            assert found == [pricer.candidate(priced.lane, slot, scene.deadline) for slot in scene.slots]
            assert max(one.finish_p90 for one in found) <= priced.latest()


def test_a_site_without_a_grid_is_called_unknown():
    """In the warning that the worst grid stands in for it."""
    carbon = [{"grid_zone": "PL", "month": 1, "hour_utc": 0, "g_per_kwh": 700}]
    where = estate(pools=[pool("fra-k8s", "fra")], offers=[offer("fra", Watts=100)], carbon=carbon)
    assert decide(where=where).warnings == ("no carbon known for `unknown`: the estate's worst, 700 g/kWh, is used",)


def test_spot_work_ends_as_long_as_twenty_interruptions_are_expected_and_no_more():
    """Per checkpoint interval and its write, or per start."""
    interval = Decimal(600)
    assert not SpotTerms(Decimal(20) / 660, Decimal(0), Decimal(0), interval, Decimal(60)).endless(Decimal(9999))
    assert SpotTerms(Decimal("20.001") / 660, Decimal(0), Decimal(0), interval, Decimal(60)).endless(Decimal(9999))
    assert not SpotTerms(Decimal(20) / 700, Decimal(700), Decimal(0), interval, Decimal(0)).endless(Decimal(9999))
    assert SpotTerms(Decimal("20.001") / 700, Decimal(700), Decimal(0), interval, Decimal(0)).endless(Decimal(9999))
    assert not SpotTerms(Decimal("0.02"), Decimal(0), Decimal(0), None, Decimal(0)).endless(Decimal(1000))
    assert SpotTerms(Decimal("0.02"), Decimal(0), Decimal(0), None, Decimal(0)).endless(Decimal(1001))


CARBON = [{"grid_zone": "A", "month": 1, "hour_utc": hour, "g_per_kwh": 90 * (hour % 5)} for hour in range(24)]
NIGHT = [{"from": "10:00", "to": "16:00", "multiplier": 0.5}]
ROUGH = {
    "storage": (
        request(),
        estate(
            sites=[site("fra", storage_usd_per_gb_month=7300), site("iad", "US")], pools=[pool("fra-k8s", "fra")], offers=[offer("fra")]
        ),
    ),
    "serving": (request(step="serve", objective={"usd_per_hour_of_delay": 5}), estate()),
    "two queues": (
        request(objective={"usd_per_kg_co2": 9}),
        estate(
            sites=[site("fra", grid_zone="A", off_peak=NIGHT), site("iad", "US")],
            pools=[pool("fra-k8s", "fra"), pool("fra-b", "fra")],
            offers=[offer("fra", Watts=9000)],
            carbon=CARBON,
        ),
    ),
}


@pytest.mark.parametrize("case", ROUGH)
def test_what_prunes_is_near_the_exact_total_where_much_depends_on_the_slot(case):
    """Dear storage, delay that does not count when serving, and two pools of one site of which one has a queue."""
    asked, where = ROUGH[case]
    moment = conditions(queue_hours={"fra-k8s": 3.3})
    with localcontext(Context(prec=28, rounding=ROUND_HALF_EVEN)):
        scene = resolve(asked, where, catalog(PUBLIC), moment, AT)
        pricer = Pricer(scene)
        for lane in (lane for one in where.pools for lane in pricer.priced(one)):
            for total, slot in lane.slots():
                assert total == pytest.approx(float(lane.at(slot, None).usd.total), abs=NEAR / 2)


def test_an_offer_without_a_price_does_not_hide_the_next_one():
    """By name, the one without comes first."""
    offers = [{**offer("fra", "a"), "Price": None, "SpotPrice": 0.1}, offer("fra", "b")]
    chosen = decide(where=estate(pools=[pool("fra-k8s", "fra")], offers=offers)).chosen
    assert chosen is not None and chosen.offer == "b"


def test_an_offer_of_unknown_runtime_is_told_at_the_longest_that_is_known():
    """Five hours at p90, and of those the longer median: four hours at one dollar."""
    known = [("x", 1, 5), ("y", 4, 5), ("z", 3, 4)]
    moment = conditions(
        runtimes=[
            {"workload": "nafld", "step": "train", "offer": name, "p50_hours": p50, "p90_hours": p90, "runs": 20}
            for name, p50, p90 in known
        ]
    )
    where = estate(pools=[pool("fra-k8s", "fra")], offers=[offer("fra")])
    with localcontext(Context(prec=28, rounding=ROUND_HALF_EVEN)):
        scene = resolve(request(runtime=None), where, catalog(), moment, AT)
        (lane,) = Pricer(scene).priced(where.pools[0])
        assert lane.lane.known is False and lane.at(AT, None).usd.compute == 4


def test_cheap_hours_are_for_on_demand_only():
    """Spot has a price of its own: 2.1 hours at one dollar, whatever the site's nights cost."""
    always = [{"from": "00:00", "to": "24:00", "multiplier": 0.9}]
    where = estate(
        sites=[site("fra", off_peak=always)],
        pools=[pool("fra-k8s", "fra", **{**SPOTTY, "spot_interruptions_per_hour": 0})],
        offers=[offer("fra", price=4, SpotPrice=1)],
    )
    chosen = decide(request(interruptible=True), where).chosen
    assert chosen is not None and chosen.spot and chosen.usd.compute == Decimal("2.1")
    assert chosen.fallback is not None and chosen.fallback.usd.compute == Decimal("7.56")


def test_slots_after_the_first_are_full_hours_to_the_second():
    """From 07:20:33 on, the next start is at eight."""
    at = AT.replace(minute=20, second=33)
    cooling = conditions(cooling={"fra-k8s": "2026-01-05T07:20:34Z"})
    chosen = decide(where=estate(pools=[pool("fra-k8s", "fra")], offers=[offer("fra")]), moment=cooling, at=at).chosen
    assert chosen is not None and chosen.start == AT.replace(hour=8)


def test_quarter_hours_are_those_of_the_clock_and_not_of_the_run():
    """From 07:20, cheap from half past seven: ten minutes at one dollar an hour and fifty at half of it."""
    cheap = [{"from": "07:30", "to": "12:00", "multiplier": 0.5}]
    where = estate(sites=[site("fra", off_peak=cheap)], pools=[pool("fra-k8s", "fra")], offers=[offer("fra")])
    asked = request(window={"deadline": "2026-01-05T08:50:00Z"}, runtime={"p50_hours": 1, "p90_hours": 1.5})
    chosen = decide(asked, where, at=AT.replace(minute=20)).chosen
    assert chosen is not None and chosen.usd.compute == Decimal("0.583333")


def test_what_is_not_proven_at_one_site_says_nothing_of_another():
    """Each site tells its own losses."""
    moment = conditions(unproven={"fra": {"secrets": "failed"}, "muc": {"logs": "failed"}})
    decision = decide(moment=moment)
    told = {row.pool: [reason.observed for reason in row.reasons if reason.rule == "unproven"] for row in decision.rejected}
    assert (told["fra-k8s"], told["muc-k8s"]) == (["`fra`: secrets failed"], ["`muc`: logs failed"])
