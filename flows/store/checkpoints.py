"""The file of ledger checkpoints, outside the database: read, only ever appended to; and what the database remembers of it.

The file vouches for the rows, and one row of the database vouches for the file's length: who can change only one of the two is seen.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BufferedRandom
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from sqlalchemy import select

from flows.core.canonical import instant
from flows.core.errors import IntegrityError, Unavailable
from flows.core.governance import checkpoints
from flows.core.governance.checkpoints import Checkpoint, Fault
from flows.store.database import insert_new, locked
from flows.store.models_governance import CheckpointFileRow

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

ANCHORS = "ledger-anchors.jsonl"
"""The file in the folder that is given: one JSON object a line, see `flows.core.governance.checkpoints`."""

TAIL_BYTES = 1 << 16
"""How much of the end of the file is read for its last line."""

Sign = Callable[[bytes], tuple[str, str]]
"""payload -> (key id, base64 signature)."""


def content(folder: Path) -> bytes:
    """The whole file; empty if there is none.

    Raises:
        Unavailable: the file cannot be read.
    """
    path = folder / ANCHORS
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise Unavailable(f"the anchors cannot be read: {error.strerror}", file=str(path)) from error


def last(folder: Path) -> Checkpoint | None:
    """The last whole line, unchecked; None for an empty file.

    Raises:
        IntegrityError: the last line is no anchor.
        Unavailable: the file cannot be read.
    """
    try:
        with (folder / ANCHORS).open("rb") as stream:
            line = _last_line(stream, os.fstat(stream.fileno()).st_size)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable(f"the anchors cannot be read: {error.strerror}", file=str(folder / ANCHORS)) from error
    return None if line is None else _entry(line, folder)


@contextmanager
def opened(folder: Path) -> Iterator[BufferedRandom]:
    """The file, held by this process alone until the block ends.

    Raises:
        Unavailable: the folder cannot be written.
    """
    path = folder / ANCHORS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        raise Unavailable(f"no anchor can be written: {error.strerror}", file=str(path)) from error
    with os.fdopen(descriptor, "r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream


class Tail:
    """The end of the open file: its last whole line, and how far whole lines reach."""

    def __init__(self, stream: BufferedRandom, folder: Path) -> None:
        self._stream, self._folder = stream, folder
        self.line = _last_line(stream, os.fstat(stream.fileno()).st_size)
        self.newest = None if self.line is None else _entry(self.line, folder)

    def known(self, tx: Session) -> bool:
        """Whether the database remembers a file that begins like this one.

        Raises:
            IntegrityError: and it was longer, or other.
        """
        row = None if self.line is None else tx.get(CheckpointFileRow, self.origin)
        if row is not None and not self._reaches(row):
            raise IntegrityError(
                f"checkpoints up to row {row.seq} were written, and the file no longer holds them",
                file=str(self._folder / ANCHORS),
                fix="see `tradewind ledger verify`",
            )
        return row is not None

    @property
    def origin(self) -> str:
        """The digest of the file's first line."""
        self._stream.seek(0)
        return checkpoints.digest_of(self._stream.readline())

    def append(self, seq: int, row_hash: str, *, at: datetime, sign: Sign | None) -> CheckpointFileRow:
        """Write one line for good, over what a writer left that died within its line; what the database is to remember of it."""
        if sign is None:
            line = checkpoints.line_of(seq, row_hash)
        else:
            moment, previous = instant(at.astimezone(UTC)), checkpoints.digest_of(self.line)
            key, signature = sign(checkpoints.payload(moment, row_hash, previous, seq))
            line = checkpoints.signed_line_of(seq, row_hash, at=moment, previous=previous, key=key, signature=signature)
        size = os.fstat(self._stream.fileno()).st_size
        whole = _whole(self._stream, size)
        if whole < size:
            self._stream.truncate(whole)
        self._stream.seek(0, os.SEEK_END)
        self._stream.write(line)
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.line = line
        return CheckpointFileRow(
            origin=self.origin, size=whole + len(line), digest=checkpoints.digest_of(line), seq=seq, at=at.astimezone(UTC)
        )

    def as_it_is(self, at: datetime) -> CheckpointFileRow:
        """What the database is to remember of a file that it does not know."""
        size = _whole(self._stream, os.fstat(self._stream.fileno()).st_size)
        seq = self.newest.seq if self.newest else 0
        return CheckpointFileRow(origin=self.origin, size=size, digest=checkpoints.digest_of(self.line), seq=seq, at=at.astimezone(UTC))

    def _reaches(self, row: CheckpointFileRow) -> bool:
        """Whether the file still holds the last line that is remembered; the lines before it are for `compare`."""
        start = max(0, row.size - TAIL_BYTES)
        self._stream.seek(start)
        end = self._stream.read(row.size - start)
        return start + len(end) == row.size and end.endswith(b"\n") and _digest_at_end(end) == row.digest


