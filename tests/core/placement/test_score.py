"""What a candidate costs, computed by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from flows.core.placement.request import Conditions
from tests.core.placement.world import AT, catalog, conditions, decide, estate, offer, pool, request, site

ONE_POOL = {"pools": [pool("fra-k8s", "fra")], "offers": [offer("fra")]}
PUBLIC = {"name": "ehr", "home": "iad", "size_gb": 90, "label": {"classification": "public", "residency": "anywhere"}}


def chosen(*args, **kwargs):
    """The chosen candidate of a decision that has one."""
    found = decide(*args, **kwargs).chosen
    assert found is not None
    return found


def test_on_demand_bills_startup_and_the_median():
    """Six minutes and two hours at three dollars on two nodes: 12.6 dollars, and 18.6 at p90."""
    where = estate(pools=[pool("fra-k8s", "fra", startup_minutes=6)], offers=[offer("fra", price=3)])
    won = chosen(request(resources={"nodes": 2}), where)
    assert (won.usd.compute, won.usd_p90, won.usd_per_hour) == (Decimal("12.6"), Decimal("18.6"), 6)
    assert (won.finish_p50, won.finish_p90) == (datetime(2026, 1, 5, 9, 6, tzinfo=UTC), datetime(2026, 1, 5, 10, 6, tzinfo=UTC))


def test_durations_round_up_to_whole_seconds_before_they_are_priced():
    """0.0001 hours are 0.36 seconds: one second is billed."""
    won = chosen(
        request(runtime={"p50_hours": 0.0001, "p90_hours": 0.0001}),
        estate(pools=[pool("fra-k8s", "fra")], offers=[offer("fra", price=3600)]),
    )
    assert won.usd.compute == 1


def test_data_moves_from_its_home_before_the_run_begins():
    """90 GB at 10 gigabit per second take 72 seconds and cost 90 times two cents."""
    egress = [
        {"src": "iad", "dst": "fra", "usd_per_gb": 0.02, "gbit_per_s": 10},
        {"src": "*", "dst": "*", "usd_per_gb": 9, "gbit_per_s": 1},
    ]
    won = chosen(where=estate(**ONE_POOL, egress=egress), labels=catalog(PUBLIC))
    assert won.usd.egress == Decimal("1.8")
    assert won.finish_p50 == datetime(2026, 1, 5, 9, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("rows", "cost"),
    [
        ([("iad", "fra", 1), ("iad", "*", 2), ("*", "fra", 3), ("*", "*", 4)], 90),
        ([("iad", "*", 2), ("*", "fra", 3), ("*", "*", 4)], 180),
        ([("*", "fra", 3), ("*", "*", 4)], 270),
        ([("*", "*", 4)], 360),
    ],
)
def test_the_most_exact_egress_row_counts(rows, cost):
    """Exact, then any destination, then any source, then any pair."""
    egress = [{"src": src, "dst": dst, "usd_per_gb": usd, "gbit_per_s": 10} for src, dst, usd in rows]
    assert chosen(where=estate(**ONE_POOL, egress=egress), labels=catalog(PUBLIC)).usd.egress == cost


def test_a_replica_at_the_site_costs_nothing_and_a_cheaper_one_is_taken():
    """Where the data rests already no byte moves; else the cheapest source counts."""
    egress = [{"src": "iad", "dst": "*", "usd_per_gb": 1}, {"src": "muc", "dst": "*", "usd_per_gb": 0.1}]
    where = estate(**ONE_POOL, egress=egress)
    assert chosen(where=where, labels=catalog(PUBLIC), moment=conditions(replicas={"ehr": ["muc"]})).usd.egress == 9
    assert chosen(where=where, labels=catalog(PUBLIC), moment=conditions(replicas={"ehr": ["muc", "fra"]})).usd.egress == 0


def test_a_transfer_takes_whole_seconds():
    """One GB at three gigabit per second: 2.67 seconds are three."""
    entry = {**PUBLIC, "size_gb": 1}
    won = chosen(where=estate(**ONE_POOL, egress=[{"src": "*", "dst": "*", "usd_per_gb": 0, "gbit_per_s": 3}]), labels=catalog(entry))
    assert won.finish_p50 == datetime(2026, 1, 5, 9, 0, 3, tzinfo=UTC)


def test_data_that_rests_at_the_site_is_not_staged_from_elsewhere():
    """Another free source would cost its stay as staged data."""
    sites = [site("fra"), site("muc", storage_usd_per_gb_month=73)]
    where = estate(sites=sites, pools=[pool("muc-k8s", "muc")], offers=[offer("muc")], egress=[{"src": "*", "dst": "*", "usd_per_gb": 0}])
    assert chosen(where=where, moment=conditions(replicas={"ehr": ["muc"]})).usd.storage == 0


def test_outputs_pay_their_way_home_and_their_stay():
    """Ten GB to Munich at five cents, kept there for 73 days at 20 cents a month of 730 hours."""
    sites = [site("fra", storage_usd_per_gb_month=9), site("muc", storage_usd_per_gb_month=0.2)]
    where = estate(sites=sites, **ONE_POOL, egress=[{"src": "fra", "dst": "muc", "usd_per_gb": 0.05, "gbit_per_s": 1}])
    won = chosen(request(outputs=[{"name": "model", "size_gb": 10, "home": "muc", "keep_days": 73}]), where)
    assert (won.usd.egress, won.usd.storage) == (Decimal("0.5"), Decimal("4.8"))
    assert won.finish_p50 == datetime(2026, 1, 5, 9, tzinfo=UTC)


def test_an_output_without_home_stays_where_it_was_made():
    """No egress, and the site's own rate."""
    where = estate(sites=[site("fra", storage_usd_per_gb_month=0.73)], **ONE_POOL)
    won = chosen(request(outputs=[{"name": "model", "size_gb": 1, "keep_days": 10}]), where)
    assert (won.usd.egress, won.usd.storage) == (0, Decimal("0.24"))


