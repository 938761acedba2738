"""`tradewind ledger` and `tradewind costs` over a real state database."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from deployments.cli import costs as costs_command
from deployments.cli import ledger as ledger_command
from flows.adapters import signing
from flows.core.errors import Unavailable, UserError
from flows.store import costs, ledger
from flows.store.database import State

NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """A state database with three rows and two costs, where the settings look for it."""
    monkeypatch.setenv("TRADEWIND_HOME", str(tmp_path))
    monkeypatch.delenv("TRADEWIND_DATABASE_URL", raising=False)
    made = State(f"sqlite:///{tmp_path / 'state.db'}")
    made.migrate()
    with made.transaction() as tx:
        for kind in ("decision", "transfer", "promotion"):
            ledger.append(tx, kind, {"note": kind}, principal="ada", at=NOW)
        for run, usd in (("r1", "0.5"), ("r2", "0.25")):
            numbers = {"usd_compute": usd, "usd_egress": 0, "usd_storage": 0, "seconds": 3600.0, "kg_co2": 0}
            costs.add(tx, run_id=run, decision_id=None, workload="w", step="train", pool="p", site="s", kind="decided", at=NOW, **numbers)
    return made


def run(app: object, *arguments: str) -> tuple[int, str]:
    """Exit code and standard output of a command."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)  # type: ignore[arg-type]
    return result.exit_code, result.stdout


def test_a_whole_ledger_holds_and_its_window_is_told(state: State) -> None:
    """Exit 0, the number of rows, and what no anchor covers, before and after an anchor."""
    assert run(ledger_command.app, "verify") == (0, "3 rows hold; no anchor covers rows 1 to 3\nno checkpoint is signed yet\n")
    assert run(ledger_command.app, "anchor")[1].startswith("row 3 is anchored")
    code, out = run(ledger_command.app, "verify")
    first, note, last = out.splitlines()
    assert (code, first, last) == (0, "3 rows hold; every row is covered by an anchor", "no checkpoint is signed yet")
    assert note.startswith("note: 1 anchors carry no signature")


def test_a_bad_row_is_named_with_exit_5(state: State) -> None:
    """In text and as JSON."""
    with state.transaction() as tx:
        tx.execute(text("UPDATE ledger SET kind = 'x' WHERE seq = 2"))
    code, out = run(ledger_command.app, "verify")
    assert (code, out.splitlines()[0]) == (5, "row 2 is bad: its content does not have the hash that was recorded with it")
    code, out = run(ledger_command.app, "verify", "--json")
    assert (code, json.loads(out)["first_bad"], json.loads(out)["ok"]) == (5, 2, False)


def test_signed_checkpoints_are_told_and_keys_can_be_pinned(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number and age; an auditor's own key from a file; another key is exit 5; a file without a key is a user's mistake."""
    key = signing.new_key()
    signing.enroll(tmp_path / "anchors", signing.signer(key).public_key, at=NOW)
    monkeypatch.setenv(signing.VARIABLE, key)
    assert run(ledger_command.app, "anchor") == (0, f"row 4 is anchored in `{tmp_path / 'anchors'}`\n")
    monkeypatch.delenv(signing.VARIABLE)
    code, out = run(ledger_command.app, "verify")
    assert code == 0 and out.startswith("4 rows hold; every row is covered by an anchor\n1 signed checkpoints, the last ")
    own, other, none = tmp_path / "own", tmp_path / "other", tmp_path / "none"
    own.write_text(signing.signer(key).public_key + "\n")
    other.write_text(signing.signer(signing.new_key()).public_key)
    none.write_text("nonsense\n")
    assert run(ledger_command.app, "verify", "--key", str(own))[0] == 0
    assert run(ledger_command.app, "verify", "--key", str(tmp_path / "anchors" / signing.KEYS))[0] == 0
    code, out = run(ledger_command.app, "verify", "--key", str(other))
    assert code == 5 and "ledger-anchors.jsonl:1: it is signed with key" in out
    with pytest.raises(UserError, match="none:1: this line is no public key"):
        run(ledger_command.app, "verify", "--key", str(none))


def test_an_export_is_written_and_verifies(state: State, tmp_path: Path) -> None:
    """The command names the rows and how to verify them."""
    code, out = run(ledger_command.app, "export", "--out", str(tmp_path / "out"))
    assert code == 0 and out.startswith("3 rows (1 to 3) are in ")
    verified = subprocess.run([sys.executable, "-I", tmp_path / "out" / "verify_ledger.py"], capture_output=True, text=True, timeout=60)
    assert (verified.returncode, verified.stdout.splitlines()[0]) == (0, "3 rows hold, from the first one on")


def test_rows_are_shown_with_names(state: State) -> None:
    """The newest last; by kind; as JSON with the opaque id beside the name."""
    _, out = run(ledger_command.app, "show")
    assert [line.split()[2:4] for line in out.splitlines()] == [["decision", "ada"], ["transfer", "ada"], ["promotion", "ada"]]
    _, out = run(ledger_command.app, "show", "--kind", "transfer", "--json")
    (row,) = json.loads(out)
    assert (row["seq"], row["body"], row["name"]) == (2, {"note": "transfer"}, "ada")
    assert row["principal"] != "ada"
    assert run(ledger_command.app, "show", "--since", "2027-01-01") == (0, "no such rows\n")


def test_costs_are_shown_by_pool_and_workload(state: State) -> None:
    """A table for people, a list for programs."""
    code, out = run(costs_command.app, "show")
    assert (code, out.splitlines()[1].split()) == (
        0,
        ["p", "2", "2.000", "0.750000", "0.000000", "0.000000", "0.750000", "0.750000", "0.000000"],
    )
    (line,) = json.loads(run(costs_command.app, "show", "--by", "workload", "--json")[1])
    assert (line["workload"], line["runs"], line["usd_total"]) == ("w", 2, 0.75)


def test_costs_are_exported_as_csv(state: State, tmp_path: Path) -> None:
    """A row a run to standard output, or a row a pool to a file."""
    rows = list(csv.DictReader(io.StringIO(run(costs_command.app, "export")[1])))
    assert [(row["run_id"], row["usd_total"], row["at"]) for row in rows] == [
        ("r1", "0.500000", "2026-01-05T08:00:00Z"),
        ("r2", "0.250000", "2026-01-05T08:00:00Z"),
    ]
    assert run(costs_command.app, "export", "--by", "pool", "--out", str(tmp_path / "costs.csv")) == (0, "")
    with (tmp_path / "costs.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert (row["pool"], row["usd_total"]) == ("p", "0.750000")


def test_wrong_options_are_told(state: State, tmp_path: Path) -> None:
    """A time that is none and a file that cannot be written are the user's to put right."""
    with pytest.raises(UserError, match="--since"):
        run(costs_command.app, "show", "--since", "yesterday")
    with pytest.raises(UserError, match="cannot be written"):
        run(costs_command.app, "export", "--out", str(tmp_path / "no" / "costs.csv"))
    assert run(ledger_command.app, "show", "--limit", "9" * 20)[0] == 2


def test_a_missing_state_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No database: the command that makes it is named, and no file appears."""
    monkeypatch.setenv("TRADEWIND_HOME", str(tmp_path))
    monkeypatch.delenv("TRADEWIND_DATABASE_URL", raising=False)
    with pytest.raises(Unavailable, match="tradewind up"):
        run(ledger_command.app, "verify")
    assert list(tmp_path.iterdir()) == []
