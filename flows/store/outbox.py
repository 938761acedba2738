"""Intents: what must happen exactly once. Each ends as one run's result, a recorded refusal, or a failure after `TRIES` tries.

::

    open --claim--> running --finish--> done
     ^                 |----refuse----> refused
     +-fail, postpone--+----fail------> failed    (the third time)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from flows.core.errors import IntegrityError, UserError
from flows.store.columns import canonical_text
from flows.store.database import insert_new, locked
from flows.store.models import IntentRow

TRIES = 3
"""How often an intent is tried before it counts as failed."""

OPEN, RUNNING, DONE, FAILED, REFUSED = "open", "running", "done", "failed", "refused"


@dataclass(frozen=True, slots=True)
class Intent:
    """One thing that must happen exactly once, from ``due_at`` on.

    Raises:
        ValueError: the id is not ``workload/step/window/cause``, or ``due_at`` has no time zone.
    """

    id: str
    workload: str
    step: str
    window: str
    cause: str
    due_at: datetime
    payload: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.id != f"{self.workload}/{self.step}/{self.window}/{self.cause}":
            raise ValueError(f"intent `{self.id}` is not `{self.workload}/{self.step}/{self.window}/{self.cause}`")
        if "/" in self.workload + self.step:
            raise ValueError("the names of workloads and steps hold no `/`")
        if self.due_at.tzinfo is None:
            raise ValueError("an instant needs a time zone")

    @classmethod
    def of(cls, workload: str, step: str, window: str, cause: str, *, due_at: datetime, payload: Mapping[str, Any] | None = None) -> Intent:
        """The intent with the id that follows from its parts."""
        return cls(f"{workload}/{step}/{window}/{cause}", workload, step, window, cause, due_at, dict(payload or {}))


def ensure(tx: Session, intent: Intent) -> IntentRow:
    """Insert an intent, or find the one that is there: the first one's payload and due time stay."""
    insert_new(
        tx,
        IntentRow,
        {
            "id": intent.id,
            "workload": intent.workload,
            "step": intent.step,
            "window": intent.window,
            "cause": intent.cause,
            "due_at": intent.due_at,
            "payload": intent.payload,
            "state": OPEN,
            "attempt": 0,
        },
    )
    row = _row(tx, intent.id)
    if (row.workload, row.step, row.window, row.cause) != (intent.workload, intent.step, intent.window, intent.cause):
        raise IntegrityError(f"two intents have the id `{intent.id}`", fix="use no `/` in the window or the cause")
    return row


def claim(tx: Session, id: str, *, owner: str, at: datetime, stale_after: timedelta) -> bool:
    """Take an intent to run it; a claim by its owner again renews it.

    Args:
        tx: an open write transaction.
        id: the intent.
        owner: who will run it, one name for each run.
        at: now, aware.
        stale_after: a claim this old is taken over from its owner.

    Returns:
        Whether the caller holds it; False if it has ended or another owner's claim is fresh.
    """
    row = _row(tx, id)
    if row.state == RUNNING:
        claimed_at = row.claimed_at
        free = row.owner == owner or claimed_at is None or claimed_at + stale_after <= at
    else:
        free = row.state == OPEN
    if free:
        row.state, row.owner, row.claimed_at = RUNNING, owner, at
        tx.flush()
    return free


def finish(tx: Session, id: str, result: Mapping[str, Any], at: datetime, *, owner: str | None = None) -> None:
    """Record the result of a running intent; the same result again changes nothing.

    Args:
        tx: the transaction that stores what the run made.
        id: the intent.
        result: JSON values.
        at: when it ended, aware.
        owner: if given, the claim must be this owner's.

    Raises:
        IntegrityError: it is not running, or another owner has taken it over: what this run made must not be stored.
    """
    row = _row(tx, id)
    if row.state == DONE and canonical_text(row.result) == canonical_text(result):
        return
    _expect(row, RUNNING)
    if owner is not None and row.owner != owner:
        raise IntegrityError(f"intent `{id}` was taken over by `{row.owner}`", fix="drop this run's results")
    row.state, row.result, row.finished_at, row.error = DONE, dict(result), at, None
    tx.flush()


def fail(tx: Session, id: str, error: str, at: datetime, *, final: bool = False) -> None:
    """Record a failed try: the intent is open again, or failed after `TRIES` tries, at once if another try cannot help (`final`).

    Raises:
        IntegrityError: it has ended.
    """
    row = _row(tx, id)
    _expect(row, OPEN, RUNNING)
    row.attempt += 1
    row.error, row.owner, row.claimed_at = error, None, None
    row.state = FAILED if final or row.attempt >= TRIES else OPEN
    row.finished_at = at if row.state == FAILED else None
    tx.flush()


def refuse(tx: Session, id: str, reason: str, at: datetime) -> None:
    """Record that an intent must not or need not run; the same refusal again changes nothing.

    Raises:
        IntegrityError: it has ended otherwise.
    """
    row = _row(tx, id)
    if row.state == REFUSED and row.error == reason:
        return
    _expect(row, OPEN, RUNNING)
    row.state, row.error, row.finished_at = REFUSED, reason, at
    tx.flush()


def postpone(tx: Session, id: str, due_at: datetime, at: datetime) -> None:
    """Put an intent off: it is open again, due at the later of the two instants, and no try was lost.

    Raises:
        IntegrityError: it has ended.
    """
    row = _row(tx, id)
    _expect(row, OPEN, RUNNING)
    row.state, row.due_at, row.owner, row.claimed_at = OPEN, max(due_at, at), None, None
    tx.flush()


def reopen(tx: Session, id: str) -> None:
    """Give a failed intent one more try, because a person asked for it.

    Raises:
        IntegrityError: it has not failed.
    """
    row = _row(tx, id)
    _expect(row, FAILED)
    row.state, row.finished_at = OPEN, None
    tx.flush()


def get(tx: Session, id: str) -> IntentRow | None:
    """An intent, None if there is none of this id."""
    return tx.get(IntentRow, id, populate_existing=True)


def due(tx: Session, at: datetime, step: str | None = None, *, stale_after: timedelta | None = None) -> list[IntentRow]:
    """Open intents whose time has come, the earliest first; with `stale_after` also running ones whose claim is that old."""
    ready = and_(IntentRow.state == OPEN, IntentRow.due_at <= at)
    if stale_after is not None:
        ready = or_(ready, and_(IntentRow.state == RUNNING, IntentRow.claimed_at <= at - stale_after))
    query = select(IntentRow).where(ready).order_by(IntentRow.due_at, IntentRow.id)
    return list(tx.scalars(query if step is None else query.where(IntentRow.step == step)))


def recent(tx: Session, *, workload: str | None = None, state: str | None = None, limit: int = 50) -> list[IntentRow]:
    """Intents by due time, the newest first."""
    query = select(IntentRow).order_by(IntentRow.due_at.desc(), IntentRow.id)
    if workload is not None:
        query = query.where(IntentRow.workload == workload)
    if state is not None:
        query = query.where(IntentRow.state == state)
    return list(tx.scalars(query.limit(limit)))


def _row(tx: Session, id: str) -> IntentRow:
    tx.flush()
    row = locked(tx, IntentRow, id)
    if row is None:
        raise UserError(f"there is no intent `{id}`", expected="`workload/step/window/cause` of a stored one")
    return row


def _expect(row: IntentRow, *states: str) -> None:
    if row.state not in states:
        raise IntegrityError(f"intent `{row.id}` is {row.state}", expected=" or ".join(states))