def test_staged_data_pays_from_the_slot_to_the_end():
    """90 GB at 73 cents a month of 730 hours for two hours: 18 cents; 27 at p90."""
    where = estate(
        sites=[site("fra", storage_usd_per_gb_month=0.73), site("iad", "US")],
        **ONE_POOL,
        egress=[{"src": "*", "dst": "*", "usd_per_gb": 0}],
    )
    won = chosen(where=where, labels=catalog(PUBLIC))
    assert (won.usd.storage, won.usd_p90 - 3) == (Decimal("0.18"), Decimal("0.27"))


def test_a_queue_delays_the_run_but_not_the_staging():
    """An hour and a half in the queue: the run begins then, and delay counts to its end."""
    asked = request(objective={"usd_per_hour_of_delay": 2})
    won = chosen(asked, estate(**ONE_POOL), moment=conditions(queue_hours={"fra-k8s": 1.5}))
    assert (won.start, won.finish_p50) == (AT, datetime(2026, 1, 5, 10, 30, tzinfo=UTC))
    assert won.usd.delay == 7


def test_delay_has_a_price_and_cheap_hours_must_be_worth_the_wait():
    """Half price from ten on: worth waiting for at 10 cents an hour, not at two dollars."""
    cheap = [{"from": "10:00", "to": "20:00", "multiplier": 0.5}]
    where = estate(sites=[site("fra", off_peak=cheap)], pools=[pool("fra-k8s", "fra")], offers=[offer("fra", price=2)])
    patient, hasty = (chosen(request(objective={"usd_per_hour_of_delay": usd}), where) for usd in (0.1, 2))
    assert (patient.start, patient.usd.compute) == (datetime(2026, 1, 5, 10, tzinfo=UTC), 2)
    assert (hasty.start, hasty.usd.compute) == (AT, 4)


