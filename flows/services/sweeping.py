"""Ends jobs that outlived their runs, and runs whose jobs are gone: what crashes of workers, servers and networks leave behind.

Each pool's cloud is asked for the pool's jobs, and the server for its runs. Nothing is ended that is younger than the grace period, and no
run that said within it that it is alive; of jobs only those that bear the id of this server's own work pool: another installation may have
pools of the same names. A cloud that does not answer keeps none of the others waiting, and is named.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from flows.adapters.clouds import CLOUDS, Job, Jobs, jobs_of
from flows.core.canonical import instant
from flows.core.errors import Unavailable
from flows.core.failures import KINDS
from flows.services.declarations import Declarations
from flows.store import ledger

if TYPE_CHECKING:
    from flows.adapters.pool_runs import PoolRun
    from flows.adapters.settings import Settings
    from flows.core.placement.estate import Pool, Site
    from flows.store.database import State

log = logging.getLogger("flows.sweep")

OVER, UNKNOWN, SECOND = "its run is over", "its run is not on the server", "its run has another job"
JOB_GONE = f"deleted: its job is not there any more\n  fix: {KINDS['deleted'].fix}"
NEVER_MADE = f"worker-lost: its worker ended before it made a job\n  fix: {KINDS['worker-lost'].fix}"


class Runs(Protocol):
    """What the server knows of a pool's runs: see `flows.adapters.pool_runs.PoolRuns`."""

    async def pool_id(self, pool: str) -> str | None:
        """The id of the work pool on this server."""
        ...

    async def unfinished(self, pool: str) -> list[PoolRun]:
        """The runs of a pool that a worker has taken."""
        ...

    async def find(self, ids: Sequence[str]) -> dict[str, PoolRun]:
        """Those of these ids that the server knows."""
        ...

    async def heard(self, run_id: str) -> datetime | None:
        """When the run said last that it is alive; None: it never did."""
        ...

    async def crash(self, run_id: str, message: str) -> bool:
        """End a run; False if it came to its end meanwhile."""
        ...


@dataclass(frozen=True, slots=True)
class Ended:
    """A job or a run that was ended: `job` or `run` may be empty, `why` is for people, `since` when it was there first."""

    pool: str
    site: str
    run: str
    job: str
    why: str
    since: str


@dataclass
class Swept:
    """What one round found: orphaned jobs, lost runs, pools that could not be looked at and why; with `dry_run` nothing was ended."""

    dry_run: bool
    looked: list[str] = field(default_factory=list)
    jobs: list[Ended] = field(default_factory=list)
    runs: list[Ended] = field(default_factory=list)
    unlooked: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        return asdict(self)


def is_due(settings: Settings, at: datetime) -> bool:
    """Whether the clock should sweep now: in the cloud profile, each `sweep_minutes`; saying yes counts as a round."""
    if settings.profile != "cloud":
        return False
    mark = settings.home / "swept"
    try:
        last = mark.stat().st_mtime
    except FileNotFoundError:
        last = 0.0
    if at.timestamp() - last < settings.sweep_minutes * 60:
        return False
    settings.home.mkdir(parents=True, exist_ok=True)
    mark.touch()
    os.utime(mark, (at.timestamp(), at.timestamp()))
    return True


async def sweep(
    state: State,
    settings: Settings,
    runs: Runs,
    *,
    at: datetime,
    dry_run: bool = False,
    pools: Sequence[str] = (),
    open_jobs: Callable[[Pool, Site], Jobs] | None = None,
) -> Swept:
    """One round over the pools whose runs are jobs in a cloud. Safe to run at any time, any number of times.

    Args:
        state: takes a ledger row of each ending.
        settings: the declarations, and the grace period.
        runs: the server.
        at: now, aware.
        dry_run: end nothing, say what would be.
        pools: look only at these; left out, at all.
        open_jobs: finds the jobs of a pool; left out, in its cloud.
    """
    estate = Declarations.load(settings).estate
    wanted = [pool for pool in estate.pools if pool.type in CLOUDS and (not pools or pool.name in pools)]
    swept = Swept(dry_run)
    rounds = [
        _Round(pool, estate.site_by_id[pool.site], runs, at, timedelta(minutes=settings.sweep_grace_minutes), dry_run) for pool in wanted
    ]
    # side by side: one cloud that hangs until its time-out must not keep the others waiting
    found = await asyncio.gather(*(one.sweep(open_jobs or jobs_of) for one in rounds), return_exceptions=True)
    unexpected: list[BaseException] = []
    for one, error in zip(rounds, found, strict=True):
        if isinstance(error, Unavailable):
            swept.unlooked[one.pool.name] = str(error)
            log.warning("`%s` could not be looked at: %s", one.pool.name, error)
        elif isinstance(error, BaseException):
            unexpected.append(error)
        else:
            swept.looked.append(one.pool.name)
        swept.jobs += one.jobs
        swept.runs += one.lost
        swept.unlooked.update({f"{one.pool.name}: {job}": why for job, why in one.unended.items()})
    if not dry_run:
        with state.transaction() as tx:
            for row in swept.jobs:
                ledger.append(tx, "orphan", asdict(row), principal="control", at=at)
            for row in swept.runs:
                ledger.append(tx, "lost-run", asdict(row), principal="control", at=at)
    # only now: what the other pools' rounds have ended is on record
    for error in unexpected:
        raise error
    return swept


