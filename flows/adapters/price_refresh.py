"""Fresh price catalogs over HTTPS: asked for only if they changed (ETag), checked, limited in time and size, each put in place at once."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from flows.adapters.skypilot import read_catalog
from flows.core.canonical import sha256_hex
from flows.core.errors import IntegrityError, Unavailable, UserError

if TYPE_CHECKING:
    import ssl

    import httpx

LEDGER = ".refresh.json"
"""What was fetched last, by cloud: address, ETag, sha256, instant."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
MAX_REDIRECTS = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one catalog may take: seconds in all, and bytes as they are on disk."""

    seconds: float = 60.0
    max_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Fetched:
    """What became of one catalog: its rows and the sha256 of the bytes that lie there now."""

    cloud: str
    status: Literal["new", "unchanged"]
    sha256: str
    bytes: int
    rows: int


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is known of a catalog that was fetched before."""

    url: str
    etag: str | None
    sha256: str
    fetched: str


def refresh(
    url: str,
    folder: Path,
    clouds: Iterable[str],
    *,
    checksums: Mapping[str, str] | None = None,
    limits: Limits = Limits(),
    verify: ssl.SSLContext | bool = True,
) -> list[Fetched]:
    """Fetch `URL/<cloud>/vms.csv` into `FOLDER/<cloud>/vms.csv` for each cloud, whole or not at all.

    A catalog that the server says is the one that lies here is not fetched again; one that was changed by hand is. `checksums` are the
    sha256 that the bytes must have, by cloud.

    Raises:
        UserError: an address that is neither HTTPS nor on this machine, or what came is no catalog.
        IntegrityError: the bytes have another checksum than they must.
        Unavailable: no answer in time, an answer other than 200 or 304, or more bytes than the limit.
    """
    import httpx

    try:
        _refuse_open(httpx.URL(url))
    except httpx.InvalidURL as error:
        raise UserError(f"`{url}` is no address: {str(error).lower()}", field="--url", expected="an https:// address") from None
    wanted = {cloud: checksum.lower() for cloud, checksum in (checksums or {}).items()}
    with httpx.Client(verify=verify, timeout=limits.seconds, follow_redirects=False) as client:
        return [_one(client, f"{url.rstrip('/')}/{cloud}/vms.csv", folder, cloud, wanted.get(cloud), limits) for cloud in clouds]


def _refuse_open(url: httpx.URL) -> None:
    """Prices decide where money goes: nobody on the way may change them."""
    if not url.host:
        raise UserError(f"`{url}` names no server", field="--url", expected="an https:// address")
    if url.scheme != "https" and not (url.scheme == "http" and url.host in LOOPBACK):
        raise UserError(f"`{url}` is not encrypted", field="--url", expected="an https:// address", fix="ask the publisher for one")


def _one(client: httpx.Client, url: str, folder: Path, cloud: str, checksum: str | None, limits: Limits) -> Fetched:
    target = folder / cloud / "vms.csv"
    known = remembered(folder).get(cloud)
    here = sha256_hex(target.read_bytes()) if target.is_file() else None
    usable = known is not None and known.url == url and known.sha256 == here and checksum in (None, here)
    etag = known.etag if known is not None and usable else None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".vms-", dir=target.parent)
    except OSError as error:
        raise UserError(f"cannot be written: {(error.strerror or str(error)).lower()}", file=str(folder)) from None
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            answer = _download(client, url, etag, file, limits)
        if answer is None and here is not None:
            return Fetched(cloud, "unchanged", here, target.stat().st_size, len(read_catalog(target)))
        if answer is None:
            raise Unavailable("the server says that nothing changed, but nothing is here", file=url)
        got, fresh_etag = answer
        if checksum is not None and got != checksum:
            raise IntegrityError(f"sha256 {got}", file=url, expected=checksum, fix="fetch again; if it stays so, ask the publisher")
        rows = _rows(part, url)
        part.chmod(0o644)
        size = part.stat().st_size
        part.replace(target)
        _remember(folder, cloud, Remembered(url, fresh_etag, got, datetime.now(UTC).isoformat(timespec="seconds")))
        return Fetched(cloud, "new", got, size, rows)
    except OSError as error:
        raise Unavailable(f"cannot be written: {(error.strerror or str(error)).lower()}", file=str(folder)) from None
    finally:
        part.unlink(missing_ok=True)


def _download(client: httpx.Client, url: str, etag: str | None, file: BinaryIO, limits: Limits) -> tuple[str, str | None] | None:
    """The sha256 of what was written to the file, and its ETag; None if it is what is here already."""
    import httpx

    began, digest, size = time.monotonic(), hashlib.sha256(), 0
    headers = {"If-None-Match": etag} if etag else {}
    try:
        for _ in range(MAX_REDIRECTS + 1):
            with client.stream("GET", url, headers=headers) as answer:
                if answer.next_request is not None:
                    _refuse_open(answer.next_request.url)
                    url = str(answer.next_request.url)
                    continue
                if answer.status_code == 304 and etag:
                    return None
                if answer.status_code != 200:
                    raise Unavailable(f"the server answers {answer.status_code}", file=url, expected="200", fix="check the address")
                for chunk in answer.iter_bytes():
                    size += len(chunk)
                    if size > limits.max_bytes:
                        raise Unavailable(f"more than {limits.max_bytes:,} bytes", file=url, fix="raise --max-mb if that is right")
                    if time.monotonic() - began > limits.seconds:
                        raise Unavailable(f"not done within {limits.seconds:g} s", file=url, fix="raise --timeout, or try again later")
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
                return digest.hexdigest(), answer.headers.get("ETag")
    except httpx.TimeoutException:
        raise Unavailable(f"no answer within {limits.seconds:g} s", file=url, fix="raise --timeout, or try again later") from None
    except httpx.HTTPError as error:
        raise Unavailable(f"no answer: {str(error).lower() or type(error).__name__}", file=url, fix="check address and network") from None
    raise Unavailable(f"more than {MAX_REDIRECTS} redirects", file=url, fix="check the address")


def _rows(part: Path, url: str) -> int:
    """How many rows the catalog has."""
    try:
        rows = len(read_catalog(part))
    except UserError as error:
        first = error.problems[0]
        raise UserError(f"not a price catalog: {first.what}", file=url, line=first.line, field=first.field) from None
    if not rows:
        raise UserError("the catalog has no rows", file=url)
    return rows


def remembered(folder: Path) -> dict[str, Remembered]:
    """What was fetched last, by cloud; nothing if that cannot be read, so that everything is fetched anew."""
    try:
        found = json.loads((folder / LEDGER).read_text())
        return {cloud: Remembered(**row) for cloud, row in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _remember(folder: Path, cloud: str, row: Remembered) -> None:
    known = {**remembered(folder), cloud: row}
    handle, name = tempfile.mkstemp(prefix=".refresh-", dir=folder)
    with os.fdopen(handle, "w") as file:
        json.dump({cloud: asdict(known[cloud]) for cloud in sorted(known)}, file, indent=1)
    Path(name).replace(folder / LEDGER)
