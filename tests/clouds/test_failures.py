"""Failures of real runs: an unmodified Kubernetes worker, a real API server and Prefect server; the node is pretended (`kubelet.py`).

What the waiting dispatcher makes of each end, what the sweeper finds where workers die, and what a cluster that does not answer does.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("prefect_kubernetes", reason="Prefect's Kubernetes worker is not installed: `make setup-clouds`")

from flows.adapters import dispatch
from flows.adapters.dispatch import Patience
from flows.adapters.pool_runs import PoolRuns
from flows.adapters.settings import Settings
from flows.core.failures import Failure, classify
from flows.services import sweeping
from flows.services.sweeping import Swept
from flows.store import ledger
from flows.store.database import State
from tests.clouds import kube_world
from tests.clouds.kube_world import ABSENT, NAMESPACE, POOL, WORKER, World, wait

pytestmark = pytest.mark.clouds

QUICK = Patience(no_worker=25, start=120, image=6, silent=None, ending=20, look=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with kube_world.world(tmp_path_factory.mktemp("failures")) as made:
        yield made


@pytest.fixture(scope="module")
def account(world: World) -> Path:
    """The worker's own kubeconfig."""
    return world.cluster.account(NAMESPACE, WORKER)


@pytest.fixture(autouse=True)
def server(world: World) -> Iterator[None]:
    """This process speaks to the world's server, as control does."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: world.url}):
        yield


@pytest.fixture(scope="class")
def worked(world: World, account: Path) -> Iterator[Path]:
    """A worker that lives as long as the tests of a class; the other classes end their own."""
    with world.worker(account, PREFECT_WORKER_ENABLE_CANCELLATION="true") as log:
        yield log


def outcome(world: World, run: str, patience: Patience = QUICK) -> tuple[dispatch.FinalState, Failure]:
    """How the dispatcher sees the run's end, and of what kind it says it is."""
    final = asyncio.run(dispatch.wait(run, pool=POOL, patience=patience, timeout=240, poll_seconds=0.5))
    if final.given_up:
        with administered(world):
            sweeping.end_jobs_of(Settings(profile="cloud"), POOL, run)
    return final, classify(final.name, final.message, final.evidence)


@pytest.mark.usefixtures("worked")
class TestEnds:
    """A worker that lives sees each end."""

    def test_a_step_that_fails_is_its_own_fault(self, world: World) -> None:
        """The run is `Failed` with the step's words; nothing is moved."""
        final, failure = outcome(world, world.start("raises", how="badly"))
        assert (final.name, failure.kind) == ("Failed", "step") and "no such column `bmi`" in failure.what

    def test_a_container_that_is_killed_for_its_memory_is_out_of_memory(self, world: World) -> None:
        """The state says only that no pod is left; the observer's line in the run's log says why."""
        final, failure = outcome(world, world.start("oom", how="greedily"))
        assert (final.name, failure.kind) == ("Crashed", "memory") and "OOMKilled" in failure.what

    def test_a_command_that_the_image_lacks_is_a_crash(self, world: World) -> None:
        """Nothing of ours runs; the place is at fault."""
        final, failure = outcome(world, world.start("empty", image=kube_world.BROKEN))
        assert (final.name, failure.kind) == ("Crashed", "crash")

    def test_an_image_that_cannot_be_pulled_is_given_up(self, world: World) -> None:
        """Kubernetes would try for ever; the run ends as `Crashed` with what to do, and its job is ended."""
        run = world.start("image", image=ABSENT)
        final, failure = outcome(world, run)
        assert (final.name, failure.kind) == ("NotStarted", "image") and "push the image" in failure.fix
        told = world.state(run)
        assert told["type"] == "CRASHED" and told["message"].startswith("image: ") and "push the image" in told["message"]
        wait(lambda: not living(world, run), 30, lambda: str(world.jobs(run)))

    def test_a_node_that_nobody_has_is_given_up_in_time(self, world: World) -> None:
        """An unschedulable pod waits as long as the pool's queue may take, and no longer."""
        run = world.start("nowhere", arch="arm64")
        final, failure = outcome(world, run, Patience(no_worker=60, start=12, ending=20, look=1))
        assert final.name == "NotStarted" and failure.kind in ("capacity", "not-started")
        wait(lambda: not living(world, run), 30, lambda: str(world.jobs(run)))

    def test_a_quota_that_is_used_up_is_told_with_its_name(self, world: World) -> None:
        """The API server refuses the job; the message names the quota."""
        quota = {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "no-jobs", "namespace": NAMESPACE},
            "spec": {"hard": {"count/jobs.batch": "0"}},
        }
        assert world.cluster.kubectl("create", "-f", "-", given=json.dumps(quota)).returncode == 0
        try:
            wait(
                lambda: (
                    "count/jobs.batch"
                    in world.cluster.kubectl("get", "quota", "no-jobs", "-n", NAMESPACE, "-o", "jsonpath={.status.hard}").stdout
                ),
                30,
                lambda: "no quota",
            )
            final, failure = outcome(world, world.start("quota"))
            assert (final.name, failure.kind) == ("Crashed", "quota") and "no-jobs" in failure.what
        finally:
            world.cluster.kubectl("delete", "quota", "no-jobs", "-n", NAMESPACE)

    def test_a_job_that_is_deleted_under_its_run_is_told_as_deleted(self, world: World) -> None:
        """Somebody ends it by hand: no word against the place."""
        run = world.start("deleted", how="slowly")
        running(world, run)
        world.cluster.kubectl("delete", "job", "-n", NAMESPACE, world.job(run)["metadata"]["name"])
        final, failure = outcome(world, run)
        assert (final.name, failure.kind, failure.at_fault) == ("Crashed", "deleted", False)


