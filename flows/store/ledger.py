"""The append-only, hash-chained record of decisions, approvals, promotions, transfers, refusals and reviews.

Rows are appended inside the caller's transaction, so that a fact and its record are stored together or not at all. Append last: the
chain admits one writer at a time, from its append to the end of its transaction. Anchors, (seq, hash) pairs in a file outside the
database, are what makes a rewritten or shortened chain visible: see `flows.core.governance.chain`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import event, func, select, text
from sqlalchemy.orm import Mapper, Session

from flows.core.canonical import instant
from flows.core.errors import IntegrityError
from flows.core.governance import chain
from flows.core.governance.checkpoints import Check, Record
from flows.core.governance.checkpoints import read as read_checkpoints
from flows.core.governance.ledger_kinds import KINDS
from flows.store import checkpoints, principals
from flows.store.checkpoints import ANCHORS, Sign
from flows.store.columns import jsonable
from flows.store.database import State, serialize
from flows.store.models import LedgerRow


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found.

    ``first_bad`` names the first row that is not what was recorded. ``unanchored_from`` to ``unanchored_until`` are the rows that no
    anchor covers: a rewrite or a cut of these cannot be seen yet (None: there are none). ``problems`` names the lines of the file of
    checkpoints that are not what was written, ``notes`` what weakens the finding without breaking it; ``signed`` and ``unsigned`` count
    the lines that hold, ``last_at`` is when the last one was signed.
    """

    ok: bool
    rows: int
    first_bad: int | None
    reason: str | None
    unanchored_from: int | None
    unanchored_until: int | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    signed: int = 0
    unsigned: int = 0
    last_at: str | None = None

    @property
    def fault(self) -> str | None:
        """The first thing that is wrong, for people; None if all holds."""
        if self.first_bad is not None:
            return f"row {self.first_bad} is bad: {self.reason}"
        return next(iter(self.problems), None)

    @property
    def window(self) -> str:
        """The window that no anchor covers, for people."""
        if self.unanchored_from is None:
            return "every row is covered by an anchor"
        return f"no anchor covers rows {self.unanchored_from} to {self.unanchored_until}"

    def to_json(self) -> dict[str, Any]:
        """The finding as a JSON value."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def append(tx: Session, kind: str, body: Mapping[str, Any], *, principal: str, at: datetime) -> LedgerRow:
    """Append one row to the chain, within the caller's transaction.

    Args:
        tx: an open write transaction.
        kind: what was recorded: one of `flows.core.governance.ledger_kinds.KINDS`.
        body: JSON values; instants, decimals and sets are written as text and sorted lists.
        principal: who did it, by name or by opaque id; only the opaque id is stored in the row.
        at: when, aware.

    Raises:
        ValueError: the kind is not on the list.
    """
    if kind not in KINDS:
        raise ValueError(f"the ledger has no kind `{kind}`: add it, with a sentence, to flows/core/governance/ledger_kinds.py")
    who = principals.id_for(tx, principal)
    plain: dict[str, Any] = jsonable(body)
    serialize(tx, "ledger")
    last = tx.execute(select(LedgerRow.seq, LedgerRow.hash).order_by(LedgerRow.seq.desc()).limit(1)).first()
    seq, before = (last.seq + 1, last.hash) if last else (1, chain.GENESIS)
    moment = at.astimezone(UTC)
    row = LedgerRow(
        seq=seq, at=moment, kind=kind, principal=who, body=plain, prev_hash=before, hash=chain.row_hash(seq, at, kind, who, plain, before)
    )
    tx.add(row)
    tx.flush()
    return row


def append_if_changed(
    tx: Session, kind: str, body: Mapping[str, Any], *, same: Sequence[str], principal: str, at: datetime, of: Sequence[str] = ()
) -> LedgerRow | None:
    """Append unless the last row of this kind, about the same subject, says the same.

    Args:
        tx: an open write transaction.
        kind: as for `append`.
        body: as for `append`.
        same: the fields that say the same.
        principal: as for `append`.
        at: as for `append`.
        of: the fields that name the subject.
    """
    plain: dict[str, Any] = jsonable(body)
    serialize(tx, "ledger")
    about = [row for row in rows(tx, kind=kind, limit=None if of else 1) if all(row.body.get(name) == plain.get(name) for name in of)]
    if about and all(about[-1].body.get(name) == plain.get(name) for name in same):
        return None
    return append(tx, kind, body, principal=principal, at=at)


def rows(tx: Session, *, since: datetime | None = None, kind: str | None = None, limit: int | None = None) -> list[LedgerRow]:
    """Rows in order of seq; with a limit, the newest ones."""
    query = select(LedgerRow).order_by(LedgerRow.seq.desc())
    if since is not None:
        query = query.where(LedgerRow.at >= since)
    if kind is not None:
        query = query.where(LedgerRow.kind == kind)
    return list(reversed(tx.scalars(query.limit(limit)).all()))


def verify(state: State, anchors: Path | None, check: Check | None = None, *, trust_unsigned: bool = True) -> Verification:
    """Check every row of the ledger against its hash, its neighbour and the checkpoints in a folder, and these against each other.

    Args:
        state: the database.
        anchors: the folder of checkpoints; None: rows are checked against each other alone.
        check: looks at the signatures; left out: they are not looked at.
        trust_unsigned: whether a line that nobody signed vouches for its row.

    Raises:
        Unavailable: the database or the file cannot be read.
    """
    if anchors is None:
        record, faults, notes = Record(), [], []
    else:  # before the rows: a checkpoint made meanwhile is no missing row
        with state.reading() as tx:
            known = checkpoints.remembered(tx)
        content = checkpoints.content(anchors)
        record = read_checkpoints(content, check)
        faults, notes = checkpoints.compare(content, known)
    vouched = {one.seq: one.hash for one in record.checkpoints if one.signed or trust_unsigned}
    with state.reading() as tx:
        end = tx.scalar(select(func.max(LedgerRow.seq))) or 0
        found = chain.verify(_links(tx), vouched)
    covered, end = max(vouched, default=0), max(end, found.last_seq)
    signed = [one for one in record.checkpoints if one.signed]
    unsigned = len(record.checkpoints) - len(signed)
    return Verification(
        found.ok and not record.faults and not faults,
        found.rows,
        found.first_bad,
        found.reason,
        *((covered + 1, end) if end > covered else (None, None)),
        problems=tuple(f"{ANCHORS}:{fault.line}: {fault.why}" for fault in (*record.faults, *faults)),
        notes=(*notes, *_notes(unsigned, record.torn, bool(signed) and check is None)),
        signed=len(signed),
        unsigned=unsigned,
        last_at=instant(signed[-1].at) if signed and signed[-1].at else None,
    )


def _notes(unsigned: int, torn: bool, unchecked: bool) -> Iterator[str]:
    if unsigned:
        yield f"{unsigned} anchors carry no signature: whoever could write their file could write them"
    if torn:
        yield "the last line has no end: its writer died, or it was cut"
    if unchecked:
        yield "no signature was checked"


def anchor(state: State, folder: Path, *, at: datetime | None = None, sign: Sign | None = None) -> tuple[int, str] | None:
    """Append the newest row's hash to the checkpoints in a folder, signed if there is a key; a row that is vouched for is not again.

    Never within a transaction: the file is held until the database has it remembered.

    Returns:
        The newest row's (seq, hash); None for an empty ledger.

    Raises:
        IntegrityError: the ledger no longer holds the row of an earlier anchor: it was cut off or written anew; or the file was.
        Unavailable: the database does not answer, or the folder cannot be written.
    """
    with checkpoints.opened(folder) as stream:
        tail = checkpoints.Tail(stream, folder)
        with state.reading() as tx:
            remembered = tail.known(tx)
            head = tx.execute(select(LedgerRow.seq, LedgerRow.hash).order_by(LedgerRow.seq.desc()).limit(1)).first()
            if tail.newest is not None:
                earlier, digest = tail.newest.seq, tail.newest.hash
                if tx.scalar(select(LedgerRow.hash).where(LedgerRow.seq == earlier)) != digest:
                    raise IntegrityError(
                        f"row {earlier} of the ledger is not the anchored one",
                        file=str(folder / ANCHORS),
                        fix="see `tradewind ledger verify`",
                    )
        if head is None:
            return None
        newest = tail.newest
        if newest is None or head.seq > newest.seq or (sign is not None and not newest.signed):
            made = tail.append(head.seq, head.hash, at=at or datetime.now(UTC), sign=sign)
        elif remembered:
            return head.seq, head.hash
        else:
            made = tail.as_it_is(at or datetime.now(UTC))
        with state.transaction() as tx:
            checkpoints.remember(tx, made)
        return head.seq, head.hash


def due(state: State, folder: Path, *, at: datetime, rows: int, seconds: float) -> bool:
    """Whether so many rows, or one for so long, wait for a checkpoint.

    Raises:
        IntegrityError: the last line of the file is no anchor.
        Unavailable: the database or the file cannot be read.
    """
    newest = checkpoints.last(folder)
    with state.reading() as tx:
        head = tx.scalar(select(func.max(LedgerRow.seq))) or 0
        if newest is None:
            return head > 0
        if tx.scalar(select(LedgerRow.hash).where(LedgerRow.seq == newest.seq)) != newest.hash:
            return True  # `anchor` says what is wrong
    waiting = head - newest.seq
    if newest.at is None or waiting >= rows:
        return True
    return waiting > 0 and (at - newest.at).total_seconds() >= seconds


def read_anchors(folder: Path) -> dict[int, str]:
    """The anchors of a folder, row to hash; none if it has no file of them. A last line without its end was never an anchor.

    Raises:
        IntegrityError: a line is no anchor.
        Unavailable: the file cannot be read.
    """
    record = read_checkpoints(checkpoints.content(folder))
    for fault in record.faults:
        raise IntegrityError(fault.why, file=str(folder / ANCHORS), line=fault.line)
    return dict(record.hashes)


def links(tx: Session, first: int | None = None, last: int | None = None) -> Iterator[chain.Link]:
    """The rows as they rest, in order of seq, from one row to another."""
    for link in _links(tx):
        if (first is None or link.seq >= first) and (last is None or link.seq <= last):
            yield link


_AS_IT_RESTS = {
    "sqlite": "SELECT seq, {} FROM ledger ORDER BY seq".format(
        ", ".join(f"CAST({name} AS BLOB)" for name in ("at", "kind", "principal", "body", "prev_hash", "hash"))
    ),
    "postgresql": "SELECT seq, CAST(at AS text), kind, principal, body, prev_hash, hash FROM ledger ORDER BY seq",
}


def _links(tx: Session) -> Iterator[chain.Link]:
    """The rows as they rest, in order of seq: read past the column types, since a row that was tampered with need not fit them."""
    query = text(_AS_IT_RESTS[tx.get_bind().dialect.name])
    for seq, at, *texts in tx.execute(query, execution_options={"yield_per": 1000}):
        yield chain.Link(seq, _moment(_plain(at)), *(_plain(value) for value in texts))


def _plain(value: object) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _moment(stored: str) -> str:
    """The canonical text of a stored instant; text that is none, or is written in another way, stays as it is, and so has another hash."""
    try:
        moment = datetime.fromisoformat(stored)
    except ValueError:
        return stored
    if moment.tzinfo is not None:
        return instant(moment)
    return instant(moment.replace(tzinfo=UTC)) if moment.isoformat(" ", "microseconds") == stored else stored


@event.listens_for(LedgerRow, "before_update")
@event.listens_for(LedgerRow, "before_delete")
def _refuse(_mapper: Mapper[Any], _connection: Any, row: LedgerRow) -> None:
    """A row of the ledger is never changed or removed by this project."""
    raise IntegrityError(f"row {row.seq} of the ledger cannot be changed or removed", fix="append a row that corrects it")
