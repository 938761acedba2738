"""`tradewind sweep`: who may, what it prints, how it ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import Result
from typer.testing import CliRunner

from deployments.cli.main import app
from flows.adapters.clouds import Job
from flows.adapters.pool_runs import PoolRun
from flows.adapters.settings import PROJECT_ROOT
from flows.core.errors import PolicyDenied, Unavailable, UserError
from flows.services.identity import Identity
from flows.store.database import State

OLD = datetime.now(UTC) - timedelta(hours=1)
POOL = "aws-eu-central-1-ecs"
RUN = "11111111-1111-4111-8111-111111111111"


class Server:
    """One run that is over."""

    async def pool_id(self, pool: str) -> str | None:
        return "own"

    async def unfinished(self, pool: str) -> list[PoolRun]:
        return []

    async def find(self, ids: Sequence[str]) -> dict[str, PoolRun]:
        return {RUN: PoolRun(RUN, "CRASHED", OLD, "task")}

    async def heard(self, run_id: str) -> datetime | None:
        return None

    async def crash(self, run_id: str, message: str) -> bool:
        raise AssertionError("no run was lost")


class Cloud:
    """Its job, which still runs."""

    ended: ClassVar[list[str]] = []

    def list(self) -> list[Job]:
        return [Job("task", RUN, "own", OLD)]

    def end(self, job: Job) -> None:
        self.ended.append(job.id)


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cloud profile, ada who may, eve who may not, a cloud with one orphan and Google that does not answer."""
    declared = shutil.copytree(PROJECT_ROOT / "deployments", tmp_path / "deployments", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    roles = declared / "roles.yaml"
    roles.write_text(roles.read_text().replace("principals: {}", "principals: {ada: [platform-engineer], eve: [data-scientist]}"))
    settings = {
        "DEPLOYMENTS": declared,
        "HOME": tmp_path,
        "PRINCIPAL": "ada",
        "PROFILE": "cloud",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'state.db'}",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"TRADEWIND_{name}", str(value))
    State(f"sqlite:///{tmp_path / 'state.db'}").migrate()

    def jobs(pool: object, site: object) -> Cloud:
        if getattr(pool, "name", "") != POOL:
            raise Unavailable("no answer")
        return Cloud()

    Cloud.ended = []
    monkeypatch.setattr("flows.adapters.pool_runs.PoolRuns", Server)
    monkeypatch.setattr("flows.services.sweeping.jobs_of", jobs)
    known_as(monkeypatch, "platform-engineer")


def known_as(monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    """Whoever runs the command has authenticated with this role."""
    monkeypatch.setattr("flows.services.identity.who", lambda _: Identity("ada", (role,), "oidc"))


def sweep(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["sweep", *arguments])


def test_an_orphan_is_ended_and_a_silent_cloud_is_named() -> None:
    """Exit 6, since not every pool could be looked at; what could be was swept all the same."""
    result = sweep()
    assert result.exit_code == 6 and Cloud.ended == ["task"]
    assert f"job task of {POOL} (run {RUN}) ended: its run is over" in result.stdout
    assert "not looked at: onprem-fra-k8s: no answer" in result.stdout


def test_a_dry_run_of_one_pool_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody who can reach the state may look."""
    known_as(monkeypatch, "viewer")
    result = sweep("--dry-run", "--pool", POOL, "--json")
    assert result.exit_code == 0 and Cloud.ended == []
    told = json.loads(result.stdout)
    assert (told["dry_run"], [row["job"] for row in told["jobs"]], told["unlooked"]) == (True, ["task"], {})


def test_whoever_may_not_close_a_site_may_not_end_its_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same right as `tradewind site`."""
    known_as(monkeypatch, "data-scientist")
    assert isinstance(sweep().exception, PolicyDenied) and Cloud.ended == []


@pytest.mark.parametrize(
    ("name", "value", "arguments"), [("TRADEWIND_PROFILE", "embedded", ()), ("TRADEWIND_PROFILE", "cloud", ("--pool", "control"))]
)
def test_a_pool_without_jobs_is_the_users_mistake(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, arguments: tuple[str, ...]
) -> None:
    """Processes of a host are no jobs in a cloud."""
    monkeypatch.setenv(name, value)
    assert isinstance(sweep(*arguments).exception, UserError)
