"""Which proofs a site owes, when one is lost, and what counts when a check is made again."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flows.core.governance.proofs import (
    CHECKS,
    OWED,
    Attestation,
    Demand,
    Finding,
    Proof,
    Security,
    attested,
    counts,
    owed,
    proof_of,
    unproven,
)
from tests.core.placement.world import estate, site

AT = datetime(2026, 1, 5, 8, tzinfo=UTC)
HOLDS = timedelta(hours=36)


def proof(
    outcome: str = "proved", *, at: datetime = AT, check: str = "secrets", where: str = "fra", until: datetime | None = None
) -> Proof:
    return Proof(where, check, outcome, at, until or (at + HOLDS if outcome == "proved" else at), "e" * 64)


def lost(*proofs: Proof, strict: bool = True, at: datetime = AT) -> dict[str, dict[str, str]]:
    return unproven({"fra": {"secrets": strict}}, proofs, at)


def test_a_higher_ceiling_owes_no_fewer_proofs() -> None:
    """From public to restricted each level owes what the one below owes."""
    levels = [OWED[name] for name in ("public", "internal", "confidential", "restricted")]
    assert all(lower <= higher for lower, higher in pairwise(levels))
    assert levels[-1] == set(CHECKS)


def test_a_proof_counts_until_its_last_moment_and_not_at_it() -> None:
    """The clock is the caller's: one second decides."""
    end = AT + HOLDS
    assert lost(proof(), at=end - timedelta(seconds=1)) == {}
    assert lost(proof(), at=end) == {"fra": {"secrets": "stale since 2026-01-06T20:00:00Z"}}


def test_why_a_proof_is_missing_is_told() -> None:
    """Never made, could not be made, failed, or made after the moment that is asked about."""
    assert lost() == {"fra": {"secrets": "was never proved"}}
    assert lost(proof("unchecked")) == {"fra": {"secrets": "was never proved"}}
    assert lost(proof("failed")) == {"fra": {"secrets": "failed at 2026-01-05T08:00:00Z"}}
    assert lost(proof(at=AT + HOLDS)) == {"fra": {"secrets": "not proved before 2026-01-06T20:00:00Z"}}


def test_where_unproved_is_accepted_only_a_failure_counts() -> None:
    """A fresh embedded stack has proved nothing yet and goes on; one that failed stops, however long ago."""
    assert lost(strict=False) == lost(proof("unchecked"), strict=False) == lost(proof(), strict=False, at=AT + 9 * HOLDS) == {}
    assert lost(proof("failed"), strict=False, at=AT + 9 * HOLDS) == {"fra": {"secrets": "failed at 2026-01-05T08:00:00Z"}}


def test_a_demand_names_sites_by_pattern_and_the_stricter_one_holds() -> None:
    """Checks that a site's ceiling does not owe are not demanded of it; other profiles' demands are not this one's."""
    sites = estate(sites=[site("fra"), site("muc", max_classification="public"), site("iad", "US")])
    security = Security(
        holds_hours=36,
        demands=(
            Demand(profile="cloud", sites=("*",), unless_proved="accept"),
            Demand(profile="cloud", sites=("f*",), checks=frozenset({"secrets"})),
            Demand(profile="embedded", sites=("iad",)),
        ),
    )
    found = owed(security, "cloud", sites)
    assert found["fra"] == {**dict.fromkeys(sorted(CHECKS), False), "secrets": True}
    assert set(found["muc"]) == OWED["public"]
    assert set(owed(security, "embedded", sites)) == {"iad"}


@pytest.mark.parametrize(
    ("old", "new", "stands"),
    [
        ("proved", "failed", True),
        ("failed", "proved", True),
        ("proved", "unchecked", False),
        ("failed", "unchecked", False),
        ("unchecked", "unchecked", True),
        ("unchecked", "proved", True),
    ],
)
def test_a_check_that_could_not_be_made_changes_nothing(old: str, new: str, stands: bool) -> None:
    """An outage costs no proof that still holds, and ends no failure."""
    assert counts(proof(new, at=AT + timedelta(hours=1)), proof(old)) is stands