class TestWorkers:
    """A worker is killed before, during and after the submission."""

    def test_a_run_that_no_worker_takes_is_given_up(self, world: World, account: Path) -> None:
        """Killed before: the run was never taken, and the pool has no worker."""
        with world.worker(account) as log:
            kill(log)
        wait(lambda: not online(world), 120, lambda: "a worker is still online")
        run = world.start("before")
        final, failure = outcome(world, run)
        assert (final.name, failure.kind) == ("Unavailable", "worker-lost")
        assert world.state(run)["type"] == "CANCELLED"

    def test_a_worker_that_dies_while_it_submits_leaves_nothing(self, world: World, account: Path, tmp_path: Path) -> None:
        """Killed during: the run is pending and has no job; the sweeper ends it, so that its step goes elsewhere."""
        with stopped(world.cluster), world.worker(account) as log:
            run = world.start("during")
            wait(lambda: world.state(run)["type"] == "PENDING", 60, lambda: str(world.state(run)))
            kill(log)
        time.sleep(3)
        assert living(world, run) == []
        found = swept(world, tmp_path)
        assert run in {row.run for row in found.runs}
        final, failure = outcome(world, run)
        assert (final.name, failure.kind) == ("Crashed", "worker-lost")

    def test_a_run_outlives_its_worker(self, world: World, account: Path) -> None:
        """Killed after: the job goes on and tells the server itself."""
        with world.worker(account) as log:
            run = world.start("after", how="well")
            world.job(run)
            kill(log)
        assert outcome(world, run)[0].name == "Completed"

    def test_a_job_that_dies_without_a_worker_is_found_lost(self, world: World, account: Path, tmp_path: Path) -> None:
        """Killed after, and then the job is gone too: nobody but the sweeper sees it."""
        with world.worker(account) as log:
            run = world.start("gone", how="slowly")
            running(world, run)
            kill(log)
        world.cluster.kubectl("delete", "job", "-n", NAMESPACE, world.job(run)["metadata"]["name"])
        assert world.state(run)["type"] == "RUNNING"
        assert run in {row.run for row in swept(world, tmp_path).runs}
        assert outcome(world, run)[1].kind == "deleted"

    def test_a_job_that_outlives_its_run_is_ended(self, world: World, account: Path, tmp_path: Path) -> None:
        """Its run was given up while no worker was there to end the job: billed until the sweeper comes. A live one is spared."""
        with world.worker(account) as log:
            orphan, live = world.start("orphan", how="slowly"), world.start("live", how="slowly")
            for run in (orphan, live):
                running(world, run)
            kill(log)
        assert asyncio.run(PoolRuns().crash(orphan, "unreachable: given up"))
        dry = swept(world, tmp_path, dry_run=True)
        assert [row.run for row in dry.jobs] == [orphan] and living(world, orphan)
        found = swept(world, tmp_path)
        assert [row.run for row in found.jobs] == [orphan] and found.runs == []
        wait(lambda: not living(world, orphan), 30, lambda: str(world.jobs(orphan)))
        assert living(world, live)
        with State(f"sqlite:///{tmp_path / 'home' / 'state.db'}").reading() as tx:
            assert [row.body["run"] for row in ledger.rows(tx, kind="orphan")] == [orphan]
        world.cluster.kubectl("delete", "job", "-n", NAMESPACE, world.job(live)["metadata"]["name"])


