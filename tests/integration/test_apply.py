"""Apply against a real Prefect server: idempotent, careful with other people's objects, and alive: events start runs, workers run them."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner

from deployments.apply import server
from deployments.apply.applying import apply_resources
from deployments.apply.block_values import blocks
from deployments.apply.desired import DRIFT_EVENT, LIFECYCLE, Declared, desired
from deployments.apply.model import Diff, Resource
from deployments.apply.options import ApplyOptions
from deployments.apply.signatures import flow_specs
from deployments.cli.apply import apply as command
from flows.adapters.settings import PROJECT_ROOT, Settings
from flows.core.errors import TradewindError, Unavailable
from tests.deployments.declarations import DAILY, ESTATE, NAFLD, flows

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

SAMPLES = "tests.deployments.sample_flows"
START_SECONDS = 90
EVENT_SECONDS = 40


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API of a Prefect server of this module's own."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_LOGGING_LEVEL": "WARNING"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | quiet
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-ui"]
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}/api"
        _until(lambda: _healthy(address), START_SECONDS)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _healthy(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=2).is_success
    except httpx.TransportError:
        return False


def _until(done: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.3)
    return found


def rows(url: str, kind: str, **body: Any) -> list[dict[str, Any]]:
    """What the server has of a kind."""
    found: list[dict[str, Any]] = httpx.post(f"{url}/{kind}/filter", json=body).raise_for_status().json()
    return found


def row(url: str, name: str) -> dict[str, Any]:
    """One deployment by its full name."""
    found: dict[str, Any] = httpx.get(f"{url}/deployments/name/{name}").raise_for_status().json()
    return found


QUIET = replace(ESTATE, reconcile=replace(ESTATE.reconcile, active=False), govern=replace(ESTATE.govern, active=False))
"""The small estate without the runs of an active schedule."""


def resources(declared: Declared = QUIET) -> tuple[Resource, ...]:
    """All that is declared of the small estate, with a lifecycle that a worker can run."""
    wanted = desired(declared, flows() | flow_specs([LIFECYCLE], SAMPLES))
    return (*blocks(Settings(home=Path("/nowhere")), ApplyOptions(), ("onprem-fra",)), *wanted)


def apply(url: str, wanted: tuple[Resource, ...], **options: Any) -> Diff:
    """Apply from a caller without an event loop."""
    return asyncio.run(apply_resources(url, wanted, **options))


@pytest.fixture
def applied(url: str) -> str:
    """The server, holding the small estate."""
    apply(url, resources())
    return url


def test_the_first_apply_makes_everything_and_the_second_nothing(url: str) -> None:
    """Check says what would be made and makes nothing; apply makes it; then both find nothing to do, with a few bulk reads."""
    apply(url, ())
    count = len(resources())
    assert apply(url, resources(), check=True).summary() == f"{count} to create, 0 to update, 0 to remove, 0 unchanged"
    assert rows(url, "work_pools") == []
    apply(url, resources())
    assert apply(url, resources(), check=True).summary() == f"0 to create, 0 to update, 0 to remove, {count} unchanged"
    start = time.monotonic()
    assert apply(url, resources()).in_sync
    assert time.monotonic() - start < 5


def test_a_changed_declaration_changes_one_object(applied: str) -> None:
    """A new cron line is one update, and the server has it."""
    moved = replace(QUIET, workloads=(replace(NAFLD, schedules=(replace(DAILY, cron="0 7 * * *"),)),))
    diff = apply(applied, resources(moved))
    assert [(change.action, change.name, [field.field for field in change.fields]) for change in diff.changes] == [
        ("update", "lifecycle/nafld", ["schedules", "version"])
    ]
    assert row(applied, "lifecycle/nafld")["schedules"][0]["schedule"]["cron"] == "0 7 * * *"


def test_edits_by_hand_are_put_back(applied: str) -> None:
    """A deployment's entrypoint and a pool's template are as declared after the next apply."""
    deployment = row(applied, "train/onprem-fra-k8s")
    httpx.patch(f"{applied}/deployments/{deployment['id']}", json={"entrypoint": "evil.flow"}).raise_for_status()
    template = {"job_configuration": {"env": "{{ env }}"}, "variables": {"properties": {"env": {"type": "object"}}}}
    httpx.patch(f"{applied}/work_pools/onprem-fra-k8s", json={"base_job_template": template}).raise_for_status()
    assert {change.name for change in apply(applied, resources()).changes} == {"train/onprem-fra-k8s", "onprem-fra-k8s"}
    assert row(applied, "train/onprem-fra-k8s")["entrypoint"] == "flows.train.train"
    assert apply(applied, resources(), check=True).in_sync


def test_what_an_operator_switched_stays(applied: str) -> None:
    """A schedule switched on, a deployment and a pool paused, an automation disabled: all survive an apply that changes them otherwise."""
    lifecycle = row(applied, "lifecycle/nafld")
    switch = f"{applied}/deployments/{lifecycle['id']}/schedules/{lifecycle['schedules'][0]['id']}"
    httpx.patch(switch, json={"active": True}).raise_for_status()
    httpx.patch(f"{applied}/deployments/{lifecycle['id']}", json={"paused": True}).raise_for_status()
    httpx.patch(f"{applied}/work_pools/onprem-fra-k8s", json={"is_paused": True, "concurrency_limit": 9}).raise_for_status()
    (automation,) = rows(applied, "automations")
    httpx.patch(f"{applied}/automations/{automation['id']}", json={"enabled": False}).raise_for_status()
    renamed = replace(QUIET, workloads=(replace(NAFLD, title="another title"),))
    assert {change.name for change in apply(applied, resources(renamed)).changes} == {"lifecycle/nafld", "onprem-fra-k8s"}
    after = row(applied, "lifecycle/nafld")
    assert after["paused"]
    assert after["schedules"][0]["active"]
    assert [pool["is_paused"] for pool in rows(applied, "work_pools") if pool["name"] == "onprem-fra-k8s"] == [True]
    assert not rows(applied, "automations")[0]["enabled"]
    apply(applied, ())


def test_other_peoples_objects_stay(applied: str) -> None:
    """Removing the whole estate leaves pools, deployments and automations without our marks."""
    httpx.post(f"{applied}/work_pools/", json={"name": "theirs", "type": "process"}).raise_for_status()
    flow = httpx.post(f"{applied}/flows/", json={"name": "etl"}).json()["id"]
    httpx.post(f"{applied}/deployments/", json={"name": "prod", "flow_id": flow}).raise_for_status()
    apply(applied, ())
    assert [pool["name"] for pool in rows(applied, "work_pools")] == ["theirs"]
    assert [deployment["name"] for deployment in rows(applied, "deployments")] == ["prod"]
    assert rows(applied, "automations") == []
    assert [block for block in rows(applied, "block_documents") if block["name"].startswith("tradewind-")] == []
    httpx.delete(f"{applied}/work_pools/theirs").raise_for_status()


def test_two_applies_at_once_end_as_one(url: str) -> None:
    """The second waits for the first and finds nothing left to do: no double, no error."""
    apply(url, ())

    async def both() -> list[Diff]:
        return list(await asyncio.gather(apply_resources(url, resources()), apply_resources(url, resources())))

    assert sorted(diff.in_sync for diff in asyncio.run(both())) == [False, True]
    assert len(rows(url, "automations")) == 1
    assert apply(url, resources(), check=True).in_sync


def test_a_held_lock_is_told_and_an_old_one_taken_over(url: str) -> None:
    """The message says who holds it since when; what a killed apply left behind does not stop the next."""

    async def second(stale: timedelta) -> None:
        async with server.connect(url) as api, server.lock(api), server.lock(api, wait=timedelta(0), stale=stale):
            pass

    with pytest.raises(Unavailable, match=rf"another apply is running since .* process {os.getpid()} on"):
        asyncio.run(second(timedelta(minutes=5)))
    asyncio.run(second(timedelta(0)))


def test_the_lock_of_a_killed_apply_is_taken_over_at_once(url: str) -> None:
    """Nobody waits for a process of this machine that is gone."""
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    value = {"host": socket.gethostname(), "pid": dead.pid, "since": datetime.now(UTC).isoformat()}
    httpx.post(f"{url}/variables/", json={"name": server.LOCK, "value": value}).raise_for_status()

    async def take() -> None:
        async with server.connect(url) as api, server.lock(api, wait=timedelta(0)):
            pass

    asyncio.run(take())
    assert rows(url, "variables") == []


def test_a_pool_of_another_type_stops_apply_before_it_writes(url: str) -> None:
    """Nothing is half applied when the server cannot become what is declared."""
    apply(url, ())
    httpx.post(f"{url}/work_pools/", json={"name": "control", "type": "docker"}).raise_for_status()
    with pytest.raises(TradewindError, match="exists with type `docker`"):
        apply(url, resources())
    assert [pool["name"] for pool in rows(url, "work_pools")] == ["control"]
    httpx.delete(f"{url}/work_pools/control").raise_for_status()


def test_an_unreachable_server_is_told() -> None:
    """No traceback of a network library: what, where, how to fix."""
    with pytest.raises(Unavailable, match="no Prefect server answers at `http"):
        apply("http://127.0.0.1:9/api", ())


@pytest.mark.parametrize("variables", [{"env": {"TRADEWIND_SITE": "onprem-fra"}}, {"command": "sh"}, {"working_dir": "/"}])
def test_a_run_brings_no_environment_along(applied: str, variables: dict[str, Any]) -> None:
    """The pool refuses job variables that would change who the run is or what it executes."""
    deployment = row(applied, "lifecycle/nafld")
    answer = httpx.post(f"{applied}/deployments/{deployment['id']}/create_flow_run", json={"job_variables": variables})
    assert answer.status_code == 422
    assert "Additional properties are not allowed" in answer.text


def test_a_run_with_a_wrong_parameter_is_refused(applied: str) -> None:
    """The schema of the flow's own signature guards the form and the API."""
    deployment = row(applied, "lifecycle/nafld")
    answer = httpx.post(f"{applied}/deployments/{deployment['id']}/create_flow_run", json={"parameters": {"cause": "boredom"}})
    assert answer.status_code == 409
    assert "boredom" in answer.text


