"""What if a value were another: the grammar of relaxations, read back."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings

from flows.core.errors import UserError
from flows.core.placement import Conditions, place
from flows.core.placement.whatif import Change, Excepted, Given, apply, changes
from tests.core.placement.strategies import worlds
from tests.core.placement.world import TinyPolicy, catalog, conditions, decide, estate, offer, pool, request, site

AT = datetime(2026, 1, 5, 18, 40, tzinfo=UTC)
DOTTED = estate(
    sites=[site("fra")],
    pools=[pool("fra", "fra"), pool("fra.gpu", "fra", capacity={"nodes": 1, "Radeon Pro V520": 4})],
    offers=[offer("fra")],
)


def given_(**more) -> Given:
    """The usual parts, unless others are given."""
    usual = {"request": request(), "estate": estate(), "catalog": catalog(), "conditions": conditions()}
    return Given(**{**usual, **more})


def after(text: str, **more) -> Given:
    """What the change makes of the usual parts."""
    return apply(changes(text), given_(**more))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("budget_usd=40", [Change("budget_usd", "40")]),
        (" budget_usd = 40 ", [Change("budget_usd", "40")]),
        ("budget_usd: 1 -> 2.5", [Change("budget_usd", "2.5", "1")]),
        ("budget_usd: 1 -> 2.5 (then 1.8473 USD)", [Change("budget_usd", "2.5", "1")]),
        (
            "budget_usd: 1 -> 6; conditions.budget_left_usd.nafld: 5 -> 6",
            [Change("budget_usd", "6", "1"), Change("conditions.budget_left_usd.nafld", "6", "5")],
        ),
        (
            "estate.pools.a.capacity.cpus: 1 -> 2; estate.pools.a.capacity.Radeon Pro V520: 3 -> 4",
            [Change("estate.pools.a.capacity.cpus", "2", "1"), Change("estate.pools.a.capacity.Radeon Pro V520", "4", "3")],
        ),
        ("resources.accelerators: {A100: 1} -> {}", [Change("resources.accelerators", "{}", "{A100: 1}")]),
        ("intent_id=a: b -> c=d", [Change("intent_id", "a: b -> c=d")]),
    ],
)
def test_both_ways_to_write_a_change(text, found):
    """Short by hand, or as a decision printed it."""
    assert list(changes(text)) == found


@pytest.mark.parametrize("text", ["", "budget_usd", "=4", "budget_usd: 4", "budget_usd -> 4", "a: 1 -> 2; nonsense"])
def test_what_is_no_change_is_refused(text):
    """With both forms in the message; text behind a value belongs to it and is refused by the field."""
    with pytest.raises(UserError, match=r"no change|there is no"):
        after(text)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("budget_usd=40", lambda it: it.request.budget_usd == 40),
        ("budget_usd=null", lambda it: it.request.budget_usd is None),
        ("interruptible=true", lambda it: it.request.interruptible is True),
        ("runtime.p90_hours=4", lambda it: it.request.runtime.p90_hours == 4),
        ("window.deadline=2026-01-06T00:00:00+01:00", lambda it: it.request.window.deadline == datetime(2026, 1, 5, 23, tzinfo=UTC)),
        ("latency={from: FR}", lambda it: False),
        ("restrict.offers=[a2-*, *]", lambda it: it.request.restrict.offers == ("*", "a2-*")),
        ("restrict.sites=[]", lambda it: it.request.restrict.sites == ()),
        ("resources.accelerators={A100: 2, T4: 1}", lambda it: it.request.resources.accelerators == {"A100": 2, "T4": 1}),
        ("datasets.ehr.size_gb=99", lambda it: it.request.datasets[0].size_gb == 99),
        ("conditions.cordoned=[fra]", lambda it: it.conditions.cordoned == ("fra",)),
        ("conditions.queue_hours.fra-k8s=0.5", lambda it: it.conditions.queue_hours == {"fra-k8s": Decimal("0.5")}),
        ("conditions.cooling.fra-k8s=null", lambda it: it.conditions.cooling == {"fra-k8s": None}),
        ("catalog.max_age_hours=1", lambda it: it.catalog.max_age_hours == 1),
        ("catalog.entries.ehr.label.classification=restricted", lambda it: it.catalog.entry("ehr").label.level == 3),
        ("estate.sites.iad.country=DE", lambda it: it.estate.site_by_id["iad"].country == "DE"),
        ("estate.offers.iad/small.Price=9", lambda it: it.estate.offers_by_site["iad"][0].usd_per_hour == 9),
        ('image="true"', lambda it: it.request.image == "true"),
    ],
)
def test_any_value_can_be_set(text, seen):
    """Of the request, the moment, the catalog and the estate; the field itself reads the text."""
    if text.startswith("latency"):
        with pytest.raises(UserError, match="max_ms"):
            after(text)
    else:
        assert seen(after(text))


def test_names_with_dots_are_found():
    """The longest row that the path begins with."""
    made = after("estate.pools.fra.gpu.capacity.Radeon Pro V520: 4 -> 8", estate=DOTTED)
    assert made.estate.pool_by_name["fra.gpu"].capacity["Radeon Pro V520"] == 8
    assert made.estate.pool_by_name["fra"].capacity == {}


def test_the_estate_changes_its_hash_and_keeps_the_given_one():
    """Another estate, not the same one edited."""
    before = estate()
    made = after("estate.pools.fra-k8s.capacity.nodes=3", estate=before)
    assert made.estate.hash != before.hash
    assert before.pool_by_name["fra-k8s"].capacity == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("budgt_usd=4", "there is no `budgt_usd`"),
        ("budget_usd=many", "`many` is not a number"),
        ("budget_usd.x=4", "there is no `budget_usd`|x"),
        ("restrict.color=[a]", "there is no `color`"),
        ("estate.pools.nowhere.spot=true", "there is no `nowhere.spot`"),
        ("step=fly", "step=fly"),
        ("conditions.cordoned=fra", "conditions.cordoned=fra"),
        ("runtime.p90_hours=1", "is more than"),
        ("budget_usd: 7 -> 8", "`budget_usd` is not `7` here"),
        ("policies.residency=permit", "is no change of a rule"),
        ("policies.residency: permit -> exception for `fra-k8s` by dpo until 2026-01-06", "is no change of a rule"),
        ("policies.residency=exception for `nowhere` by dpo until 2026-01-06", "no pool `nowhere`"),
        ("policies.residency=exception for `fra-k8s` by dpo until 2026-02-31", "is not a day"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(text, told):
    """One message, with the change in it."""
    with pytest.raises(UserError, match=told):
        after(text)


def test_an_exception_covers_the_pool_and_where_outputs_come_to_rest():
    """A rule is asked at both."""
    asked = request(outputs=[{"name": "m", "size_gb": 1, "home": "muc"}])
    made = after("policies.hipaa-baa: forbid -> exception for `fra-k8s` by compliance until 2026-01-06", request=asked)
    assert made.exceptions == (Excepted("hipaa-baa", "nafld", ("fra-k8s", "muc"), "compliance", date(2026, 1, 6)),)


def test_several_changes_come_one_after_the_other():
    """Each sees what the one before it made."""
    made = apply([*changes("budget_usd=4"), *changes("budget_usd: 4 -> 5")], given_())
    assert made.request.budget_usd == 5


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(worlds())
def test_a_printed_relaxation_applied_places(world):
    """Whatever a decision prints lets that pool in, read back as it stands; rules are changed where the rules are."""
    request, estate, catalog, conditions = world.parts()
    decision = place(request, estate, TinyPolicy(), catalog, conditions, AT)
    for row in decision.rejected:
        if row.relaxation is None or row.relaxation.change.startswith("policies."):
            continue
        made = apply(changes(row.relaxation.change), Given(request, estate, catalog, conditions))
        again = place(made.request, made.estate, TinyPolicy(), made.catalog, made.conditions, AT)
        assert again.chosen is not None
        assert row.pool in {candidate.pool for candidate in (again.chosen, *again.alternatives)}, row.relaxation.change


def test_a_cordon_and_a_cooldown_are_lifted_as_printed():
    """The two that only conditions know."""
    for moment in (Conditions(cordoned=("fra", "muc", "iad")), Conditions.model_validate({"cooling": {"fra-k8s": None, "muc-k8s": None}})):
        decision = decide(moment=moment)
        changed = {row.pool: row.relaxation.change for row in decision.rejected if row.relaxation is not None}
        for name, text in changed.items():
            again = decide(moment=after(text, conditions=moment).conditions)
            assert again.chosen is not None and name in {candidate.pool for candidate in (again.chosen, *again.alternatives)}
        assert changed