def end_jobs_of(settings: Settings, pool: str, run_id: str, *, open_jobs: Callable[[Pool, Site], Jobs] | None = None) -> list[str]:
    """End the jobs of a run that was given up: their names. Prefect's Kubernetes worker ends none once it has made it.

    A cloud that does not answer, as that of a site that is gone, is left to the sweeper.
    """
    estate = Declarations.load(settings).estate
    declared = estate.pool_by_name.get(pool)
    if declared is None or declared.type not in CLOUDS:
        return []
    ended = []
    try:
        cloud = (open_jobs or jobs_of)(declared, estate.site_by_id[declared.site])
        for job in cloud.list():
            if job.run == run_id:
                cloud.end(job)
                ended.append(job.id)
    except Unavailable as error:
        log.warning("the job of run `%s` on `%s` is left to the sweeper: %s", run_id, pool, error)
    return ended


@dataclass
class _Round:
    """One pool."""

    pool: Pool
    site: Site
    runs: Runs
    at: datetime
    grace: timedelta
    dry_run: bool
    jobs: list[Ended] = field(default_factory=list)
    lost: list[Ended] = field(default_factory=list)
    unended: dict[str, str] = field(default_factory=dict)

    async def sweep(self, open_jobs: Callable[[Pool, Site], Jobs]) -> None:
        own = await self.runs.pool_id(self.pool.name)
        if own is None:
            raise Unavailable("the server has no such work pool", fix="run `tradewind apply`")
        cloud = await asyncio.to_thread(open_jobs, self.pool, self.site)
        # runs first: a job that ends between the two questions is then asked for again, and not one that begins taken for lost
        unfinished = await self.runs.unfinished(self.pool.name)
        jobs = [job for job in await asyncio.to_thread(cloud.list) if job.work_pool == own and job.run]
        known = {run.id: run for run in unfinished}
        known |= await self.runs.find(sorted({job.run for job in jobs} - set(known)))
        for job, why in self._orphans(jobs, known):
            await self._end(cloud, job, why)
        there = {job.run for job in jobs}
        for run in unfinished:
            if run.id not in there and run.since + self.grace <= self.at:
                await self._lose(run)

    def _orphans(self, jobs: Sequence[Job], known: Mapping[str, PoolRun]) -> list[tuple[Job, str]]:
        """Jobs that no run needs, each with why."""
        found = []
        by_run: dict[str, list[Job]] = {}
        for job in jobs:
            by_run.setdefault(job.run, []).append(job)
        for job in jobs:
            run = known.get(job.run)
            old = job.since is not None and job.since + self.grace <= self.at
            if run is None:
                why = UNKNOWN if old else None
            elif run.over or run.state == "CANCELLING":
                why = OVER if run.since + self.grace <= self.at else None
            else:
                second = len(by_run[job.run]) > 1 and any(other.is_of(run.job) for other in by_run[job.run]) and not job.is_of(run.job)
                why = SECOND if second and old else None
            if why is not None:
                found.append((job, why))
        return found

    async def _end(self, cloud: Jobs, job: Job, why: str) -> None:
        if not self.dry_run:
            try:
                await asyncio.to_thread(cloud.end, job)
            except Unavailable as error:
                self.unended[job.id] = str(error)
                return
            log.warning("job `%s` of `%s` was ended: %s", job.id, self.pool.name, why)
        self.jobs.append(Ended(self.pool.name, self.site.id, job.run, job.id, why, instant(job.since) if job.since else ""))

    async def _lose(self, run: PoolRun) -> None:
        heard = await self.runs.heard(run.id)
        if heard is not None and heard + self.grace > self.at:
            # its worker is about to say how it ended, or its job is where nobody looked, such as in another cluster
            log.warning("run `%s` on `%s` is alive, but no job of it was found", run.id, self.pool.name)
            return
        message = NEVER_MADE if run.state == "PENDING" and run.job is None else JOB_GONE
        if not self.dry_run:
            if not await self.runs.crash(run.id, message):
                return
            log.warning("run `%s` on `%s` was ended: %s", run.id, self.pool.name, message.partition("\n")[0])
        self.lost.append(Ended(self.pool.name, self.site.id, run.id, run.job or "", message.partition("\n")[0], instant(run.since)))