@pytest.mark.parametrize(
    ("day", "cheap_hours"),
    [("2026-03-28", 7), ("2026-10-24", 9), ("2026-11-10", 8)],
    ids=["clocks go forward", "clocks go back", "any other night"],
)
def test_a_cheap_night_has_seven_eight_or_nine_hours(day, cheap_hours):
    """22:00 to 06:00 in Berlin, at a tenth of the price, over the nights when clocks change."""
    night = [{"from": "22:00", "to": "06:00", "multiplier": 0.1}]
    where = estate(sites=[site("fra", timezone="Europe/Berlin", off_peak=night)], **ONE_POOL)
    noon = datetime.fromisoformat(f"{day}T12:00:00+00:00")
    won = chosen(
        request(runtime={"p50_hours": 24, "p90_hours": 24}, window={"deadline": noon.replace(day=noon.day + 1, minute=30).isoformat()}),
        where,
        catalog(as_of=noon.isoformat()),
        at=noon,
    )
    assert won.usd.compute == 24 - cheap_hours * Decimal("0.9")


def test_an_off_peak_night_belongs_to_the_day_it_begins_on():
    """Cheap from Monday 22:00: Tuesday at three is cheap, Wednesday at three is not."""
    night = [{"days": ["mon"], "from": "22:00", "to": "06:00", "multiplier": 0.5}]
    where = estate(sites=[site("fra", off_peak=night)], **ONE_POOL)
    for day, usd in ((6, 1), (7, 2)):
        at = datetime(2026, 1, day, 3, tzinfo=UTC)
        asked = request(window={"deadline": at.replace(hour=6, minute=1).isoformat()}, objective={"usd_per_hour_of_delay": 9})
        assert chosen(asked, where, catalog(as_of=at.isoformat()), at=at).usd.compute == usd


def test_of_overlapping_windows_the_cheapest_counts():
    """A cheap day inside which some hours are cheaper still."""
    windows = [{"from": "00:00", "to": "24:00", "multiplier": 0.8}, {"from": "07:00", "to": "08:00", "multiplier": 0.5}]
    where = estate(sites=[site("fra", off_peak=windows)], **ONE_POOL)
    assert chosen(request(window={"deadline": "2026-01-05T10:00:00Z"}), where).usd.compute == Decimal("1.3")


def test_carbon_follows_the_grid_by_the_hour():
    """500 W at a PUE of 1.2 on two nodes, an hour at 100 and an hour at 300 g/kWh: 480 g."""
    carbon = [{"grid_zone": "DE", "month": 1, "hour_utc": hour, "g_per_kwh": 100 if hour < 8 else 300} for hour in range(24)]
    where = estate(
        sites=[site("fra", grid_zone="DE", pue=1.2)], pools=[pool("fra-k8s", "fra")], offers=[offer("fra", Watts=500)], carbon=carbon
    )
    asked = request(resources={"nodes": 2}, objective={"usd_per_kg_co2": 10}, window={"deadline": "2026-01-05T10:00:00Z"})
    won = chosen(asked, where)
    assert (won.kg_co2, won.usd.carbon) == (Decimal("0.48"), Decimal("4.8"))
    assert not decide(asked, where).warnings


def test_unknown_carbon_and_watts_count_as_the_worst_known_and_are_warned_about():
    """Nobody gains by not measuring."""
    carbon = [{"grid_zone": "PL", "month": 1, "hour_utc": 0, "g_per_kwh": 700}]
    where = estate(
        sites=[site("fra", grid_zone="DE")],
        pools=[pool("fra-k8s", "fra")],
        offers=[offer("fra"), offer("fra", "big", 99, Watts=1000)],
        carbon=carbon,
    )
    decision = decide(where=where)
    assert decision.chosen is not None and decision.chosen.kg_co2 == Decimal("1.4")
    assert decision.warnings == (
        "no Watts known for `fra/small`: the estate's worst, 1000 W, is used",
        "no carbon known for `DE`: the estate's worst, 700 g/kWh, is used",
    )


def test_serving_prices_its_hours_and_knows_no_end():
    """730 hours at one dollar, now, without startup, delay or spot."""
    asked = request(
        step="serve",
        runtime={"p50_hours": 730, "p90_hours": 730},
        window={"earliest": "2026-01-05T09:30:00Z", "deadline": "2026-01-05T10:00:00Z"},
        interruptible=True,
        objective={"usd_per_hour_of_delay": 5},
    )
    spotty = pool("fra-k8s", "fra", startup_minutes=30, spot=True, spot_interruptions_per_hour=0.001)
    decision = decide(asked, estate(pools=[spotty], offers=[offer("fra", SpotPrice=0.1)]))
    assert decision.chosen is not None
    assert (decision.chosen.usd.total, decision.chosen.start) == (730, datetime(2026, 1, 5, 9, 30, tzinfo=UTC))
    assert len([warning for warning in decision.warnings if "`serve`" in warning]) == 2


