"""Placement decisions and every input they were made of: documents kept once, by the hash of their content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from flows.core.canonical import sha256_hex
from flows.core.errors import IntegrityError, UserError
from flows.store.columns import canonical_text, jsonable
from flows.store.database import insert_new, serialize
from flows.store.models import DecisionInputRow, DecisionRow, DocumentRow


def save(tx: Session, decision: Mapping[str, Any], inputs: Mapping[str, Any], *, at: datetime) -> None:
    """Store a decision (the JSON of DESIGN's contract) and its inputs, kind to JSON value; the same decision again changes nothing.

    Args:
        tx: an open write transaction.
        decision: has at least ``decision_id``, ``at``, ``inputs``, ``chosen`` (or None) and ``summary``.
        inputs: the documents behind ``decision["inputs"]``; ``request`` names the workload and step the decision is listed under.
        at: when it is stored, aware.

    Raises:
        IntegrityError: another decision is stored under this id.
    """
    body = jsonable(decision)
    request = _mapping(jsonable(inputs.get("request")))
    chosen = _mapping(body.get("chosen"))
    id = body["decision_id"]
    serialize(tx, "decisions")
    new = insert_new(
        tx,
        DecisionRow,
        {
            "id": id,
            "at": at,
            "decided_at": datetime.fromisoformat(body["at"]),
            "workload": body.get("workload") or request.get("workload"),
            "step": body.get("step") or request.get("step"),
            "intent_id": body.get("intent_id") or request.get("intent_id"),
            "pool": chosen.get("pool"),
            "site": chosen.get("site"),
            "usd_total": _mapping(chosen.get("usd")).get("total"),
            "summary": body.get("summary") or "",
            "body": body,
            "number": (tx.scalar(select(func.max(DecisionRow.number))) or 0) + 1,
        },
    )
    if not new and get(tx, id) != json.loads(canonical_text(body)):
        raise IntegrityError(f"another decision is stored as `{id}`", expected="the same bytes for the same id")
    declared = _mapping(body.get("inputs"))
    for kind, value in inputs.items():
        stored = put(tx, value, at=at)
        insert_new(tx, DecisionInputRow, {"decision_id": id, "kind": kind, "document": stored, "declared": declared.get(kind) or stored})


def put(tx: Session, value: Any, *, at: datetime) -> str:
    """Store a JSON value under the hash of its canonical bytes, once; returns the hash."""
    body = canonical_text(value)
    digest = sha256_hex(body.encode())
    insert_new(tx, DocumentRow, {"hash": digest, "body": body, "at": at})
    return digest


def get(tx: Session, decision_id: str) -> dict[str, Any] | None:
    """The JSON of a decision, None if there is none of this id."""
    found = tx.scalar(select(DecisionRow.body).where(DecisionRow.id == decision_id))
    return None if found is None else dict(found)


def find(tx: Session, prefix: str, limit: int = 10) -> list[str]:
    """The ids of decisions that begin with a prefix, as people type them."""
    return list(
        tx.scalars(select(DecisionRow.id).where(DecisionRow.id.startswith(prefix, autoescape=True)).order_by(DecisionRow.id).limit(limit))
    )


def document(tx: Session, hash: str) -> Any:
    """The JSON value of a hash: that of its content, or the one by which a decision names its input.

    Raises:
        UserError: no document of this hash is stored.
        IntegrityError: what is stored no longer has its hash.
    """
    row = tx.get(DocumentRow, hash)
    if row is None:
        named = select(DecisionInputRow.document).where(DecisionInputRow.declared == hash).limit(1)
        row = tx.scalars(select(DocumentRow).where(DocumentRow.hash == named.scalar_subquery())).first()
    if row is None:
        raise UserError(f"no document `{hash}` is stored")
    if sha256_hex(row.body.encode()) != row.hash:
        raise IntegrityError(f"the stored document `{row.hash}` was changed")
    return json.loads(row.body)


def inputs(tx: Session, decision_id: str) -> dict[str, Any]:
    """All inputs of a decision, kind to JSON value: what a replay reads.

    Raises:
        IntegrityError: a document no longer has its hash.
    """
    found = tx.execute(select(DecisionInputRow.kind, DecisionInputRow.document).where(DecisionInputRow.decision_id == decision_id))
    return {kind: document(tx, digest) for kind, digest in sorted(found.tuples())}


def input_of(tx: Session, decision_id: str, kind: str) -> Any:
    """One input of a decision; None if it has none of this kind."""
    row = tx.get(DecisionInputRow, (decision_id, kind))
    return None if row is None else document(tx, row.document)


def recent(tx: Session, *, workload: str | None = None, since: datetime | None = None, limit: int = 50) -> list[DecisionRow]:
    """The newest decisions first, of one second the last stored; `since` counts from when they were stored."""
    query = select(DecisionRow).order_by(DecisionRow.at.desc(), DecisionRow.number.desc())
    if workload is not None:
        query = query.where(DecisionRow.workload == workload)
    if since is not None:
        query = query.where(DecisionRow.at >= since)
    return list(tx.scalars(query.limit(limit)))


def newest(tx: Session, intent_id: str) -> str | None:
    """The id of the decision that was stored last for an intent."""
    query = select(DecisionRow.id).where(DecisionRow.intent_id == intent_id).order_by(DecisionRow.number.desc()).limit(1)
    return tx.scalar(query)


def between(tx: Session, since: datetime | None, until: datetime | None = None) -> list[str]:
    """The ids of all decisions stored in [since, until), the oldest first."""
    query = select(DecisionRow.id).order_by(DecisionRow.at, DecisionRow.number)
    if since is not None:
        query = query.where(DecisionRow.at >= since)
    if until is not None:
        query = query.where(DecisionRow.at < until)
    return list(tx.scalars(query))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
