"""Failures of ECS, Cloud Run and Vertex AI with Prefect's unmodified workers, and lifecycles that lose their places and their own worker.

ECS: moto's server and an agent that runs the tasks as local processes. Cloud Run and Vertex AI: a pretended server, Google's real clients.
Errors of the clouds' APIs are ordered from those emulators, in the clouds' published words.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretStr
from ruamel.yaml import YAML

from flows.adapters import dispatch
from flows.adapters.clouds import Job
from flows.adapters.dispatch import FinalState, Patience
from flows.adapters.pool_runs import PoolRun, PoolRuns
from flows.adapters.settings import CONTROL, Settings
from flows.core.failures import Failure, classify
from flows.prefect_dispatcher import PrefectDispatcher
from flows.services import lifecycle, requesting, sweeping
from flows.services.declarations import Declarations
from flows.store import decisions, ledger, outbox, runs, sites
from flows.store.database import State
from tests.clouds.cloud_stack import FINAL, IMAGE, CloudStack, cloud_stack, wait
from tests.emulators import kube

for name in ("prefect_aws", "prefect_gcp", "prefect_kubernetes", "moto"):
    pytest.importorskip(name, reason="Prefect's workers for the clouds are not installed: `make setup-clouds`")

pytestmark = [pytest.mark.clouds, pytest.mark.timeout(900)]

ECS, RUN, VERTEX = "aws-us-east-1-ecs", "gcp-europe-west6-cloudrun", "gcp-europe-west4-vertex"
PROBED = (ECS, RUN, VERTEX)
REGION = "us-east-1"
ABSENT = f"sha256:{'1' * 64}"
PATIENCE = Patience(no_worker=120, start=240, image=30, silent=None, ending=10, look=1)
SECONDS = 400.0

Ending = tuple[FinalState, Failure]


@dataclass
class Endings:
    """How each probe ended, told once all of its pool's turn is over."""

    stack: CloudStack
    told: dict[tuple[str, str], Future[Ending]] = field(default_factory=dict)

    def of(self, pool: str, case: str) -> Ending:
        """The final state as the dispatcher returns it, and what it is read as."""
        return self.told[pool, case].result(SECONDS)


@pytest.fixture(scope="module")
def endings(lifecycles: Lifecycles) -> Iterator[Endings]:
    """All probes are begun at once, beside the lifecycles; errors that are ordered wait until none else is under way in the cloud."""
    stack = lifecycles.stack
    assert stack.aws is not None
    assert stack.gcp is not None
    with ThreadPoolExecutor(20) as threads, ThreadPoolExecutor(1) as amazon, ThreadPoolExecutor(1) as google:
        found = Endings(stack)
        stack.aws.agent.images = {IMAGE}
        stack.gcp.registry({IMAGE})
        probes = {pool: _Probe(stack, pool, stack.deploy_probe(pool)) for pool in PROBED}
        for pool, probe in probes.items():
            for case in ("crash", "memory", "step_memory", "image", "deleted"):
                found.told[pool, case] = threads.submit(getattr(probe, case))
        for turn, pools in ((amazon, (ECS,)), (google, (RUN, VERTEX))):
            turn.submit(futures.wait, [one for (pool, _), one in found.told.items() if pool in pools], SECONDS)
            for case in ("quota", "credentials", "silence"):
                found.told |= {(pool, case): turn.submit(getattr(probes[pool], case)) for pool in pools}
        yield found


FLIGHTS, CLINIC, DAY = "flight_delay", "nafld", "2013-03-15"
CLUSTER, CENTRAL, NORTH, HOME = "onprem-fra-k8s", "aws-eu-central-1-ecs", "aws-eu-north-1-ecs", "gcp-us-central1-cloudrun"
COOL_MINUTES = 300
COOL = {"TRADEWIND_COOL_DOWN_MINUTES": str(COOL_MINUTES)}
SILENT = 60.0