class TestClusterDown:
    """The cluster's API does not answer: connections are refused, or nothing comes back."""

    def test_a_short_silence_is_waited_for(self, world: World, account: Path) -> None:
        """A run goes on while the API is silent, and the worker sees its end afterwards."""
        with world.worker(account):
            run = world.start("silence", how="slowly")
            running(world, run)
            with stopped(world.cluster):
                time.sleep(10)
            world.cluster.kubectl("delete", "job", "-n", NAMESPACE, world.job(run)["metadata"]["name"])
            assert outcome(world, run)[1].kind == "deleted"

    def test_a_cluster_that_is_gone_is_unreachable(self, world: World, account: Path, tmp_path: Path) -> None:
        """The submission ends as `Crashed` with the whole site at fault, and the sweeper says that it could not look."""
        nowhere = tmp_path / "kubeconfig"
        (port,) = kube_world.kube.ports(1)
        nowhere.write_text(account.read_text().replace(world.cluster.url, f"https://127.0.0.1:{port}"))
        with world.worker(nowhere):
            final, failure = outcome(world, world.start("site"))
        assert (final.name, failure.kind, failure.whole_site) == ("Crashed", "unreachable", True)
        found = swept(world, tmp_path, kubeconfig=nowhere)
        assert list(found.unlooked) == [POOL] and found.runs == found.jobs == []


def swept(world: World, folder: Path, *, dry_run: bool = False, kubeconfig: Path | None = None) -> Swept:
    """A round of the sweeper over the pool, with no grace, as control makes it."""
    settings = Settings(home=folder / "home", profile="cloud", sweep_grace_minutes=0)
    State(settings.state_url).migrate()
    with administered(world, kubeconfig):
        round_ = sweeping.sweep(State(settings.state_url), settings, PoolRuns(), at=datetime.now(UTC), dry_run=dry_run, pools=(POOL,))
        return asyncio.run(round_)


@contextmanager
def administered(world: World, kubeconfig: Path | None = None) -> Iterator[None]:
    """This process finds the cluster, with the rights that the worker has."""
    with pytest.MonkeyPatch.context() as patch:
        found = str(kubeconfig or world.cluster.account(NAMESPACE, WORKER))
        patch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", found)
        yield


def living(world: World, run: str) -> list[dict[str, Any]]:
    """The run's jobs that have not ended."""
    return [job for job in world.jobs(run) if not job["status"].get("conditions") and "deletionTimestamp" not in job["metadata"]]


def running(world: World, run: str) -> None:
    """Wait until the run's own code runs."""
    wait(lambda: world.state(run)["type"] == "RUNNING", 90, lambda: f"{world.state(run)}\n{world.said(run)}")


def online(world: World) -> bool:
    """Whether the server holds the pool for served."""
    import httpx

    return bool(httpx.get(f"{world.url}/work_pools/{POOL}", timeout=30).json()["status"] == "READY")


def kill(log: Path) -> None:
    """The worker that writes this file dies at once."""
    for process in psutil.Process().children(recursive=True):
        if log.stem in process.cmdline():
            os.kill(process.pid, signal.SIGKILL)


@contextmanager
def stopped(cluster: Any) -> Iterator[None]:
    """The cluster's API server is silent: connections are taken, and nothing answers."""
    found = [
        one for one in psutil.Process().children() if str(cluster.folder) in " ".join(one.cmdline()) and "kube-apiserver" in one.name()
    ]
    assert len(found) == 1
    os.kill(found[0].pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(found[0].pid, signal.SIGCONT)
