"""The tables of the state database. Times are UTC instants given by the caller; JSON is canonical text; money is exact to a millionth."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flows.store.columns import BigKey, CanonicalJson, Instant, Micros, jsonable

Name = String(255)
Key = String(1024)


class Base(DeclarativeBase):
    """The base of every row."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: Instant, Decimal: Micros}

    def to_dict(self) -> dict[str, Any]:
        """The row as a JSON value, by column name."""
        return {attribute.key: jsonable(getattr(self, attribute.key)) for attribute in self.__mapper__.column_attrs}


class DocumentRow(Base):
    """One JSON document, kept once under the hash of its canonical bytes."""

    __tablename__ = "documents"
    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    body: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime]


class DecisionRow(Base):
    """One placement decision; ``decided_at`` is its own clock, ``at`` the instant it was stored, ``number`` its place among all stored."""

    __tablename__ = "decisions"
    __table_args__ = (
        Index("decisions_by_workload", "workload", "at"),
        Index("decisions_by_intent", "intent_id"),
        Index("decisions_by_number", "number", unique=True),
    )
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    at: Mapped[datetime]
    decided_at: Mapped[datetime]
    workload: Mapped[str | None] = mapped_column(Name)
    step: Mapped[str | None] = mapped_column(Name)
    intent_id: Mapped[str | None] = mapped_column(Key)
    pool: Mapped[str | None] = mapped_column(Name)
    site: Mapped[str | None] = mapped_column(Name)
    usd_total: Mapped[Decimal | None]
    summary: Mapped[str] = mapped_column(Text)
    body: Mapped[Any] = mapped_column(CanonicalJson)
    number: Mapped[int | None] = mapped_column(BigKey)


class DecisionInputRow(Base):
    """Which document a decision read as its ``kind`` (estate, policies …); ``declared`` is the hash the decision itself names."""

    __tablename__ = "decision_inputs"
    __table_args__ = (Index("decision_inputs_by_declared", "declared"),)
    decision_id: Mapped[str] = mapped_column(ForeignKey("decisions.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(64), primary_key=True)
    document: Mapped[str] = mapped_column(ForeignKey("documents.hash"))
    declared: Mapped[str] = mapped_column(Key)


class LedgerRow(Base):
    """One row of the hash chain; never changed, never removed. ``principal`` is an opaque id."""

    __tablename__ = "ledger"
    __table_args__ = (Index("ledger_by_kind", "kind", "seq"),)
    seq: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(Name)
    principal: Mapped[str] = mapped_column(Name)
    body: Mapped[Any] = mapped_column(CanonicalJson)
    prev_hash: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))


class PrincipalRow(Base):
    """The one table that holds names of people: an opaque id and, until it is erased, its name."""

    __tablename__ = "principals"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str | None] = mapped_column(Key, unique=True)


class IntentRow(Base):
    """One thing that must happen exactly once. ``attempt`` counts the tries that failed."""

    __tablename__ = "intents"
    __table_args__ = (Index("intents_due", "state", "due_at"),)
    id: Mapped[str] = mapped_column(Key, primary_key=True)
    workload: Mapped[str] = mapped_column(Name)
    step: Mapped[str] = mapped_column(Name)
    window: Mapped[str] = mapped_column(Key)
    cause: Mapped[str] = mapped_column(Key)
    due_at: Mapped[datetime]
    payload: Mapped[Any] = mapped_column(CanonicalJson)
    state: Mapped[str] = mapped_column(String(16), default="open")
    attempt: Mapped[int] = mapped_column(default=0)
    owner: Mapped[str | None] = mapped_column(Key)
    claimed_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    result: Mapped[Any | None] = mapped_column(CanonicalJson)
    error: Mapped[str | None] = mapped_column(Text)


class ReplicaRow(Base):
    """One version of a dataset resting at one site; ``as_of`` is the fact of that name; ``files`` maps path to sha256."""

    __tablename__ = "replicas"
    dataset: Mapped[str] = mapped_column(Name, primary_key=True)
    version: Mapped[str] = mapped_column(String(64), primary_key=True)
    site: Mapped[str] = mapped_column(Name, primary_key=True)
    bytes: Mapped[int] = mapped_column(BigKey)
    files: Mapped[Any] = mapped_column(CanonicalJson)
    facts: Mapped[Any] = mapped_column(CanonicalJson)
    as_of: Mapped[datetime | None]
    intent_id: Mapped[str | None] = mapped_column(Key)
    at: Mapped[datetime]


