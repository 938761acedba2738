"""The ledger in a real database: one chain under many writers, kills and tampering."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from flows.core.errors import IntegrityError
from flows.store import ledger, principals
from flows.store.database import State
from tests.store.conftest import NOW

ROOT = Path(__file__).resolve().parents[2]

WRITERS = """
import os, sys
from datetime import UTC, datetime
from flows.store import ledger
from flows.store.database import State

state, each = State(sys.argv[1]), int(sys.argv[2])
with state.reading():
    pass  # a child must not go on with its parent's connection
children = []
for writer in range(8):
    if (pid := os.fork()) == 0:
        for number in range(each):
            with state.transaction() as tx:
                body = {"writer": writer, "number": number}
                ledger.append(tx, "decision", body, principal=f"writer-{number % 2}", at=datetime(2026, 1, 5, tzinfo=UTC))
        os._exit(0)
    children.append(pid)
sys.exit(any([os.waitpid(pid, 0)[1] for pid in children]))
"""

KILLED = """
import os, signal, sys
from datetime import UTC, datetime, timedelta
from sqlalchemy import Engine, event, text
from flows.store import ledger, outbox
from flows.store.database import State

at = datetime(2026, 1, 5, tzinfo=UTC)
state = State(sys.argv[1])

def work(moment):
    left = moment
    def count(*_):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    for name in ("before_cursor_execute", "after_cursor_execute", "commit"):
        event.listen(Engine, name, count)
    with state.transaction() as tx:
        intent = outbox.ensure(tx, outbox.Intent.of("w", "train", str(moment), "manual", due_at=at))
        outbox.claim(tx, intent.id, owner="me", at=at, stale_after=timedelta(hours=1))
        ledger.append(tx, "dispatch", {}, principal="ada", at=at)
        outbox.finish(tx, intent.id, {}, at)
        ledger.append(tx, "transfer", {}, principal="bob", at=at)

for moment in range(1, 200):
    if (pid := os.fork()) == 0:
        work(moment)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    found = ledger.verify(state, None)
    assert found.ok, found.reason
    with state.reading() as tx:
        made, finished = tx.execute(text("SELECT count(*), count(finished_at) FROM intents")).one()
    assert found.rows == 2 * made == 2 * finished, (moment, found, made, finished)
    if status == 0:
        print(moment - 1)
        break
