"""The embedded stack with real servers and workers: start, use, crash, stop; and the guard in front of every run."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from deployments.local import processes, supervisor
from deployments.local.doctor import examine
from deployments.local.lock import exclusive
from deployments.local.ports import USUAL_PORTS
from deployments.local.records import PREFECT, SERVICES, WORKERS, read_records
from deployments.local.status import status
from deployments.local.supervisor import Stack
from flows.adapters import dispatch
from flows.adapters.settings import PROJECT_ROOT, Settings
from flows.core.errors import Unavailable, UserError
from tests.integration.conftest import Run, deploy, start

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


def until(done: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until `done` returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)
    return found


def refusals(stack: Stack) -> list[dict[str, Any]]:
    """Bodies of the ledger's guard refusals, oldest first."""
    from flows.store import ledger
    from flows.store.database import State

    with State(stack.settings.state_url).reading() as tx:
        return [dict(row.body) if not isinstance(row.body, str) else json.loads(row.body) for row in ledger.rows(tx, kind="guard-refusal")]


def test_every_service_and_pool_is_ready(stack: Stack) -> None:
    """Three services answer, eleven pools have a worker, and it all fits into 1.2 GB."""
    found = status(stack.settings)
    assert found.ready
    assert len(found.pools) == 11
    assert found.memory_mb < 1200


def test_a_second_up_starts_nothing(stack: Stack) -> None:
    """`up` is idempotent: what runs stays, on the same ports."""
    again = supervisor.up(stack.settings)
    assert again.started == ()
    assert (again.prefect_url, again.mlflow_url) == (stack.prefect_url, stack.mlflow_url)


def test_a_run_knows_its_site_from_its_worker(stack: Stack, run: Run, tmp_path: Path) -> None:
    """Identity, servers and search path are the worker's; the folder is a temporary one of the site."""
    report = tmp_path / "who.json"
    assert run("whoami", "onprem-fra-k8s", {"report": str(report)}).succeeded
    body = json.loads(report.read_text())
    environment = body["environment"]
    assert (environment["TRADEWIND_SITE"], environment["TRADEWIND_POOL"]) == ("onprem-fra", "onprem-fra-k8s")
    assert environment["TRADEWIND_HOME"] == str(stack.settings.home)
    assert environment["TRADEWIND_MLFLOW_URL"] == stack.mlflow_url
    assert environment["PREFECT_API_URL"] == stack.prefect_api_url
    assert environment["PYTHONPATH"] == str(PROJECT_ROOT)
    assert Path(body["folder"]).is_relative_to(stack.settings.site_folder("onprem-fra"))
    until(lambda: not Path(body["folder"]).exists())


def test_a_failed_run_says_why(run: Run) -> None:
    """The final state carries the error's message."""
    final = run("broken", "onprem-fra-k8s")
    assert (final.type, final.succeeded) == ("FAILED", False)
    assert "this flow always fails" in final.message


@pytest.mark.parametrize(
    ("job_variables", "name"),
    [
        ({"env": {"TRADEWIND_SITE": "onprem-fra"}}, "TRADEWIND_SITE"),
        ({"env": {"tradewind_home": "/"}}, "tradewind_home"),
        ({"env": {"LD_PRELOAD": "evil.so", "GREETING": "hi"}}, "LD_PRELOAD"),
        ({"env": {"PREFECT_API_URL": "http://elsewhere"}}, "PREFECT_API_URL"),
        ({"command": "sh -c true"}, "command"),
        ({"working_dir": "/"}, "working_dir"),
    ],
)
def test_job_variables_cannot_change_who_a_run_is(
    stack: Stack, run: Run, open_pool: str, tmp_path: Path, job_variables: dict[str, Any], name: str
) -> None:
    """The run is refused before anything of it starts, names the variable, and the ledger holds the refusal."""
    report = tmp_path / "who.json"
    final = run("whoami", open_pool, {"report": str(report)}, job_variables=job_variables)
    assert final.refused
    assert f"`{name}` in the job variables of the flow run" in final.message
    assert not report.exists()
    last = refusals(stack)[-1]
    assert (last["pool"], last["site"], last["names"]) == (open_pool, "aws-eu-north-1", [name])