def steer(deployments: Path) -> None:
    """Let steps go where their places can fail: the pools that live come last, and no pool has cooled down within a step's window."""
    yaml = YAML()
    for workload, pools in ((FLIGHTS, [HOME, NORTH, CENTRAL]), (CLINIC, [CLUSTER, CENTRAL, HOME])):
        path = deployments / "workloads" / f"{workload}.yaml"
        body = yaml.load(path.read_text())
        body["defaults"]["window_hours"] = 3
        for step in ("ingest", "materialize", "train"):
            body["steps"][step] = {**body["steps"][step], "restrict": {"pools": pools}}
        with path.open("w") as file:
            yaml.dump(body, file)
    path = deployments / "estate" / "pools.yaml"
    rows = yaml.load(path.read_text())
    next(row for row in rows if row["name"] == CENTRAL)["startup_minutes"] = 20
    with path.open("w") as file:
        yaml.dump(rows, file)


@dataclass
class Lifecycles:
    """The stack, and the lifecycles that lose their places."""

    stack: CloudStack
    state: State
    flights: Future[Any] | None = None
    clinic: Future[Any] | None = None
    silent: str = ""
    """The run that was killed together with its worker."""

    def rows(self, kind: str, workload: str) -> list[Any]:
        """What the ledger holds of this kind, in its order."""
        with self.state.reading() as tx:
            return [row.body for row in ledger.rows(tx, kind=kind) if row.body["workload"] == workload]

    def runs(self, workload: str) -> list[tuple[str, str, str]]:
        """Step, pool and state of each run, in their order."""
        with self.state.reading() as tx:
            return [(row.step, row.pool, row.state) for row in reversed(runs.recent(tx, workload=workload, limit=100))]

    def intent(self, id: str) -> tuple[str, str]:
        """Its state, and why it failed or was refused."""
        with self.state.reading() as tx:
            row = outbox.get(tx, id)
            return ("absent", "") if row is None else (row.state, row.error or "")


@pytest.fixture(scope="module")
def lifecycles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lifecycles]:
    """Workers of two pools find nothing where their cloud's API should be; a third is killed; and so is control's, in mid-loop."""
    folder = tmp_path_factory.mktemp("failures")
    (port,) = kube.ports(1)
    nowhere = folder / "kubeconfig"
    nowhere.write_text(json.dumps(kubeconfig(f"http://127.0.0.1:{port}")))
    with ExitStack() as stack, ThreadPoolExecutor(4) as threads:
        made = stack.enter_context(cloud_stack(folder / "stack", pools=(CENTRAL, ECS, RUN, VERTEX), edit=steer, sites=True))
        state = State(made.database)
        stack.callback(state.close)
        gone = {CLUSTER: {"KUBECONFIG": str(nowhere)}, HOME: {"https_proxy": f"http://127.0.0.1:{port}"}, NORTH: {}, CONTROL: COOL}
        paths = {pool: stack.enter_context(made.worker(pool, ready=False, **more)) for pool, more in gone.items()}
        for pool, path in paths.items():
            made.online(pool, path)
        found = Lifecycles(made, state)
        killed = threads.submit(kill_while_running, found, paths[NORTH])
        found.flights = threads.submit(lose_places, found, killed)
        found.clinic = threads.submit(lose_control, found, paths[CONTROL], stack)
        yield found


def kubeconfig(url: str) -> dict[str, Any]:
    """Of a cluster at that address."""
    named: dict[str, Any] = {"clusters": [{"name": "c", "cluster": {"server": url}}], "users": [{"name": "u", "user": {"token": "t"}}]}
    context = {"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "tradewind"}}
    return {"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [context], **named}


def lose_places(found: Lifecycles, killed: Future[None]) -> Any:
    """An ingest, dispatched from this process: a place's API is gone, and a run and its worker die together."""
    stack = found.stack
    flow = stack.post("/flows/", {"name": "owner"})["id"]
    owner = stack.post("/flow_runs/", {"flow_id": flow, "state": {"type": "RUNNING"}})["id"]
    order = lifecycle.LifecycleOrder(
        FLIGHTS, datetime.fromisoformat(f"{DAY}T00:00:00+00:00"), "manual", owner, requesting.UI, urgent=True, steps=("ingest",),
        tag="failures", roles=Declarations.load(stack.settings).roles.service(requesting.UI).roles,
    )  # fmt: skip
    settings = stack.settings.model_copy(
        update={
            "signing_key": SecretStr(stack.key), "image": IMAGE, "silent_seconds": SILENT, "cool_down_minutes": COOL_MINUTES,
            "sites": Settings(sites=json.loads(stack.more["TRADEWIND_SITES"])).sites,
        }
    )  # fmt: skip
    with serving(stack):
        report = asyncio.run(lifecycle.run(order, settings=settings, dispatcher=PrefectDispatcher(settings)))
    killed.result(1)
    return report


def running_at(stack: CloudStack, pool: str, workload: str) -> str | None:
    """The run of a workload that runs in a pool, if there is one."""
    wanted = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}, "work_pools": {"name": {"any_": [pool]}}}
    return next((run["id"] for run in stack.post("/flow_runs/filter", wanted) if run["parameters"].get("workload") == workload), None)


