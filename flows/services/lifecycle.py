"""One lifecycle of a workload: plan its steps, place each, move its data there, dispatch it, and pick up where an earlier run stopped.

Every step is an intent in the state database. Whatever was done stays done: a lifecycle that is started again, by a person, the
reconciler or the next day's schedule, finds the finished intents and goes on behind them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from flows.adapters.settings import Settings
from flows.core.errors import Infeasible
from flows.services.dispatching import Dispatcher
from flows.services.stepping import NEEDS_CHAMPION, STALE_AFTER, Driver, LifecycleOrder, OnDecision, log
from flows.store import approvals, outbox, principals
from flows.store.database import State

__all__ = ["LifecycleOrder", "Report", "run"]


@dataclass
class Report:
    """What a lifecycle did: `state` is done, scheduled (a later slot; the reconciler goes on), refused, or taken (another run has it).

    Or it is waiting: for a person, who must judge what `approval` holds, its `request` and its `page`; the reconciler goes on.
    """

    state: str = "done"
    steps: dict[str, Any] = field(default_factory=dict)
    message: str = ""
    approval: Mapping[str, str] | None = None


async def run(order: LifecycleOrder, *, settings: Settings, dispatcher: Dispatcher, on_decision: OnDecision | None = None) -> Report:
    """Run or resume the lifecycle.

    Raises:
        Infeasible: no place may run a step; the decision on record says why.
        TradewindError: a step's run failed; starting the lifecycle again goes on from there.
    """
    state = State(settings.state_url)
    own = order.intent or order.intent_of("lifecycle")
    report = Report()
    if not _take(state, own, order):
        with state.reading() as tx:
            row = outbox.get(tx, own)
        log.info("intent `%s` is %s: nothing to do here", own, row.state if row else "gone")
        return Report(state="taken", message=f"`{own}` is {row.state if row else 'gone'}")
    driver = Driver(order, settings, state, dispatcher, on_decision)
    try:
        steps = driver.plan()
        for step in steps:
            if step in NEEDS_CHAMPION and not driver.has_champion():
                log.info("no champion yet: `%s` has nothing to do", step)
                continue
            await driver.look_ahead(steps)
            result = await driver.step(step)
            if result is not None and (approval := result.get("approval")):
                report.state, report.message, report.approval = "waiting", result["summary"], approval
                break
            if result is None:
                report.state, report.message = "scheduled", f"`{step}` starts at its slot"
                break
            report.steps[step] = result
            if step == "promote":
                report.message = result["summary"]
    except BaseException as error:
        with state.transaction() as tx:
            if isinstance(error, Infeasible):
                outbox.refuse(tx, own, str(error), _now())
            else:
                outbox.fail(tx, own, str(error) or type(error).__name__, _now())
        raise
    with state.transaction() as tx:
        if report.approval is not None:
            promote = order.intent_of("promote")
            driver.resume_at = approvals.hold(tx, promote, lifecycle=own, run=order.owner, at=_now()) or _now()
        if driver.resume_at is not None:
            outbox.postpone(tx, own, driver.resume_at, _now())
        else:
            outbox.finish(tx, own, {"steps": sorted(report.steps), "message": report.message}, _now())
    return report


def _take(state: State, own: str, order: LifecycleOrder) -> bool:
    now = _now()
    with state.transaction() as tx:
        by = {"principal": principals.id_for(tx, order.principal), "roles": sorted(order.roles or ())}
        payload = order.payload if order.roles is None else {**order.payload, "by": by}
        row = outbox.ensure(tx, outbox.Intent(own, order.workload, "lifecycle", order.window, own.rsplit("/", 1)[-1], now, payload))
        if row.state == outbox.FAILED:
            outbox.reopen(tx, own)
        return outbox.claim(tx, own, owner=order.owner, at=now, stale_after=STALE_AFTER)


def _now() -> datetime:
    return datetime.now(UTC)