def test_a_deployments_job_variables_cannot_either(run: Run, open_pool: str, tmp_path: Path) -> None:
    """What a deployment brings is judged as what a run brings."""
    report = tmp_path / "who.json"
    final = run("whoami", open_pool, {"report": str(report)}, deployed={"job_variables": {"env": {"PYTHONPATH": "/evil"}}})
    assert final.refused
    assert "`PYTHONPATH` in the job variables of the deployment" in final.message
    assert not report.exists()


def test_harmless_job_variables_reach_the_run(run: Run, open_pool: str, tmp_path: Path) -> None:
    """The guard refuses what guards something, not everything."""
    report = tmp_path / "who.json"
    assert run("whoami", open_pool, {"report": str(report)}, job_variables={"env": {"GREETING": "hi"}}).succeeded
    environment = json.loads(report.read_text())["environment"]
    assert (environment["GREETING"], environment["TRADEWIND_SITE"]) == ("hi", "aws-eu-north-1")


def test_code_from_outside_the_project_is_refused(run: Run) -> None:
    """A deployment that names a file, or a module that is none of ours, does not start."""
    assert run("broken", "gcp-us-central1-vertex", deployed={"entrypoint": "/tmp/evil.py:broken"}).refused
    assert run("broken", "gcp-us-central1-vertex", deployed={"entrypoint": "json.tool"}).refused


def test_a_declared_pool_takes_no_job_variables_at_all(stack: Stack) -> None:
    """A run that tries to set its identity on a pool as declared gets nowhere: the server or the worker refuses it."""

    async def scenario() -> bool:
        deployment = await deploy("noop", "onprem-fra-k8s")
        try:
            identifier = await start(deployment, {}, {"env": {"TRADEWIND_SITE": "aws-us-east-1"}})
        except Exception as error:  # noqa: BLE001 - whatever the client makes of the server's answer
            return "env" in str(error)
        return (await dispatch.wait(identifier, timeout=60)).refused

    assert asyncio.run(scenario())