class VerdictRow(Base):
    """The frozen result of one check: drift, evaluation or validation."""

    __tablename__ = "verdicts"
    __table_args__ = (Index("verdicts_by_workload", "workload", "kind", "as_of"),)
    id: Mapped[str] = mapped_column(Key, primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    workload: Mapped[str] = mapped_column(Name)
    as_of: Mapped[datetime]
    passed: Mapped[bool]
    body: Mapped[Any] = mapped_column(CanonicalJson)
    intent_id: Mapped[str | None] = mapped_column(Key)
    at: Mapped[datetime]


class AliasRow(Base):
    """Which model version an alias names, or, while ``moving``, is about to name; ``previous`` is the version before."""

    __tablename__ = "aliases"
    workload: Mapped[str] = mapped_column(Name, primary_key=True)
    alias: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[str] = mapped_column(Name)
    previous: Mapped[str | None] = mapped_column(Name)
    state: Mapped[str] = mapped_column(String(16))
    intent_id: Mapped[str] = mapped_column(Key)
    at: Mapped[datetime]


class AliasMoveRow(Base):
    """One move of an alias, for its history; ``settled_at`` is None while it is under way or was given up."""

    __tablename__ = "alias_moves"
    __table_args__ = (
        Index("alias_moves_by_alias", "workload", "alias", "number"),
        UniqueConstraint("workload", "alias", "intent_id", "version"),
    )
    number: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=True)
    workload: Mapped[str] = mapped_column(Name)
    alias: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(Name)
    previous: Mapped[str | None] = mapped_column(Name)
    intent_id: Mapped[str] = mapped_column(Key)
    begun_at: Mapped[datetime]
    settled_at: Mapped[datetime | None]


class CostRow(Base):
    """What one run costs: as ``decided`` before it, or as ``settled`` from bills. USD and kg to a millionth."""

    __tablename__ = "costs"
    __table_args__ = (UniqueConstraint("run_id", "kind"), Index("costs_by_time", "at"))
    number: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(Key)
    kind: Mapped[str] = mapped_column(String(16))
    decision_id: Mapped[str | None] = mapped_column(String(64))
    workload: Mapped[str] = mapped_column(Name)
    step: Mapped[str] = mapped_column(Name)
    pool: Mapped[str] = mapped_column(Name)
    site: Mapped[str] = mapped_column(Name)
    usd_compute: Mapped[Decimal]
    usd_egress: Mapped[Decimal]
    usd_storage: Mapped[Decimal]
    seconds: Mapped[float]
    kg_co2: Mapped[Decimal]
    at: Mapped[datetime]

    @property
    def usd_total(self) -> Decimal:
        """Compute, egress and storage: cash."""
        return self.usd_compute + self.usd_egress + self.usd_storage


class RunRow(Base):
    """One run of a step on a worker, or in control."""

    __tablename__ = "runs"
    __table_args__ = (Index("runs_by_time", "started_at"), Index("runs_by_intent", "intent_id"))
    id: Mapped[str] = mapped_column(Key, primary_key=True)
    workload: Mapped[str] = mapped_column(Name)
    step: Mapped[str] = mapped_column(Name)
    pool: Mapped[str] = mapped_column(Name)
    site: Mapped[str] = mapped_column(Name)
    pid: Mapped[int | None]
    state: Mapped[str] = mapped_column(String(32))
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Text)
    intent_id: Mapped[str | None] = mapped_column(Key)
    decision_id: Mapped[str | None] = mapped_column(String(64))

    @property
    def seconds(self) -> float | None:
        """How long it ran, None while it runs."""
        return None if self.finished_at is None else (self.finished_at - self.started_at).total_seconds()


class TransferRow(Base):
    """One copy of a dataset version from a site to another."""

    __tablename__ = "transfers"
    __table_args__ = (UniqueConstraint("run_id", "dataset", "version", "source", "destination"), Index("transfers_by_time", "at"))
    number: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=True)
    dataset: Mapped[str] = mapped_column(Name)
    version: Mapped[str] = mapped_column(String(64))
    source: Mapped[str] = mapped_column(Name)
    destination: Mapped[str] = mapped_column(Name)
    bytes: Mapped[int] = mapped_column(BigKey)
    seconds: Mapped[float]
    usd: Mapped[Decimal]
    run_id: Mapped[str] = mapped_column(Key)
    intent_id: Mapped[str | None] = mapped_column(Key)
    at: Mapped[datetime]
    cause: Mapped[str] = mapped_column(Key)


class ReservationRow(Base):
    """Capacity of a pool held for one intent in ``[from_at, until_at)``; ``use`` maps a resource to a plain decimal."""

    __tablename__ = "reservations"
    __table_args__ = (Index("reservations_by_time", "until_at", "from_at"),)
    intent_id: Mapped[str] = mapped_column(Key, primary_key=True)
    pool: Mapped[str] = mapped_column(Name)
    use: Mapped[Any] = mapped_column(CanonicalJson)
    from_at: Mapped[datetime]
    until_at: Mapped[datetime]


class SiteStateRow(Base):
    """Whether a site is open, cordoned or draining, since when and why; a site without a row is open. ``principal`` is an opaque id."""

    __tablename__ = "site_states"
    site: Mapped[str] = mapped_column(Name, primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    principal: Mapped[str] = mapped_column(Name)
    at: Mapped[datetime]


class CoolDownRow(Base):
    """A pool where a run of an intent failed because of the place: nothing new starts there before ``until_at``."""

    __tablename__ = "cool_downs"
    __table_args__ = (Index("cool_downs_by_time", "until_at"),)
    pool: Mapped[str] = mapped_column(Name, primary_key=True)
    intent_id: Mapped[str] = mapped_column(Key, primary_key=True)
    until_at: Mapped[datetime]
    error: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime]
