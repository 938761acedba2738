"""The append-only, hash-chained record of decisions, approvals, promotions, transfers, refusals and reviews.

Rows are appended inside the caller's transaction, so that a fact and its record are stored together or not at all. Append last: the
chain admits one writer at a time, from its append to the end of its transaction. Anchors, (seq, hash) pairs in a file outside the
database, are what makes a rewritten or shortened chain visible: see `flows.core.governance.chain`.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import event, func, select, text
from sqlalchemy.orm import Mapper, Session

from flows.core.canonical import canonical_json, instant
from flows.core.errors import IntegrityError, Unavailable
from flows.core.governance import chain
from flows.store import principals
from flows.store.columns import jsonable
from flows.store.database import State, serialize
from flows.store.models import LedgerRow

ANCHORS = "ledger-anchors.jsonl"
"""The file of anchors in the folder that is given: one JSON object a line, only ever appended to."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found.

    ``first_bad`` names the first row that is not what was recorded. ``unanchored_from`` to ``unanchored_until`` are the rows that no
    anchor covers: a rewrite or a cut of these cannot be seen yet (None: there are none).
    """

    ok: bool
    rows: int
    first_bad: int | None
    reason: str | None
    unanchored_from: int | None
    unanchored_until: int | None = None

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
        kind: what was recorded, such as ``decision``, ``transfer``, ``promotion``, ``refusal``.
        body: JSON values; instants, decimals and sets are written as text and sorted lists.
        principal: who did it, by name or by opaque id; only the opaque id is stored in the row.
        at: when, aware.
    """
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


def rows(tx: Session, *, since: datetime | None = None, kind: str | None = None, limit: int | None = None) -> list[LedgerRow]:
    """Rows in order of seq; with a limit, the newest ones."""
    query = select(LedgerRow).order_by(LedgerRow.seq.desc())
    if since is not None:
        query = query.where(LedgerRow.at >= since)
    if kind is not None:
        query = query.where(LedgerRow.kind == kind)
    return list(reversed(tx.scalars(query.limit(limit)).all()))


def verify(state: State, anchors: Path | None) -> Verification:
    """Check every row of the ledger against its hash, its neighbour and the anchors in a folder.

    Raises:
        IntegrityError: the file of anchors holds a line that is no anchor.
        Unavailable: the database or the file cannot be read.
    """
    known = read_anchors(anchors) if anchors is not None else {}  # before the rows: an anchor made meanwhile is no missing row
    with state.reading() as tx:
        end = tx.scalar(select(func.max(LedgerRow.seq))) or 0
        found = chain.verify(_links(tx), known)
    covered, end = max(known, default=0), max(end, found.last_seq)
    window = (covered + 1, end) if end > covered else (None, None)
    return Verification(found.ok, found.rows, found.first_bad, found.reason, *window)


def anchor(state: State, folder: Path) -> tuple[int, str] | None:
    """Append (seq, hash) of the newest row to the anchors in a folder; a newest row that is anchored already is not anchored twice.

    Returns:
        The newest row's (seq, hash); None for an empty ledger.

    Raises:
        IntegrityError: the ledger no longer holds the row of an earlier anchor: it was cut off or written anew.
        Unavailable: the database does not answer, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ANCHORS, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        raise Unavailable(f"no anchor can be written: {error.strerror}", file=str(folder / ANCHORS)) from error
    with os.fdopen(descriptor, "r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        content = stream.read()
        known = _parse(content, folder / ANCHORS)
        with state.reading() as tx:
            head = tx.execute(select(LedgerRow.seq, LedgerRow.hash).order_by(LedgerRow.seq.desc()).limit(1)).first()
            earlier = max(known, default=0)
            if earlier and tx.scalar(select(LedgerRow.hash).where(LedgerRow.seq == earlier)) != known[earlier]:
                raise IntegrityError(
                    f"row {earlier} of the ledger is not the anchored one", file=str(folder / ANCHORS), fix="see `tradewind ledger verify`"
                )
        if head is None:
            return None
        if head.seq not in known:
            whole = content.rfind(b"\n") + 1
            if whole < len(content):  # a writer died within its line
                stream.truncate(whole)
            stream.write(canonical_json({"hash": head.hash, "seq": head.seq}) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        return head.seq, head.hash


def read_anchors(folder: Path) -> dict[int, str]:
    """The anchors of a folder, seq to hash; none if it has no file of anchors. A last line without its end was never an anchor.

    Raises:
        IntegrityError: a line is no anchor, or two lines give one row different hashes.
        Unavailable: the file cannot be read.
    """
    path = folder / ANCHORS
    try:
        return _parse(path.read_bytes(), path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Unavailable(f"the anchors cannot be read: {error.strerror}", file=str(path)) from error


def _parse(content: bytes, path: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            entry = json.loads(line)
            seq, digest = entry["seq"], entry["hash"]
            whole = isinstance(seq, int) and seq > 0 and isinstance(digest, str)
        except (ValueError, TypeError, KeyError):
            whole = False
        if not whole:
            raise IntegrityError("this line is no anchor", file=str(path), line=number, expected='`{"hash": "…", "seq": …}`')
        if found.setdefault(seq, digest) != digest:
            raise IntegrityError(f"row {seq} has two anchors that differ", file=str(path), line=number)
    return found


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
    """The canonical text of a stored instant; text that is none stays as it is, and so has another hash."""
    try:
        moment = datetime.fromisoformat(stored)
    except ValueError:
        return stored
    return instant(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


@event.listens_for(LedgerRow, "before_update")
@event.listens_for(LedgerRow, "before_delete")
def _refuse(_mapper: Mapper[Any], _connection: Any, row: LedgerRow) -> None:
    """A row of the ledger is never changed or removed by this project."""
    raise IntegrityError(f"row {row.seq} of the ledger cannot be changed or removed", fix="append a row that corrects it")
