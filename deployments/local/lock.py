"""One `up`, `down` or `demo` at a time for one home folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from flows.core.errors import Unavailable


@contextlib.contextmanager
def exclusive(home: Path, what: str, *, name: str = "stack") -> Iterator[None]:
    """Hold the home folder's lock `name` while `what` (such as `tradewind up`) is at work; it goes with the process that holds it.

    Raises:
        Unavailable: another process holds it.
    """
    path = home / "run" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            other = stream.read().strip() or "another command"
            raise Unavailable(f"{other} is at work on `{home}`", fix="wait until it is done, then try again") from None
        stream.seek(0)
        stream.truncate()
        stream.write(f"`{what}` (process {os.getpid()})")
        stream.flush()
        try:
            yield
        finally:
            stream.seek(0)
            stream.truncate()
