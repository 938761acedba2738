"""The sweeper ends what has no live run, spares what is young or another's, and says what it could not look at."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as tries
from hypothesis import strategies as st

from flows.adapters.clouds import Job
from flows.adapters.dispatch import OPEN
from flows.adapters.pool_runs import PoolRun
from flows.adapters.settings import Settings
from flows.core.errors import Unavailable
from flows.core.failures import classify
from flows.services import sweeping
from flows.services.sweeping import Swept, sweep
from flows.store import ledger
from flows.store.database import State

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
OLD, YOUNG = AT - timedelta(hours=1), AT - timedelta(minutes=1)
POOL, OTHER = "aws-eu-central-1-ecs", "onprem-fra-k8s"
OWN = "0f0f"


class Cloud:
    """The jobs of one pool, as a cloud that answers has them."""

    def __init__(self, *jobs: Job, silent: bool = False, stubborn: bool = False) -> None:
        self.jobs, self.silent, self.stubborn, self.ended = list(jobs), silent, stubborn, list[str]()

    def list(self) -> list[Job]:
        if self.silent:
            raise Unavailable("no answer")
        return self.jobs

    def end(self, job: Job) -> None:
        if self.stubborn:
            raise Unavailable("not allowed")
        self.ended.append(job.id)


class Server:
    """A server that knows these runs."""

    def __init__(self, *runs: PoolRun, ended_meanwhile: Iterable[str] = (), heard: datetime | None = None) -> None:
        self.runs, self.meanwhile, self.crashed = {run.id: run for run in runs}, set(ended_meanwhile), dict[str, str]()
        self.last = heard

    async def pool_id(self, pool: str) -> str | None:
        return OWN

    async def unfinished(self, pool: str) -> list[PoolRun]:
        return [run for run in self.runs.values() if pool == POOL and run.state in OPEN]

    async def find(self, ids: Sequence[str]) -> dict[str, PoolRun]:
        return {id: self.runs[id] for id in ids if id in self.runs}

    async def heard(self, run_id: str) -> datetime | None:
        return self.last

    async def crash(self, run_id: str, message: str) -> bool:
        if run_id in self.meanwhile:
            return False
        self.crashed[run_id] = message
        return True


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = Settings(home=tmp_path / "home", profile="cloud")
    State(found.state_url).migrate()
    return found


def swept(settings: Settings, server: Server, cloud: Cloud, *, others: Cloud | None = None, **more: Any) -> Swept:
    def open_jobs(pool: Any, site: Any) -> Cloud:
        return cloud if pool.name == POOL else others or Cloud()

    return asyncio.run(sweep(State(settings.state_url), settings, server, at=AT, open_jobs=open_jobs, **more))


def run(state: str, since: datetime = OLD, job: str | None = None) -> PoolRun:
    return PoolRun(str(uuid4()), state, since, job)


def job(of: PoolRun | str, since: datetime | None = OLD, id: str = "job", pool: str = OWN) -> Job:
    return Job(id, of if isinstance(of, str) else of.id, pool, since)


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED", "CRASHED", "CANCELLED", "CANCELLING"])
def test_a_job_whose_run_is_over_is_ended_and_recorded(settings: Settings, state: str) -> None:
    """Whatever the run's end was, nobody waits for the job any more; the ledger says which it was and why."""
    own = run(state)
    cloud = Cloud(job(own))
    found = swept(settings, Server(own), cloud)
    assert cloud.ended == ["job"]
    assert [(row.job, row.why) for row in found.jobs] == [("job", sweeping.OVER)]
    with State(settings.state_url).reading() as tx:
        (row,) = ledger.rows(tx, kind="orphan")
        assert (row.body["pool"], row.body["run"], row.body["job"]) == (POOL, own.id, "job")


@pytest.mark.parametrize("state", ["SCHEDULED", "PENDING", "RUNNING", "PAUSED"])
def test_the_job_of_a_live_run_is_left_alone(settings: Settings, state: str) -> None:
    """However long it runs already."""
    own, cloud = run(state), Cloud()
    cloud.jobs = [job(own)]
    found = swept(settings, Server(own), cloud)
    assert cloud.ended == [] and found.jobs == found.runs == []


