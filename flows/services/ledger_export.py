"""An export of the ledger for auditors: rows as they rest, checkpoints, public keys, a manifest and a verifier that needs none of ours."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from flows.adapters.signing import KEYS
from flows.core.canonical import content_hash, instant, sha256_hex
from flows.core.errors import Unavailable, UserError
from flows.core.governance.chain import GENESIS, Link
from flows.core.governance.checkpoints import parse
from flows.core.governance.ledger_kinds import KINDS
from flows.store import checkpoints, ledger
from flows.store.models import LedgerRow

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from flows.store.database import State

ROWS, MANIFEST, KINDS_FILE = "rows.jsonl", "manifest.json", "kinds.json"


@dataclass(frozen=True, slots=True)
class Export:
    """What was written: the rows' number, first and last, and the sha256 of the manifest, by which the auditor knows it again."""

    folder: Path
    rows: int
    first: int
    last: int
    digest: str


def export(
    state: State,
    anchors: Path,
    out: Path,
    verifier: Path,
    *,
    at: datetime,
    since: datetime | None = None,
    until: datetime | None = None,
    kind: str | None = None,
) -> Export:
    """Write the export into a new or empty folder; the manifest comes last, so that half an export is none.

    Args:
        state: the database.
        anchors: the folder of checkpoints and public keys.
        out: the folder to write.
        verifier: the file that verifies it, copied beside the rows.
        at: now, aware.
        since: from the first row of this time on.
        until: up to the last row before this time.
        kind: only rows of this kind: their hashes can then be checked, and not that none is missing.

    Raises:
        UserError: the folder holds something, or there is no such kind.
        Unavailable: the database does not answer, or the folder cannot be written.
    """
    if kind is not None and kind not in KINDS:
        raise UserError(f"the ledger has no kind `{kind}`", expected=", ".join(f"`{one}`" for one in sorted(KINDS)))
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise UserError("the folder is not empty", file=str(out), fix="name a new one: an export is never mixed with another")
        with state.reading() as tx:
            first, last = _range(tx, since, until)
            found = _write_rows(out / ROWS, (link for link in ledger.links(tx, first, last) if kind is None or link.kind == kind))
        # after the rows: what vouches for rows that are not here is of no harm, and is left out
        vouching = _up_to(checkpoints.content(anchors), last if until is None else None)
        (out / checkpoints.ANCHORS).write_bytes(vouching)
        (out / KEYS).write_bytes((anchors / KEYS).read_bytes() if (anchors / KEYS).exists() else b"")
        (out / KINDS_FILE).write_text(json.dumps(dict(KINDS), indent=1, sort_keys=True) + "\n")
        (out / verifier.name).write_bytes(verifier.read_bytes())
        return _seal(out, found, at=at, since=since, until=until, kind=kind)
    except OSError as error:
        raise Unavailable(f"the export cannot be written: {error.strerror}", file=str(error.filename or out)) from error


@dataclass(frozen=True, slots=True)
class _Rows:
    count: int
    first: int
    last: int
    prev_hash: str | None


def _range(tx: Session, since: datetime | None, until: datetime | None) -> tuple[int, int]:
    """The rows from the first one at or after a time to the last one before another; rows in between are never left out."""
    low, high = select(func.min(LedgerRow.seq)), select(func.max(LedgerRow.seq))
    if since is not None:
        low = low.where(LedgerRow.at >= since)
    if until is not None:
        high = high.where(LedgerRow.at < until)
    first, last = tx.scalar(low), tx.scalar(high)
    return (first, last) if first is not None and last is not None else (1, 0)


def _write_rows(path: Path, found: Iterable[Link]) -> _Rows:
    count, first, last, before = 0, 1, 0, None
    with path.open("w", encoding="ascii", newline="\n") as stream:
        for link in found:
            if not count:
                first, before = link.seq, link.prev_hash
            names = ("at", "body", "hash", "kind", "prev_hash", "principal", "seq")
            stream.write(json.dumps({name: getattr(link, name) for name in names}, sort_keys=True, separators=(",", ":")) + "\n")
            count, last = count + 1, link.seq
    return _Rows(count, first, last, before if count else GENESIS)


def _up_to(content: bytes, last: int | None) -> bytes:
    """Whole lines, those left out that vouch for rows appended since."""
    lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
    while last is not None and lines and (entry := parse(lines[-1][:-1])) is not None and entry["seq"] > last:
        lines.pop()
    return b"".join(lines)


def _seal(out: Path, rows: _Rows, *, at: datetime, since: datetime | None, until: datetime | None, kind: str | None) -> Export:
    manifest: dict[str, Any] = {
        "version": 1,
        "made_at": instant(at),
        "rows": rows.count,
        "first": rows.first,
        "last": rows.last,
        "prev_hash": rows.prev_hash,
        "since": instant(since) if since else None,
        "until": instant(until) if until else None,
        "kind": kind,
        "files": {path.name: sha256_hex(path.read_bytes()) for path in sorted(out.iterdir())},
    }
    digest = content_hash(manifest)
    text = json.dumps({**manifest, "digest": digest}, indent=1, sort_keys=True) + "\n"
    with (out / MANIFEST).open("w", encoding="ascii") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    return Export(out, rows.count, rows.first, rows.last, digest)
