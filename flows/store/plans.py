"""Joint plans of lifecycles and every input they were made of, kept as decisions are: documents once, by the hash of their content."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from flows.core.errors import IntegrityError
from flows.store import decisions
from flows.store.columns import canonical_text, jsonable
from flows.store.database import insert_new, serialize
from flows.store.models_governance import PlanRow


def save(tx: Session, plan: Mapping[str, Any], inputs: Mapping[str, Any], *, intent_id: str, workload: str, at: datetime) -> None:
    """Store a joint decision's JSON and its inputs, kind to JSON value; the same plan again changes nothing.

    Args:
        tx: an open write transaction.
        plan: has at least ``decision_id``.
        inputs: the documents behind ``plan["inputs"]``, policies too.
        intent_id: the lifecycle that it is for.
        workload: whose.
        at: when it is stored, aware.

    Raises:
        IntegrityError: another plan is stored under this id.
    """
    serialize(tx, "plans")
    values = {
        "id": plan["decision_id"],
        "intent_id": intent_id,
        "workload": workload,
        "at": at,
        "number": (tx.scalar(select(func.max(PlanRow.number))) or 0) + 1,
        "documents": {kind: decisions.put(tx, value, at=at) for kind, value in inputs.items()},
        "body": jsonable(plan),
    }
    if not insert_new(tx, PlanRow, values) and canonical_text(tx.get_one(PlanRow, plan["decision_id"]).body) != canonical_text(plan):
        raise IntegrityError(f"another plan is stored as `{plan['decision_id']}`", expected="the same bytes for the same id")


def get(tx: Session, id: str) -> dict[str, Any] | None:
    """The JSON of a plan, None if there is none of this id."""
    row = tx.get(PlanRow, id)
    return None if row is None else dict(row.body)


def find(tx: Session, prefix: str, limit: int = 10) -> list[str]:
    """The ids of plans that begin with a prefix, as people type them."""
    return list(tx.scalars(select(PlanRow.id).where(PlanRow.id.startswith(prefix, autoescape=True)).order_by(PlanRow.id).limit(limit)))


def latest(tx: Session, intent_id: str) -> PlanRow | None:
    """The last plan of a lifecycle's intent."""
    return tx.scalars(select(PlanRow).where(PlanRow.intent_id == intent_id).order_by(PlanRow.number.desc()).limit(1)).first()


def between(tx: Session, since: datetime | None = None, until: datetime | None = None) -> list[str]:
    """The ids of all plans stored in [since, until), the oldest first."""
    query = select(PlanRow.id).order_by(PlanRow.number)
    if since is not None:
        query = query.where(PlanRow.at >= since)
    if until is not None:
        query = query.where(PlanRow.at < until)
    return list(tx.scalars(query))


def inputs(tx: Session, id: str) -> dict[str, Any]:
    """All inputs of a plan, kind to JSON value: what a replay reads.

    Raises:
        IntegrityError: a document no longer has its hash.
    """
    return {kind: decisions.document(tx, digest) for kind, digest in sorted(tx.get_one(PlanRow, id).documents.items())}
