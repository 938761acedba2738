"""The frozen results of checks: drift, evaluation, validation."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from flows.core.errors import IntegrityError
from flows.store.columns import canonical_text
from flows.store.database import insert_new
from flows.store.models import VerdictRow

Kind = Literal["drift", "evaluation", "validation"]


def add(
    tx: Session,
    *,
    id: str,
    kind: Kind,
    workload: str,
    as_of: datetime,
    passed: bool,
    body: Mapping[str, Any],
    intent_id: str | None,
    at: datetime,
) -> VerdictRow:
    """Store a verdict; the same one again changes nothing.

    Args:
        tx: an open write transaction.
        id: its name, chosen by who makes it.
        kind: which check.
        workload: whose.
        as_of: the data clock it was made at, aware.
        passed: whether the check holds.
        body: the numbers and the thresholds, JSON values.
        intent_id: what asked for it.
        at: when it was made, aware.

    Raises:
        IntegrityError: another verdict is stored under this id.
    """
    values = {
        "id": id,
        "kind": kind,
        "workload": workload,
        "as_of": as_of,
        "passed": passed,
        "body": body,
        "intent_id": intent_id,
        "at": at,
    }
    new = insert_new(tx, VerdictRow, values)
    row = tx.get_one(VerdictRow, id)
    same = (row.kind, row.workload, row.as_of, row.passed) == (kind, workload, as_of, passed) and canonical_text(
        row.body
    ) == canonical_text(body)
    if not new and not same:
        raise IntegrityError(f"another verdict is stored as `{id}`", expected="one verdict for one id")
    return row


def get(tx: Session, id: str) -> VerdictRow | None:
    """A verdict, None if there is none of this id."""
    return tx.get(VerdictRow, id)


def recent(tx: Session, workload: str, kind: Kind | None = None, limit: int = 50) -> list[VerdictRow]:
    """The verdicts of a workload, the newest by data clock first."""
    query = select(VerdictRow).where(VerdictRow.workload == workload).order_by(VerdictRow.as_of.desc(), VerdictRow.at.desc(), VerdictRow.id)
    return list(tx.scalars((query if kind is None else query.where(VerdictRow.kind == kind)).limit(limit)))