def test_an_older_outcome_does_not_take_the_place_of_a_newer_one() -> None:
    """Two provers may end in any order."""
    assert not counts(proof("proved"), proof("failed", at=AT + timedelta(hours=1)))


ATTESTED = Attestation(check="encryption-at-rest", by="security-officer", saw="LUKS2", on=date(2026, 1, 1), until=date(2026, 1, 5))


@pytest.mark.parametrize(("day", "counts_"), [(-5, False), (-4, True), (0, True), (1, False)])
def test_an_attestation_counts_through_its_last_day(day: int, counts_: bool) -> None:
    """From the day it was made; its proof ends with that last day even if one usually holds longer."""
    at = AT + timedelta(days=day)
    found = attested(Finding("fra", "encryption-at-rest", "unchecked", "not provable here"), [ATTESTED], at)
    assert (found.outcome == "proved") is counts_
    if counts_:
        assert found.observed == "attested by security-officer on 2026-01-01, until 2026-01-05: LUKS2"
        assert proof_of(found, HOLDS, at).valid_until == min(at + HOLDS, datetime(2026, 1, 6, tzinfo=UTC))


def test_an_attestation_does_not_outweigh_what_was_seen() -> None:
    """A failure stays one, and nobody vouches for another check."""
    failed = Finding("fra", "encryption-at-rest", "failed", "no encryption")
    other = Finding("fra", "no-public-access", "unchecked", "not provable here")
    assert attested(failed, [ATTESTED], AT) is failed
    assert attested(other, [ATTESTED], AT) is other


@pytest.mark.parametrize("check", ["secrets", "tls-in-transit"])
def test_what_can_be_proved_is_not_attested(check: str) -> None:
    """Handshakes and searches are made, not promised."""
    with pytest.raises(ValidationError, match="check"):
        Attestation.model_validate({"check": check, "by": "x", "saw": "y", "on": "2026-01-01", "until": "2026-02-01"})


outcomes = st.sampled_from(["proved", "failed", "unchecked"])
proofs = st.builds(
    lambda outcome, check, hours, where: proof(outcome, check=check, at=AT - timedelta(hours=hours), where=where),
    outcomes, st.sampled_from(CHECKS), st.integers(-2, 60), st.sampled_from(["fra", "muc"]),
)  # fmt: skip
unique = st.lists(proofs, max_size=8, unique_by=lambda one: (one.site, one.check))
needs = st.dictionaries(st.sampled_from(["fra", "muc"]), st.dictionaries(st.sampled_from(CHECKS), st.booleans()))


@given(found=unique, owes=needs, data=st.data())
def test_losing_any_proof_loses_no_reason(found, owes, data) -> None:
    """A proof taken away, failed or grown old: what was unproven stays so."""
    before = unproven(owes, found, AT)
    if found:
        chosen = data.draw(st.sampled_from(found))
        rest = [one for one in found if one is not chosen]
        changed = [proof("failed", check=chosen.check, where=chosen.site)]
        for after in (unproven(owes, rest + changed, AT),):
            assert all(set(checks) <= set(after.get(where, {})) for where, checks in before.items())
        if chosen.outcome == "proved":
            after = unproven(owes, rest, AT)
            assert all(set(checks) <= set(after.get(where, {})) for where, checks in before.items())


@given(found=st.lists(proofs, max_size=4, unique_by=lambda one: (one.site, one.check)), owes=needs)
def test_the_order_of_proofs_does_not_count(found, owes) -> None:
    """Whatever the store returns first."""
    assert all(unproven(owes, list(order), AT) == unproven(owes, found, AT) for order in permutations(found))


@given(tries=st.permutations([("proved", 0), ("failed", 1), ("unchecked", 2), ("proved", 3), ("unchecked", 4), ("failed", 5)]))
def test_the_newest_outcome_that_counts_stands_in_any_order(tries) -> None:
    """Provers that end out of order leave what they would have left in order."""
    stands: Proof | None = None
    for outcome, hour in tries:
        new = proof(outcome, at=AT + timedelta(hours=hour))
        stands = new if counts(new, stands) else stands
    assert stands is not None and (stands.outcome, stands.at) == ("failed", AT + timedelta(hours=5))
