"""What may be used once: a ticket's nonce by the one run it was for, a request's id by the one lifecycle it was made for."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from flows.store import principals
from flows.store.database import insert_new, locked
from flows.store.models_governance import RunRequestRow, TicketUseRow


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asked for a run: an opaque id, and the roles that were authenticated."""

    principal: str
    roles: tuple[str, ...]


def use(tx: Session, nonce: str, *, intent_id: str, run_id: str, at: datetime) -> str:
    """Let a run use a ticket; returns the run that it belongs to: this one, or another that came first."""
    if insert_new(tx, TicketUseRow, {"nonce": nonce, "intent_id": intent_id, "run_id": run_id, "at": at}):
        return run_id
    row = locked(tx, TicketUseRow, nonce)
    return run_id if row is None else row.run_id


def ask(tx: Session, principal: str, roles: Sequence[str], parameters: str, *, at: datetime, expires_at: datetime) -> str:
    """Write down who asks for a run with these parameters (their hash); returns the id that proves it, once."""
    id = secrets.token_urlsafe(24)
    who = principals.id_for(tx, principal)
    row = {"id": id, "principal": who, "roles": sorted(roles), "parameters": parameters, "at": at, "expires_at": expires_at}
    insert_new(tx, RunRequestRow, row)
    return id


def answer(tx: Session, id: str, parameters: str, *, run_id: str, at: datetime) -> Requester | None:
    """Who asked for this very run; None if nobody did, with other parameters, too long ago, or for a run that has begun already."""
    row = locked(tx, RunRequestRow, id)
    if row is None or row.parameters != parameters:
        return None
    if row.used_by is None and at < row.expires_at:
        row.used_by = run_id
        tx.flush()
    return Requester(row.principal, tuple(row.roles)) if row.used_by == run_id else None
