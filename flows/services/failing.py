"""What a run that died could not write down itself: its row, its intent's failed try, the ledger, and its pool's cool-down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from flows.services.declarations import Declarations
from flows.store import ledger, outbox, runs, sites

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from flows.adapters.settings import Settings
    from flows.core.failures import Failure

BY_PEOPLE = ("step", "refused", "cancelled")
"""Kinds that no place and no cloud brought about."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that ended without completing: of which intent, by which decision."""

    intent: str
    workload: str
    step: str
    run: str
    decision: str | None


def record(tx: Session, settings: Settings, ended: Ended, failure: Failure, chosen: Mapping[str, Any] | None, at: datetime) -> None:
    """Write it all down; `chosen` is where its decision sent it, None for what nobody placed."""
    told = str(failure)
    row, run = outbox.get(tx, ended.intent), runs.get(tx, ended.run)
    if row is not None and row.state == outbox.RUNNING:
        outbox.fail(tx, ended.intent, told, at)
    if run is None and chosen is not None:
        # it never came so far as to write its own row
        place = {"workload": ended.workload, "step": ended.step, "pool": chosen["pool"], "site": chosen["site"], "pid": None}
        run = runs.start(tx, id=ended.run, at=at, intent_id=ended.intent, decision_id=ended.decision, **place)
    # a process that is told to end may still write that it failed; why it was ended is known here
    if run is not None and (run.state == runs.RUNNING or (run.state == "failed" and failure.kind not in ("step", "refused"))):
        runs.finish(tx, run.id, "failed" if failure.kind == "step" else failure.kind, at, error=told)
    if chosen is None:
        return
    pool, site = chosen["pool"], chosen["site"]
    if failure.at_fault:
        until = at.replace(microsecond=0) + timedelta(minutes=settings.cool_down_minutes)
        for each in _pools_of(settings, site) if failure.whole_site else [pool]:
            sites.cool(tx, each, ended.intent, until=until, error=told, at=at)
    if failure.kind not in BY_PEOPLE:
        what = {"intent": ended.intent, "workload": ended.workload, "step": ended.step, "run": ended.run, "decision": ended.decision}
        body = {**what, "pool": pool, "site": site, "failure": failure.kind, "why": failure.what}
        ledger.append(tx, "place-failure", body, principal="worker", at=at)


def _pools_of(settings: Settings, site: str) -> list[str]:
    """Every pool of a site that takes placed steps."""
    return sorted(pool.name for pool in Declarations.load(settings).estate.pools if pool.site == site and pool.offers)
