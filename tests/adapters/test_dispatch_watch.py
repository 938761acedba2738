"""The clocks of a run that is waited for: what counts as silence, and what does not. The server is a stand-in."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from flows.adapters import run_watch
from flows.adapters.dispatch import CRASHED, FinalState, Patience, _Watch
from flows.core.failures import NOT_STARTED

RUNNING, PAUSED, SCHEDULED, PENDING = (FinalState(name, name.upper(), "") for name in ("Running", "Paused", "Scheduled", "Pending"))
HEARD = datetime(2026, 11, 24, 12, tzinfo=UTC)


@dataclass
class Server:
    """Knows when the run was heard of last, and the states it was given."""

    heard: datetime | None = HEARD
    busy: int = 0
    given: list[str] = field(default_factory=list)

    async def read_events(self, wanted: Any, limit: int) -> Any:
        return SimpleNamespace(events=[SimpleNamespace(occurred=self.heard)] if self.heard else [])

    async def read_work_pool(self, pool: str) -> Any:
        return SimpleNamespace(status=SimpleNamespace(value="READY"), concurrency_limit=2)

    async def read_flow_runs(self, limit: int, **_: Any) -> list[Any]:
        return [object()] * min(self.busy, limit)

    async def read_logs(self, *_: Any, **__: Any) -> list[Any]:
        return []

    async def read_flow_run(self, id: Any) -> Any:
        final = bool(self.given)
        return SimpleNamespace(id=id, state=SimpleNamespace(is_final=lambda: final, is_cancelled=lambda: final))

    async def set_flow_run_state(self, id: Any, state: Any, force: bool = False) -> None:
        self.given.append(state.type.value)


def looks(server: Server, *seen: tuple[float, FinalState]) -> FinalState | None:
    """What the watch says in the end, having seen these states at these seconds."""

    async def look() -> FinalState | None:
        watch, last = _Watch(str(uuid4()), "pool", Patience(silent=900, start=600, ending=1)), None
        for now, state in seen:
            last = await watch.look(server, state, now)  # type: ignore[arg-type]
        return last

    return asyncio.run(look())


def test_a_run_that_says_no_more_that_it_is_alive_is_given_up() -> None:
    """It said so once, and then nothing for the whole bound."""
    server = Server()
    found = looks(server, (0, RUNNING), (899, RUNNING))
    assert found is None and server.given == []
    found = looks(server, (0, RUNNING), (901, RUNNING))
    assert found is not None and (found.type, found.given_up) == (CRASHED, True)


def test_a_run_that_was_suspended_is_not_given_up_when_it_goes_on() -> None:
    """A suspended run has no process that could say anything; its silence counts anew from when it runs again."""
    for between in (PAUSED, SCHEDULED):
        server = Server()
        assert looks(server, (0, RUNNING), (20, between), (590, between), (1000, RUNNING), (1100, RUNNING)) is None
        assert server.given == []


@dataclass
class Logs:
    """The lines of a run's log."""

    rows: list[Any]

    async def read_logs(self, wanted: Any, limit: int, sort: Any) -> list[Any]:
        return [row for row in reversed(self.rows) if row.level >= wanted.level.ge_][:limit]


def line(message: str, *, level: int = 40, name: str = run_watch.WORKER) -> Any:
    """A line of the log."""
    return SimpleNamespace(id=uuid4(), message=message, level=level, name=name, timestamp=HEARD)


def told(*rows: Any) -> tuple[str, ...]:
    """What the run's worker saw of its end."""
    return asyncio.run(run_watch.evidence(Logs(list(rows)), str(uuid4())))  # type: ignore[arg-type]


def test_a_worker_that_could_not_submit_a_run_has_the_cause_in_its_traceback() -> None:
    """What was raised, without the error that only says that it tried several times."""
    traceback = (
        "Traceback (most recent call last):\n  File x\n"
        "google.api_core.exceptions.ResourceExhausted: 429 The following quotas are exceeded: CPUs\n"
        "tenacity.RetryError: RetryError[<Future at 0x7f state=finished raised ResourceExhausted>]"
    )
    first = "Failed to submit flow run 'x' to infrastructure."
    assert told(line(f"{first}\n{traceback}")) == (
        first,
        "google.api_core.exceptions.ResourceExhausted: 429 The following quotas are exceeded: CPUs",
    )
    assert told(line(f"Job failed, logs follow\n{traceback}")) == ("Job failed, logs follow",)


def test_a_deleted_job_is_told_though_its_worker_calls_it_no_warning() -> None:
    """Of what a worker says so quietly, nothing else counts; of the step, nothing at all."""
    deleted = "Cloud Run V2 Job 'x' was deleted. The flow run will be marked based on its current state."
    assert told(line("Creating job", level=20), line(deleted, level=20)) == (deleted,)
    assert told(line(deleted, level=20, name="prefect.flow_runs")) == ()


def test_when_a_run_was_heard_is_a_time_that_can_be_reckoned_with() -> None:
    """The server's own kind of time loses its zone when a duration is added to it."""
    import pendulum

    server = Server(pendulum.instance(HEARD))
    heard = asyncio.run(run_watch.last_heard(server, str(uuid4())))  # type: ignore[arg-type]
    assert heard is not None
    assert heard + timedelta(minutes=10) > HEARD


def test_a_run_that_waits_for_its_turn_on_a_full_pool_is_not_given_up() -> None:
    """The pool runs as many at once as it may, and takes it later; on one that has room it counts as not started."""
    full = Server(busy=2)
    assert looks(full, (0, SCHEDULED), (601, SCHEDULED), (1200, SCHEDULED)) is None and full.given == []
    assert looks(Server(busy=2), (0, PENDING), (601, PENDING)) is not None
    found = looks(Server(busy=1), (0, SCHEDULED), (601, SCHEDULED))
    assert found is not None and (found.name, found.given_up) == (NOT_STARTED, True)
