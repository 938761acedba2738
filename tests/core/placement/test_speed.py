"""Fast enough to decide again at every dispatch."""

from __future__ import annotations

import gc
import time

from tests.core.placement.world import catalog, decide, estate, offer, pool, request, site


def test_ten_thousand_candidates_take_less_than_a_second_of_one_core():
    """Ten pools, 21 offers, 24 slots, on demand and spot, with off-peak prices, carbon and capacity."""
    night = [{"from": "22:00", "to": "06:00", "multiplier": 0.5}]
    spot = {"spot": True, "spot_interruptions_per_hour": 0.05, "startup_minutes": 3, "capacity": {"nodes": 5}}
    where = estate(
        sites=[site(f"s{n}", grid_zone="A", off_peak=night) for n in range(10)],
        pools=[pool(f"p{n}", f"s{n}", **spot) for n in range(10)],
        offers=[offer(f"s{n}", f"o{size}", size, SpotPrice=size / 3, Watts=200) for n in range(10) for size in range(1, 22)],
        carbon=[{"grid_zone": "A", "month": 1, "hour_utc": hour, "g_per_kwh": 100 + hour} for hour in range(24)],
    )
    labels = catalog({"name": "ehr", "home": "s0", "size_gb": 10, "label": {"classification": "internal", "residency": ["EU"]}})
    asked = request(interruptible=True, checkpoint_minutes=10, objective={"usd_per_kg_co2": 1})
    began = time.process_time()
    decision = decide(asked, where, labels)
    assert time.process_time() - began < 1
    assert decision.summary == "10/10 pools may run `train` of `nafld`"


def test_a_decision_leaves_nothing_to_collect():
    """No cycles: what it took is freed when it is made, and no collection holds up a later one."""
    asked, where, labels = request(interruptible=True), estate(offers=[offer("fra", SpotPrice=0.1)]), catalog()
    decide(asked, where, labels)
    gc.collect()
    gc.disable()
    try:
        decide(asked, where, labels)
        assert gc.collect() == 0
    finally:
        gc.enable()
