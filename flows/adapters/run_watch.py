"""What a run's server knows of it beside its state: lines its worker wrote, when it was last heard of, and how it is given up (Prefect).

Prefect is imported inside the functions, as in `flows.adapters.dispatch`.
"""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from flows.core.failures import ADVICE, QUIET, VAGUE

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

WORKER, OBSERVER = "prefect.flow_runs.worker", "prefect.flow_runs.observer"
"""Loggers of a worker that writes into a run's log; what the step writes has another."""
MAX_LINES = 40
WARNING, INFO = 30, 20
NOT_SUBMITTED = "Failed to submit flow run"
RAISED = re.compile(r"^(?:[a-z_][a-z0-9_]*\.)+[A-Z]\w*: .+")
"""Line of a worker's traceback that says what was raised."""
HEARTBEAT = "prefect.flow-run.heartbeat"


async def evidence(client: PrefectClient, flow_run_id: str) -> tuple[str, ...]:
    """What the run's worker saw of its end, a line each, in their order."""
    from prefect.client.schemas.filters import LogFilter
    from prefect.client.schemas.sorting import LogSort

    told: dict[str, tuple[datetime, tuple[str, ...]]] = {}
    for level in (WARNING, INFO):
        wanted = LogFilter.model_validate({"flow_run_id": {"any_": [flow_run_id]}, "level": {"ge_": level}})
        for row in await client.read_logs(wanted, limit=200, sort=LogSort.TIMESTAMP_DESC):
            quiet = row.level < WARNING and not (row.name == WORKER and QUIET.search(row.message))
            if not quiet and _is_witness(row.name, row.message):
                told[str(row.id)] = row.timestamp, tuple(_sentences(row.name, row.message.strip()))
    return tuple(line for _, lines in sorted(told.values()) for line in lines)[-MAX_LINES:]


async def last_heard(client: PrefectClient, flow_run_id: str) -> datetime | None:
    """When the run's process said last that it is alive; None if it never did."""
    from prefect.events.filters import EventFilter

    wanted = EventFilter.model_validate({"event": {"name": [HEARTBEAT]}, "resource": {"id": [f"prefect.flow-run.{flow_run_id}"]}})
    found = (await client.read_events(wanted, limit=1)).events
    # a plain one: pendulum's own loses its zone in arithmetic
    return datetime.fromtimestamp(found[0].occurred.timestamp(), UTC) if found else None


async def give_up(client: PrefectClient, flow_run_id: str, message: str, *, seconds: float = 60.0) -> bool:
    """End a run that does not come to its end by itself: its worker, if it lives, ends the job; then the run is `Crashed` with the message.

    Args:
        client: of the server.
        flow_run_id: the run.
        message: what the run's state says from then on.
        seconds: how long its worker has to end the job; a job that is left is the sweeper's.

    Returns:
        False if it came to its end meanwhile, which then stands.
    """
    from prefect.states import Cancelling, Crashed

    run = await client.read_flow_run(UUID(flow_run_id))
    if run.state is not None and run.state.is_final():
        return False
    await client.set_flow_run_state(run.id, Cancelling(message=message))
    deadline = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < deadline:
        run = await client.read_flow_run(run.id)
        if run.state is None or run.state.is_final():
            break
        await asyncio.sleep(0.5)
    if run.state is not None and run.state.is_final() and not run.state.is_cancelled():
        return False
    await client.set_flow_run_state(run.id, Crashed(message=message), force=True)
    return True


def _sentences(logger: str, message: str) -> list[str]:
    """The first line only: below it come tracebacks, or what the job itself printed.

    Before there is a job, a traceback is the worker's own, and has the cause that the error of a worker that tries again hides.
    """
    first, *more = message.splitlines()
    if logger == WORKER and first.startswith(NOT_SUBMITTED):
        return [first, *(line for line in more if RAISED.match(line) and not VAGUE.search(line))]
    return [first]


def _is_witness(logger: str, message: str) -> bool:
    """Observers also copy a container's last lines there, which are the step's and may hold data: only their own sentences count."""
    return logger == WORKER or (logger == OBSERVER and ADVICE in message)
