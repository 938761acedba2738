"""Sites that lost a proof of their security: told as reasons, never relaxed, never a way to more places."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flows.core.governance.proofs import CHECKS
from flows.core.placement import Conditions
from flows.core.placement.hashing import content_form
from tests.core.placement.world import conditions, decide, estate, relaxation_of, request, rules, site

WHY = "failed at 2026-01-05T07:00:00Z"
ANYWHERE = {"datasets": []}


def unproven(*sites: str, check: str = "encryption-at-rest"):
    return conditions(unproven={name: {check: WHY} for name in sites})


def test_a_site_without_its_proof_gets_nothing_and_says_why():
    """The best site lost its proof: the next one wins. Nothing that a user could change lets it in."""
    decision = decide(moment=unproven("muc"))
    assert decision.chosen is not None and decision.chosen.pool == "fra-k8s"
    (row,) = [row for row in decision.rejected if row.pool == "muc-k8s"]
    assert [reason.to_json() for reason in row.reasons] == [
        {
            "rule": "unproven",
            "kind": "data",
            "observed": f"`muc`: encryption-at-rest {WHY}",
            "required": "a proof of encryption-at-rest that holds",
            "source": "conditions: unproven.muc",
        }
    ]
    assert relaxation_of(decision, "muc-k8s") is None
    assert decision.summary == "1/3 pools may run `train` of `nafld`: 1 residency, 1 unproven"


def test_each_lost_proof_is_a_reason():
    """All of them show, in order."""
    decision = decide(moment=conditions(unproven={"muc": dict.fromkeys(("tls-in-transit", "secrets"), WHY)}))
    (row,) = [row for row in decision.rejected if row.pool == "muc-k8s"]
    assert [reason.observed for reason in row.reasons] == [f"`muc`: secrets {WHY}", f"`muc`: tls-in-transit {WHY}"]


def test_a_site_without_its_proof_gets_no_data_either():
    """What would come to rest there is new there too, wherever it is made."""
    asked = request(**ANYWHERE, outputs=[{"name": "model", "size_gb": 1, "home": "muc"}])
    decision = decide(asked, moment=unproven("muc"))
    assert decision.chosen is None
    assert rules(decision, "fra-k8s") == {"unproven"}


def transfer(to: str):
    return request(step="transfer", outputs=[{"name": "ehr", "size_gb": 1, "home": to}], restrict={"sites": ["fra"]})


def test_data_may_leave_a_site_that_lost_a_proof_but_not_over_an_unproven_line():
    """A public bucket is a reason to bring data away; a line that is not encrypted is none."""
    decision = decide(transfer("muc"), moment=unproven("fra", check="no-public-access"))
    assert decision.chosen is not None and decision.chosen.site == "fra"
    decision = decide(transfer("muc"), moment=unproven("fra", check="tls-in-transit"))
    assert decision.chosen is None and rules(decision, "fra-k8s") == {"unproven"}


def test_no_transfer_goes_to_a_site_that_lost_a_proof():
    """Data that would arrive is new there."""
    decision = decide(transfer("muc"), moment=unproven("muc", check="no-public-access"))
    assert decision.chosen is None and rules(decision, "fra-k8s") == {"unproven"}


def test_left_out_they_are_not_part_of_the_hash():
    """A decision of an estate that proves what it owes has the hash it had before there were proofs."""
    assert content_form(conditions(unproven={})) == content_form(Conditions()) == {}
    assert content_form(unproven("muc")) == {"unproven": {"muc": {"encryption-at-rest": WHY}}}


def test_a_site_that_the_estate_does_not_have_is_warned_of():
    """A misspelt name must not look as if it were kept away."""
    assert "conditions.unproven: site `ham` is not in this estate" in decide(moment=unproven("ham")).warnings


SITES = ("fra", "muc", "iad")
losses = st.dictionaries(st.sampled_from(SITES), st.dictionaries(st.sampled_from(CHECKS), st.just(WHY), min_size=1))


@given(before=losses, where=st.sampled_from(SITES), check=st.sampled_from(CHECKS))
def test_losing_one_more_proof_only_takes_places_away(before, where, check):
    """Every place elsewhere keeps its rank and its price; none of the site's is left."""
    asked, land = request(**ANYWHERE), estate(sites=[site("fra"), site("muc"), site("iad", "US")])
    after = {**before, where: {**before.get(where, {}), check: WHY}}

    def places(lost):
        decision = decide(asked, land, moment=conditions(unproven=lost))
        return [choice for choice in (decision.chosen, *decision.alternatives) if choice is not None]

    assert places(after) == [choice for choice in places(before) if choice.site != where]
    assert not {choice.site for choice in places(after)} & set(after)


@given(lost=losses, seed=st.randoms(use_true_random=False))
def test_the_order_in_which_they_are_named_does_not_count(lost, seed):
    """The same bytes, whatever came first."""
    names = list(lost)
    seed.shuffle(names)
    turned = {name: dict(reversed(lost[name].items())) for name in names}
    asked = request(**ANYWHERE)
    assert decide(asked, moment=conditions(unproven=turned)).to_json() == decide(asked, moment=conditions(unproven=lost)).to_json()