def test_a_job_that_was_just_submitted_is_not_ended(settings: Settings) -> None:
    """Its run may not be seen yet, and a run that has just ended gives its job time to end by itself."""
    ended = run("COMPLETED", YOUNG)
    cloud = Cloud(job(str(uuid4()), YOUNG, "unknown"), job(str(uuid4()), None, "ageless"), job(ended, OLD, "ending"))
    assert swept(settings, Server(ended), cloud).jobs == [] and cloud.ended == []


def test_a_job_whose_run_was_deleted_is_ended(settings: Settings) -> None:
    """The server knows no such run, and the job is old enough to have one."""
    cloud = Cloud(job(str(uuid4())))
    assert [row.why for row in swept(settings, Server(), cloud).jobs] == [sweeping.UNKNOWN]


def test_a_job_of_another_installation_is_never_touched(settings: Settings) -> None:
    """Two servers may have pools of one name in one account: only jobs with this work pool's own id count."""
    cloud = Cloud(job(str(uuid4()), pool="theirs"), job("", id="no run"))
    assert swept(settings, Server(), cloud).jobs == [] and cloud.ended == []


def test_the_second_job_of_one_run_is_ended(settings: Settings) -> None:
    """A worker that died during submission may have made a job that no worker knows of: the noted one goes on."""
    own = run("RUNNING", job="cluster::noted")
    cloud = Cloud(job(own, id="noted"), job(own, id="forgotten"))
    assert [(row.job, row.why) for row in swept(settings, Server(own), cloud).jobs] == [("forgotten", sweeping.SECOND)]
    assert cloud.ended == ["forgotten"]


@pytest.mark.parametrize(
    ("state", "noted", "kind"), [("RUNNING", "job", "deleted"), ("PENDING", None, "worker-lost"), ("CANCELLING", "job", "deleted")]
)
def test_a_run_whose_job_is_gone_is_ended_so_that_it_fails_over(settings: Settings, state: str, noted: str | None, kind: str) -> None:
    """Its waiting lifecycle reads of what kind that was from the state's message."""
    own = run(state, job=noted)
    server = Server(own)
    assert [row.run for row in swept(settings, server, Cloud()).runs] == [own.id]
    assert classify("Crashed", server.crashed[own.id]).kind == kind
    with State(settings.state_url).reading() as tx:
        assert len(ledger.rows(tx, kind="lost-run")) == 1


def test_a_run_that_ended_meanwhile_or_has_just_begun_is_not_lost(settings: Settings) -> None:
    """Its job may have ended between the two questions, or not be there yet."""
    done, young = run("RUNNING"), run("PENDING", YOUNG)
    server = Server(done, young, ended_meanwhile=[done.id])
    assert swept(settings, server, Cloud()).runs == [] and server.crashed == {}


@pytest.mark.parametrize(("heard", "lost"), [(YOUNG, False), (OLD, True), (None, True)])
def test_a_run_that_says_that_it_is_alive_is_not_lost(settings: Settings, heard: datetime | None, lost: bool) -> None:
    """Whoever was asked for its job may be the wrong cluster, or its worker is about to say how it ended."""
    own = run("RUNNING", job="noted")
    server = Server(own, heard=heard)
    assert [row.run for row in swept(settings, server, Cloud()).runs] == ([own.id] if lost else [])
    assert bool(server.crashed) == lost


def test_what_was_ended_is_recorded_although_another_pool_fails(settings: Settings) -> None:
    """An answer that nobody expected ends the round with its error, after the ledger has its rows."""

    class Broken(Cloud):
        def list(self) -> list[Job]:
            raise ValueError("not what a cloud answers")

    own = run("FAILED")
    cloud = Cloud(job(own))
    with pytest.raises(ValueError, match="not what a cloud answers"):
        swept(settings, Server(own), cloud, others=Broken())
    assert cloud.ended == ["job"]
    with State(settings.state_url).reading() as tx:
        assert [row.body["job"] for row in ledger.rows(tx, kind="orphan")] == ["job"]


