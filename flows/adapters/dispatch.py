"""Starting flow runs on other pools, waiting for them, and their addresses for people (Prefect).

Prefect is imported inside the functions: what only reads a `FinalState` does not pay for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.adapters.run_watch import evidence, give_up, last_heard
from flows.core import failures
from flows.core.errors import Unavailable, UserError
from flows.core.failures import NOT_STARTED, UNAVAILABLE

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun

COMPLETED, FAILED, CRASHED, CANCELLED = "COMPLETED", "FAILED", "CRASHED", "CANCELLED"
FINAL = frozenset({COMPLETED, FAILED, CRASHED, CANCELLED})
RUNNING = "RUNNING"
SCHEDULED = "SCHEDULED"
WAITING = frozenset({SCHEDULED, "PENDING"})
"""State types of a run that no worker has begun."""
OPEN = ("PENDING", RUNNING, "CANCELLING")
"""State types of runs that a worker has taken and that have not ended."""
PAUSED, SUSPENDED = "PAUSED", "Suspended"
"""State type and name of a run whose process has ended and that goes on once it is resumed."""
REFUSED = "Refused"
"""State name of a run that the worker's guard did not start; its type is FAILED."""


@dataclass(frozen=True, slots=True)
class FinalState:
    """Where a flow run stands: Prefect's state name (`Completed`, `TimedOut`, `Refused`), its type (`COMPLETED`) and message.

    `evidence` are lines that its worker wrote of its end, if it ended badly. `given_up`: it did not come to its end by itself, and its job
    may be there still.
    """

    name: str
    type: str
    message: str
    evidence: tuple[str, ...] = ()
    given_up: bool = False

    @property
    def final(self) -> bool:
        """True when nothing more happens to the run by itself."""
        return self.type in FINAL

    @property
    def succeeded(self) -> bool:
        """True when the run completed."""
        return self.type == COMPLETED

    @property
    def refused(self) -> bool:
        """True when the worker's guard refused the run."""
        return self.type == FAILED and self.name == REFUSED


async def start(
    deployment: str,
    parameters: Mapping[str, Any],
    *,
    idempotency_key: str,
    tags: Iterable[str] = (),
    name: str | None = None,
    job_variables: Mapping[str, Any] | None = None,
) -> str:
    """Start a run of `<flow>/<pool>` as a child of the current flow run; the same key of the same flow starts it once only.

    `job_variables` say what it asks the pool's cloud for, as the pool's template takes them.

    Returns:
        The flow run's id.

    Raises:
        UserError: there is no such deployment.
        Unavailable: the server does not answer.
    """
    from prefect.deployments import arun_deployment
    from prefect.exceptions import ObjectNotFound

    async with server() as client:
        try:
            await client.read_deployment_by_name(deployment)
        except ObjectNotFound:
            raise UserError(
                f"no deployment `{deployment}` on the server",
                expected="`<step>/<pool>` as `deployments/` declares it",
                fix="run `tradewind apply`, or correct the name",
            ) from None
        run = await arun_deployment(
            deployment,
            client=client,
            parameters=dict(parameters),
            timeout=0,
            as_subflow=True,
            idempotency_key=idempotency_key,
            tags=list(tags),
            flow_run_name=name,
            job_variables=dict(job_variables) if job_variables else None,
        )
    return str(run.id)


