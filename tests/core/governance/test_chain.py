"""The hash chain: every tampering up to the last anchor is found, and the first bad row is named."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.core.canonical import canonical_json, content_hash, instant
from flows.core.governance.chain import GENESIS, Link, row_hash, verify

START = datetime(2026, 1, 5, 8, tzinfo=UTC)
Rows = list[Link]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def make(bodies: Sequence[dict[str, Any]]) -> Rows:
    """A chain with one row for each body."""
    rows: Rows = []
    for number, body in enumerate(bodies, start=1):
        before = rows[-1].hash if rows else GENESIS
        at = START + timedelta(microseconds=number)
        digest = row_hash(number, at, "note", "p-1", body, before)
        rows.append(Link(number, instant(at), "note", "p-1", canonical_json(body).decode(), before, digest))
    return rows


def rehash(rows: Rows, start: int) -> Rows:
    """The chain with new seqs and hashes from an index on: what one who knows the rules would write."""
    made = rows[:start]
    for row in rows[start:]:
        before = made[-1].hash if made else GENESIS
        content = {"seq": len(made) + 1, "at": row.at, "kind": row.kind, "principal": row.principal, "prev_hash": before}
        content["body"] = json.loads(row.body)
        made.append(dataclasses.replace(row, seq=len(made) + 1, prev_hash=before, hash=content_hash(content)))
    return made


CHAIN = make([{"n": number} for number in range(8)])


@given(st.dictionaries(st.text(), json_values, max_size=4), st.text(), st.text(), st.integers(1, 2**40))
def test_a_row_hashes_to_the_hash_of_its_canonical_json(body: dict[str, Any], kind: str, principal: str, seq: int) -> None:
    """The hash is that of the RFC 8785 JSON of all six fields, whatever text they hold."""
    whole = {"seq": seq, "at": instant(START), "kind": kind, "principal": principal, "body": body, "prev_hash": GENESIS}
    assert row_hash(seq, START, kind, principal, body, GENESIS) == content_hash(whole)


def test_an_instant_hashes_the_same_in_every_time_zone() -> None:
    """10:00+02:00 is 08:00Z."""
    from zoneinfo import ZoneInfo

    assert row_hash(1, START.astimezone(ZoneInfo("Europe/Amsterdam")), "k", "p", {}, GENESIS) == row_hash(1, START, "k", "p", {}, GENESIS)


@given(st.lists(st.dictionaries(st.text(), json_values, max_size=2), max_size=6))
def test_an_untouched_chain_holds(bodies: list[dict[str, Any]]) -> None:
    """Nothing is found where nothing was done, with an anchor on every row."""
    rows = make(bodies)
    found = verify(rows, {row.seq: row.hash for row in rows})
    assert (found.ok, found.rows, found.last_seq) == (True, len(rows), len(rows))


@pytest.mark.parametrize("index", range(len(CHAIN)))
@pytest.mark.parametrize("field", ["at", "kind", "principal", "body", "prev_hash", "hash"])
@pytest.mark.parametrize("rehashed", [False, True])
def test_every_changed_field_of_every_row_is_found(index: int, field: str, rehashed: bool) -> None:
    """A change of any one field, with the row's own hash made to fit or not, names that row."""
    new = {"at": "2027-01-05T08:00:00Z", "kind": "x", "principal": "p-2", "body": '{"n":99}', "prev_hash": "f" * 64, "hash": "e" * 64}[
        field
    ]
    changed = dataclasses.replace(CHAIN[index], **{field: new})
    if rehashed and field != "hash":
        digest = row_hash(
            changed.seq, datetime.fromisoformat(changed.at), changed.kind, changed.principal, json.loads(changed.body), changed.prev_hash
        )
        changed = dataclasses.replace(changed, hash=digest)
    found = verify([*CHAIN[:index], changed, *CHAIN[index + 1 :]], {8: CHAIN[7].hash})
    assert found.first_bad == index + 1