def remember(tx: Session, made: CheckpointFileRow) -> None:
    """Keep the file's new length in the database; a shorter one than is known changes nothing."""
    values = {name: getattr(made, name) for name in ("origin", "size", "digest", "seq", "at")}
    if insert_new(tx, CheckpointFileRow, values):
        return
    row = locked(tx, CheckpointFileRow, made.origin)
    if row is not None and row.size < made.size:
        row.size, row.digest, row.seq, row.at = made.size, made.digest, made.seq, made.at
        tx.flush()


def remembered(tx: Session) -> list[CheckpointFileRow]:
    """Every file that checkpoints were written to, the newest last."""
    found = list(tx.scalars(select(CheckpointFileRow).order_by(CheckpointFileRow.at, CheckpointFileRow.origin)))
    tx.expunge_all()
    return found


def compare(found: bytes, known: list[CheckpointFileRow]) -> tuple[list[Fault], list[str]]:
    """What the database remembers and the file does not hold: faults, and notes on other files."""
    if not known:
        return [], []
    first = found.partition(b"\n")[0] if b"\n" in found else None
    origin = checkpoints.digest_of(first)
    own = [row for row in known if row.origin == origin]
    newest = known[-1]
    if not own:
        what = f"checkpoints up to row {newest.seq} were written at {instant(newest.at)}, and this file does not begin as theirs did"
        return [Fault(1, what if first is not None else what.replace("does not begin as theirs did", "holds none"))], []
    faults = [
        Fault(found[: row.size].count(b"\n"), f"checkpoints up to row {row.seq} were written, and the file no longer holds them")
        for row in own
        if not _holds(found[: row.size], row)
    ]
    others = [row for row in known if row.origin != origin]
    return faults, [f"another file of checkpoints, the last of row {row.seq} at {instant(row.at)}, is not this one" for row in others]


def _holds(beginning: bytes, row: CheckpointFileRow) -> bool:
    """Whether the first bytes of a file end in the line that is remembered."""
    return len(beginning) == row.size and beginning.endswith(b"\n") and _digest_at_end(beginning) == row.digest


def _digest_at_end(text: bytes) -> str:
    return checkpoints.digest_of(text[:-1].rpartition(b"\n")[2])


def _last_line(stream: BinaryIO, size: int) -> bytes | None:
    """The last whole line with its line feed."""
    start = max(0, size - TAIL_BYTES)
    stream.seek(start)
    tail = stream.read(size - start)
    whole = tail[: tail.rfind(b"\n") + 1]
    return None if not whole else whole[:-1].rpartition(b"\n")[2] + b"\n"


def _whole(stream: BufferedRandom, size: int) -> int:
    """How many bytes whole lines take."""
    start = max(0, size - TAIL_BYTES)
    stream.seek(start)
    return start + stream.read(size - start).rfind(b"\n") + 1


def _entry(line: bytes, folder: Path) -> Checkpoint:
    entry = checkpoints.parse(line[:-1])
    if entry is None:
        raise IntegrityError("the last line is no anchor", file=str(folder / ANCHORS), fix="see `tradewind ledger verify`")
    at = datetime.fromisoformat(entry["at"]) if "at" in entry else None
    return Checkpoint(0, entry["seq"], entry["hash"], at, entry.get("key"), entry.get("signature"))
