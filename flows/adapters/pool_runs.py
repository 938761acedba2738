"""The runs of a work pool that the server holds for not ended, for the sweeper (Prefect)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from flows.adapters import dispatch, run_watch

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class PoolRun:
    """One flow run: its id, its state's type, since when, and the job that its worker noted."""

    id: str
    state: str
    since: datetime
    job: str | None
    tags: frozenset[str] = frozenset()

    @property
    def over(self) -> bool:
        """Whether it is at its end."""
        return self.state in dispatch.FINAL


class PoolRuns:
    """Asks the Prefect server."""

    async def pool_id(self, pool: str) -> str | None:
        """The id of the work pool on this server; None if it has none of this name."""
        from prefect.exceptions import ObjectNotFound

        async with dispatch.server() as client:
            try:
                return str((await client.read_work_pool(pool)).id)
            except ObjectNotFound:
                return None

    async def unfinished(self, pool: str) -> list[PoolRun]:
        """The runs of a pool that a worker has taken."""
        from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter

        found: list[PoolRun] = []
        async with dispatch.server() as client:
            while True:
                page = await client.read_flow_runs(
                    flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": dispatch.OPEN}}}),
                    work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [pool]}}),
                    limit=AT_ONCE,
                    offset=len(found),
                )
                found += [_plain(run) for run in page]
                if len(page) < AT_ONCE:
                    return found

    async def find(self, ids: Sequence[str]) -> dict[str, PoolRun]:
        """Those of these ids that the server knows."""
        from prefect.client.schemas.filters import FlowRunFilter

        found: dict[str, PoolRun] = {}
        known = [id for id in ids if _is_id(id)]
        async with dispatch.server() as client:
            for start in range(0, len(known), AT_ONCE):
                wanted = FlowRunFilter.model_validate({"id": {"any_": known[start : start + AT_ONCE]}})
                found |= {str(run.id): _plain(run) for run in await client.read_flow_runs(flow_run_filter=wanted, limit=AT_ONCE)}
        return found

    async def heard(self, run_id: str) -> datetime | None:
        """When the run said last that it is alive; None if it never did."""
        async with dispatch.server() as client:
            return await run_watch.last_heard(client, run_id)

    async def crash(self, run_id: str, message: str) -> bool:
        """Let a run be `Crashed`, one that was being cancelled `Cancelled`; False if it came to its end or was deleted meanwhile."""
        from prefect.exceptions import ObjectNotFound
        from prefect.states import Cancelled, Crashed

        async with dispatch.server() as client:
            try:
                run = await client.read_flow_run(UUID(run_id))
            except ObjectNotFound:
                return False
            if run.state is None or run.state.type.value not in dispatch.OPEN:
                return False
            ended = Cancelled(message=message) if run.state.is_cancelling() else Crashed(message=message)
            await client.set_flow_run_state(run.id, ended, force=True)
            return True


def _plain(run: FlowRun) -> PoolRun:
    state = run.state
    since = state.timestamp if state is not None else run.created
    assert since is not None
    return PoolRun(str(run.id), state.type.value if state is not None else "PENDING", since, run.infrastructure_pid, frozenset(run.tags))


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
