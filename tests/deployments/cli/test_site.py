"""`tradewind site` over a real state database and the shipped estate."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli.site import app
from flows.adapters.settings import PROJECT_ROOT
from flows.core.errors import PolicyDenied, Unavailable, UserError
from flows.store import ledger, reservations, runs, sites
from flows.store.database import State

NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """A state database where the settings look for it, and declarations that give ada the role to close sites."""
    declared = shutil.copytree(PROJECT_ROOT / "deployments", tmp_path / "deployments", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    roles = declared / "roles.yaml"
    roles.write_text(roles.read_text().replace("principals: {}", "principals: {ada: [platform-engineer], eve: [data-scientist]}"))
    monkeypatch.setenv("TRADEWIND_DEPLOYMENTS", str(declared))
    monkeypatch.setenv("TRADEWIND_HOME", str(tmp_path))
    monkeypatch.setenv("TRADEWIND_PRINCIPAL", "ada")
    monkeypatch.delenv("TRADEWIND_DATABASE_URL", raising=False)
    made = State(f"sqlite:///{tmp_path / 'state.db'}")
    made.migrate()
    return made


def run(*arguments: str) -> str:
    """Standard output of a command that succeeds."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_a_site_is_cordoned_listed_and_opened(state: State) -> None:
    """Each command says what is and what was; the list shows since when, by whom and why."""
    assert run("cordon", "onprem-fra", "--reason", "disks") == "`onprem-fra` is cordoned; it was open\n"
    (line,) = [line for line in run("list").splitlines() if line.startswith("onprem-fra ")]
    assert line.split()[1:4] == ["cordoned", "0", "runs"]
    assert line.endswith("by ada; disks")
    assert run("cordon", "onprem-fra", "--reason", "disks") == "`onprem-fra` is cordoned\n"
    assert run("uncordon", "onprem-fra") == "`onprem-fra` is open; it was cordoned\n"
    assert {line.split()[1] for line in run("list").splitlines()} == {"open"}
    with state.reading() as tx:
        assert [row.kind for row in ledger.rows(tx)] == ["site-cordon", "site-uncordon"]


@pytest.mark.parametrize("name", ["eve", "mallory"])
def test_whoever_has_no_role_for_it_changes_nothing(state: State, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A claimed name has the roles that are declared for it, none if it is not declared."""
    monkeypatch.setenv("TRADEWIND_PRINCIPAL", name)
    with pytest.raises(PolicyDenied, match=f"`{name}` may not site `onprem-fra`: default-deny"):
        CliRunner().invoke(app, ["cordon", "onprem-fra", "--reason", "disks"], catch_exceptions=False)
    with state.reading() as tx:
        assert sites.closed(tx) == {} and ledger.rows(tx) == []


def test_draining_shows_what_is_still_there(state: State) -> None:
    """Runs with their ids, then what was placed there and has not begun, as text and as JSON."""
    soon = datetime.now(UTC) + timedelta(hours=1)
    with state.transaction() as tx:
        where = {"workload": "nafld", "step": "train", "pool": "onprem-fra-k8s", "site": "onprem-fra", "pid": 1, "at": NOW}
        runs.start(tx, id="run-7", intent_id="nafld/train/1/a", decision_id=None, **where)
        for intent in ("nafld/train/1/a", "nafld/train/1/b"):
            reservations.add(tx, "onprem-fra-k8s", {"nodes": 1}, soon, soon + timedelta(hours=1), intent)
    assert run("drain", "onprem-fra", "--reason", "disks").splitlines() == [
        "`onprem-fra` is draining; it was open",
        "still there: 1 run",
        "  train of nafld on onprem-fra-k8s since 2026-01-05T08:00:00Z: run-7",
        "placed there but not begun: 1 step, placed again when their time comes",
        "  nafld/train/1/b",
    ]
    told = json.loads(run("drain", "onprem-fra", "--reason", "disks", "--json"))
    assert (told["state"], told["by"], [each["run"] for each in told["runs"]]) == ("draining", "ada", ["run-7"])


def test_the_list_shows_pools_that_cool_down(state: State) -> None:
    """As text and as JSON."""
    until = (datetime.now(UTC) + timedelta(minutes=30)).replace(microsecond=0)
    with state.transaction() as tx:
        sites.cool(tx, "onprem-fra-k8s", "i", until=until, error="Crashed", at=NOW)
    assert "onprem-fra-k8s cools down until" in run("list")
    found = {row["site"]: row["cooling"] for row in json.loads(run("list", "--json"))}
    assert list(found["onprem-fra"]) == ["onprem-fra-k8s"]
    assert "control" not in found


def test_a_wrong_name_and_a_missing_state_are_told(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's to put right: the sites there are, and the command that makes the state."""
    with pytest.raises(UserError, match="`onprem-fra`"):
        run("cordon", "fra", "--reason", "disks")
    monkeypatch.setenv("TRADEWIND_HOME", str(tmp_path / "other"))
    with pytest.raises(Unavailable, match="tradewind up"):
        run("list")
