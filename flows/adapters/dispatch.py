"""Starting flow runs on other pools, waiting for them, and their addresses for people (Prefect).

Prefect is imported inside the functions: what only reads a `FinalState` does not pay for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.core.errors import Unavailable, UserError

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun

COMPLETED, FAILED, CRASHED, CANCELLED = "COMPLETED", "FAILED", "CRASHED", "CANCELLED"
FINAL = frozenset({COMPLETED, FAILED, CRASHED, CANCELLED})
WAITING = frozenset({"SCHEDULED", "PENDING"})
"""State types of a run that no worker has begun."""
UNAVAILABLE = "Unavailable"
"""State name of a run that was given up, since its pool had no worker for too long; its type is CANCELLED."""
PAUSED, SUSPENDED = "PAUSED", "Suspended"
"""State type and name of a run whose process has ended and that goes on once it is resumed."""
REFUSED = "Refused"
"""State name of a run that the worker's guard did not start; its type is FAILED."""


@dataclass(frozen=True, slots=True)
class FinalState:
    """Where a flow run stands: Prefect's state name (`Completed`, `TimedOut`, `Refused`), its type (`COMPLETED`) and message."""

    name: str
    type: str
    message: str

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
    deployment: str, parameters: Mapping[str, Any], *, idempotency_key: str, tags: Iterable[str] = (), name: str | None = None
) -> str:
    """Start a run of `<flow>/<pool>` as a child of the current flow run; the same key of the same flow starts it once only.

    Returns:
        The flow run's id.

    Raises:
        UserError: there is no such deployment.
        Unavailable: the server does not answer.
    """
    from prefect.deployments import arun_deployment
    from prefect.exceptions import ObjectNotFound

    async with _client() as client:
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
        )
    return str(run.id)


async def state(flow_run_id: str) -> FinalState:
    """Where the run stands now.

    Raises:
        UserError: there is no such run.
        Unavailable: the server does not answer.
    """
    async with _client() as client:
        return _state(await _read(client, flow_run_id))


async def wait(
    flow_run_id: str,
    *,
    poll_seconds: float = 1.0,
    timeout: float | None = None,
    pool: str | None = None,
    no_worker_seconds: float = 300.0,
    until_suspended: bool = False,
) -> FinalState:
    """Wait until the run is at its end; a server that does not answer for a while is asked again.

    Args:
        poll_seconds: pause between two questions; the first ones follow faster.
        timeout: seconds to wait at most; None waits for ever.
        pool: where the run waits for a worker: once the server has heard of none for that long, the run is cancelled and `Unavailable`.
        no_worker_seconds: how long a pool may be without a worker, counted from when it is first seen so.
        until_suspended: come back too when the run is suspended.

    Raises:
        UserError: there is no such run.
        Unavailable: the time ran out first.
    """
    import httpx

    loop = asyncio.get_running_loop()
    began, pause, last = loop.time(), min(0.25, poll_seconds), "unknown"
    alone_since: float | None = None
    async with _client() as client:
        while True:
            try:
                found = _state(await _read(client, flow_run_id))
                if found.final or (until_suspended and found.type == PAUSED):
                    return found
                last = found.name
                if pool is None or found.type not in WAITING or await _has_worker(client, pool):
                    alone_since = None
                else:
                    alone_since = loop.time() if alone_since is None else alone_since
                    if loop.time() - alone_since >= no_worker_seconds and await _given_up(client, flow_run_id):
                        return FinalState(UNAVAILABLE, CANCELLED, f"`{pool}` had no worker for {no_worker_seconds:g} s")
            except httpx.HTTPError as error:
                last = f"unknown, the server does not answer: {type(error).__name__}"
            left = None if timeout is None else began + timeout - loop.time()
            if left is not None and left <= 0:
                raise Unavailable(
                    f"flow run `{flow_run_id}` did not end within {timeout:g} s: it is {last}", fix="is the pool's worker running?"
                )
            await asyncio.sleep(pause if left is None else min(pause, left))
            pause = min(pause * 1.5, poll_seconds)


async def resume(flow_run_id: str) -> bool:
    """Let a suspended run go on where its worker is; False if it is not suspended, or not there any more.

    Raises:
        Unavailable: the server does not answer.
    """
    from prefect.client.schemas.responses import SetStateStatus

    async with _client() as client:
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

    async with _client() as client:
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


async def _has_worker(client: PrefectClient, pool: str) -> bool:
    """Whether the server has heard of a worker lately, or a person has paused the pool, which is no failure."""
    from prefect.client.schemas.objects import WorkPoolStatus
    from prefect.exceptions import ObjectNotFound

    try:
        return (await client.read_work_pool(pool)).status != WorkPoolStatus.NOT_READY
    except ObjectNotFound:
        return False


async def _given_up(client: PrefectClient, flow_run_id: str) -> bool:
    """Cancel a run that no worker has begun, so that none begins it later; False if one has."""
    from prefect.client.schemas.responses import SetStateStatus
    from prefect.states import Cancelled

    if _state(await _read(client, flow_run_id)).type not in WAITING:
        return False
    answer = await client.set_flow_run_state(UUID(flow_run_id), Cancelled(message="no worker took it; it is placed again elsewhere"))
    return answer.status == SetStateStatus.ACCEPT


def _state(run: FlowRun) -> FinalState:
    found = run.state
    if found is None:
        return FinalState("Pending", "PENDING", "")
    return FinalState(found.name or found.type.value.title(), found.type.value, found.message or "")


@asynccontextmanager
async def _client() -> AsyncIterator[PrefectClient]:
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
