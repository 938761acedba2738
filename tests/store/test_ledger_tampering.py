"""Every single change to a small ledger, to its file of checkpoints, and to both, is found."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from flows.adapters import signing
from flows.adapters.settings import Settings
from flows.core.errors import IntegrityError
from flows.core.governance.checkpoints import digest_of, payload, read, signed_line_of
from flows.services import checkpointing
from flows.store import ledger
from flows.store.checkpoints import ANCHORS
from flows.store.database import State
from tests.store.ledgers import checkpointed, flipped, grow, keyed, spoiled_lines, when

SECOND = timedelta(seconds=1)
COLUMNS = ("at", "kind", "principal", "body", "prev_hash", "hash")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[tuple[State, Settings]]:
    """Twelve rows on SQLite, all of them covered by three signed checkpoints."""
    settings = keyed(tmp_path)
    state = State(settings.state_url)
    state.migrate()
    checkpointed(state, settings)
    found = checkpointing.verify(state, settings)
    assert (found.ok, found.rows, found.signed, found.unanchored_from) == (True, 12, 3, None), found
    yield state, settings
    state.close()


@pytest.mark.parametrize("column", COLUMNS)
def test_every_byte_of_every_stored_column_counts(home: tuple[State, Settings], column: str) -> None:
    """Each byte of the column in each row, changed in two ways, names that row or, for what links it, one beside it."""
    state, settings = home
    raw = sqlite3.connect(settings.home / "state.db", isolation_level=None)
    raw.execute("PRAGMA synchronous = OFF")
    tried = 0
    for seq in range(1, 13):
        ((stored,),) = raw.execute(f"SELECT CAST({column} AS BLOB) FROM ledger WHERE seq = ?", (seq,)).fetchall()
        for what, spoiled in flipped(stored):
            tried += 1
            raw.execute(f"UPDATE ledger SET {column} = CAST(? AS TEXT) WHERE seq = ?", (spoiled, seq))
            found = ledger.verify(state, settings.anchors)
            assert (found.ok, found.first_bad) == (False, seq), f"{column} of row {seq}, {what}: {found}"
        raw.execute(f"UPDATE ledger SET {column} = CAST(? AS TEXT) WHERE seq = ?", (stored, seq))
    raw.close()
    assert tried >= 2 * 12 * len("plan")
    assert checkpointing.verify(state, settings).ok


@pytest.mark.parametrize("seq", range(1, 13))
def test_every_number_of_a_row_counts(home: tuple[State, Settings], seq: int) -> None:
    """A row under any other number is found, and so is one that is gone, doubled, or has another one's place."""
    state, settings = home
    raw = sqlite3.connect(settings.home / "state.db", isolation_level=None)
    names = ", ".join(COLUMNS)
    spoiled = [f"UPDATE ledger SET seq = {other} WHERE seq = {seq}" for other in (-seq, 0, 13, seq + 100, 2**62)]
    spoiled += [f"DELETE FROM ledger WHERE seq = {seq}", f"DELETE FROM ledger WHERE seq >= {seq}"]
    spoiled += [f"INSERT INTO ledger SELECT {other}, {names} FROM ledger WHERE seq = {seq}" for other in (0, 13, 14)]
    for other in set(range(1, 13)) - {seq}:
        values = ", ".join(f"{name} = (SELECT {name} FROM ledger AS o WHERE o.seq = {seq + other} - ledger.seq)" for name in COLUMNS)
        spoiled.append(f"UPDATE ledger SET {values} WHERE seq IN ({seq}, {other})")
    raw.execute("CREATE TABLE kept AS SELECT * FROM ledger")
    for statement in spoiled:
        raw.execute(statement)
        found = checkpointing.verify(state, settings)
        raw.execute("DELETE FROM ledger")
        raw.execute("INSERT INTO ledger SELECT * FROM kept")
        assert not found.ok and found.first_bad is not None and found.reason, f"{statement}: {found}"
        assert found.first_bad <= max(13, seq), f"{statement}: {found}"
    raw.close()
    assert checkpointing.verify(state, settings).ok


def test_every_byte_of_the_file_of_checkpoints_counts(home: tuple[State, Settings]) -> None:
    """Each byte changed in two ways, each line taken out, doubled or exchanged, each cut: the file is named."""
    state, settings = home
    path = settings.anchors / ANCHORS
    whole = path.read_bytes()
    assert whole.count(b"\n") == 3
    for what, spoiled in [*flipped(whole), *spoiled_lines(whole)]:
        path.write_bytes(spoiled)
        found = checkpointing.verify(state, settings)
        assert not found.ok and found.problems and found.problems[0].startswith(f"{ANCHORS}:"), f"{what}: {found}"
    path.unlink()
    assert checkpointing.verify(state, settings).problems
    path.write_bytes(whole)
    assert checkpointing.verify(state, settings).ok


def test_a_file_that_was_cut_or_changed_is_not_written_on(home: tuple[State, Settings]) -> None:
    """A new checkpoint never covers up that earlier ones are gone."""
    state, settings = home
    path = settings.anchors / ANCHORS
    lines = path.read_bytes().splitlines(keepends=True)
    grow(state, 1, start=12)
    path.write_bytes(b"".join(lines[:2]))
    with pytest.raises(IntegrityError, match="no longer holds them"):
        checkpointing.checkpoint(state, settings, at=when(500))
    assert path.read_bytes() == b"".join(lines[:2])


