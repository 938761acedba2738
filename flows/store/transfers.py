"""Copies of dataset versions from one site to another."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.orm import Session

from flows.store.database import insert_new
from flows.store.models import TransferRow


def add(
    tx: Session,
    *,
    dataset: str,
    version: str,
    source: str,
    destination: str,
    bytes: int,
    seconds: float,
    usd: Decimal | float | int | str,
    run_id: str,
    intent_id: str | None,
    at: datetime,
    cause: str,
) -> TransferRow:
    """Record a copy that was made; the same run's copy again changes nothing.

    Args:
        tx: an open write transaction.
        dataset: catalog name.
        version: the version copied.
        source: site it came from.
        destination: site it reached.
        bytes: bytes moved.
        seconds: how long the copy took.
        usd: egress cost in USD, kept to a millionth.
        run_id: the run that copied.
        intent_id: what asked for it.
        at: when it ended, aware.
        cause: why, for people: the step that needed it.
    """
    key = {"dataset": dataset, "version": version, "source": source, "destination": destination, "run_id": run_id}
    cost = usd if isinstance(usd, Decimal) else Decimal(str(usd))
    insert_new(tx, TransferRow, {**key, "bytes": bytes, "seconds": seconds, "usd": cost, "intent_id": intent_id, "at": at, "cause": cause})
    return tx.scalars(select(TransferRow).filter_by(**key)).one()


def recent(tx: Session, *, dataset: str | None = None, since: datetime | None = None, limit: int = 50) -> list[TransferRow]:
    """Copies, the newest first."""
    query = select(TransferRow).order_by(TransferRow.at.desc(), TransferRow.number.desc())
    if dataset is not None:
        query = query.where(TransferRow.dataset == dataset)
    if since is not None:
        query = query.where(TransferRow.at >= since)
    return list(tx.scalars(query.limit(limit)))
