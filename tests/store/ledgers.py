"""Small ledgers for tests: rows of several kinds, signed checkpoints, and every way to spoil a text."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import SecretStr

from flows.adapters import signing
from flows.adapters.settings import Settings
from flows.services import checkpointing
from flows.store import ledger
from flows.store.database import State
from tests.store.conftest import NOW

KINDS = ("decision", "transfer", "promotion")
NAME = "grace hopper"


def keyed(home: Path, key: str | None = None, **more: object) -> Settings:
    """Settings of a home whose checkpoints are signed with a key made now, its public half enrolled."""
    key = key or signing.new_key()
    made = Settings.model_validate({"home": home, "signing_key": SecretStr(key), **more})
    signing.enroll(made.anchors, signing.signer(key).public_key, at=NOW)
    return made


def grow(state: State, count: int, start: int = 1) -> None:
    """Append rows."""
    with state.transaction() as tx:
        for number in range(start, start + count):
            body = {"n": number, "site": "onprem-fra", "note": "häuser"}
            ledger.append(tx, KINDS[number % 3], body, principal=NAME, at=when(number))


def when(number: int) -> datetime:
    """The time of a row."""
    return NOW + timedelta(seconds=number, microseconds=number)


def checkpointed(state: State, settings: Settings, *, rounds: int = 3, each: int = 4) -> None:
    """Rows and, after every few of them, a signed checkpoint. The first round holds the row of the key, too."""
    for number in range(rounds):
        grow(state, each - (number == 0), start=1 + number * each - (number > 0))
        checkpointing.checkpoint(state, settings, at=when(100 * (number + 1)))


def spoiled_lines(text: bytes) -> Iterator[tuple[str, bytes]]:
    """Each line taken out, doubled, exchanged with another; and the text cut at each place."""
    lines = text.splitlines(keepends=True)
    for first in range(len(lines)):
        yield f"line {first + 1} taken out", b"".join(lines[:first] + lines[first + 1 :])
        yield f"line {first + 1} doubled", b"".join([*lines[: first + 1], *lines[first:]])
        for second in range(first + 1, len(lines)):
            other = list(lines)
            other[first], other[second] = lines[second], lines[first]
            yield f"lines {first + 1} and {second + 1} exchanged", b"".join(other)
    for size in range(len(text)):
        yield f"cut to {size} bytes", text[:size]


def flipped(text: bytes, masks: tuple[int, ...] = (0x01, 0x20)) -> Iterator[tuple[str, bytes]]:
    """The text with one bit of one byte other, for every byte: the low bit, and the one that tells letters' case."""
    for place in range(len(text)):
        for mask in masks:
            yield f"byte {place} ^ {mask:#x}", text[:place] + bytes([text[place] ^ mask]) + text[place + 1 :]
