"""How many rows of each kind the ledger holds in a period, and the newest of them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from flows.store.models import LedgerRow


def counts(tx: Session, *, since: datetime | None, until: datetime) -> dict[str, int]:
    """Rows by kind, from `since` on and before `until`; a kind without a row is left out."""
    query = select(LedgerRow.kind, func.count()).where(LedgerRow.at < until).group_by(LedgerRow.kind)
    if since is not None:
        query = query.where(LedgerRow.at >= since)
    return {kind: int(count) for kind, count in tx.execute(query)}


def newest(tx: Session, kind: str, *, since: datetime | None, until: datetime, limit: int) -> list[LedgerRow]:
    """The newest rows of a kind in the period, the newest first."""
    query = select(LedgerRow).where(LedgerRow.kind == kind, LedgerRow.at < until)
    if since is not None:
        query = query.where(LedgerRow.at >= since)
    return list(tx.scalars(query.order_by(LedgerRow.seq.desc()).limit(limit)))