def test_a_tie_goes_to_the_earlier_start_then_the_pools_name():
    """Equal in money: now and `fra` before later and `muc`."""
    decision = decide(where=estate(offers=[offer("fra"), offer("muc")]))
    assert decision.chosen is not None
    assert (decision.chosen.pool, decision.chosen.start) == ("fra-k8s", AT)


def test_equal_prices_go_to_the_earlier_start_whatever_the_pools_are_called():
    """`fra` is full until ten: `muc` can begin now, at the same price."""
    taken = [{"pool": "fra-k8s", "use": {"nodes": 1}, "from": "2026-01-05T06:00:00Z", "until": "2026-01-05T10:00:00Z"}]
    pools = [pool("fra-k8s", "fra", capacity={"nodes": 1}), pool("muc-k8s", "muc")]
    won = chosen(where=estate(pools=pools, offers=[offer("fra"), offer("muc")]), moment=conditions(reservations=taken))
    assert (won.pool, won.start) == ("muc-k8s", AT)


def test_capacity_is_needed_from_when_the_run_begins_and_not_while_data_moves():
    """The queue ends at half past eight; that the pool is taken until eight does not matter."""
    taken = [{"pool": "fra-k8s", "use": {"nodes": 1}, "from": "2026-01-05T06:00:00Z", "until": "2026-01-05T08:00:00Z"}]
    where = estate(pools=[pool("fra-k8s", "fra", capacity={"nodes": 1})], offers=[offer("fra")])
    assert chosen(where=where, moment=conditions(reservations=taken, queue_hours={"fra-k8s": 1.5})).start == AT


def test_slots_are_the_first_instant_and_full_hours_before_the_deadline():
    """From 07:20 with capacity free from 10:00 the start is 10:00; a deadline at 10:00 leaves none."""
    taken = [{"pool": "fra-k8s", "use": {"nodes": 1}, "from": "2026-01-05T06:00:00Z", "until": "2026-01-05T09:10:00Z"}]
    where = estate(pools=[pool("fra-k8s", "fra", capacity={"nodes": 1})], offers=[offer("fra")])
    at = AT.replace(minute=20)
    assert chosen(where=where, moment=conditions(reservations=taken), at=at).start == datetime(2026, 1, 5, 10, tzinfo=UTC)
    asked = request(window={"deadline": "2026-01-05T10:00:00Z"}, runtime={"p50_hours": 0.1, "p90_hours": 0.1})
    assert decide(asked, where, moment=conditions(reservations=taken), at=at).chosen is None


@pytest.mark.parametrize(("until", "start"), [("06", datetime(2026, 1, 6, 6, tzinfo=UTC)), ("07", None)])
def test_without_a_deadline_slots_go_24_hours_ahead(until, start):
    """The last slot is 23 hours after the first: capacity that is free only after that is too late."""
    taken = [{"pool": "fra-k8s", "use": {"nodes": 1}, "from": "2026-01-05T06:00:00Z", "until": f"2026-01-06T{until}:00:00Z"}]
    where = estate(pools=[pool("fra-k8s", "fra", capacity={"nodes": 1})], offers=[offer("fra")])
    found = decide(where=where, moment=conditions(reservations=taken)).chosen
    assert (None if found is None else found.start) == start


def test_sizes_come_from_the_request_else_the_catalog():
    """The request knows better how much of a dataset it reads."""
    where = estate(**ONE_POOL, egress=[{"src": "*", "dst": "*", "usd_per_gb": 1}])
    for size, usd in ((None, 90), (5, 5)):
        assert chosen(request(datasets=[{"name": "ehr", "size_gb": size}]), where, catalog(PUBLIC), Conditions()).usd.egress == usd