def test_drift_starts_a_lifecycle_that_a_worker_runs(applied: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event's payload becomes the run's parameters, and a process worker finds the flow by its module path."""
    payload = {"as_of": "2013-07-01T00:00:00Z", "intent_id": "nafld/train/2013-07/drift"}
    _emit(applied, "tradewind.workload.other", payload)
    _emit(applied, "tradewind.workload.nafld", payload)
    (run,) = _until(lambda: rows(applied, "flow_runs"), EVENT_SECONDS)
    assert run["parameters"] == {"workload": "nafld", "cause": "drift", **payload}
    assert run["deployment_id"] == row(applied, "lifecycle/nafld")["id"]

    monkeypatch.setenv("PYTHONPATH", str(PROJECT_ROOT))
    asyncio.run(_work(applied))
    (run,) = rows(applied, "flow_runs")
    assert run["state_type"] == "COMPLETED"
    assert apply(applied, resources(), check=True).in_sync, "a worker leaves its pool as declared"


def test_drift_without_an_intent_still_starts_a_run(applied: str) -> None:
    """What the event leaves out is left out of the run, not filled with text."""
    seen = {run["id"] for run in rows(applied, "flow_runs")}
    _emit(applied, "tradewind.workload.nafld", {"as_of": "2013-07-01T00:00:00Z"})
    (run,) = _until(lambda: [run for run in rows(applied, "flow_runs") if run["id"] not in seen], EVENT_SECONDS)
    assert run["parameters"]["intent_id"] is None


def test_the_command_applies_the_real_declarations(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`apply --check` exits 1 while something would change and 0 afterwards; `--json` is for programs."""
    apply(url, ())
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setenv("TRADEWIND_HOME", str(tmp_path))
    monkeypatch.setenv("TRADEWIND_RECONCILE_ACTIVE", "false")
    monkeypatch.setenv("TRADEWIND_GOVERN_ACTIVE", "false")
    app = typer.Typer()
    app.command()(command)
    runner = CliRunner()
    assert runner.invoke(app, ["--check"]).exit_code == 1
    made = runner.invoke(app, [])
    assert made.exit_code == 0
    assert "+ deployment train/onprem-fra-k8s" in made.output
    checked = runner.invoke(app, ["--check", "--json"])
    assert checked.exit_code == 0
    assert json.loads(checked.output)["in_sync"]
    apply(url, ())


def _emit(url: str, resource: str, payload: dict[str, Any]) -> None:
    event = {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": DRIFT_EVENT,
        "resource": {"prefect.resource.id": resource},
        "payload": payload,
    }
    httpx.post(f"{url}/events", json=[event]).raise_for_status()


async def _work(url: str) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.workers.process import ProcessWorker

    with temporary_settings({PREFECT_API_URL: url}):
        await ProcessWorker(work_pool_name="control").start(run_once=True)
