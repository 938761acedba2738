"""The tables of governance: who may, who approved, what was reviewed, proved and erased. The same conventions as in `models`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from flows.store.columns import BigKey, CanonicalJson
from flows.store.models import Base, Key, Name


class CheckpointFileRow(Base):
    """How long a file of ledger checkpoints is known to be, so that a file that was cut off, changed or taken away shows.

    ``origin`` is the sha256 of its first line, ``digest`` that of the last line within its first ``size`` bytes, which covers row ``seq``.
    """

    __tablename__ = "checkpoint_files"
    origin: Mapped[str] = mapped_column(String(64), primary_key=True)
    size: Mapped[int] = mapped_column(BigKey)
    digest: Mapped[str] = mapped_column(String(64))
    seq: Mapped[int] = mapped_column(BigKey)
    at: Mapped[datetime]


class ApprovalRequestRow(Base):
    """A promotion that waits for a person: exactly which version by which evaluation, who may not decide it, which lifecycle waits."""

    __tablename__ = "approval_requests"
    __table_args__ = (Index("approval_requests_by_intent", "intent_id"), Index("approval_requests_by_lifecycle", "lifecycle_id"))
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    intent_id: Mapped[str] = mapped_column(Key)
    workload: Mapped[str] = mapped_column(Name)
    version: Mapped[str] = mapped_column(String(64))
    dataset: Mapped[str] = mapped_column(Key)
    verdict: Mapped[str] = mapped_column(String(64))
    parties: Mapped[Any] = mapped_column(CanonicalJson)
    links: Mapped[Any] = mapped_column(CanonicalJson)
    looks: Mapped[int]
    at: Mapped[datetime]
    expires_at: Mapped[datetime]
    lifecycle_id: Mapped[str | None] = mapped_column(Key)
    run_id: Mapped[str | None] = mapped_column(Name)
    closed_at: Mapped[datetime | None]


class ApprovalRow(Base):
    """What one approver said about a request, once; `ledger_seq` is the row of the ledger that says the same."""

    __tablename__ = "approvals"
    request_id: Mapped[str] = mapped_column(ForeignKey("approval_requests.id"), primary_key=True)
    approver: Mapped[str] = mapped_column(String(64))
    roles: Mapped[Any] = mapped_column(CanonicalJson)
    how: Mapped[str] = mapped_column(String(16))
    approved: Mapped[bool]
    reason: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime]
    expires_at: Mapped[datetime]
    ledger_seq: Mapped[int] = mapped_column(BigKey)


class PlanRow(Base):
    """Where the due steps of a lifecycle's intent go together; ``documents`` maps each input to the hash of its stored document."""

    __tablename__ = "plans"
    __table_args__ = (Index("plans_by_number", "number", unique=True), Index("plans_by_intent", "intent_id"))
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    intent_id: Mapped[str] = mapped_column(Key)
    workload: Mapped[str] = mapped_column(Name)
    at: Mapped[datetime]
    number: Mapped[int] = mapped_column(BigKey)
    documents: Mapped[Any] = mapped_column(CanonicalJson)
    body: Mapped[Any] = mapped_column(CanonicalJson)


class SignatureRow(Base):
    """What control signed of a subject: the sha256 of its content, by which key."""

    __tablename__ = "signatures"
    subject: Mapped[str] = mapped_column(Key, primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    key: Mapped[str] = mapped_column(String(16))
    value: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime]


class TicketUseRow(Base):
    """Which run used a ticket: no other ever may."""

    __tablename__ = "ticket_uses"
    nonce: Mapped[str] = mapped_column(String(64), primary_key=True)
    intent_id: Mapped[str] = mapped_column(Key)
    run_id: Mapped[str] = mapped_column(Key)
    at: Mapped[datetime]


class RunRequestRow(Base):
    """Who asked for a lifecycle, with which parameters (their hash), and the one run that it was for."""

    __tablename__ = "run_requests"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    principal: Mapped[str] = mapped_column(String(64))
    roles: Mapped[Any] = mapped_column(CanonicalJson)
    parameters: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_by: Mapped[str | None] = mapped_column(Key)


class ReviewRow(Base):
    """One access review: how reading each source went, by which declaration (``rules``: its hash), and the ``digest`` of its grants."""

    __tablename__ = "reviews"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    at: Mapped[datetime]
    due_at: Mapped[datetime]
    sources: Mapped[Any] = mapped_column(CanonicalJson)
    rules: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64))


class ReviewGrantRow(Base):
    """One grant as a review found it, and what is wrong with it; its principal is an opaque id."""

    __tablename__ = "review_grants"
    review: Mapped[str] = mapped_column(ForeignKey("reviews.id"), primary_key=True)
    grant_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    body: Mapped[Any] = mapped_column(CanonicalJson)


class AttestationRow(Base):
    """What one person said of a grant as a review found it; ``until`` is a UTC day, ``principal`` an opaque id."""

    __tablename__ = "attestations"
    __table_args__ = (Index("attestations_by_grant", "grant_id", "number"),)
    number: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=True)
    grant_id: Mapped[str] = mapped_column(String(64))
    fingerprint: Mapped[str] = mapped_column(String(64))
    review: Mapped[str] = mapped_column(ForeignKey("reviews.id"))
    verdict: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    principal: Mapped[str] = mapped_column(Name)
    at: Mapped[datetime]
    until: Mapped[str | None] = mapped_column(String(10))


class ImportedLabelRow(Base):
    """What a bridge last said of a dataset: its classifications there, the label they mean here (None: nothing), and when it was read."""

    __tablename__ = "imported_labels"
    bridge: Mapped[str] = mapped_column(Name, primary_key=True)
    dataset: Mapped[str] = mapped_column(Name, primary_key=True)
    label: Mapped[Any | None] = mapped_column(CanonicalJson)
    words: Mapped[Any] = mapped_column(CanonicalJson)
    at: Mapped[datetime]


class SecurityProofRow(Base):
    """What is on record of one security check at one site; a proof counts before ``valid_until``, ``evidence`` is a sha256."""

    __tablename__ = "security_proofs"
    site: Mapped[str] = mapped_column(Name, primary_key=True)
    check_name: Mapped[str] = mapped_column(String(64), primary_key=True)
    outcome: Mapped[str] = mapped_column(String(16))
    at: Mapped[datetime]
    valid_until: Mapped[datetime]
    evidence: Mapped[str] = mapped_column(String(64))