def test_only_what_control_sent_runs_where_data_is(stack: Stack) -> None:
    """A person's `tradewind run` ingests under that person; copies of its dispatch, as they are or edited, are refused and ledgered."""
    from prefect.client.orchestration import get_client

    from flows.services.identity import who
    from flows.store import decisions, ledger, principals, runs
    from flows.store.database import State

    words = ["run", "flight_delay", "--as-of", "2013-02-01", "--step", "ingest", "--urgent"]
    done = subprocess.run(
        [sys.executable, "-m", "deployments.cli.main", *words], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    with State(stack.settings.state_url).reading() as tx:
        (ran,) = [run for run in runs.recent(tx) if run.step == "ingest" and run.workload == "flight_delay"]
        assert ran.decision_id is not None
        decided = decisions.get(tx, ran.decision_id)
        assert decided is not None
        asker = decisions.document(tx, decided["inputs"]["request"])["requested_by"]
        assert principals.name_of(tx, asker["user"]) == who(stack.settings).name
        assert ledger.rows(tx, kind="dispatch")[-1].body["intent"] == ran.intent_id
        tx.expunge_all()
    before = len(refusals(stack))

    async def scenario() -> list[dispatch.FinalState]:
        async with get_client() as client:
            original = dict((await client.read_flow_run(ran.id)).parameters)
        deployment = f"ingest/{ran.pool}"
        copies = [original, {**original, "as_of": "2013-03-01T00:00:00Z"}, {**original, "ticket": None}]
        return [await dispatch.wait(await start(deployment, copy), timeout=90, poll_seconds=0.3) for copy in copies]

    replayed, edited, unsent = asyncio.run(scenario())
    assert (replayed.refused, edited.refused, unsent.refused) == (True, True, True)
    assert "the ticket is that of another run" in replayed.message
    assert "not the ones that control signed" in edited.message
    assert "has no ticket" in unsent.message
    assert [body["pool"] for body in refusals(stack)[before:]] == [ran.pool] * 3


def test_dispatch_starts_children_that_end(stack: Stack, run: Run) -> None:
    """A flow on one pool starts runs on another and learns their end."""
    asyncio.run(deploy("noop", "aws-us-east-1-ecs"))
    assert run("parent", "control", {"deployment": "noop/aws-us-east-1-ecs", "runs": 2}).succeeded


def test_the_same_key_starts_one_run(stack: Stack) -> None:
    """Dispatching twice with one idempotency key is one run."""

    async def scenario() -> tuple[str, str]:
        deployment = await deploy("noop", "aws-us-east-1-ecs")
        first, second = [await dispatch.start(deployment, {}, idempotency_key="one", tags=["test"]) for _ in range(2)]
        await dispatch.wait(first, timeout=60)
        return first, second

    first, second = asyncio.run(scenario())
    assert first == second
    assert first in dispatch.ui_url(first)


def test_dispatch_names_what_is_not_there(stack: Stack) -> None:
    """An unknown deployment or run is the user's to put right."""
    with pytest.raises(UserError, match="no deployment `noop/nowhere`"):
        asyncio.run(dispatch.start("noop/nowhere", {}, idempotency_key="x"))
    with pytest.raises(UserError, match="no flow run `nothing`"):
        asyncio.run(dispatch.state("nothing"))


def test_a_cancelled_run_ends_with_its_children(stack: Stack, tmp_path: Path) -> None:
    """Cancelling ends the run's process and what that started."""
    report = tmp_path / "pids.json"

    async def begin() -> str:
        return await start(await deploy("sleeper", "onprem-fra-k8s"), {"report": str(report)})

    identifier = asyncio.run(begin())
    until(lambda: report.exists() and report.read_text().endswith("]"))
    pids = json.loads(report.read_text())
    asyncio.run(dispatch.cancel(identifier))
    final = asyncio.run(dispatch.wait(identifier, timeout=90))
    assert final.type == "CANCELLED"
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def test_a_killed_run_is_known_as_crashed(stack: Stack, tmp_path: Path) -> None:
    """When a run's process dies, the server learns it from the worker."""
    report = tmp_path / "pids.json"

    async def begin() -> str:
        return await start(await deploy("sleeper", "onprem-fra-k8s"), {"report": str(report)})

    identifier = asyncio.run(begin())
    until(lambda: report.exists() and report.read_text().endswith("]"))
    for pid in json.loads(report.read_text()):
        os.kill(pid, signal.SIGKILL)
    assert asyncio.run(dispatch.wait(identifier, timeout=60)).type == "CRASHED"


def test_doctor_finds_nothing_wrong(stack: Stack) -> None:
    """A healthy stack has no problem, packages aside, which are the environment's."""
    problems = [finding for finding in examine(stack.settings) if not finding.ok and finding.check != "packages"]
    assert problems == []


def test_a_run_that_no_worker_takes_is_given_up(stack: Stack) -> None:
    """A pool that the server has not heard of a worker of: its run is cancelled, so that none begins it later, and told as unavailable."""
    import httpx

    pool = "nobody-here"
    httpx.post(f"{stack.prefect_api_url}/work_pools/", json={"name": pool, "type": "process"}, timeout=10).raise_for_status()

    async def given_up() -> tuple[dispatch.FinalState, dispatch.FinalState]:
        identifier = await start(await deploy("noop", pool), {})
        told = await dispatch.wait(identifier, poll_seconds=0.3, pool=pool, patience=dispatch.Patience(no_worker=2))
        return told, await dispatch.state(identifier)

    try:
        told, kept = asyncio.run(given_up())
    finally:
        # a pool without a worker is one that `status` waits for
        httpx.delete(f"{stack.prefect_api_url}/work_pools/{pool}", timeout=10).raise_for_status()
    assert (told.name, told.message) == ("Unavailable", "`nobody-here` had no worker for 2 s")
    assert kept.type == "CANCELLED"


def test_a_killed_worker_host_is_seen_and_started_again(stack: Stack, run: Run) -> None:
    """`status` and `doctor` tell of it, its runs end with it, `up` brings it back, and runs start again."""
    service = read_records(stack.settings.home).services[WORKERS]
    children = processes.tree(psutil.Process(service.pid))
    os.kill(service.pid, signal.SIGKILL)
    until(lambda: processes.find(service) is None)
    assert {one.name: one.condition for one in status(stack.settings).services}[WORKERS] == "dead"
    assert any("workers" in finding.found for finding in examine(stack.settings) if not finding.ok)
    again = supervisor.up(stack.settings)
    assert again.started == (WORKERS,)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in children)
    assert run("noop", "aws-us-east-1-ecs").succeeded