async def state(flow_run_id: str) -> FinalState:
    """Where the run stands now.

    Raises:
        UserError: there is no such run.
        Unavailable: the server does not answer.
    """
    async with server() as client:
        return _state(await _read(client, flow_run_id))


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a run is waited for before it is given up, in seconds; None: for ever.

    `no_worker`: its pool may be without a worker, counted from when it is first seen so. `start`: until its first line runs, its queue and
    its start-up included, but not its turn on a pool that runs as many at once as it may. `image`: its image may fail to be pulled.
    `silent`: a run that has said that it is alive says so no more. `ending`: its worker has to end its job. `words`: after a crash, its
    worker's own lines may be under way (Prefect sends lines in batches of two seconds); pools whose starts are bounded alone are waited for
    so. `look`: between two looks at lines or signs of life.
    """

    no_worker: float = 300.0
    start: float | None = None
    image: float = 180.0
    silent: float | None = None
    ending: float = 60.0
    words: float = 5.0
    look: float = 10.0


async def wait(
    flow_run_id: str,
    *,
    poll_seconds: float = 1.0,
    timeout: float | None = None,
    pool: str | None = None,
    patience: Patience | None = None,
    until_suspended: bool = False,
) -> FinalState:
    """Wait until the run is at its end; a server that does not answer for a while is asked again.

    Args:
        poll_seconds: pause between two questions; the first ones follow faster.
        timeout: seconds to wait at most; None waits for ever.
        pool: where the run waits for a worker: once the server has heard of none for that long, the run is cancelled and `Unavailable`.
        patience: what the run is given up for; left out: a pool that has no worker.
        until_suspended: come back too when the run is suspended.

    Raises:
        UserError: there is no such run.
        Unavailable: the time ran out first.
    """
    import httpx

    loop = asyncio.get_running_loop()
    began, pause, last = loop.time(), min(0.25, poll_seconds), "unknown"
    watch = _Watch(flow_run_id, pool, patience or Patience())
    async with server() as client:
        while True:
            try:
                found = _state(await _read(client, flow_run_id))
                if found.final:
                    return await _told(client, flow_run_id, found, watch.patience)
                if until_suspended and found.type == PAUSED:
                    return found
                last = found.name
                given_up = await watch.look(client, found, loop.time())
                if given_up is not None:
                    return given_up
            except httpx.HTTPError as error:
                watch.interrupted()
                last = f"unknown, the server does not answer: {type(error).__name__}"
            left = None if timeout is None else began + timeout - loop.time()
            if left is not None and left <= 0:
                raise Unavailable(
                    f"flow run `{flow_run_id}` did not end within {timeout:g} s: it is {last}", fix="is the pool's worker running?"
                )
            await asyncio.sleep(pause if left is None else min(pause, left))
            pause = min(pause * 1.5, poll_seconds)


async def _told(client: PrefectClient, flow_run_id: str, found: FinalState, patience: Patience) -> FinalState:
    """The final state with what the run's worker wrote of it."""
    if found.succeeded:
        return found
    if found.type == CRASHED and patience.start is not None:
        await asyncio.sleep(patience.words)
    return replace(found, evidence=await evidence(client, flow_run_id))


@dataclass
class _Watch:
    """Keeps the clocks of one run that is waited for; a pause of the server stops them all."""

    run: str
    pool: str | None
    patience: Patience
    alone_since: float | None = None
    waits_since: float | None = None
    unpulled_since: float | None = None
    silent_since: float | None = None
    heard: datetime | None = None
    next_look: float = 0.0

    def interrupted(self) -> None:
        """The server did not answer: nothing that was not heard meanwhile counts."""
        self.alone_since = self.silent_since = None

    async def look(self, client: PrefectClient, found: FinalState, now: float) -> FinalState | None:
        """How the run was given up, if it was."""
        if found.type != RUNNING:  # what has no process, such as a suspended run, has nothing to say
            self.silent_since = None
        if found.type not in WAITING:
            self.alone_since = self.waits_since = self.unpulled_since = None
            return await self._running(client, now) if found.type == RUNNING else None
        if self.pool is None:
            return None
        status = await _pool_status(client, self.pool)
        if status == "PAUSED":  # a person paused it, which is no failure
            self.alone_since = self.waits_since = None
            return None
        self.alone_since = None if status == "READY" else now if self.alone_since is None else self.alone_since
        self.waits_since = now if self.waits_since is None else self.waits_since
        limit = self.patience
        # a run with a job needs no worker to begin: `start` bounds it
        if self._past(self.alone_since, limit.no_worker, now) and await _given_up(client, self.run):
            return FinalState(UNAVAILABLE, CANCELLED, f"`{self.pool}` had no worker for {limit.no_worker:g} s")
        if self._past(self.waits_since, limit.start, now):
            if found.type == SCHEDULED and await _is_full(client, self.pool):
                self.waits_since = now
                return None
            return await self._give_up(client, f"no line of it ran within {limit.start:g} s on `{self.pool}`; it was {found.name}")
        if found.type == "PENDING" and limit.start is not None and now >= self.next_look:
            self.next_look = now + limit.look
            unpulled = failures.classify(NOT_STARTED, "", (await evidence(client, self.run))[-1:]).kind == "image"
            self.unpulled_since = (self.unpulled_since or now) if unpulled else None
            if self._past(self.unpulled_since, limit.image, now):
                return await self._give_up(client, f"its image could not be pulled for {limit.image:g} s on `{self.pool}`")
        return None

    async def _running(self, client: PrefectClient, now: float) -> FinalState | None:
        if self.patience.silent is None or now < self.next_look:
            return None
        self.next_look = now + self.patience.look
        heard = await last_heard(client, self.run)
        if heard is None or heard != self.heard or self.silent_since is None:
            self.heard, self.silent_since = heard, now
            return None
        if self._past(self.silent_since, self.patience.silent, now):
            message = f"unreachable: nothing was heard of it for {self.patience.silent:g} s\n  fix: {failures.KINDS['unreachable'].fix}"
            if await give_up(client, self.run, message, seconds=self.patience.ending):
                return FinalState("Crashed", CRASHED, message, given_up=True)
        return None

    async def _give_up(self, client: PrefectClient, why: str) -> FinalState | None:
        told = await evidence(client, self.run)
        message = str(failures.classify(NOT_STARTED, why, told))
        if not await give_up(client, self.run, message, seconds=self.patience.ending):
            return None
        return FinalState(NOT_STARTED, CRASHED, why, told, given_up=True)

    @staticmethod
    def _past(since: float | None, bound: float | None, now: float) -> bool:
        return since is not None and bound is not None and now - since >= bound


