"""Opening, migrating and using the state database."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from flows.core.errors import IntegrityError, TradewindError, Unavailable, UserError
from flows.store import decisions, ledger
from flows.store.database import HEAD, State
from flows.store.models import Base, RunRow
from tests.store.conftest import NOW

ROOT = Path(__file__).resolve().parents[2]


def test_the_migrations_make_what_the_models_describe(state: State) -> None:
    """No table, column, type or index of the migrated database differs from the models."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with state.reading() as tx:
        context = MigrationContext.configure(tx.connection(), opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_head_names_the_newest_migration() -> None:
    """The revision that the code checks for is the last one on disk."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(ROOT / "flows" / "store" / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_migrating_again_changes_nothing(state: State) -> None:
    """A second migration leaves what is stored."""
    with state.transaction() as tx:
        ledger.append(tx, "decision", {}, principal="ada", at=NOW)
    state.migrate()
    with state.reading() as tx:
        assert len(ledger.rows(tx)) == 1


def test_several_processes_migrate_at_once(url: str) -> None:
    """Four processes that migrate the same empty database all succeed."""
    script = "import sys; from flows.store.database import State; State(sys.argv[1]).migrate()"
    started = [subprocess.Popen([sys.executable, "-c", script, url], cwd=ROOT, stderr=subprocess.PIPE) for _ in range(4)]
    outcomes = [(process.communicate(timeout=60)[1].decode(), process.returncode) for process in started]
    assert outcomes == [("", 0)] * 4
    with State(url).reading() as tx:
        assert ledger.rows(tx) == []


MIGRATION_KILLED = """
import os, signal, sys
import alembic.command
from sqlalchemy import Engine, event
from flows.core.errors import Unavailable
from flows.store import decisions, ledger
from flows.store.database import State

def work(moment):
    left = moment
    def count(*_):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    for name in ("before_cursor_execute", "commit"):
        event.listen(Engine, name, count)
    State(sys.argv[1]).migrate()

for moment in range(1, 500):
    if (pid := os.fork()) == 0:
        work(moment)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    try:
        with State(sys.argv[1]).reading() as tx:
            assert ledger.rows(tx) == []
        made = True
    except Unavailable:
        made = False
    assert made == (status == 0), (moment, status)
    if made:
        print(moment - 1)
        break
"""


def test_a_kill_during_migration_leaves_nothing_half_made(url: str) -> None:
    """Killed before each statement in turn, the schema is not there, and the next migration makes it."""
    ended = subprocess.run([sys.executable, "-c", MIGRATION_KILLED, url], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (ended.stderr, ended.returncode) == ("", 0)
    assert int(ended.stdout) > 20


def test_a_full_disk_is_told_and_nothing_is_stored(tmp_path: Path) -> None:
    """SQLite that may not grow any more: the write is refused as a whole."""
    state = State(f"sqlite:///{tmp_path / 'state.db'}")
    state.migrate()
    with pytest.raises(Unavailable, match="full"), state.transaction() as tx:
        ledger.append(tx, "decision", {}, principal="ada", at=NOW)
        tx.execute(text("PRAGMA max_page_count = 1"))
        decisions.put(tx, "x" * 1_000_000, at=NOW)
    state.close()
    with state.reading() as tx:
        assert ledger.rows(tx) == []


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_server_that_cuts_the_line_is_told_and_comes_back(state: State) -> None:
    """A lost connection ends its transaction; the next one opens another."""
    with pytest.raises(Unavailable, match="did not answer"), state.transaction() as tx:
        ledger.append(tx, "decision", {}, principal="ada", at=NOW)
        tx.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    with state.transaction() as tx:
        assert ledger.rows(tx) == []
        ledger.append(tx, "decision", {}, principal="ada", at=NOW)


def test_opening_a_current_database_costs_milliseconds_and_no_alembic(state: State, url: str) -> None:
    """A new State on a current schema reads within a tenth of a second and never loads alembic."""
    spans = []
    for _ in range(5):  # the quickest: other processes may hold the machine
        began = time.perf_counter()
        opened = State(url)
        with opened.reading() as tx:
            ledger.rows(tx)
        spans.append(time.perf_counter() - began)
        opened.close()
    assert min(spans) < 0.1
    script = (
        "import sys; from flows.store.database import State\nwith State(sys.argv[1]).reading(): pass\nsys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script, url], cwd=ROOT).returncode == 0


def test_a_database_that_is_not_there_is_not_made_by_reading(tmp_path: Path) -> None:
    """A missing file is told, with the command that makes it, and stays missing."""
    path = tmp_path / "state.db"
    with pytest.raises(Unavailable, match="tradewind up"), State(f"sqlite:///{path}").reading():
        pass
    assert not path.exists()


def test_a_database_without_schema_is_told(url: str) -> None:
    """An empty database is no state database yet."""
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        path.parent.mkdir()
        path.touch()
    with pytest.raises(Unavailable, match="no schema yet"), State(url).transaction():
        pass


def test_a_newer_schema_is_told(state: State, url: str) -> None:
    """A schema of the future is refused for use and for migration."""
    with state.transaction() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UserError, match="9999"), State(url).reading():
        pass
    with pytest.raises(UserError, match="does not know"):
        State(url).migrate()


@pytest.mark.parametrize("wrong", ["nonsense", "mysql://x/y", "sqlite//x"])
def test_a_wrong_url_is_told(wrong: str) -> None:
    """A URL that cannot be read or names another database is the user's to put right."""
    with pytest.raises(UserError, match="TRADEWIND_DATABASE_URL"):
        State(wrong)


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    """Bytes that are no database are named as such, by migration and by use, and are left alone."""
    path = tmp_path / "state.db"
    path.write_bytes(b"x" * 4096)
    for use in (State.migrate, lambda state: state.reading().__enter__()):
        with pytest.raises(IntegrityError, match="not a whole database"):
            use(State(f"sqlite:///{path}"))
    assert path.read_bytes() == b"x" * 4096


def test_a_server_that_is_not_there_is_told_without_its_password(tmp_path: Path) -> None:
    """What cannot be reached is named, its password is not."""
    pytest.importorskip("psycopg")
    with pytest.raises(Unavailable) as told:
        State(f"postgresql://ada:secret@/x?host={tmp_path}").migrate()
    assert "secret" not in str(told.value)


def test_a_block_that_raises_stores_nothing(state: State) -> None:
    """What a failed transaction wrote is gone."""
    with pytest.raises(ZeroDivisionError), state.transaction() as tx:
        ledger.append(tx, "decision", {}, principal="ada", at=NOW)
        raise ZeroDivisionError
    with state.reading() as tx:
        assert ledger.rows(tx) == []


def test_a_read_transaction_cannot_write(state: State) -> None:
    """The database refuses writes in `reading`, and takes them again afterwards."""
    with pytest.raises(Exception, match=r"(?i)read.?only"), state.reading() as tx:
        ledger.append(tx, "decision", {}, principal="ada", at=NOW)
    with state.transaction() as tx:
        ledger.append(tx, "decision", {}, principal="ada", at=NOW)


def test_an_instant_without_time_zone_is_refused(state: State) -> None:
    """Times are stored as UTC or not at all."""
    with pytest.raises(Exception, match="time zone"), state.transaction() as tx:
        tx.add(RunRow(id="r", workload="w", step="train", pool="p", site="s", state="running", started_at=NOW.replace(tzinfo=None)))
        tx.flush()


def test_a_locked_database_is_told_after_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that does not get its turn says so."""
    monkeypatch.setattr("flows.store.database.LOCK_WAIT_SECONDS", 0)
    state = State(f"sqlite:///{tmp_path / 'state.db'}")
    state.migrate()
    with create_engine(f"sqlite:///{tmp_path / 'state.db'}").connect() as other:
        other.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(TradewindError, match="locked"), state.transaction():
            pass


def test_sqlite_keeps_its_promises(tmp_path: Path) -> None:
    """Write-ahead log, foreign keys, a wait for locks and full syncs are on."""
    state = State(f"sqlite:///{tmp_path / 'state.db'}")
    state.migrate()
    with state.transaction() as tx:
        found = [tx.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "foreign_keys", "busy_timeout", "synchronous")]
    assert found == ["wal", 1, 30000, 2]
