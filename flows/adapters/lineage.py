"""OpenLineage events out of the house: to a file under home, or over HTTP by OpenLineage's own client, and never in a step's way.

::

    <home>/lineage/events.jsonl        without an address: every event, one a line
    <home>/lineage/spool.jsonl         with one: what could not be sent yet
    <home>/lineage/sending-*.jsonl     what is being sent again

A server that does not answer costs a process one time-out: its later events go straight to the spool.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flows.core.canonical import canonical_json
from flows.core.errors import UserError
from flows.core.governance.bridge import encrypted
from flows.core.governance.lineage import Column

if TYPE_CHECKING:
    from flows.adapters.settings import Settings

log = logging.getLogger("flows.lineage")

EVENTS, SPOOL = "events.jsonl", "spool.jsonl"
MAX_COLUMNS = 2000


class Send(Protocol):
    """Sends one event, or raises."""

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Send it."""
        ...


class Lineage:
    """Where this process's events go."""

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.home / "lineage"
        self.url = settings.lineage_url
        self.timeout = settings.lineage_timeout_seconds
        self._key = settings.lineage_api_key.get_secret_value() if settings.lineage_api_key else None
        self._down = False

    def emit(self, event: Mapping[str, Any]) -> None:
        """Send the event, or keep it to be sent later.

        Raises:
            OSError: it can be neither sent nor kept.
        """
        if self.url is None:
            self._append(EVENTS, event)
        elif self._down or not self._sent(event, self._sender()):
            self._down = True
            self._append(SPOOL, event)

    def flush(self, limit: int = 1000) -> tuple[int, int]:
        """Send what is kept, the oldest first, until one cannot be sent; (sent, still kept). One process at a time does this."""
        if self.url is None or not self.folder.is_dir():
            return 0, 0
        with _locked(self.folder / ".flush.lock", wait=False) as mine:
            if not mine:
                return 0, 0
            with _locked(self.folder / ".spool.lock"):
                spool = self.folder / SPOOL
                if spool.exists():
                    spool.rename(self.folder / f"sending-{spool.stat().st_mtime_ns:020d}-{os.getpid()}.jsonl")
            sent = kept = 0
            send, up = self._sender(), True
            for path in sorted(self.folder.glob("sending-*.jsonl")):
                lines = path.read_text().splitlines()
                done = 0
                while up and done < len(lines) and sent < limit:
                    up = self._sent(_parsed(lines[done]), send)
                    done, sent = done + up, sent + up
                _rewrite(path, lines[done:])
                kept += len(lines) - done
        return sent, kept

    def _sender(self) -> Send:
        """OpenLineage's HTTP transport: one try, bounded in time."""
        from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport, TokenProvider

        try:
            address = encrypted(str(self.url))
        except ValueError as error:
            raise UserError(str(error), field="TRADEWIND_LINEAGE_URL", expected="an https:// address") from None
        auth = ApiKeyTokenProvider({"apiKey": self._key}) if self._key else TokenProvider({})
        retry: dict[str, Any] = {"total": 0, "redirect": 0}
        transport = HttpTransport(HttpConfig(url=address, timeout=self.timeout, auth=auth, retry=retry))

        def send(event: Mapping[str, Any]) -> None:
            transport.emit(dict(event))  # type: ignore[arg-type]  # its serialiser takes JSON values as they are

        return send

    def _sent(self, event: Mapping[str, Any] | None, send: Send) -> bool:
        import requests

        if event is None:  # a line that a crash cut off says nothing
            return True
        answered: list[bool] = []

        def attempt() -> None:
            try:
                send(event)
                answered.append(True)
            except requests.RequestException as error:
                log.warning("the lineage server took no event: %s", type(error).__name__)

        # a server that sends its answer byte by byte outlasts any time-out between bytes: the thread is left behind
        worker = threading.Thread(target=attempt, daemon=True)
        worker.start()
        worker.join(2 * self.timeout)
        return bool(answered)

    def _append(self, name: str, event: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        line = canonical_json(dict(event)) + b"\n"
        with _locked(self.folder / ".spool.lock"), (self.folder / name).open("ab") as file:
            file.write(line)


def _parsed(line: str) -> Mapping[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _rewrite(path: Path, lines: list[str]) -> None:
    if not lines:
        path.unlink()
        return
    handle, name = tempfile.mkstemp(prefix=".sending-", dir=path.parent)
    with os.fdopen(handle, "w") as file:
        file.writelines(f"{line}\n" for line in lines)
    Path(name).replace(path)


@contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a file among processes; False if another holds it and there is no waiting."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def columns_of(readable: Callable[[str], Any], files: Mapping[str, Any]) -> tuple[Column, ...]:
    """Names and types of a dataset version's columns, from the footers of its Parquet files; several tables become a field each.

    A file of a version is `<table>.parquet` or `<table>/<part>.parquet`; only the first part of a table is looked at.
    """
    first: dict[str, str] = {}
    for name in sorted(name for name in files if name.endswith(".parquet")):
        first.setdefault(name.partition("/")[0].removesuffix(".parquet"), name)
    if not first:
        return ()
    import pyarrow.parquet as pq

    tables = {
        table: tuple(Column(field.name, str(field.type)) for field in list(pq.read_schema(readable(name)))[:MAX_COLUMNS])
        for table, name in first.items()
    }
    if len(tables) == 1:
        return next(iter(tables.values()))
    return tuple(Column(table, "table", columns) for table, columns in sorted(tables.items()))
