"""Requests to erase a person, and what they still wait for: intents of their own steps. No key of a person is in any of them.

A request's id is random and says nothing; its reference is a keyed hash of the person's key, which nobody without the secret can guess
from a list of keys. Ingest leaves out every row whose key has the reference of an erasure that was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from flows.store import outbox
from flows.store.models import IntentRow

ERASE, REPLACE = "erase", "replace-model"
"""Steps: a request; a model that still serves though it learnt from erased rows."""
CAUSE = "erasure"


def ask(tx: Session, workload: str, id: str, payload: Mapping[str, Any], *, at: datetime) -> IntentRow:
    """Store a request, or find the one that is under way for the same reference and purpose, which goes on."""
    for row in _of(tx, ERASE, workload):
        same = (row.payload["reference"], row.payload["apply"]) == (payload["reference"], payload["apply"])
        if same and row.state in (outbox.OPEN, outbox.RUNNING, outbox.FAILED):
            if row.state == outbox.FAILED:
                outbox.reopen(tx, row.id)
            return row
    return outbox.ensure(tx, outbox.Intent.of(workload, ERASE, id, CAUSE, due_at=at, payload=payload))


def unfinished(tx: Session) -> list[IntentRow]:
    """Requests that are not done, the oldest first."""
    return [row for row in _of(tx, ERASE) if row.state != outbox.DONE]


def done_since(tx: Session, since: datetime) -> list[IntentRow]:
    """Requests that were done at or after an instant."""
    return [row for row in _of(tx, ERASE) if row.state == outbox.DONE and row.finished_at is not None and row.finished_at >= since]


def references(tx: Session, workload: str) -> frozenset[str]:
    """The references of everyone whose erasure from this workload was asked for, done or not; a dry run asks for none."""
    return frozenset(row.payload["reference"] for row in _of(tx, ERASE, workload) if row.payload["apply"])


def wait_for_model(tx: Session, workload: str, model: str, request: str, *, at: datetime) -> None:
    """Note that a model, `dataset@version`, goes once it no longer serves."""
    payload = {"model": model, "request": request}
    outbox.ensure(tx, outbox.Intent.of(workload, REPLACE, model, request, due_at=at, payload=payload))


def waiting_models(tx: Session) -> list[IntentRow]:
    """The models that still wait for that, the oldest note first."""
    return [row for row in _of(tx, REPLACE) if row.state != outbox.DONE]


def _of(tx: Session, step: str, workload: str | None = None) -> list[IntentRow]:
    query = select(IntentRow).where(IntentRow.step == step).order_by(IntentRow.due_at, IntentRow.id)
    return list(tx.scalars(query if workload is None else query.where(IntentRow.workload == workload)))