"""


def fill(state: State, count: int = 8) -> None:
    """Append some rows."""
    with state.transaction() as tx:
        for number in range(1, count + 1):
            ledger.append(tx, "decision", {"n": number}, principal="ada", at=NOW + timedelta(seconds=number))


def run(state: State, statement: str) -> None:
    """Do to the database what the store itself never does."""
    with state.transaction() as tx:
        for part in statement.split(";"):
            tx.connection().exec_driver_sql(part)


def test_a_row_reads_back_as_it_was_appended(state: State) -> None:
    """Body, time and links come back, instants and decimals as text."""
    with state.transaction() as tx:
        first = ledger.append(
            tx, "decision", {"usd": Decimal("1.50"), "at": NOW, "sites": {"b", "a"}, "auc": float("nan")}, principal="ada", at=NOW
        )
        second = ledger.append(tx, "failover", {}, principal="ada", at=NOW)
    with state.reading() as tx:
        rows = ledger.rows(tx)
    assert [row.to_dict() for row in rows] == [first.to_dict(), second.to_dict()]
    assert rows[0].body == {"usd": "1.5", "at": "2026-01-05T08:00:00Z", "sites": ["a", "b"], "auc": None}
    assert (rows[0].at, rows[1].prev_hash) == (NOW, rows[0].hash)


def test_rows_are_chosen_by_time_kind_and_number(state: State) -> None:
    """A limit keeps the newest; all come in order of seq."""
    fill(state)
    with state.transaction() as tx:
        ledger.append(tx, "promotion", {}, principal="ada", at=NOW)
    with state.reading() as tx:
        assert [row.seq for row in ledger.rows(tx, limit=2)] == [8, 9]
        assert [row.seq for row in ledger.rows(tx, kind="promotion")] == [9]
        assert [row.seq for row in ledger.rows(tx, since=NOW + timedelta(seconds=7))] == [7, 8]


def test_the_ledger_holds_opaque_principals(state: State) -> None:
    """A name is swapped for its opaque id; erasing the name leaves the chain whole."""
    fill(state, 2)
    with state.transaction() as tx:
        (row, _) = ledger.rows(tx)
        assert "ada" not in json.dumps(row.to_dict())
        assert principals.name_of(tx, row.principal) == "ada"
        assert ledger.append(tx, "decision", {}, principal=row.principal, at=NOW).principal == row.principal
        assert principals.erase(tx, "ada") == row.principal
        assert principals.name_of(tx, row.principal) is None
    assert ledger.verify(state, None).ok


def test_the_store_changes_and_removes_no_row(state: State) -> None:
    """A changed or deleted row object is refused before it reaches the database."""
    fill(state, 1)
    for spoil in ("change", "remove"):
        with pytest.raises(IntegrityError, match="row 1"), state.transaction() as tx:
            (row,) = ledger.rows(tx)
            if spoil == "change":
                row.kind = "x"
            else:
                tx.delete(row)
            tx.flush()


def test_eight_processes_append_one_chain(state: State, url: str) -> None:
    """No row is lost, no seq skipped, no fork made, whoever writes."""
    each = 20
    ended = subprocess.run([sys.executable, "-c", WRITERS, url, str(each)], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (ended.stderr, ended.returncode) == ("", 0)
    found = ledger.verify(state, None)
    assert (found.ok, found.rows, found.reason) == (True, 8 * each, None)
    with state.reading() as tx:
        rows = ledger.rows(tx)
        assert len({row.principal for row in rows}) == 2
    for writer in range(8):
        assert [row.body["number"] for row in rows if row.body["writer"] == writer] == list(range(each))


def test_a_kill_between_any_two_statements_leaves_a_whole_chain(state: State, url: str) -> None:
    """Killed before and after each statement in turn, a transaction is stored as a whole or not at all."""
    ended = subprocess.run([sys.executable, "-c", KILLED, url], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (ended.stderr, ended.returncode) == ("", 0)
    assert int(ended.stdout) > 20
    assert ledger.verify(state, None).rows > 0


TAMPERINGS = [
    ("UPDATE ledger SET body = '{\"n\":99}' WHERE seq = 3", 3),
    ("UPDATE ledger SET body = 'nonsense' WHERE seq = 3", 3),
    ("UPDATE ledger SET kind = 'x' WHERE seq = 1", 1),
    ("UPDATE ledger SET principal = 'p-0' WHERE seq = 8", 8),
    ("UPDATE ledger SET at = '2027-01-01 00:00:00.000000' WHERE seq = 5", 5),
    ("UPDATE ledger SET hash = prev_hash WHERE seq = 4", 4),
    ("UPDATE ledger SET prev_hash = hash WHERE seq = 4", 4),
    ("DELETE FROM ledger WHERE seq = 1", 1),
    ("DELETE FROM ledger WHERE seq = 4", 4),
    ("DELETE FROM ledger WHERE seq = 8", 8),
    ("DELETE FROM ledger WHERE seq > 5", 6),
    ("DELETE FROM ledger", 1),
    ("INSERT INTO ledger SELECT 9, at, kind, principal, body, prev_hash, hash FROM ledger WHERE seq = 8", 9),
    ("INSERT INTO ledger SELECT 0, at, kind, principal, body, prev_hash, hash FROM ledger WHERE seq = 8", 0),
    ("UPDATE ledger SET seq = -1 WHERE seq = 3; UPDATE ledger SET seq = 3 WHERE seq = 6; UPDATE ledger SET seq = 6 WHERE seq = -1", 3),
    ("DELETE FROM ledger WHERE seq = 2; UPDATE ledger SET seq = -seq WHERE seq > 2; UPDATE ledger SET seq = -seq - 1 WHERE seq < 0", 2),
]


@pytest.mark.parametrize(("statement", "first_bad"), TAMPERINGS)
def test_tampering_with_the_database_is_found(state: State, tmp_path: Path, statement: str, first_bad: int) -> None:
    """Whatever is done to a row up to the last anchor, the first bad row is named."""
    fill(state)
    ledger.anchor(state, tmp_path / "anchors")
    run(state, statement)
    found = ledger.verify(state, tmp_path / "anchors")
    assert (found.ok, found.first_bad) == (False, first_bad)
    assert found.reason


@pytest.mark.parametrize("value", ["x'ff'", "'2026'", "x'00'", "''"])
@pytest.mark.parametrize("column", ["at", "kind", "principal", "body", "prev_hash", "hash"])
def test_bytes_that_fit_no_column_are_found(tmp_path: Path, column: str, value: str) -> None:
    """SQLite stores anything anywhere: what cannot even be read names its row instead of raising."""
    state = State(f"sqlite:///{tmp_path / 'state.db'}")
    state.migrate()
    fill(state)
    run(state, f"UPDATE ledger SET {column} = {value} WHERE seq = 3")
    assert ledger.verify(state, None).first_bad == 3


def test_the_window_that_no_anchor_covers_is_told(state: State, tmp_path: Path) -> None:
    """Rows after the last anchor are named; with an anchor on the newest row there are none."""
    assert ledger.verify(state, tmp_path).unanchored_from is None
    fill(state, 3)
    assert ledger.verify(state, tmp_path).window == "no anchor covers rows 1 to 3"
    ledger.anchor(state, tmp_path)
    assert ledger.verify(state, tmp_path).window == "every row is covered by an anchor"
    fill(state, 2)
    found = ledger.verify(state, tmp_path)
    assert (found.ok, found.unanchored_from, found.unanchored_until) == (True, 4, 5)
    run(state, "UPDATE ledger SET kind = 'x' WHERE seq = 1")
    found = ledger.verify(state, tmp_path)
    assert (found.first_bad, found.unanchored_from, found.unanchored_until) == (1, 4, 5)


def test_an_anchor_is_written_once_and_outside_the_database(state: State, tmp_path: Path) -> None:
    """The same newest row is not anchored twice; an empty ledger has none."""
    folder = tmp_path / "elsewhere"
    assert ledger.anchor(state, folder) is None
    fill(state, 2)
    assert ledger.anchor(state, folder) == ledger.anchor(state, folder)
    fill(state, 1)
    newest = ledger.anchor(state, folder)
    assert newest is not None
    lines = (folder / ledger.ANCHORS).read_text().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [2, 3]
    assert ledger.read_anchors(folder)[3] == newest[1]


def test_a_torn_anchor_is_no_anchor(state: State, tmp_path: Path) -> None:
    """A line whose writer died is passed over, and replaced by the next anchor."""
    fill(state, 2)
    ledger.anchor(state, tmp_path)
    with (tmp_path / ledger.ANCHORS).open("ab") as stream:
        stream.write(b'{"hash":"12')
    assert ledger.verify(state, tmp_path).ok
    fill(state, 1)
    ledger.anchor(state, tmp_path)
    assert sorted(ledger.read_anchors(tmp_path)) == [2, 3]


@pytest.mark.parametrize("line", ["nonsense", "[]", '{"seq":1}', '{"hash":"x","seq":"1"}', '{"hash":"x","seq":2}'])
def test_a_spoiled_file_of_anchors_is_told(state: State, tmp_path: Path, line: str) -> None:
    """A line that is no anchor, or contradicts another, is named by file and number."""
    fill(state, 2)
    ledger.anchor(state, tmp_path)
    with (tmp_path / ledger.ANCHORS).open("a") as stream:
        stream.write(line + "\n")
    found = ledger.verify(state, tmp_path)
    assert not found.ok and found.first_bad is None
    assert found.problems[0].startswith(f"{ledger.ANCHORS}:2: ")


def test_a_ledger_that_lost_an_anchored_row_is_not_anchored_again(state: State, tmp_path: Path) -> None:
    """An anchor never covers up that an earlier one no longer holds."""
    fill(state, 4)
    ledger.anchor(state, tmp_path)
    run(state, "DELETE FROM ledger WHERE seq > 2")
    fill(state, 4)
    assert ledger.verify(state, None).ok
    with pytest.raises(IntegrityError, match="row 4"):
        ledger.anchor(state, tmp_path)
    assert ledger.verify(state, tmp_path).first_bad == 4


def test_an_append_in_another_time_zone_is_the_same_instant(state: State) -> None:
    """What is stored, hashed and read is UTC."""
    from zoneinfo import ZoneInfo

    with state.transaction() as tx:
        ledger.append(tx, "decision", {}, principal="ada", at=NOW.astimezone(ZoneInfo("Asia/Tokyo")))
        ledger.append(tx, "decision", {}, principal="ada", at=datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC))
    with state.reading() as tx:
        assert ledger.rows(tx)[0].at == NOW
    assert ledger.verify(state, None).ok
