"""Checkpoints under many processes, and under a kill at any statement, write or sync."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from flows.services import checkpointing
from flows.store import ledger
from flows.store.database import State
from tests.store.ledgers import grow, keyed, when

ROOT = Path(__file__).resolve().parents[2]

TOGETHER = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from pydantic import SecretStr
from flows.adapters.settings import Settings
from flows.services import checkpointing
from flows.store import ledger
from flows.store.database import State

state, home, key, each = State(sys.argv[1]), Path(sys.argv[2]), sys.stdin.read().strip(), int(sys.argv[3])
settings = Settings(home=home, signing_key=SecretStr(key))
with state.reading():
    pass  # a child must not go on with its parent's connection
children = []
for writer in range(8):
    if (pid := os.fork()) == 0:
        for number in range(each):
            at = datetime.now(UTC)
            with state.transaction() as tx:
                ledger.append(tx, "decision", {"writer": writer, "number": number}, principal="ada", at=at)
            checkpointing.checkpoint(state, settings, at=at)
        os._exit(0)
    children.append(pid)
sys.exit(any([os.waitpid(pid, 0)[1] for pid in children]))
"""

KILLED = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from pydantic import SecretStr
from sqlalchemy import Engine, event
from flows.adapters.settings import Settings
from flows.services import checkpointing
from flows.store import checkpoints, ledger
from flows.store.database import State

state, home, key = State(sys.argv[1]), Path(sys.argv[2]), sys.stdin.read().strip()
settings = Settings(home=home, signing_key=SecretStr(key))
at = datetime(2026, 1, 6, tzinfo=UTC)


def work(moment):
    left = moment
    def count(*_):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    for name in ("before_cursor_execute", "after_cursor_execute", "commit"):
        event.listen(Engine, name, count)
    sync, line = os.fsync, checkpoints.checkpoints.signed_line_of
    def synced(descriptor):
        count()
        sync(descriptor)
        count()
    os.fsync = synced
    if moment % 2:
        def torn(*args, **named):  # the line reaches the disk in two parts, with a kill possible between
            whole = line(*args, **named)
            if left <= 3:
                with (settings.anchors / checkpoints.ANCHORS).open("ab") as stream:
                    stream.write(whole[: len(whole) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return whole
        checkpoints.checkpoints.signed_line_of = torn
    with state.transaction() as tx:
        ledger.append(tx, "decision", {"moment": moment}, principal="ada", at=at)
    checkpointing.checkpoint(state, settings, at=at)

torn = 0
for moment in range(1, 200):
    if (pid := os.fork()) == 0:
        work(moment)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    found = checkpointing.verify(state, settings)
    assert found.ok, (moment, found)
    torn += any("no end" in note for note in found.notes)
    checkpointing.checkpoint(state, settings, at=at)
    found = checkpointing.verify(state, settings)
    assert found.ok and found.unanchored_from is None and not found.notes, (moment, found)
    if status == 0:
        print(moment - 1, torn)
        break
"""


def test_eight_processes_append_and_checkpoint_one_chain(state: State, url: str, tmp_path: Path) -> None:
    """Rows, checkpoints and signatures hold, and every row is covered in the end."""
    settings = keyed(tmp_path / "home", database_url=url)
    assert settings.signing_key is not None
    command = [sys.executable, "-c", TOGETHER, url, str(settings.home), "10"]
    key = settings.signing_key.get_secret_value()
    ended = subprocess.run(command, cwd=ROOT, input=key, capture_output=True, text=True, timeout=120)
    assert (ended.stderr, ended.returncode) == ("", 0)
    found = checkpointing.verify(state, settings)
    assert (found.ok, found.rows, found.unanchored_from, found.unsigned) == (True, 81, None, 0), found
    assert 1 <= found.signed <= 81
    with state.reading() as tx:
        assert len(ledger.rows(tx, kind="signing-key")) == 1


def test_a_kill_at_any_moment_of_a_checkpoint_harms_none(state: State, url: str, tmp_path: Path) -> None:
    """Killed at each statement, sync and half-written line in turn, what rests verifies, and the next checkpoint goes on."""
    settings = keyed(tmp_path / "home", database_url=url)
    assert settings.signing_key is not None
    grow(state, 2)
    checkpointing.checkpoint(state, settings, at=when(10))
    command = [sys.executable, "-c", KILLED, url, str(settings.home)]
    key = settings.signing_key.get_secret_value()
    ended = subprocess.run(command, cwd=ROOT, input=key, capture_output=True, text=True, timeout=240)
    assert (ended.stderr, ended.returncode) == ("", 0)
    moments, torn = map(int, ended.stdout.split())
    assert moments > 20 and torn >= 1