@pytest.mark.parametrize("body", ["{}", '{"n": 3}', '{"n":3} ', '{"n":3,"n":3}', "", "{", '{"n":3}\udcff'])
def test_other_text_of_a_body_is_found(body: str) -> None:
    """Even white space in the stored text counts, and text that is no JSON does not break the check."""
    assert verify([*CHAIN[:3], dataclasses.replace(CHAIN[3], body=body), *CHAIN[4:]]).first_bad == 4


@pytest.mark.parametrize("index", range(len(CHAIN)))
def test_every_missing_row_is_found(index: int) -> None:
    """A removed row is named by its own seq, the last one thanks to an anchor."""
    found = verify([*CHAIN[:index], *CHAIN[index + 1 :]], {8: CHAIN[7].hash})
    assert found.first_bad == index + 1


@pytest.mark.parametrize("first", range(len(CHAIN)))
@pytest.mark.parametrize("second", range(len(CHAIN)))
def test_every_swap_is_found(first: int, second: int) -> None:
    """Two rows that changed places, seq and all or content alone, break the chain at the earlier one."""
    rows = list(CHAIN)
    rows[first] = dataclasses.replace(CHAIN[second], seq=first + 1)
    rows[second] = dataclasses.replace(CHAIN[first], seq=second + 1)
    assert verify(rows).first_bad == (min(first, second) + 1 if first != second else None)


@pytest.mark.parametrize("index", range(len(CHAIN)))
@pytest.mark.parametrize("renumber", [False, True])
def test_every_inserted_row_is_found(index: int, renumber: bool) -> None:
    """A row put in, the later ones renumbered or not, is found where it stands or right after."""
    extra = dataclasses.replace(CHAIN[index], body='{"n":-1}')
    rows = [*CHAIN[:index], extra, *CHAIN[index:]]
    if renumber:
        rows = [dataclasses.replace(row, seq=number) for number, row in enumerate(rows, start=1)]
    assert verify(rows).first_bad == index + 1


@pytest.mark.parametrize("length", range(len(CHAIN)))
def test_every_truncation_up_to_the_anchor_is_found(length: int) -> None:
    """A tail that was cut off is named by its first row; without an anchor nobody can tell."""
    assert verify(CHAIN[:length], {8: CHAIN[7].hash}).first_bad == length + 1
    assert verify(CHAIN[:length]).ok


@pytest.mark.parametrize(
    "tamper", [lambda rows: rows[1:], lambda rows: [rows[1], rows[0], *rows[2:]], lambda rows: [*rows[:4], rows[2], *rows[4:]]]
)
def test_a_chain_written_anew_is_found_at_the_next_anchor(tamper: Callable[[Rows], Rows]) -> None:
    """New hashes all along fit each other, never the anchor."""
    rows = rehash(tamper(CHAIN), 0)
    assert verify(rows).ok
    found = verify(rows, {7: CHAIN[6].hash})
    assert found.first_bad is not None and found.first_bad <= 7
    assert found.reason is not None and "anchor" in found.reason


@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from(["change", "remove", "swap", "cut"]))
def test_any_rewrite_up_to_the_anchor_is_found(row: int, other: int, how: str) -> None:
    """One who can write hashes too is caught by an anchor at or after the row, at a row no later than it."""
    rows = list(CHAIN)
    if how == "change":
        rows[row - 1] = dataclasses.replace(rows[row - 1], body='{"n":42}')
    elif how == "remove":
        del rows[row - 1]
    elif how == "cut":
        rows = rows[: row - 1]
    else:
        rows[row - 1], rows[other - 1] = rows[other - 1], rows[row - 1]
    found = verify(rehash(rows, 0), {8: CHAIN[7].hash})
    assert found.ok == (how == "swap" and row == other)


def test_rows_after_the_last_anchor_are_not_vouched_for() -> None:
    """A rewritten tail behind the last anchor fits: the window that is printed says so."""
    rows = rehash([*CHAIN[:6], dataclasses.replace(CHAIN[6], body='{"n":42}'), CHAIN[7]], 6)
    assert verify(rows, {6: CHAIN[5].hash}).ok


def test_a_row_before_the_first_is_found() -> None:
    """Seq counts from 1."""
    assert verify([dataclasses.replace(CHAIN[0], seq=0), *CHAIN]).first_bad == 0