async def resume(flow_run_id: str) -> bool:
    """Let a suspended run go on where its worker is; False if it is not suspended, or not there any more.

    Raises:
        Unavailable: the server does not answer.
    """
    from prefect.client.schemas.responses import SetStateStatus

    async with server() as client:
        try:
            found = _state(await _read(client, flow_run_id))
        except UserError:
            return False
        if found.type != PAUSED:
            return False
        return (await client.resume_flow_run(UUID(flow_run_id))).status == SetStateStatus.ACCEPT


async def cancel(flow_run_id: str) -> None:
    """Ask for the run's cancellation; one that is at its end stays as it is.

    Raises:
        UserError: there is no such run.
        Unavailable: the server does not answer.
    """
    from prefect.states import Cancelling

    async with server() as client:
        await _read(client, flow_run_id)
        await client.set_flow_run_state(UUID(flow_run_id), Cancelling(message="cancelled by Tradewind"))


def ui_url(flow_run_id: str) -> str:
    """The run's page in the Prefect UI; empty without a server."""
    api = os.environ.get("PREFECT_UI_URL") or os.environ.get("PREFECT_API_URL", "").removesuffix("/").removesuffix("/api")
    return f"{api}/runs/flow-run/{flow_run_id}" if api else ""


async def _read(client: PrefectClient, flow_run_id: str) -> FlowRun:
    from prefect.exceptions import ObjectNotFound

    try:
        return await client.read_flow_run(UUID(flow_run_id))
    except (ObjectNotFound, ValueError):
        raise UserError(f"no flow run `{flow_run_id}` on the server", expected="the id of a flow run") from None


async def _pool_status(client: PrefectClient, pool: str) -> str:
    """`READY` if the server has heard of a worker lately, else `NOT_READY`, `PAUSED` if a person has paused the pool."""
    from prefect.exceptions import ObjectNotFound

    try:
        status = (await client.read_work_pool(pool)).status
    except ObjectNotFound:
        return "NOT_READY"
    return "READY" if status is None else status.value


async def _is_full(client: PrefectClient, pool: str) -> bool:
    """Whether the pool has as many runs under way as it may have at once: what waits then has not failed to start."""
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter

    limit = (await client.read_work_pool(pool)).concurrency_limit
    if limit is None:
        return False
    busy = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": OPEN}}}),
        work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [pool]}}),
        limit=max(1, limit),
    )
    return len(busy) >= limit


async def _given_up(client: PrefectClient, flow_run_id: str) -> bool:
    """Cancel a run that no worker has begun, so that none begins it later; False if one has."""
    from prefect.client.schemas.responses import SetStateStatus
    from prefect.states import Cancelled

    run = await _read(client, flow_run_id)
    if _state(run).type not in WAITING or run.infrastructure_pid:
        return False
    answer = await client.set_flow_run_state(UUID(flow_run_id), Cancelled(message="no worker took it; it is placed again elsewhere"))
    return answer.status == SetStateStatus.ACCEPT


def _state(run: FlowRun) -> FinalState:
    found = run.state
    if found is None:
        return FinalState("Pending", "PENDING", "")
    return FinalState(found.name or found.type.value.title(), found.type.value, found.message or "")


@asynccontextmanager
async def server() -> AsyncIterator[PrefectClient]:
    """A client of the Prefect server.

    Raises:
        Unavailable: none is set, or it does not answer.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    if not get_current_settings().api.url:
        raise Unavailable("no Prefect server is set", expected="PREFECT_API_URL", fix="start the stack with `tradewind up`")
    try:
        async with get_client() as client:
            yield client
    except httpx.TransportError as error:
        raise Unavailable(
            f"the Prefect server at `{get_current_settings().api.url}` does not answer: {type(error).__name__}",
            fix="`tradewind status` shows what runs; `tradewind up` starts it",
        ) from error
