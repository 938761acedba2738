"""Requests for a person's approval and what was said about them: one judgement a request, each beside its ledger row."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from flows.core.errors import IntegrityError, UserError
from flows.core.governance.approvals import REQUEST_DAYS, Judgement, Request, Standing, Subject, request_id, standing
from flows.store import ledger, outbox, principals
from flows.store.columns import jsonable
from flows.store.database import insert_new, locked
from flows.store.models import LedgerRow
from flows.store.models_governance import ApprovalRequestRow, ApprovalRow

REQUESTED, JUDGED, ABSENT, USED = "approval-request", "approval", "approval-absence", "approval-use"
"""Ledger kinds: a promotion waits, a person decided, a promotion was tried again while nobody had, a promotion relied on an approval."""


def ensure(
    tx: Session, intent: str, subject: Subject, *, parties: frozenset[str], links: Mapping[str, str], principal: str, at: datetime
) -> tuple[Request, bool]:
    """The request of this promotion, made now with its ledger row if it is new; whether it is new."""
    id = request_id(intent, subject)
    expires = at + timedelta(days=REQUEST_DAYS)
    values = {"id": id, "intent_id": intent, **subject.to_json(), "parties": sorted(parties), "links": dict(links), "looks": 0}
    new = insert_new(tx, ApprovalRequestRow, {**values, "at": at, "expires_at": expires})
    if new:
        close(tx, intent, at, but=id)
        body = {"request": id, "intent": intent, **subject.to_json(), "parties": parties, "expires": expires}
        ledger.append(tx, REQUESTED, body, principal=principal, at=at)
    return _request(_row(tx, id)), new


def looked(tx: Session, id: str, *, principal: str, at: datetime) -> None:
    """Record that the promotion was tried again while nobody had decided."""
    row = _row(tx, id)
    row.looks += 1
    tx.flush()
    ledger.append(tx, ABSENT, {"request": id, "intent": row.intent_id, "looks": row.looks}, principal=principal, at=at)


def judge(
    tx: Session, request: Request, *, approver: str, roles: tuple[str, ...], how: str, approved: bool, reason: str, at: datetime,
    expires_at: datetime,
) -> Judgement:  # fmt: skip
    """Record the one judgement of a request, with its ledger row; wake the lifecycle that waits for it.

    Raises:
        UserError: somebody decided it meanwhile.
    """
    id = request.id
    row = _row(tx, id)
    if tx.get(ApprovalRow, id, populate_existing=True) is not None:
        raise UserError(f"request `{id}` was decided meanwhile", fix="see `tradewind approve --list`")
    made = Judgement(id, request.subject, principals.id_for(tx, approver), approved, at, expires_at)
    if row.lifecycle_id is not None:
        waiting = outbox.get(tx, row.lifecycle_id)
        if waiting is not None and waiting.state == outbox.OPEN:
            outbox.postpone(tx, row.lifecycle_id, at, at)
    written = ledger.append(tx, JUDGED, _body(made, roles, how, reason), principal=approver, at=at)
    values = {"request_id": id, "approver": made.approver, "roles": list(roles), "how": how, "approved": approved, "reason": reason}
    if not insert_new(tx, ApprovalRow, {**values, "at": at, "expires_at": expires_at, "ledger_seq": written.seq}):
        raise UserError(f"request `{id}` was decided meanwhile", fix="see `tradewind approve --list`")
    return made


def judgement(tx: Session, request: Request) -> tuple[Judgement, tuple[str, ...], str] | None:
    """What was said about a request, with the roles of its maker then and how the maker was known; None while nobody has.

    Raises:
        IntegrityError: the record and its ledger row differ: one of them was made or changed by hand.
    """
    row = tx.get(ApprovalRow, request.id, populate_existing=True)
    if row is None:
        return None
    found = Judgement(request.id, request.subject, row.approver, row.approved, row.at, row.expires_at)
    told = tx.get(LedgerRow, row.ledger_seq)
    body = jsonable(_body(found, tuple(row.roles), row.how, row.reason))
    if told is None or (told.kind, told.principal, told.body, told.at) != (JUDGED, row.approver, body, row.at):
        raise IntegrityError(
            f"the approval of request `{request.id}` is not what the ledger holds",
            expected=f"row {row.ledger_seq} of kind `{JUDGED}`, with the same content",
            fix="see `tradewind ledger verify`; the champion stays",
        )
    return found, tuple(row.roles), row.how


def close(tx: Session, intent: str, at: datetime, *, but: str | None = None) -> None:
    """The promotion has ended, or waits under another request now: what it asked before waits no more."""
    query = select(ApprovalRequestRow).where(ApprovalRequestRow.intent_id == intent, ApprovalRequestRow.closed_at.is_(None))
    for row in tx.scalars(query):
        if row.id != but:
            row.closed_at = at
    tx.flush()


def hold(tx: Session, intent: str, *, lifecycle: str, run: str, at: datetime) -> datetime | None:
    """Note which lifecycle waits, and in which run; when it is to go on by itself: now if the request is decided, else when it expires.

    None if no request of this promotion is open.
    """
    row = _open(tx, intent)
    if row is None:
        return None
    row = _row(tx, row.id)
    row.lifecycle_id, row.run_id = lifecycle, run
    tx.flush()
    return at if tx.get(ApprovalRow, row.id) is not None else row.expires_at


def looks(tx: Session, intent: str) -> int | None:
    """How often the promotion found its open request undecided after it was made; None if it has none."""
    row = _open(tx, intent)
    return None if row is None else row.looks


def run_of(tx: Session, lifecycle: str) -> str | None:
    """The run of a lifecycle that waits for an open request, if one does."""
    query = select(ApprovalRequestRow.run_id).where(ApprovalRequestRow.lifecycle_id == lifecycle, ApprovalRequestRow.closed_at.is_(None))
    return tx.scalar(query.order_by(ApprovalRequestRow.at.desc()).limit(1))


def get(tx: Session, id: str) -> Request:
    """A request.

    Raises:
        UserError: there is none of this id.
    """
    return _request(_row(tx, id))


def open_of(tx: Session, intent: str) -> str | None:
    """The id of the request that a promotion waits for, None if it waits for none."""
    row = _open(tx, intent)
    return None if row is None else row.id


def row(tx: Session, id: str) -> ApprovalRequestRow | None:
    """A request as it rests, with its links and its run."""
    return tx.get(ApprovalRequestRow, id, populate_existing=True)


def stands(tx: Session, row: ApprovalRequestRow, at: datetime) -> tuple[Standing, ApprovalRow | None]:
    """How a request stands, and what was said about it.

    Raises:
        IntegrityError: as `judgement`.
    """
    request = _request(row)
    said = judgement(tx, request)
    return standing(request, said[0] if said else None, at), tx.get(ApprovalRow, row.id)


def listed(tx: Session, *, everything: bool = False) -> list[ApprovalRequestRow]:
    """Requests that wait or are decided and not yet taken up, the oldest first; with `everything` also those that have ended."""
    query = select(ApprovalRequestRow).order_by(ApprovalRequestRow.at, ApprovalRequestRow.id)
    return list(tx.scalars(query if everything else query.where(ApprovalRequestRow.closed_at.is_(None))))


def _open(tx: Session, intent: str) -> ApprovalRequestRow | None:
    query = select(ApprovalRequestRow).where(ApprovalRequestRow.intent_id == intent, ApprovalRequestRow.closed_at.is_(None))
    return tx.scalars(query.order_by(ApprovalRequestRow.at.desc()).limit(1)).first()


def _row(tx: Session, id: str) -> ApprovalRequestRow:
    tx.flush()
    found = locked(tx, ApprovalRequestRow, id)
    if found is None:
        raise UserError(f"there is no request `{id}`", expected="one that `tradewind approve --list` names")
    return found


def _request(row: ApprovalRequestRow) -> Request:
    subject = Subject(row.workload, row.version, row.dataset, row.verdict)
    return Request(row.id, row.intent_id, subject, frozenset(row.parties), row.at, row.expires_at)


def _body(made: Judgement, roles: tuple[str, ...], how: str, reason: str) -> dict[str, Any]:
    decision = "approved" if made.approved else "denied"
    body = {"request": made.request, "decision": decision, **made.subject.to_json()}
    return {**body, "roles": sorted(roles), "how": how, "why": reason, "expires": made.expires_at}
