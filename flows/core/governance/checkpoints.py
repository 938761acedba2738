"""Checkpoints of the ledger: what a line of their file says, and which line is not what was written. Pure: bytes in, a record out.

A line is canonical JSON and ends with a line feed. A *checkpoint* is ``{at, hash, key, previous, seq, signature}``: the Ed25519 signature
covers the RFC 8785 bytes of ``{at, hash, previous, seq}``, and ``previous`` is the sha256 of the line before (`GENESIS` on line 1), so
that lines cannot be taken out, put in or exchanged. A line ``{hash, seq}`` is an anchor that nobody signed: it counts, and it is told.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flows.core.canonical import canonical_json, sha256_hex
from flows.core.governance.chain import GENESIS

SIGNED = frozenset({"at", "hash", "key", "previous", "seq", "signature"})
UNSIGNED = frozenset({"hash", "seq"})
_DIGEST = re.compile(r"[0-9a-f]{64}")

Check = Callable[[bytes, str, str], str | None]
"""(payload, key id, base64 signature) -> why the signature does not hold, None if it does."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One whole line: the hash of row ``seq``, and who signed it when; ``at``, ``key`` and ``signature`` are None on an unsigned anchor."""

    line: int
    seq: int
    hash: str
    at: datetime | None = None
    key: str | None = None
    signature: str | None = None

    @property
    def signed(self) -> bool:
        """Whether it carries a signature."""
        return self.signature is not None


@dataclass(frozen=True, slots=True)
class Fault:
    """A line that is not what was written, and why."""

    line: int
    why: str


@dataclass(frozen=True, slots=True)
class Record:
    """What a file of checkpoints holds: the lines that hold, those that do not, and whether the last one has no end."""

    checkpoints: tuple[Checkpoint, ...] = ()
    faults: tuple[Fault, ...] = ()
    torn: bool = False
    hashes: Mapping[int, str] = field(default_factory=dict)
    """Row number to hash, of all lines that hold."""


def payload(at: str, row_hash: str, previous: str, seq: int) -> bytes:
    """What the signature of a checkpoint covers."""
    return canonical_json({"at": at, "hash": row_hash, "previous": previous, "seq": seq})


def line_of(seq: int, row_hash: str) -> bytes:
    """An unsigned anchor as it is written."""
    return canonical_json({"hash": row_hash, "seq": seq}) + b"\n"


def signed_line_of(seq: int, row_hash: str, *, at: str, previous: str, key: str, signature: str) -> bytes:
    """A checkpoint as it is written."""
    entry = {"at": at, "hash": row_hash, "key": key, "previous": previous, "seq": seq, "signature": signature}
    return canonical_json(entry) + b"\n"


def digest_of(line: bytes | None) -> str:
    """What the next line names as its ``previous``: the sha256 of the line without its line feed; `GENESIS` before the first."""
    return GENESIS if line is None else sha256_hex(line.removesuffix(b"\n"))


def read(content: bytes, check: Check | None = None) -> Record:
    """Read a whole file and name every line that is not what was written. Without a check no signature is looked at."""
    lines = content.split(b"\n")
    good: list[Checkpoint] = []
    faults: list[Fault] = []
    known: dict[int, str] = {}
    before: bytes | None = None
    newest: Checkpoint | None = None
    for number, line in enumerate(lines[:-1], start=1):
        found, why = _parse(number, line, digest_of(before), check)
        before = line
        if found is not None and why is None and newest is not None:
            why = _out_of_order(found, newest)
        if found is not None and why is None and known.setdefault(found.seq, found.hash) != found.hash:
            why = f"row {found.seq} has two anchors that differ"
        if found is None or why is not None:
            faults.append(Fault(number, why or "this line is no anchor"))
            continue
        good.append(found)
        newest = found
    return Record(tuple(good), tuple(faults), lines[-1] != b"", known)


def parse(line: bytes) -> dict[str, Any] | None:
    """The entry of a line without its line feed; None if it is neither a checkpoint nor an unsigned anchor, byte for byte."""
    try:
        entry = json.loads(line)
        if canonical_json(entry) != line or frozenset(entry) not in (SIGNED, UNSIGNED):
            return None
        whole = isinstance(entry["seq"], int) and entry["seq"] > 0 and all(isinstance(entry[name], str) for name in entry if name != "seq")
        if not whole or not _DIGEST.fullmatch(entry["hash"]):
            return None
        if "at" in entry and datetime.fromisoformat(entry["at"]).tzinfo is None:
            return None
    except (ValueError, TypeError, RecursionError):
        return None
    return dict(entry)


def _parse(number: int, line: bytes, previous: str, check: Check | None) -> tuple[Checkpoint | None, str | None]:
    entry = parse(line)
    if entry is None:
        return None, "this line is no anchor"
    if len(entry) == len(UNSIGNED):
        return Checkpoint(number, entry["seq"], entry["hash"]), None
    at = datetime.fromisoformat(entry["at"])
    found = Checkpoint(number, entry["seq"], entry["hash"], at, entry["key"], entry["signature"])
    if not _whole_base64(entry["signature"]):
        return found, "its signature is no base64"
    if entry["previous"] != previous:
        return found, "the line before it is not the one that was there when it was signed"
    why = check(payload(entry["at"], entry["hash"], previous, entry["seq"]), entry["key"], entry["signature"]) if check else None
    return found, why


def _out_of_order(found: Checkpoint, newest: Checkpoint) -> str | None:
    """Rows go up from line to line; only a checkpoint may repeat the row of an anchor that nobody signed."""
    if found.seq > newest.seq or (found.seq == newest.seq and found.signed and not newest.signed):
        return None
    return None if found.seq == newest.seq and found.hash != newest.hash else f"it names row {found.seq} after row {newest.seq}"


def _whole_base64(text: str) -> bool:
    """Whether the text is the one base64 of its bytes: decoders pass over bits that no byte needs."""
    try:
        return base64.b64encode(base64.b64decode(text, validate=True)).decode() == text
    except ValueError:
        return False
