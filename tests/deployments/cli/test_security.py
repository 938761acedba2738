"""`tradewind doctor --security`, and what `status` and `site list` say of a site that lost its proof."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from deployments.cli.main import app
from flows.adapters.settings import PROJECT_ROOT
from flows.core.errors import PolicyDenied, UserError
from flows.store import ledger, proofs
from flows.store.database import State


@pytest.fixture
def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Declarations that give ada the role to say how a site stands; no server is there to be searched."""
    made = shutil.copytree(PROJECT_ROOT / "deployments", tmp_path / "deployments", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    roles = made / "roles.yaml"
    roles.write_text(roles.read_text().replace("principals: {}", "principals: {ada: [platform-engineer], eve: [data-scientist]}"))
    monkeypatch.setenv("TRADEWIND_DEPLOYMENTS", str(made))
    monkeypatch.setenv("TRADEWIND_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRADEWIND_PRINCIPAL", "ada")
    for name in ("TRADEWIND_DATABASE_URL", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    State(f"sqlite:///{tmp_path / 'home' / 'state.db'}").migrate()
    return made


@pytest.fixture
def state(declared: Path, tmp_path: Path) -> State:
    return State(f"sqlite:///{tmp_path / 'home' / 'state.db'}")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def told(*arguments: str) -> Any:
    return json.loads(run(*arguments).stdout)


def test_each_check_of_each_site_is_told(declared: Path, state: State) -> None:
    """One line of outcome each, with what is expected and the fix where it is not proved; nothing demanded is missing, nothing recorded."""
    result = run("doctor", "--security")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[-1] == "all that is demanded is proved"
    outcomes = [line for line in lines if not line.startswith(" ")][:-1]
    findings = told("doctor", "--security", "--json")["findings"]
    assert len(outcomes) == len(findings) == len({(one["site"], one["check"]) for one in findings})
    assert "proved   onprem-fra: tls-in-transit (not demanded): `sqlite`: exempt: a file of this machine" in lines
    assert all(one["expected"] and one["fix"] for one in findings if one["outcome"] != "proved")
    with state.reading() as tx:
        assert proofs.all_(tx) == []


def test_a_secret_fails_until_it_is_gone_and_counts_once_recorded(declared: Path, state: State) -> None:
    """Exit 1 for what is demanded; `--record` lets it count, and `site list` and `status` say which site is not eligible."""
    (declared / "workloads" / "note.yml").write_text("password: aVeryOwnOne7\n")
    result = run("doctor", "--security")
    assert result.exit_code == 1 and "aVeryOwnOne7" not in result.stdout
    assert "FAILED   onprem-fra: secrets: deployments/workloads/note.yml:1: a value under `password`" in result.stdout
    recorded = run("doctor", "--security", "--record", "--json")
    assert recorded.exit_code == 1
    assert set(json.loads(recorded.stdout)["recorded"]["not_eligible"]["onprem-fra"]) == {"secrets"}
    (line,) = [line for line in run("site", "list").stdout.splitlines() if line.startswith("onprem-fra ")]
    assert "not eligible: secrets failed at 20" in line
    assert set(told("status", "--json")["not_eligible"]["onprem-fra"]) == {"secrets"}
    assert "not eligible: onprem-fra: secrets failed at 20" in run("status").stdout
    with state.reading() as tx:
        rows = list(ledger.rows(tx, kind="security-proof"))
    assert len(rows) == len(told("site", "list", "--json")) and "aVeryOwnOne7" not in repr([row.body for row in rows])


def test_who_may_not_close_a_site_may_not_record(declared: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anyone may look."""
    monkeypatch.setenv("TRADEWIND_PRINCIPAL", "eve")
    assert run("doctor", "--security").exit_code == 0
    result = run("doctor", "--security", "--record")
    assert isinstance(result.exception, PolicyDenied)
    with state.reading() as tx:
        assert proofs.all_(tx) == []


def test_record_alone_makes_no_sense(declared: Path) -> None:
    """It is told, rather than ignored."""
    result = run("doctor", "--record")
    assert isinstance(result.exception, UserError) and "add `--security`" in str(result.exception)
