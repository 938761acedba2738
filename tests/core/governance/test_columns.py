"""What counts as personal data by which evidence, what is too much, and what pseudonyms keep and hide."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.core.errors import UserError
from flows.core.governance.columns import (
    NEEDS,
    PSEUDONYM_CHARACTERS,
    Evidence,
    Finding,
    Kind,
    as_problems,
    checked_key,
    classify,
    key_block,
    key_variable,
    pseudonym,
    too_sensitive,
)
from flows.core.governance.labels import Classification

KEY, OTHER = b"k" * 32, b"o" * 32
values = st.one_of(st.text(min_size=1), st.integers())


def text(column: str, *, words: float = 1.0, distinct: int = 100, **shares: float) -> Evidence:
    return Evidence(column, "text", 100, distinct, words, {Kind[name]: share for name, share in shares.items()})


def number(column: str, *, distinct: int = 100, **shares: float) -> Evidence:
    return Evidence(column, "number", 100, distinct, 0.0, {Kind[name]: share for name, share in shares.items()})


@pytest.mark.parametrize(
    ("evidence", "kinds"),
    [
        (text("t.note", EMAIL=0.02), [Kind.EMAIL]),
        (text("t.note", EMAIL=0.005), []),
        (text("t.code", PHONE=0.3), []),
        (text("t.mobile_phone", PHONE=0.3), [Kind.PHONE]),
        (number("t.placed_at", PHONE=0.9), []),
        (number("t.phone", PHONE=0.9), [Kind.PHONE]),
        (text("t.patient_name"), [Kind.PERSON_NAME]),
        (text("t.firstName"), [Kind.PERSON_NAME]),
        (text("t.name"), []),
        (text("t.name", PERSON_NAME=0.4), [Kind.PERSON_NAME]),
        (text("t.label", PERSON_NAME=0.4), []),
        (text("t.label", PERSON_NAME=0.6), [Kind.PERSON_NAME]),
        (text("t.label", PERSON_NAME=0.6, distinct=5), []),
        (text("t.first_name", words=0.1), []),
        (number("t.subject_id"), [Kind.PERSON_ID]),
        (number("t.passengers"), []),
        (number("t.customer_number", distinct=9), []),
        (number("t.customer_number", distinct=90), [Kind.PERSON_ID]),
        (number("t.id"), []),
        (text("t.patient", words=0.0), [Kind.PERSON_ID]),
        (number("t.flight"), []),
        (Evidence("t.dob", "time", 100, 90), [Kind.BIRTH_DATE]),
        (Evidence("t.sold_at", "time", 100, 90), []),
        (text("t.street_address", words=0.0), [Kind.POSTAL_ADDRESS]),
        (text("t.mac_address", words=0.0), []),
        (Evidence("t.user_id", "flag", 100, 2), []),
        (Evidence("t.email", "text", 0, 0), []),
    ],
    ids=lambda value: value.column if isinstance(value, Evidence) else "",
)
def test_names_and_values_decide_together(evidence: Evidence, kinds: list[Kind]) -> None:
    """Checked forms are enough at a low share; what could be anything needs the column's name."""
    assert [finding.kind for finding in classify(evidence)] == kinds


@given(st.sampled_from(["note", "name", "phone", "ssn"]), st.dictionaries(st.sampled_from(list(Kind)[:3]), st.floats(0, 1)), st.data())
def test_more_evidence_never_finds_less(column: str, shares: dict[Kind, float], data: st.DataObject) -> None:
    """A share that rises keeps every finding."""
    shares = {kind: share for kind, share in shares.items() if kind in (Kind.EMAIL, Kind.PHONE, Kind.PERSON_NAME)}
    more = {kind: data.draw(st.floats(share, 1)) for kind, share in shares.items()}
    before = classify(Evidence(column, "text", 100, 50, 1.0, shares))
    after = classify(Evidence(column, "text", 100, 50, 1.0, more))
    assert {each.kind for each in before} <= {each.kind for each in after}


def test_only_a_column_above_its_class_is_too_sensitive() -> None:
    """The column's own class counts, for the others that of the dataset."""
    found = [Finding("t.mail", Kind.EMAIL, 1.0, False), Finding("t.card", Kind.PAYMENT_CARD, 0.7, False)]
    declared = {"t.card": Classification.RESTRICTED}
    assert too_sensitive(found, declared, Classification.CONFIDENTIAL) == ()
    assert too_sensitive(found, declared, Classification.INTERNAL) == ((found[0], Classification.INTERNAL),)
    assert too_sensitive(found, {"t.card": Classification.INTERNAL}, Classification.RESTRICTED) == ((found[1], Classification.INTERNAL),)


def test_every_kind_needs_more_than_internal() -> None:
    """Personal data is for no open shelf; numbers that open an account are restricted."""
    assert set(NEEDS) == set(Kind)
    assert min(NEEDS.values(), key=lambda each: each.level) is Classification.CONFIDENTIAL
    assert NEEDS[Kind.BANK_ACCOUNT] is Classification.RESTRICTED


def test_the_message_names_column_kind_share_classes_and_fix() -> None:
    """All that a data owner must know, in one message."""
    (problem,) = as_problems([(Finding("people.mail", Kind.EMAIL, 0.964, False), Classification.INTERNAL)], "shop-raw")
    told = str(problem)
    assert "`people.mail`: holds e-mail addresses (in 96 % of the rows looked at), declared internal" in told
    assert "needs confidential" in told and "fix: drop or pseudonymise it" in told


@given(values)
def test_a_pseudonym_is_the_same_each_time(value: str | int) -> None:
    """Stable across runs, so that joins work; of one length, whatever went in."""
    assert pseudonym(KEY, value) == pseudonym(KEY, value)
    assert len(pseudonym(KEY, value)) == PSEUDONYM_CHARACTERS


@given(st.sets(values, min_size=2, max_size=50))
def test_different_values_have_different_pseudonyms(given_values: set[str | int]) -> None:
    """Injective in practice, up to a number and its own text, which are meant to join."""
    assert len({pseudonym(KEY, value) for value in given_values}) == len({str(value) for value in given_values})


@given(values)
def test_another_key_gives_other_pseudonyms(value: str | int) -> None:
    """Whoever holds one dataset's key learns nothing of another's."""
    assert pseudonym(KEY, value) != pseudonym(OTHER, value)


@given(st.integers(-(2**53), 2**53))
def test_a_number_joins_its_text_and_its_float(value: int) -> None:
    """A column with gaps is read as floats, one without as integers."""
    assert pseudonym(KEY, value) == pseudonym(KEY, str(value)) == pseudonym(KEY, float(value))


@pytest.mark.parametrize("key", [None, "", "short"])
def test_a_missing_or_short_key_is_one_clear_message(key: str | None) -> None:
    """It names variable and secret, and never the key."""
    with pytest.raises(UserError, match=r"pseudonyms of `nafld-raw`; nothing was read; expected at least 32") as caught:
        checked_key("nafld-raw", key)
    assert "TRADEWIND_PSEUDONYM_KEY_NAFLD_RAW" in str(caught.value) and "pseudonym-key-nafld-raw" in str(caught.value)
    assert "short" not in str(caught.value)


def test_keys_of_datasets_have_names_of_their_own() -> None:
    """A variable as shells allow it, a secret as Prefect allows it."""
    assert key_variable("flight_delay-raw") == "TRADEWIND_PSEUDONYM_KEY_FLIGHT_DELAY_RAW"
    assert key_block("flight_delay-raw") == "pseudonym-key-flight-delay-raw"
