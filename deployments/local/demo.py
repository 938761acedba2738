"""The whole loop on real data, on real servers and workers: a year of flights and a clinic's patients, side by side."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from deployments.local import demo_report
from deployments.local.lock import exclusive
from deployments.local.supervisor import Stack, connected, running_stack, up
from flows.adapters import dispatch
from flows.core.errors import TradewindError, Unavailable
from flows.core.planning import intent_id, window_of
from flows.services import approving
from flows.services.declarations import Declarations
from flows.services.identity import service
from flows.store import decisions, outbox, reservations, runs
from flows.store.database import State

if TYPE_CHECKING:
    from rich.console import Console

    from flows.adapters.settings import Settings

FLIGHTS, CLINIC = "flight_delay", "nafld"
FLIGHT_DATES = ("2013-03-15", "2013-08-15", "2013-11-25")
"""Data clocks of the flights' year: the first model, a summer that it was not made for, an autumn in which a new one is no better."""
CLINIC_DATE = "2013-03-15"
APPROVER, REASON = "demo-approver", "the demo plays the person who judges the evaluation"
"""Who approves in the demo, a service of `roles.yaml`, and why."""
POLL_SECONDS = 0.5
RETRAIN_SECONDS = 180.0
"""How long a retrain may take from its verdict on; the reconciler, should the event be lost, comes round each minute."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Demo:
    """One demo over a running stack."""

    settings: Settings
    state: State
    say: Say

    async def play(self) -> None:
        """Both workloads at once, as in a company."""
        following = asyncio.create_task(self._follow())
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._flights())
                group.create_task(self._lifecycle(CLINIC, CLINIC_DATE))
        except* TradewindError as failed:
            raise failed.exceptions[0] from None
        finally:
            following.cancel()

    async def _flights(self) -> None:
        for number, day in enumerate(FLIGHT_DATES):
            if number == len(FLIGHT_DATES) - 1:
                self._occupy()
            await self._lifecycle(FLIGHTS, day)
            await self._retrained(FLIGHTS, day)

    async def _lifecycle(self, workload: str, day: str) -> None:
        from flows.prefect_dispatcher import PrefectDispatcher

        as_of = f"{day}T00:00:00Z"
        own = intent_id(workload, "lifecycle", day, "manual")
        with self.state.reading() as tx:
            row = outbox.get(tx, own)
            attempt = row.attempt if row else 0
            if row is not None and row.state == outbox.DONE:
                self.say(f"{workload} as of {day} was done by an earlier demo")
                return
        self.say(f"{workload} as of {day}: started")
        key = f"demo {own} {attempt} {datetime.now(UTC):%Y%m%d%H%M%S}"
        outcome = await PrefectDispatcher().run(f"lifecycle/{workload}", {"workload": workload, "as_of": as_of, "cause": "manual"}, key=key)
        if outcome.state == dispatch.SUSPENDED:
            await self._approve(workload, outcome.run_id)
            outcome = replace(outcome, succeeded=(await dispatch.wait(outcome.run_id)).succeeded)
        if not outcome.succeeded:
            raise Unavailable(
                f"the lifecycle of `{workload}` as of {day} ended {outcome.state}: {outcome.message}",
                fix=f"see {outcome.url}; `tradewind demo` goes on from there",
            )

    async def _approve(self, workload: str, run_id: str) -> None:
        """Play the approver: in a company this is another person, with `tradewind approve`, on another day."""
        now = datetime.now(UTC)
        identity = service(self.settings, APPROVER)
        for one in approving.waiting(self.state, at=now):
            if one.workload == workload and one.standing == "waiting":
                self.say(f"{workload}: its label asks for a person; version {one.version} waits: tradewind approve {one.request}")
                approving.decide(self.state, self.settings, one.request, identity=identity, approve=True, reason=REASON, at=now)
                self.say(f"{workload}: the demo plays that person, as `{APPROVER}` with role {', '.join(identity.roles)}, and approves")
        await dispatch.resume(run_id)

    async def _retrained(self, workload: str, day: str) -> None:
        """Wait until the retrain that a drift verdict asked for, if it did, is at its end: nobody here starts it."""
        own = intent_id(workload, "lifecycle", window_of(datetime.fromisoformat(f"{day}T00:00:00+00:00")), "drift")
        began, told = time.monotonic(), False
        while time.monotonic() - began < RETRAIN_SECONDS:
            with self.state.reading() as tx:
                row = outbox.get(tx, own)
            if row is None or row.state in (outbox.DONE, outbox.REFUSED):
                return
            if row.state == outbox.FAILED:
                raise Unavailable(f"the retrain `{own}` failed: {row.error}", fix="see the Prefect UI; `tradewind demo` goes on from there")
            if not told:
                self.say(f"{workload}: drift as of {day}; the event starts a retrain")
                told = True
            await asyncio.sleep(POLL_SECONDS)
        raise Unavailable(
            f"the retrain `{own}` was not done within {RETRAIN_SECONDS:.0f} s",
            fix="see the Prefect UI; `tradewind demo` goes on from there",
        )

    def _occupy(self) -> None:
        """Another team takes the pool that trained the flights last: the next training must go elsewhere, and the decision says why."""
        now = datetime.now(UTC)
        with self.state.transaction() as tx:
            trained = next((row for row in decisions.recent(tx, workload=FLIGHTS, limit=1000) if row.step == "train" and row.pool), None)
            if trained is None or trained.pool is None:
                return
            pool = Declarations.load(self.settings).estate.pool_by_name[trained.pool]
            reservations.add(tx, pool.name, dict(pool.capacity), now, now + timedelta(days=2), "another-team/train/demo/capacity")
        self.say(f"another team reserved all of {trained.pool} for two days")

    async def _follow(self) -> None:
        """Tell of each run that began or ended since the last look."""
        with self.state.reading() as tx:
            seen = {(row.id, row.state) for row in runs.recent(tx, limit=10_000)}
        while True:
            await asyncio.sleep(POLL_SECONDS)
            with self.state.reading() as tx:
                found = runs.recent(tx, limit=200)
            for row in reversed(found):
                if (row.id, row.state) not in seen:
                    seen.add((row.id, row.state))
                    took = f" in {(row.finished_at - row.started_at).total_seconds():.1f} s" if row.finished_at else ""
                    self.say(f"  {row.workload} {row.step} on {row.pool}: {row.state}{took}" + (f", {row.error}" if row.error else ""))


@contextlib.contextmanager
def _stack(settings: Settings, say: Say, *, keep: bool) -> Iterator[Stack]:
    """The running stack; what was started for it is stopped at the end, or kept."""
    if not keep:
        with running_stack(settings, say) as stack:
            yield stack
        return
    stack = up(settings, say, what="tradewind demo")
    with connected(stack):
        yield stack


def run(settings: Settings, console: Console, *, keep: bool = False) -> None:
    """Start what does not run, play the demo, write `demo.json`, show the summary; stop what was started unless told to keep it.

    Raises:
        Unavailable: another demo is at work on the same home, a service or a step failed. The next demo goes on from there.
    """
    began = time.monotonic()

    def say(line: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:6.1f} s[/dim]  {line}", highlight=False)

    with exclusive(settings.home, "tradewind demo", name="demo"):
        with _stack(settings, say, keep=keep) as stack:
            state = State(stack.settings.state_url)
            asyncio.run(Demo(stack.settings, state, say).play())
            links = {"Prefect UI": stack.prefect_url, "MLflow UI": stack.mlflow_url}
        report = demo_report.collect(state, Declarations.load(settings), links=links, seconds=time.monotonic() - began)
        path = settings.home / "demo.json"
        path.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    demo_report.show(report, console)
    console.print(f"as JSON: {path}", soft_wrap=True)
    console.print(
        "the services are running; `tradewind down` stops them"
        if keep or not stack.started
        else "the services are stopped; `tradewind up` shows all of it in the UIs"
    )
