"""The hash chain of the ledger: what a row hashes to, and which row breaks the chain. Pure: rows and anchors in, a finding out.

A row's hash is the sha256 of the RFC 8785 JSON of ``{at, body, kind, prev_hash, principal, seq}``; ``prev_hash`` is the hash of the row
before, `GENESIS` for row 1. An *anchor* is a (seq, hash) pair kept where the database's owner cannot reach it: a chain alone cannot
show that its tail was cut off, or that all of it was written anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flows.core.canonical import canonical_json, instant, sha256_hex

GENESIS = "0" * 64
"""The ``prev_hash`` of row 1."""


@dataclass(frozen=True, slots=True)
class Link:
    """One row as it rests: ``at`` is a canonical instant, ``body`` canonical JSON text; both unparsed, so that every stored byte counts."""

    seq: int
    at: str
    kind: str
    principal: str
    body: str
    prev_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look along the chain found.

    ``rows`` were read until it ended; ``first_bad`` is the seq of the first row that is not what was recorded (None: all hold);
    ``last_seq`` is the seq of the last row read, 0 for none.
    """

    rows: int
    last_seq: int
    first_bad: int | None = None
    reason: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every row holds."""
        return self.first_bad is None


def row_hash(seq: int, at: datetime, kind: str, principal: str, body: Mapping[str, Any], prev_hash: str) -> str:
    """The hash of a row.

    Raises:
        ValueError: ``at`` has no time zone, or ``body`` holds what JSON cannot.
    """
    return _hash(seq, instant(at), kind, principal, canonical_json(body).decode(), prev_hash)


def _hash(seq: int, at: str, kind: str, principal: str, body: str, prev_hash: str) -> str:
    """sha256 of the row's canonical JSON, put together around a body that is canonical JSON already: its keys are in RFC 8785 order."""
    texts = {name: canonical_json(value).decode() for name, value in (("at", at), ("kind", kind), ("prev", prev_hash), ("who", principal))}
    row = f'{{"at":{texts["at"]},"body":{body},"kind":{texts["kind"]},"prev_hash":{texts["prev"]},"principal":{texts["who"]},"seq":{seq}}}'
    return sha256_hex(row.encode())


def verify(rows: Iterable[Link], anchors: Mapping[int, str] | None = None) -> Finding:
    """Read the chain from its start (rows in order of seq) and name the first row that is not what was recorded, and why.

    A row changed together with its own hash breaks its successor's ``prev_hash``: which of the two is bad is told by the row after
    them, or an anchor. A tail that was written anew with new hashes shows at the next anchor; a tail that was cut off, at the last.
    """
    known = dict(anchors or {})
    reader = _Lookahead(rows)
    count, before = 0, GENESIS
    last = 0
    for link in reader:
        count += 1
        expected = last + 1
        if link.seq != expected:
            what = f"it is missing: row {link.seq} comes next" if link.seq > expected else f"it was put before row {expected}"
            return Finding(count, link.seq, min(expected, link.seq), what)
        if fault := _fault(link):
            return Finding(count, link.seq, link.seq, fault)
        if link.prev_hash != before:
            after = reader.peek()
            vouched = known.get(link.seq) == link.hash or (after is not None and after.prev_hash == link.hash and _fault(after) is None)
            if vouched and last > 0:
                return Finding(
                    count,
                    link.seq,
                    last,
                    f"it was changed together with its hash: row {link.seq} names another one as the hash before it",
                )
            return Finding(count, link.seq, link.seq, "its `prev_hash` is not the hash of the row before it")
        if known.get(link.seq, link.hash) != link.hash:
            since = max((seq for seq in known if seq < link.seq), default=0)
            return Finding(count, link.seq, link.seq, f"its hash is not the anchored one: rows after {since} were written anew")
        last, before = link.seq, link.hash
    highest = max(known, default=0)
    if highest > last:
        return Finding(count, last, last + 1, f"it is missing: the ledger ends at row {last}, an anchor covers row {highest}")
    return Finding(count, last)


def _fault(link: Link) -> str | None:
    """Why a row does not hold by itself, None if it does."""
    try:
        json.loads(link.body)
        found = _hash(link.seq, link.at, link.kind, link.principal, link.body, link.prev_hash)
    except (TypeError, ValueError):
        return "its content cannot be read"
    return None if found == link.hash else "its content does not have the hash that was recorded with it"


class _Lookahead:
    """An iterator that can show the next item without taking it."""

    def __init__(self, rows: Iterable[Link]) -> None:
        self._rows: Iterator[Link] = iter(rows)
        self._held: list[Link] = []

    def __iter__(self) -> _Lookahead:
        return self

    def __next__(self) -> Link:
        return self._held.pop() if self._held else next(self._rows)

    def peek(self) -> Link | None:
        """The next item, None at the end."""
        if not self._held:
            following = next(self._rows, None)
            if following is None:
                return None
            self._held.append(following)
        return self._held[0]