def test_a_forged_checkpoint_is_named(home: tuple[State, Settings]) -> None:
    """A line in the right form, signed with a key that nobody enrolled, is named, and vouches for nothing."""
    state, settings = home
    grow(state, 1, start=12)
    with state.reading() as tx:
        newest = ledger.rows(tx, limit=1)[0]
    path = settings.anchors / ANCHORS
    _append_signed(path, newest.seq, newest.hash, signing.new_key())
    found = checkpointing.verify(state, settings)
    assert not found.ok
    assert found.problems == (f"{ANCHORS}:4: {found.problems[0].partition(': ')[2]}",)
    assert "not trusted" in found.problems[0] and found.unanchored_from == 13


def test_a_ledger_written_anew_with_all_hashes_is_found_and_pinned_keys_find_a_new_file(home: tuple[State, Settings]) -> None:
    """Who owns database and folder can make both fit each other again with a key of their own: only pinned keys see it."""
    state, settings = home
    assert settings.signing_key is not None
    public = signing.signer(settings.signing_key.get_secret_value()).public_key
    other = State(f"sqlite:///{settings.home / 'other' / 'state.db'}")
    other.migrate()
    forged = keyed(settings.home / "other")
    checkpointed(other, forged)
    assert checkpointing.verify(other, forged).ok
    found = checkpointing.verify(other, forged, pinned=[public])
    assert not found.ok and all("not trusted" in problem for problem in found.problems) and found.unanchored_from == 1
    assert checkpointing.verify(state, settings, pinned=[public]).ok
    other.close()


def test_an_unsigned_anchor_counts_and_is_told_but_not_against_pinned_keys(tmp_path: Path) -> None:
    """A process without the key still anchors; whoever trusts only keys of their own does not count that."""
    settings = Settings(home=tmp_path)
    state = State(settings.state_url)
    state.migrate()
    grow(state, 3)
    checkpointing.checkpoint(state, settings, at=when(10))
    found = checkpointing.verify(state, settings)
    assert (found.ok, found.unsigned, found.signed, found.unanchored_from) == (True, 1, 0, None)
    assert any("no signature" in note for note in found.notes)
    key = signing.new_key()
    pinned = [signing.signer(key).public_key]
    found = checkpointing.verify(state, settings, pinned=pinned)
    assert (found.ok, found.unanchored_from, found.unanchored_until) == (True, 1, 3)
    signs = keyed(tmp_path, key)
    checkpointing.checkpoint(state, signs, at=when(20))
    found = checkpointing.verify(state, signs, pinned=pinned)
    assert (found.ok, found.signed, found.unanchored_from) == (True, 1, None)
    state.close()


def test_a_key_that_is_enrolled_is_on_record_once(home: tuple[State, Settings]) -> None:
    """By id and public half; the private half is nowhere in the home."""
    state, settings = home
    assert settings.signing_key is not None
    again = keyed(settings.home)
    checkpointing.checkpoint(state, again, at=when(600))
    checkpointing.checkpoint(state, settings, at=when(700))
    with state.reading() as tx:
        rows = ledger.rows(tx, kind="signing-key")
    known = signing.Keyring.load(settings.anchors).keys
    assert {row.body["key"]: row.body["public_key"] for row in rows} == known and len(rows) == len(known) == 2
    secret = settings.signing_key.get_secret_value().encode()
    assert all(secret not in path.read_bytes() for path in settings.home.rglob("*") if path.is_file())


def test_checkpoints_are_due_by_rows_and_by_age(tmp_path: Path) -> None:
    """A hundred rows, or one row for long enough; nothing new, nothing due."""
    settings = keyed(tmp_path, checkpoint_rows=5, checkpoint_seconds=30)
    state = State(settings.state_url)
    state.migrate()
    at = when(0)
    assert checkpointing.checkpoint_if_due(state, settings, at=at) is None
    grow(state, 1)
    assert checkpointing.checkpoint_if_due(state, settings, at=at) is not None
    assert checkpointing.checkpoint_if_due(state, settings, at=at + 1000 * SECOND) is None
    grow(state, 1)
    assert checkpointing.checkpoint_if_due(state, settings, at=at + 29 * SECOND) is None
    assert checkpointing.checkpoint_if_due(state, settings, at=at + 30 * SECOND) is not None
    grow(state, 4)
    assert checkpointing.checkpoint_if_due(state, settings, at=at + 31 * SECOND) is None
    grow(state, 1)
    assert checkpointing.checkpoint_if_due(state, settings, at=at + 31 * SECOND) is not None
    with state.transaction() as tx:
        tx.execute(text("DELETE FROM ledger WHERE seq = 8"))
    with pytest.raises(IntegrityError, match="row 8"):
        checkpointing.checkpoint_if_due(state, settings, at=at + 31 * SECOND)
    state.close()


def _append_signed(path: Path, seq: int, row_hash: str, key: str) -> None:
    """A line as the project writes it, with a key of one's own."""
    content = path.read_bytes()
    previous, at = digest_of(content.splitlines(keepends=True)[-1]), "2026-01-06T08:00:00Z"
    made = signing.signer(key).sign(payload(at, row_hash, previous, seq))
    line = signed_line_of(seq, row_hash, at=at, previous=previous, key=made.key, signature=made.value)
    path.write_bytes(content + line)
    assert not read(path.read_bytes()).faults
