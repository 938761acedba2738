"""Capacity of pools held for intents, from a start to an end: what a later decision must leave free."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from flows.core.canonical import instant, plain
from flows.store.database import insert_new, locked, serialize
from flows.store.models import ReservationRow


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


def active(tx: Session, at: datetime, until: datetime) -> list[ReservationRow]:
    """Reservations that hold at any instant of ``[at, until)``, in order of pool and start."""
    query = select(ReservationRow).where(ReservationRow.from_at < until, ReservationRow.until_at > at)
    return list(tx.scalars(query.order_by(ReservationRow.pool, ReservationRow.from_at, ReservationRow.intent_id)))


def release(tx: Session, intent_id: str) -> None:
    """Give up what an intent holds, if it holds anything."""
    tx.execute(delete(ReservationRow).where(ReservationRow.intent_id == intent_id))


def to_conditions(row: ReservationRow) -> dict[str, Any]:
    """The row as an entry of ``reservations`` in a conditions file."""
    return {"pool": row.pool, "use": dict(row.use), "from": instant(row.from_at), "until": instant(row.until_at)}
