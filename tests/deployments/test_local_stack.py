"""`up`, `status` and `doctor` where nothing runs: what is refused before anything is started, and what is said about it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from deployments.cli import stack as commands
from deployments.local import supervisor
from deployments.local.doctor import Finding, examine, locked_versions
from deployments.local.records import Records, Service, read_records, write_records
from deployments.local.status import status
from flows.adapters.settings import Settings
from flows.core.errors import Unavailable, UserError
from flows.store.database import State


def found(settings: Settings, check: str) -> list[Finding]:
    """The findings of one check."""
    return [finding for finding in examine(settings) if finding.check == check]


def test_the_cloud_profile_has_no_stack(tmp_path: Path) -> None:
    """Its servers are somebody else's to start."""
    with pytest.raises(UserError, match="`cloud` has no stack"):
        supervisor.up(Settings(home=tmp_path, profile="cloud"))


def test_a_home_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A file in the way is no traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="TRADEWIND_HOME"):
        supervisor.up(Settings(home=tmp_path / "file" / "home"))


def test_a_full_disk_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a need that no disk meets, the message says how much there is and how much it takes."""
    monkeypatch.setattr(supervisor, "LEAST_FREE_BYTES", 10**18)
    with pytest.raises(Unavailable, match=r"only \d+ MB are free(?s:.*)expected at least"):
        supervisor.up(Settings(home=tmp_path))
    assert not (tmp_path / "run" / "services.json").exists()


def test_a_taken_fixed_port_stops_up_before_anything_starts(tmp_path: Path) -> None:
    """Nothing is started, nothing recorded."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(Unavailable, match=f"port {port} for `prefect` is in use"):
            supervisor.up(Settings(home=tmp_path), fixed={"prefect": port})
    assert read_records(tmp_path) == Records()


def test_a_missing_estate_stops_up_before_anything_starts(tmp_path: Path) -> None:
    """The message names the folder."""
    with pytest.raises(UserError, match="estate"):
        supervisor.up(Settings(home=tmp_path / "home", deployments=tmp_path / "nothing"))
    assert read_records(tmp_path / "home") == Records()


def test_down_where_nothing_runs_does_nothing(tmp_path: Path) -> None:
    """Stopping twice is no mistake."""
    assert supervisor.down(Settings(home=tmp_path)) == ()


def test_who_needs_the_stack_is_told_that_it_does_not_run(tmp_path: Path) -> None:
    """The message names what is missing and the command that starts it."""
    with pytest.raises(Unavailable, match=r"no `prefect`, no `mlflow`, no `workers`(?s:.*)tradewind up"):
        supervisor.running(Settings(home=tmp_path))


def test_nothing_recorded_is_stopped(tmp_path: Path) -> None:
    """`status` tells stopped services from dead ones."""
    assert [service.condition for service in status(Settings(home=tmp_path)).services] == ["stopped"] * 3
    write_records(
        tmp_path,
        Records().with_service(Service("mlflow", 2**22 - 1, 1.0, "x.log", "2026-01-05T08:00:00+00:00", 5000, "http://127.0.0.1:1")),
    )
    assert [service.condition for service in status(Settings(home=tmp_path)).services] == ["stopped", "dead", "stopped"]


def test_doctor_tells_a_service_that_has_ended(tmp_path: Path) -> None:
    """The finding names its log and the command that brings it back."""
    write_records(tmp_path, Records().with_service(Service("workers", 2**22 - 1, 1.0, "/logs/workers.log", "2026-01-05T08:00:00+00:00")))
    [finding] = found(Settings(home=tmp_path), "records")
    assert not finding.ok and "`workers` is recorded as process" in finding.found
    assert "/logs/workers.log" in finding.fix and "tradewind up" in finding.fix


def test_doctor_tells_a_damaged_record(tmp_path: Path) -> None:
    """A broken file is a finding with a fix, not an error."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "services.json").write_text("{")
    [finding] = found(Settings(home=tmp_path), "records")
    assert not finding.ok and finding.fix


def test_doctor_checks_database_and_ledger(tmp_path: Path) -> None:
    """A fresh home has none, a migrated one is current, an empty file has no schema."""
    settings = Settings(home=tmp_path)
    assert "none yet" in found(settings, "database")[0].found
    (tmp_path / "state.db").write_bytes(b"")
    assert not any(finding.ok for finding in examine(settings) if finding.check == "database")
    State(settings.state_url).migrate()
    assert found(settings, "database")[0].ok
    assert found(settings, "ledger")[0].ok


def test_doctor_tells_a_fixed_port_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found before `up` stumbles over it."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setenv("TRADEWIND_PORT_MLFLOW", str(server.getsockname()[1]))
        findings = found(Settings(home=tmp_path), "ports")
    assert [finding.ok for finding in findings] == [True, False]
    assert "TRADEWIND_PORT_MLFLOW" in findings[1].fix


def test_lock_files_are_read_for_this_interpreter() -> None:
    """Versions come with their markers: what is for another system does not count."""
    text = "one==1.2 \\\n    --hash=sha256:0\n    # via x\ntwo[extra]==3 ; sys_platform == 'nowhere' \\\n    --hash=sha256:1\n"
    assert locked_versions(text) == {"one": "1.2"}


def test_doctor_command_exits_1_on_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """People see the problem and its fix, a program the exit code."""
    app = typer.Typer()
    app.command()(commands.doctor)
    monkeypatch.setenv("TRADEWIND_HOME", str(tmp_path))
    write_records(tmp_path, Records().with_service(Service("workers", 2**22 - 1, 1.0, "w.log", "2026-01-05T08:00:00+00:00")))
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 1
    assert "PROBLEM  records" in result.output and "fix: read `w.log`" in result.output


@pytest.mark.parametrize("text", ["prefect", "prefect=x", "=", "prefect=-1"])
def test_port_options_are_checked(text: str) -> None:
    """A slip gives the form that was expected."""
    with pytest.raises(UserError, match="NAME=NUMBER"):
        commands._ports([text])


def test_port_options_name_their_service() -> None:
    """A number alone is Prefect's."""
    assert commands._ports(["4201", "mlflow=5001"]) == {"prefect": 4201, "mlflow": 5001}