def test_a_killed_server_comes_back_to_the_same_workers(stack: Stack, run: Run) -> None:
    """`up` starts the server again on its port; the workers, which went on asking, need no restart."""
    before = read_records(stack.settings.home).services
    os.kill(before[PREFECT].pid, signal.SIGKILL)
    until(lambda: processes.find(before[PREFECT]) is None)
    again = supervisor.up(stack.settings)
    assert (again.started, again.prefect_url) == ((PREFECT,), stack.prefect_url)
    assert read_records(stack.settings.home).services[WORKERS].pid == before[WORKERS].pid
    assert run("noop", "aws-us-east-1-ecs").succeeded


def test_runs_of_a_killed_host_are_closed_by_the_next(stack: Stack, tmp_path: Path) -> None:
    """The run's process ends with its host, and the server does not show it as running for ever."""
    report = tmp_path / "pids.json"

    async def begin() -> str:
        return await start(await deploy("sleeper", "onprem-fra-k8s"), {"report": str(report)})

    identifier = asyncio.run(begin())
    until(lambda: report.exists() and report.read_text().endswith("]"))
    host = read_records(stack.settings.home).services[WORKERS]
    os.kill(host.pid, signal.SIGKILL)
    until(lambda: processes.find(host) is None)
    supervisor.up(stack.settings)
    assert asyncio.run(dispatch.wait(identifier, timeout=60)).type == "CRASHED"
    assert not any(psutil.pid_exists(pid) for pid in json.loads(report.read_text()))
    assert list((stack.settings.site_folder("onprem-fra") / "scratch").glob("*")) == []


class TestFromNothing:
    """Stacks of their own, which do not come up, or not for long."""

    @staticmethod
    def left(home: Path) -> list[psutil.Process]:
        """Every process of the home's stack."""
        return processes.strays(home.resolve(), ())

    def test_a_server_that_dies_is_told_with_the_end_of_its_log(self, tmp_path: Path) -> None:
        """A damaged database: the message holds the log's last lines, and nothing is left running."""
        (tmp_path / "prefect").mkdir()
        (tmp_path / "prefect" / "prefect.db").write_bytes(b"this is no database" * 1000)
        with pytest.raises(Unavailable, match=r"(?s)`prefect` ended while it started.*database"):
            supervisor.up(Settings(home=tmp_path), fixed=dict.fromkeys(USUAL_PORTS, 0))
        assert self.left(tmp_path) == []
        assert read_records(tmp_path).services == {}

    def test_an_interrupted_up_leaves_nothing_running(self, tmp_path: Path) -> None:
        """Ctrl-C while the servers start stops them again."""
        code = (
            "from deployments.local.supervisor import up\n"
            "from flows.adapters.settings import Settings\n"
            "up(Settings(), print, fixed={'prefect': 0, 'mlflow': 0})"
        )
        environment = {**os.environ, "TRADEWIND_HOME": str(tmp_path), "PYTHONPATH": str(PROJECT_ROOT)}
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", code],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # a shell that runs the tests in the background has told them to ignore Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert process.stdout is not None
        for line in process.stdout:
            if "starting workers" in line:
                break
        assert len(self.left(tmp_path)) >= len(SERVICES)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert self.left(tmp_path) == []

    def test_two_commands_at_once_get_one_clear_message(self, tmp_path: Path) -> None:
        """The second one names the first and starts nothing."""
        with exclusive(tmp_path, "tradewind demo"), pytest.raises(Unavailable, match=r"`tradewind demo` \(process \d+\) is at work"):
            supervisor.up(Settings(home=tmp_path))


def test_the_commands_speak_for_people_and_programs(stack: Stack) -> None:
    """`status` prints a table, `status --json` what a program reads."""
    import typer

    from deployments.cli import stack as commands

    app = typer.Typer()
    app.command()(commands.status)
    app.command()(commands.doctor)
    table = CliRunner().invoke(app, ["status"])
    assert table.exit_code == 0 and "onprem-fra-k8s" in table.output
    body = json.loads(CliRunner().invoke(app, ["status", "--json"]).output)
    assert body["ready"] and {service["name"] for service in body["services"]} == set(SERVICES)


def test_a_secret_is_kept_until_it_is_forgotten(stack: Stack) -> None:
    """What an erasure's sites fetch by name, from a thread of their own; one that is gone is None, and goes once."""
    from flows import subject_secrets

    subject_secrets.keep("erasure-test", "who")
    assert asyncio.run(asyncio.to_thread(subject_secrets.fetch, "erasure-test")) == "who"
    for _ in range(2):
        subject_secrets.forget("erasure-test")
        assert subject_secrets.fetch("erasure-test") is None