def test_a_dry_run_says_the_same_and_ends_nothing(settings: Settings) -> None:
    """Neither job nor run, nor a ledger row."""
    over, lost = run("FAILED"), run("RUNNING")
    server, cloud = Server(over, lost), Cloud(job(over))
    found = swept(settings, server, cloud, dry_run=True)
    assert (len(found.jobs), len(found.runs), cloud.ended, server.crashed) == (1, 1, [], {})
    with State(settings.state_url).reading() as tx:
        assert ledger.rows(tx) == []


def test_a_cloud_that_does_not_answer_stops_none_of_the_others(settings: Settings) -> None:
    """The others are swept, nothing is said of its runs, and it is named with why."""
    own = run("FAILED")
    cloud = Cloud(job(own))
    found = swept(settings, Server(own), cloud, others=Cloud(silent=True))
    assert cloud.ended == ["job"] and found.looked == [POOL]
    assert OTHER in found.unlooked and POOL not in found.unlooked
    silent = Server(run("RUNNING"))
    assert swept(settings, silent, Cloud(silent=True)).runs == [] and silent.crashed == {}


def test_a_job_that_the_cloud_does_not_end_is_named(settings: Settings) -> None:
    """It is not counted as ended, and is tried again the next time."""
    own = run("FAILED")
    found = swept(settings, Server(own), Cloud(job(own), stubborn=True))
    assert found.jobs == [] and list(found.unlooked) == [f"{POOL}: job"]


def test_the_clock_sweeps_in_the_cloud_profile_each_few_minutes(settings: Settings) -> None:
    """Two rounds within the time are one; the embedded profile has none."""
    assert sweeping.is_due(settings, AT)
    assert not sweeping.is_due(settings, AT + timedelta(minutes=4))
    assert sweeping.is_due(settings, AT + timedelta(minutes=5))
    assert not sweeping.is_due(settings.model_copy(update={"profile": "embedded"}), AT + timedelta(hours=1))


@tries(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["SCHEDULED", "PENDING", "RUNNING", "PAUSED", "COMPLETED", "CRASHED"]),
            st.booleans(),
            st.booleans(),
            st.booleans(),
        ),
        max_size=8,
    )
)
def test_no_live_run_loses_its_only_job(settings: Settings, drawn: list[tuple[str, bool, bool, bool]]) -> None:
    """Over any mixture of runs and jobs: ended jobs have no live run, lost runs no job, and a second round finds nothing new to end."""
    runs, jobs = [], []
    for number, (state, old, has_job, old_job) in enumerate(drawn):
        own = run(state, OLD if old else YOUNG, f"j{number}")
        runs.append(own)
        if has_job:
            jobs.append(job(own, OLD if old_job else YOUNG, f"j{number}"))
    server, cloud = Server(*runs), Cloud(*jobs)
    found = swept(settings, server, cloud)
    by_id = {own.id: own for own in runs}
    assert all(by_id[row.run].over and by_id[row.run].since == OLD for row in found.jobs)
    with_job = {each.run for each in jobs}
    assert all(row.run not in with_job and by_id[row.run].state in ("PENDING", "RUNNING") for row in found.runs)
    assert {row.job for row in found.jobs} == {each.id for each in jobs if by_id[each.run].over and by_id[each.run].since == OLD}


def test_the_job_of_a_run_that_was_given_up_is_ended_at_once(settings: Settings) -> None:
    """Only its own; a cloud that does not answer is left to the sweeper."""
    cloud = Cloud(job("given-up", id="mine"), job("another", id="theirs"))
    assert sweeping.end_jobs_of(settings, POOL, "given-up", open_jobs=lambda *_: cloud) == ["mine"] == cloud.ended
    assert sweeping.end_jobs_of(settings, POOL, "given-up", open_jobs=lambda *_: Cloud(silent=True)) == []
    assert sweeping.end_jobs_of(settings, "control", "given-up", open_jobs=lambda *_: cloud) == []
