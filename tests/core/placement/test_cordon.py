"""Sites that take nothing new and pools that cool down: told as reasons, relaxed as conditions, never a way to more places."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.core.placement import Conditions
from flows.core.placement.hashing import content_form
from tests.core.placement.world import AT, conditions, decide, estate, relaxation_of, request, rules, site

POOLS = ("fra-k8s", "iad-k8s", "muc-k8s")
ANYWHERE = {"datasets": []}


def test_a_cordoned_site_gets_nothing_and_says_why():
    """The best site is closed: the next one wins, and the change that would open it is told with its price."""
    decision = decide(moment=conditions(cordoned=["muc"]))
    assert decision.chosen is not None and decision.chosen.pool == "fra-k8s"
    (row,) = [row for row in decision.rejected if row.pool == "muc-k8s"]
    assert [reason.to_json() for reason in row.reasons] == [
        {
            "rule": "cordoned",
            "kind": "capacity",
            "observed": "`muc` is cordoned",
            "required": "an open site",
            "source": "conditions: cordoned",
        }
    ]
    assert relaxation_of(decision, "muc-k8s") == "conditions.cordoned: [muc] -> []"
    opened = decide().chosen
    assert row.relaxation is not None and opened is not None and row.relaxation.would_cost_usd == opened.usd.total
    assert decision.summary == "1/3 pools may run `train` of `nafld`: 1 cordoned, 1 residency"


def test_a_cordoned_site_gets_no_data_either():
    """What would come to rest there is new there too, wherever it is made."""
    asked = request(**ANYWHERE, outputs=[{"name": "model", "size_gb": 1, "home": "muc"}])
    decision = decide(asked, moment=conditions(cordoned=["muc"]))
    assert decision.chosen is None
    assert rules(decision, "fra-k8s") == {"cordoned"}


def transfer(to: str):
    return request(step="transfer", outputs=[{"name": "ehr", "size_gb": 1, "home": to}], restrict={"sites": ["fra"]})


def test_data_may_leave_a_cordoned_site():
    """A transfer from it runs there, since an empty site is what draining is for."""
    decision = decide(transfer("muc"), moment=conditions(cordoned=["fra"]))
    assert decision.chosen is not None and decision.chosen.site == "fra"


def test_no_transfer_goes_to_a_cordoned_site():
    """Data that would arrive is new there."""
    decision = decide(transfer("muc"), moment=conditions(cordoned=["muc"]))
    assert decision.chosen is None
    assert rules(decision, "fra-k8s") == {"cordoned"}


def test_a_cooling_pool_is_used_again_from_its_instant_on():
    """Half an hour from now nothing starts there; at the next full hour it may."""
    until = AT + timedelta(minutes=30)
    asked = request(restrict={"pools": ["muc-k8s"]})
    decision = decide(asked, moment=conditions(cooling={"muc-k8s": until}))
    assert decision.chosen is not None and (decision.chosen.pool, decision.chosen.start) == ("muc-k8s", AT + timedelta(hours=1))


def test_a_cooling_pool_that_has_no_later_slot_says_until_when():
    """No slot of the next day is late enough: the reason names the instant, and the relaxation a shorter wait."""
    decision = decide(request(restrict={"pools": ["muc-k8s"]}), moment=conditions(cooling={"muc-k8s": "2026-01-08T07:30:00Z"}))
    assert decision.chosen is None
    (row,) = [row for row in decision.rejected if row.pool == "muc-k8s"]
    (reason,) = row.reasons
    assert (reason.rule, reason.observed, reason.required) == (
        "cooling-down",
        "a run on `muc-k8s` failed",
        "a start at 2026-01-08T07:30:00Z or later",
    )
    assert relaxation_of(decision, "muc-k8s") == "conditions.cooling.muc-k8s: 2026-01-08T07:30:00Z -> 2026-01-05T07:00:00Z"


def test_a_pool_that_cools_without_end_is_out_in_every_slot():
    """A run that failed there wants another place, not a later one."""
    decision = decide(request(restrict={"pools": ["muc-k8s"]}), moment=conditions(cooling={"muc-k8s": None}))
    assert decision.chosen is None
    assert rules(decision, "muc-k8s") == {"cooling-down"}
    assert relaxation_of(decision, "muc-k8s") == "conditions.cooling.muc-k8s: null -> 2026-01-05T07:00:00Z"


def test_left_out_they_are_not_part_of_the_hash():
    """A decision of an open, healthy estate has the hash it had before there were such conditions."""
    assert content_form(conditions(cordoned=[], cooling={})) == content_form(Conditions()) == {}
    assert content_form(conditions(cordoned=["muc", "fra"])) == {"cordoned": ["fra", "muc"]}


@pytest.mark.parametrize(
    ("moment", "warning"),
    [
        ({"cordoned": ["ham"]}, "conditions.cordoned: site `ham` is not in this estate"),
        ({"cooling": {"ham-k8s": None}}, "conditions.cooling: pool `ham-k8s` is not in this estate"),
    ],
)
def test_a_name_that_the_estate_does_not_have_is_warned_of(moment, warning):
    """A misspelt site must not look as if it were closed."""
    assert warning in decide(moment=conditions(**moment)).warnings


@given(
    cordoned=st.sets(st.sampled_from(["fra", "muc", "iad"])),
    cooling=st.dictionaries(st.sampled_from(POOLS), st.sampled_from([None, AT, AT + timedelta(hours=2)])),
    closed=st.sampled_from(["fra", "muc", "iad"]),
)
def test_closing_one_more_site_only_takes_its_pools_away(cordoned, cooling, closed):
    """Every other pool keeps its place and its price; none of the site's is left."""
    asked, where = request(**ANYWHERE), estate(sites=[site("fra"), site("muc"), site("iad", "US")])
    before = decide(asked, where, moment=conditions(cordoned=sorted(cordoned), cooling=cooling))
    after = decide(asked, where, moment=conditions(cordoned=sorted(cordoned | {closed}), cooling=cooling))

    def places(decision):
        return [choice for choice in (decision.chosen, *decision.alternatives) if choice is not None]

    assert places(after) == [choice for choice in places(before) if choice.site != closed]
    assert not {choice.site for choice in places(after)} & (cordoned | {closed})
