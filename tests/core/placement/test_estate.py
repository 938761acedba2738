"""The declared infrastructure: what a model accepts, and what it refuses."""

from __future__ import annotations

from decimal import Decimal

import pytest
from pydantic import ValidationError

from flows.core.placement.model import Offer, Pool, Site
from tests.core.placement.world import estate, offer, pool, site


def test_an_offer_is_read_from_a_row_of_the_table():
    """Cells are text, empty cells are missing values."""
    row = {
        "site": "fra",
        "InstanceType": "m7",
        "vCPUs": "8.0",
        "MemoryGiB": "32",
        "Price": "0.1",
        "SpotPrice": "",
        "AcceleratorName": " ",
        "Arch": "arm64",
    }
    found = Offer.model_validate(row)
    assert (found.usd_per_hour, found.spot_usd_per_hour, found.accelerator, found.cpus) == (Decimal("0.1"), None, None, 8)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"Price": 0}, "greater than 0"),
        ({"Price": -1}, "greater than 0"),
        ({"Price": "NaN"}, "`NaN` is not a number"),
        ({"AcceleratorName": "A100"}, "needs both"),
        ({"Prise": 1}, "Extra inputs are not permitted"),
    ],
    ids=str,
)
def test_a_wrong_offer_is_refused(wrong, what):
    """On-prem is amortised: no price is ever zero."""
    with pytest.raises(ValidationError, match=what):
        Offer.model_validate({**offer("fra"), **wrong})


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"country": "de"}, "should match pattern"),
        ({"country": False}, "should be a valid string"),
        ({"certifications": {"hipaa": "2026-13-01"}}, "`2026-13-01` is not a day"),
        ({"timezone": "Europe/Atlantis"}, "not a time zone"),
        ({"off_peak": [{"from": 1320, "to": "06:00", "multiplier": 0.5}]}, "should be a valid string"),
        ({"off_peak": [{"from": "22:60", "to": "06:00", "multiplier": 0.5}]}, "`22:60` is not a time of day"),
        ({"off_peak": [{"days": [], "from": "22:00", "to": "06:00", "multiplier": 0.5}]}, "at least 1 item"),
        ({"max_classification": "secret"}, "'public', 'internal', 'confidential' or 'restricted'"),
        ({"pue": 0.9}, "greater than or equal to 1"),
        ({"customer_managed_keys": "yes"}, "valid boolean"),
    ],
    ids=str,
)
def test_a_wrong_site_is_refused(wrong, what):
    """A typing error never becomes a permission."""
    with pytest.raises(ValidationError, match=what):
        Site.model_validate({**site("fra"), **wrong})


def test_a_site_must_say_who_operates_it():
    """Unknown has to be written down as null, and then nothing runs there."""
    told = site("fra")
    del told["operator_country"]
    with pytest.raises(ValidationError, match="operator_country"):
        Site.model_validate(told)


def test_an_unknown_type_of_pool_is_refused():
    """Only types that there is a template for."""
    with pytest.raises(ValidationError, match="'ecs', 'sagemaker'"):
        Pool.model_validate({**pool("a", "fra"), "type": "mainframe"})


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ({"sites": [site("fra"), site("fra")], "pools": [], "offers": []}, "site `fra` is declared twice"),
        ({"pools": [pool("a", "fra"), pool("a", "muc")]}, "pool `a` is declared twice"),
        ({"offers": [offer("fra"), offer("fra")]}, "offer `fra`, `small` is declared twice"),
        ({"egress": [{"src": "*", "dst": "*", "usd_per_gb": n} for n in (1, 2)]}, "egress price `\\*`, `\\*` is declared twice"),
        ({"pools": [pool("a", "atlantis")]}, "pool `a` is at `atlantis`, which is not a site"),
        ({"offers": [offer("atlantis")]}, "offer `small` is at `atlantis`, which is not a site"),
    ],
    ids=["site", "pool", "offer", "egress", "pool at nowhere", "offer at nowhere"],
)
def test_an_estate_that_contradicts_itself_is_refused(parts, what):
    """Which of two rows would hold?"""
    with pytest.raises(ValidationError, match=what):
        estate(**parts)
