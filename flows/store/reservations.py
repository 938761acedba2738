"""Capacity of pools held for intents, from a start to an end: what a later decision must leave free."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from flows.core.canonical import instant, plain
from flows.store import outbox
from flows.store.database import insert_new, locked, serialize
from flows.store.models import IntentRow, ReservationRow


def hold(tx: Session) -> None:
    """Let one transaction at a time read reservations and add to them: call it before `active`, decide, then `add`."""
    serialize(tx, "reservations")


def add(tx: Session, pool: str, use: Mapping[str, str | Decimal | int], from_: datetime, until: datetime, intent_id: str) -> ReservationRow:
    """Hold capacity for an intent; an intent holds one reservation, the last one.

    Args:
        tx: the transaction that also stores the decision.
        pool: whose capacity.
        use: resource (``nodes``, ``cpus``, ``A100`` …) to amount, written as a plain decimal.
        from_: start, aware.
        until: end, not included, after the start.
        intent_id: for what.

    Raises:
        ValueError: the end does not lie after the start, or an amount is negative or no number.
    """
    amounts = {name: Decimal(str(amount)) for name, amount in use.items()}
    if until <= from_ or not all(amount.is_finite() and amount >= 0 for amount in amounts.values()):
        raise ValueError("a reservation ends after its start and holds no negative amount")
    hold(tx)
    values = {"pool": pool, "use": {name: plain(amount) for name, amount in amounts.items()}, "from_at": from_, "until_at": until}
    new = insert_new(tx, ReservationRow, {"intent_id": intent_id, **values})
    row = locked(tx, ReservationRow, intent_id)
    assert row is not None
    if not new:
        for name, value in values.items():
            setattr(row, name, value)
        tx.flush()
    return row


def active(tx: Session, at: datetime) -> list[ReservationRow]:
    """Reservations that hold at an instant or later, in order of pool and start; those whose intent runs on beyond their end too."""
    running = select(IntentRow.id).where(IntentRow.state == outbox.RUNNING)
    query = select(ReservationRow).where(or_(ReservationRow.until_at > at, ReservationRow.intent_id.in_(running)))
    return list(tx.scalars(query.order_by(ReservationRow.pool, ReservationRow.from_at, ReservationRow.intent_id)))


def release(tx: Session, intent_id: str) -> None:
    """Give up what an intent holds, if it holds anything."""
    tx.execute(delete(ReservationRow).where(ReservationRow.intent_id == intent_id))


def to_conditions(row: ReservationRow, at: datetime) -> dict[str, Any]:
    """The row as an entry of ``reservations`` in a conditions file: one that should have ended counts as long again from now."""
    until = row.until_at if row.until_at > at else at + (row.until_at - row.from_at)
    return {"pool": row.pool, "use": dict(row.use), "from": instant(row.from_at), "until": instant(until)}


def get(tx: Session, intent_id: str) -> ReservationRow | None:
    """What an intent holds, be it of a time that is over: it was placed and has not ended."""
    return tx.get(ReservationRow, intent_id, populate_existing=True)
