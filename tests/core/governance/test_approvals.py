"""When an approval carries a promotion: exactly this version and evaluation, by somebody else, approved, and still valid."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.core.governance.approvals import (
    Judgement,
    Request,
    Subject,
    against_deciding,
    carries,
    reason_given,
    request_id,
    standing,
    validity,
    verdict_hash,
)

AT = datetime(2026, 12, 1, 8, tzinfo=UTC)
SUBJECT = Subject("nafld", "3", "nafld-model@c", "e" * 64)
REQUEST = Request(request_id("i", SUBJECT), "i", SUBJECT, frozenset({"p-starter"}), AT, AT + timedelta(days=14))
SAID = Judgement(REQUEST.id, SUBJECT, "p-ada", True, AT, AT + timedelta(days=7))
DAYS = st.integers(0, 30).map(lambda days: AT + timedelta(days=days))


@given(approved=st.booleans(), approver=st.sampled_from(["p-ada", "p-starter"]), end=DAYS, now=DAYS, version=st.sampled_from(["3", "4"]))
def test_a_record_carries_only_what_it_says(approved: bool, approver: str, end: datetime, now: datetime, version: str) -> None:
    """All of: approved, by none of the parties, not ended, the same subject; anything else is a reason."""
    said = replace(SAID, approved=approved, approver=approver, expires_at=end)
    carried = not carries(REQUEST, said, replace(SUBJECT, version=version), now)
    assert carried == (approved and approver == "p-ada" and now < end and version == "3")


@given(now=DAYS)
def test_nobody_carries_nothing(now: datetime) -> None:
    """Without a judgement no instant lets a promotion through."""
    assert carries(REQUEST, None, SUBJECT, now)
    assert standing(REQUEST, None, now) == ("waiting" if now < REQUEST.expires_at else "expired")


@pytest.mark.parametrize("change", [{"request": "ap-other"}, {"subject": replace(SUBJECT, verdict="f" * 64)}])
def test_a_judgement_of_another_request_carries_nothing(change: dict[str, object]) -> None:
    """Neither by its id nor by its subject."""
    assert carries(REQUEST, replace(SAID, **change), SUBJECT, AT)  # type: ignore[arg-type]


def test_a_request_is_decided_once_in_time_and_by_others() -> None:
    """Each reason on its own; none for an approver who comes in time."""
    late = REQUEST.expires_at
    assert against_deciding(REQUEST, None, "p-ada", AT) is None
    assert "already" in str(against_deciding(REQUEST, SAID, "p-eve", AT))
    assert "expired" in str(against_deciding(REQUEST, None, "p-ada", late))
    assert "does not decide" in str(against_deciding(REQUEST, None, "p-starter", AT))


@pytest.mark.parametrize("change", [{"version": "4"}, {"dataset": "nafld-model@d"}, {"verdict": "f" * 64}, {"workload": "other"}])
def test_another_subject_is_another_request(change: dict[str, str]) -> None:
    """So is another promotion of the same subject."""
    assert request_id("i", replace(SUBJECT, **change)) != REQUEST.id
    assert request_id("j", SUBJECT) != REQUEST.id


def test_any_changed_number_is_another_verdict() -> None:
    """The hash is of the canonical text: order does not matter, a digit does."""
    assert verdict_hash({"a": 1, "b": 0.5}) == verdict_hash({"b": 0.5, "a": 1})
    assert verdict_hash({"a": 1, "b": 0.5}) != verdict_hash({"a": 1, "b": 0.51})


@pytest.mark.parametrize(("text", "says"), [("", False), ("- !", False), ("ok", False), ("the AUC holds", True)])
def test_a_reason_says_something(text: str, says: bool) -> None:
    """Dashes are none."""
    assert reason_given(text) is says


@pytest.mark.parametrize("days", [-1, 0, 91])
def test_a_validity_has_bounds(days: int) -> None:
    """An approval for ever is none."""
    with pytest.raises(ValueError, match="days"):
        validity(days, AT)
