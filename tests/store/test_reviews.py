"""Reviews and attestations in the state database."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from flows.core.errors import IntegrityError, UserError
from flows.core.governance.reviews import Finding, Grant, Judged
from flows.store import ledger, reviews
from flows.store.database import State
from flows.store.reviews import Attested, SourceRead
from tests.store.conftest import NOW

DAY = timedelta(days=1)


def grant(principal: str, *permissions: str, slot: str = "p") -> Grant:
    return Grant(
        source="aws", principal=principal, kind="person", permissions=permissions or ("x",), scopes=("*",), slot=slot, granted_at=NOW
    )


def add(state: State, *grants: Grant) -> str:
    found = [(one, Judged((Finding("unused", "never used"),))) for one in grants]
    with state.transaction() as tx:
        source = SourceRead("aws", "aws", len(found))
        return reviews.add(tx, found, sources=[source], rules="r", principal="ops", at=NOW, due_at=NOW + DAY).id


def test_a_review_is_read_back_as_it_was_found(state: State) -> None:
    """Every field but the name, which is an opaque id; a second review of the day has the next number."""
    assert [add(state, grant("ada")), add(state)] == ["2026-01-05.1", "2026-01-05.2"]
    with state.reading() as tx:
        row = reviews.get(tx, "2026-01-05.1")
        ((found, judged),) = reviews.grants_of(tx, row)
        assert found == grant("ada").model_copy(update={"principal": found.principal})
        assert found.principal.startswith("p-")
        assert judged == Judged((Finding("unused", "never used"),))
        assert reviews.grants_of(tx, reviews.get(tx, "latest")) == []
        assert [entry.body["findings"] for entry in ledger.rows(tx, kind="review")] == [{"unused": 1}, {}]


def test_a_grant_told_twice_is_one_and_two_under_one_id_are_refused(state: State) -> None:
    """Or one of them would be lost without a word."""
    review = add(state, grant("ada"), grant("ada"))
    with state.reading() as tx:
        assert len(reviews.prints(tx, review)) == 1
    with pytest.raises(IntegrityError, match="one id to two grants"):
        add(state, grant("ada", "x"), grant("ada", "y"))


def test_what_was_attested_is_kept_in_order(state: State) -> None:
    """Oldest first, by grant; a grant that the review has not is refused with all that came with it."""
    review = add(state, grant("ada"), grant("bob"))
    with state.reading() as tx:
        one, other = sorted(reviews.prints(tx, review))
    with state.transaction() as tx:
        reviews.attest(tx, review, [Attested(one, "keep", "needed", date(2026, 2, 1))], principal="carla", at=NOW)
        reviews.attest(tx, review, [Attested(one, "revoke", "left", None)], principal="carla", at=NOW)
    with pytest.raises(UserError, match="has no grant `g-0`"), state.transaction() as tx:
        reviews.attest(tx, review, [Attested(other, "keep", "x", None), Attested("g-0", "keep", "x", None)], principal="carla", at=NOW)
    with state.reading() as tx:
        found = reviews.history(tx)
        assert [(said.verdict, said.until) for said in found[one]] == [("keep", date(2026, 2, 1)), ("revoke", None)]
        assert list(found) == [one]
        assert reviews.history(tx, [other]) == {}
