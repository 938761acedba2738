"""Put right what events, crashes and time left undone: overdue intents, dead owners, half-moved aliases, unanchored ledger rows."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from flows.adapters.settings import Settings
from flows.core.canonical import instant
from flows.services import checkpointing, importing_labels, lineage, promoting
from flows.store import outbox
from flows.store.database import State
from flows.store.models import IntentRow

log = logging.getLogger("flows.reconcile")

GRACE = timedelta(seconds=15)
"""How long the event's own automation has to start a due intent before the reconciler does."""

HELD = ("lifecycle", "erase", "retention", "purge")
"""Steps whose intents are held by the run that works on them; those of placed steps are freed by their lifecycle."""

Start = Callable[[str, Mapping[str, Any], str], Awaitable[str]]
"""Starts `lifecycle/<workload>` with parameters under an idempotency key; returns the run's id."""
IsOver = Callable[[str], Awaitable[bool]]
"""Whether the run of this id is at its end, or was never there."""


@dataclass
class Reconciled:
    """What was put right: intents started (with their run), intents freed from dead runs, aliases mended, the ledger row anchored."""

    started: dict[str, str] = field(default_factory=dict)
    freed: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    anchored: int | None = None


async def reconcile(settings: Settings, *, start: Start, is_over: IsOver) -> Reconciled:
    """One round. Safe to run at any time, any number of times, beside anything else."""
    state = State(settings.state_url)
    done = Reconciled()
    for row in _running(state):
        if row.owner and await is_over(row.owner):
            with state.transaction() as tx:
                outbox.fail(tx, row.id, f"its run `{row.owner}` ended without a word", _now())
            done.freed.append(row.id)
            log.warning("`%s` was held by run `%s`, which is over: free again", row.id, row.owner)
    with state.reading() as tx:
        due = outbox.due(tx, _now() - GRACE, step="lifecycle")
        orders = [(row.workload, _parameters(row), f"{row.id}#{row.attempt} {instant(row.due_at)}", row.id) for row in due]
    for workload, parameters, key, intent in orders:
        done.started[intent] = await start(f"lifecycle/{workload}", parameters, key)
        log.info("`%s` was due and nobody had started it: started", intent)
    # after the starts: a model registry that does not answer must not keep a retrain waiting
    done.mended = [outcome.summary for outcome in promoting.mend(state, settings, at=_now())]
    newest = checkpointing.checkpoint_if_due(state, settings, at=_now())
    done.anchored = newest[0] if newest else None
    importing_labels.refresh(settings, at=_now())
    lineage.send_kept(settings)
    return done


def _running(state: State) -> list[IntentRow]:
    with state.reading() as tx:
        rows = [row for row in outbox.recent(tx, state=outbox.RUNNING, limit=1000) if row.step in HELD]
        tx.expunge_all()
    return rows


def _parameters(row: IntentRow) -> dict[str, Any]:
    wanted = {key: row.payload[key] for key in ("as_of", "retrain", "urgent", "steps") if key in row.payload}
    return {"workload": row.workload, "cause": row.cause.partition("-")[0], "intent_id": row.id, **wanted}


def _now() -> datetime:
    return datetime.now(UTC)