def kill_while_running(found: Lifecycles, worker: Path) -> None:
    """SIGKILL for the container and its worker, once the run has said that it is alive."""
    stack = found.stack
    assert stack.aws is not None
    run, heard = None, 0
    deadline = time.monotonic() + SECONDS
    while not heard:
        assert time.monotonic() < deadline
        if found.flights is not None and found.flights.done():
            return  # its own error says why
        time.sleep(0.2)
        run = run or running_at(stack, NORTH, FLIGHTS)
        if run is not None:
            only = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run}"]}}
            heard = stack.post("/events/filter", {"filter": only})["total"]
    stack.workers[worker].kill()
    for task in list(stack.aws.agent.tasks.values()):
        if task.region == "eu-north-1" and task.container is not None:
            task.container.kill()
    found.silent = str(run)


def lose_control(found: Lifecycles, worker: Path, workers: ExitStack) -> None:
    """Control's worker and its lifecycle die while a step runs elsewhere; a new one and the reconciler take over."""
    stack = found.stack
    (deployment,) = stack.post("/deployments/filter", {"deployments": {"name": {"any_": [CLINIC]}}})
    asked = {"workload": CLINIC, "as_of": f"{DAY}T00:00:00Z", "urgent": True, "steps": ["ingest", "materialize"]}
    first = stack.post(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": asked, "state": {"type": "SCHEDULED"}})["id"]
    own = f"{CLINIC}/lifecycle/{DAY}/manual-again-{first}"
    wait(lambda: running_at(stack, CENTRAL, CLINIC) is not None or over(stack, first), SECONDS, lambda: stack.said(first))
    assert not over(stack, first), stack.said(first)
    host = psutil.Process(stack.workers[worker].pid)
    for process in (host, *host.children(recursive=True)):
        process.kill()
    workers.enter_context(stack.worker(CONTROL, **COOL))
    wait(lambda: over(stack, first), 90, lambda: str(stack.state(first)))  # the new host closes what the old one left
    assert stack.state(first)["type"] == "CRASHED"
    (reconcile,) = stack.post(
        "/deployments/filter", {"deployments": {"name": {"any_": [CONTROL]}}, "flows": {"name": {"any_": ["reconcile"]}}}
    )
    deadline = time.monotonic() + SECONDS
    while found.intent(own)[0] not in ("done", "refused", "failed"):
        assert time.monotonic() < deadline, found.intent(own)
        again = stack.post(f"/deployments/{reconcile['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})["id"]
        assert stack.ended(again)["type"] == "COMPLETED"
        time.sleep(5)


def over(stack: CloudStack, run: str) -> bool:
    """Whether the run is at its end."""
    return stack.state(run)["type"] in FINAL


@dataclass
class _Probe:
    """Ends runs of one pool in each way."""

    stack: CloudStack
    pool: str
    deployment: str

    def crash(self) -> Ending:
        return self.outcome(self.start("abruptly"))

    def memory(self) -> Ending:
        return self.outcome(self.start("greedily"))

    def step_memory(self) -> Ending:
        return self.outcome(self.start("hungrily"))

    def image(self) -> Ending:
        return self.outcome(self.start("well", image=ABSENT))

    def deleted(self) -> Ending:
        """Somebody ends it in the cloud's console."""
        aws, gcp, run = self.stack.aws, self.stack.gcp, self.start("slowly")
        assert aws is not None
        assert gcp is not None
        self.running(run)
        pid = self.stack.get(f"/flow_runs/{run}")["infrastructure_pid"]
        if self.pool == ECS:
            cluster, _, task = pid.partition("::")
            aws.client("ecs", REGION).stop_task(cluster=cluster, task=task, reason="ended in the console")
        elif self.pool == RUN:
            (job,) = [name for name in gcp.seen()["jobs"] if name.endswith(f"/{pid}")]
            gcp.vanish(job)
        else:
            gcp.vanish(pid)
            self.lost(run)
            self.sweep(run)
        return self.outcome(run)

    def quota(self) -> Ending:
        """In the words of each cloud, as often as its worker asks."""
        if self.pool == ECS:
            text = "You've reached the limit on the number of vCPUs you can run concurrently"
            with self.refusing("RunTask", "LimitExceededException", text):
                return self.outcome(self.start("well"))
        if self.pool == RUN:
            with self.refusing("jobs.create", "RESOURCE_EXHAUSTED", "Quota exceeded for total allowable CPU per project per region."):
                return self.outcome(self.start("well"))
        text = "The following quotas are exceeded: CustomModelTrainingCPUsPerProjectPerRegion"
        with self.refusing("CreateCustomJob", "RESOURCE_EXHAUSTED", text):
            return self.outcome(self.start("well"))

    def credentials(self) -> Ending:
        """Those of the worker have expired."""
        if self.pool == ECS:
            with self.refusing("RunTask", "ExpiredTokenException", "The security token included in the request is expired"):
                return self.outcome(self.start("well"))
        if self.pool == RUN:
            with self.refusing("token", "invalid_grant", "Token has been expired or revoked.", status=400):
                return self.outcome(self.start("well"))
        # its client signs its own tokens
        with self.refusing("CreateCustomJob", "UNAUTHENTICATED", "Request had invalid authentication credentials."):
            return self.outcome(self.start("well"))

    def silence(self) -> Ending:
        """The API does not answer for a while, and the container dies meanwhile."""
        aws, gcp, run = self.stack.aws, self.stack.gcp, self.start("at last")
        assert aws is not None
        assert gcp is not None
        self.running(run)
        if self.pool == ECS:
            aws.fail("ReceiveMessage", "ServiceUnavailable", status=503, times=8, region=REGION)
        elif self.pool == RUN:
            gcp.fail("executions.get", "UNAVAILABLE", "The service is currently unavailable.", status=503, times=2)
        else:
            gcp.fail("GetCustomJob", "UNAVAILABLE", "The service is currently unavailable.", times=3)
            self.lost(run)
            wait(lambda: not gcp.seen()["running"], 60, lambda: str(gcp.seen()["running"]))
            assert self.stack.state(run)["type"] == "RUNNING"
            self.sweep(run)
        return self.outcome(run)

    def lost(self, run: str) -> None:
        """Wait until its worker has lost it, and says so; its state stays as it is."""
        wait(lambda: "Lost connection" in self.stack.said(run), 90, lambda: self.stack.said(run))
        assert self.stack.state(run)["type"] == "RUNNING"

    @contextmanager
    def refusing(self, operation: str, code: str, message: str, *, status: int = 429) -> Iterator[None]:
        """The cloud's API answers with an error."""
        aws, gcp = self.stack.aws, self.stack.gcp
        assert aws is not None
        assert gcp is not None
        if self.pool == ECS:
            aws.fail(operation, code, message, times=1000, region=REGION)
        else:
            gcp.fail(operation, code, message, status=status, times=1000)
        try:
            yield
        finally:
            aws.faults.clear() if self.pool == ECS else gcp.heal()

    def start(self, how: str, **more: str) -> str:
        """A run of the probe."""
        return self.stack.start(self.deployment, self.pool, how=how, **more)

    def running(self, run: str) -> None:
        """Wait until its own code runs."""
        wait(lambda: self.stack.state(run)["type"] == "RUNNING", 120, lambda: f"{self.stack.state(run)}\n{self.stack.said(run)}")

    def outcome(self, run: str) -> Ending:
        """How the dispatcher sees its end."""
        with serving(self.stack):
            final = asyncio.run(dispatch.wait(run, pool=self.pool, patience=PATIENCE, timeout=SECONDS, poll_seconds=0.5))
        return final, classify(final.name, final.message, final.evidence)

    def sweep(self, run: str) -> None:
        """A round of the sweeper, with no grace, ends this run; the pretended Vertex AI has no REST, so its jobs are asked for directly."""
        state = State(self.stack.database)
        settings = self.stack.settings.model_copy(update={"sweep_grace_minutes": 0})
        with serving(self.stack):
            round_ = sweeping.sweep(
                state, settings, Only(run), at=datetime.now(UTC), pools=(self.pool,), open_jobs=lambda *_: Seen(self.stack, run)
            )
            swept = asyncio.run(round_)
        state.close()
        assert [row.run for row in swept.runs] == [run]


class Only(PoolRuns):
    """The server, as if it had one run in the pool: others are about to end by themselves."""

    def __init__(self, run: str) -> None:
        self.run = run

    async def unfinished(self, pool: str) -> list[PoolRun]:
        """That one."""
        return [one for one in await super().unfinished(pool) if one.id == self.run]


@dataclass(frozen=True)
class Seen:
    """A run's custom jobs on the pretended Vertex AI; without a grace, those of the other cases would be ended too."""

    stack: CloudStack
    run: str

    def list(self) -> list[Job]:
        assert self.stack.gcp is not None
        live = ("JOB_STATE_PENDING", "JOB_STATE_RUNNING")
        labels = {name: job["labels"] for name, job in self.stack.gcp.seen()["custom"].items() if job["state"] in live}
        jobs = [Job(name, each["prefect-io_flow-run-id"], each["prefect-io_work-pool-id"], None) for name, each in labels.items()]
        return [job for job in jobs if job.run == self.run]

    def end(self, job: Job) -> None:
        raise AssertionError(job)


@contextmanager
def serving(stack: CloudStack) -> Iterator[None]:
    """This thread speaks to the stack's server, as control does."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: stack.api}):
        yield


@pytest.mark.parametrize("pool", PROBED)
def test_a_crash(endings: Endings, pool: str) -> None:
    """The container ends with a status that says nothing."""
    final, failure = endings.of(pool, "crash")
    assert (final.type, failure.kind, failure.at_fault) == ("CRASHED", "crash", True), final


@pytest.mark.parametrize("pool", PROBED)
@pytest.mark.parametrize("case", ["memory", "step_memory"])
def test_out_of_memory(endings: Endings, pool: str, case: str) -> None:
    """The kernel kills the container, of which the cloud tells, or only the step in it: a larger offer is wanted, the pool not blamed."""
    final, failure = endings.of(pool, case)
    assert (final.type, failure.kind, failure.at_fault) == ("CRASHED", "memory", False), final
    assert "memory_gib" in failure.fix


@pytest.mark.parametrize("pool", PROBED)
def test_an_image_that_is_missing(endings: Endings, pool: str) -> None:
    """The message names it."""
    final, failure = endings.of(pool, "image")
    assert (final.type, failure.kind) == ("CRASHED", "image"), final
    assert "push the image" in failure.fix
    assert ABSENT in failure.what


@pytest.mark.parametrize("pool", PROBED)
def test_a_job_that_is_deleted_under_its_run(endings: Endings, pool: str) -> None:
    """Cloud Run's worker sees that it is gone. Vertex AI's sees nothing more: the sweeper ends the run. ECS tells of a task that ended."""
    final, failure = endings.of(pool, "deleted")
    assert (final.type, failure.kind) == ("CRASHED", "crash" if pool == ECS else "deleted"), final


@pytest.mark.parametrize("pool", PROBED)
def test_a_quota_that_is_used_up(endings: Endings, pool: str) -> None:
    """At the submission; the message has the cloud's words."""
    final, failure = endings.of(pool, "quota")
    assert (final.type, failure.kind) == ("CRASHED", "quota"), final
    assert {ECS: "number of vCPUs", RUN: "total allowable CPU", VERTEX: "CustomModelTrainingCPUsPerProjectPerRegion"}[pool] in failure.what


@pytest.mark.parametrize("pool", PROBED)
def test_credentials_that_have_expired(endings: Endings, pool: str) -> None:
    """Those of the worker; they are not taken for a cloud that is away, which would close the whole site."""
    final, failure = endings.of(pool, "credentials")
    assert (final.type, failure.kind, failure.whole_site) == ("CRASHED", "credentials", False), final
    assert "renew the credentials" in failure.fix


@pytest.mark.parametrize("pool", PROBED)
def test_an_api_that_is_silent_for_a_while(endings: Endings, pool: str) -> None:
    """The end is told once the API answers again, and is not taken for the API's. Vertex AI's worker gives up: the sweeper ends the run."""
    final, failure = endings.of(pool, "silence")
    assert (final.type, failure.kind) == ("CRASHED", "deleted" if pool == VERTEX else "crash"), final


def test_a_step_goes_on_where_policy_allows_once_its_places_have_failed(lifecycles: Lifecycles) -> None:
    """Google's API is gone, then a run falls silent: each is recorded, closes all pools of its site, and the third place does it."""
    assert lifecycles.flights is not None
    assert lifecycles.flights.result(SECONDS).state == "done"
    done = lifecycles.runs(FLIGHTS)
    assert [(pool, state) for step, pool, state in done] == [(HOME, "unreachable"), (NORTH, "unreachable"), (CENTRAL, "completed")]
    failures = lifecycles.rows("place-failure", FLIGHTS)
    assert [(row["pool"], row["failure"]) for row in failures] == [(HOME, "unreachable"), (NORTH, "unreachable")]
    assert len(lifecycles.rows("failover", FLIGHTS)) == 2
    with lifecycles.state.reading() as tx:
        assert {HOME, "gcp-us-central1-vertex", NORTH} <= set(sites.cooling(tx, datetime.now(UTC)))


def test_a_run_whose_heartbeat_stops_is_given_up(lifecycles: Lifecycles) -> None:
    """Its container and its worker died together: nobody is left who could tell."""
    assert lifecycles.flights is not None
    lifecycles.flights.result(SECONDS)
    state = lifecycles.stack.state(lifecycles.silent)
    assert state["type"] == "CRASHED"
    assert state["message"].startswith("unreachable: nothing was heard of it for 60 s")


def test_a_lifecycle_outlives_its_worker_and_does_nothing_twice(lifecycles: Lifecycles) -> None:
    """The runs of the steps before and after are one each; the one that ran meanwhile was found, not started again."""
    assert lifecycles.clinic is not None
    lifecycles.clinic.result(SECONDS)
    completed = [(step, pool) for step, pool, state in lifecycles.runs(CLINIC) if state == "completed"]
    assert completed == [("ingest", CENTRAL), ("materialize", CENTRAL)]
    assert ("ingest", CLUSTER, "unreachable") in lifecycles.runs(CLINIC)


def test_a_workload_whose_last_permitted_place_is_gone_is_refused(lifecycles: Lifecycles) -> None:
    """Patients' data may rest at home, which is gone already, and at one site of Amazon's; at no site of Google."""
    assert lifecycles.flights is not None
    assert lifecycles.clinic is not None
    futures.wait((lifecycles.flights, lifecycles.clinic), SECONDS)
    stack, aws = lifecycles.stack, lifecycles.stack.aws
    assert aws is not None
    wait(lambda: not aws.agent.tasks, 90, lambda: str(aws.agent.tasks))
    aws.silence()
    try:
        done = stack.tradewind("run", CLINIC, "--as-of", DAY, "--step", "train", "--urgent", seconds=SECONDS)
    finally:
        aws.start()
    assert done.returncode != 0
    told = f"{done.stdout}{done.stderr}"
    assert "no place may run `train`" in told
    step, pool, state = lifecycles.runs(CLINIC)[-1]
    assert (step, pool, state) == ("train", CENTRAL, "unreachable"), told
    assert {pool for _, pool, _ in lifecycles.runs(CLINIC)} <= {CLUSTER, CENTRAL, CONTROL}
    with lifecycles.state.reading() as tx:
        last = next(row for row in decisions.recent(tx, workload=CLINIC) if row.step == "train")
        decision = decisions.get(tx, last.id)
    assert decision is not None
    assert decision["chosen"] is None
    rejected = {row["pool"]: str(row) for row in decision["rejected"]}
    assert "cooling-down" in rejected[CLUSTER]
    assert "cooling-down" in rejected[CENTRAL]
    assert HOME in rejected
