"""A site's bucket: objects under one prefix, each with its sha256 recorded beside it; S3, what speaks S3, and Google Cloud Storage.

The clouds' own clients write, since only these refuse to overwrite (conditional put), name the customer's key, and leave nothing behind of
an upload that was found wrong. Arrow's filesystem reads parts of a table. Both are made here and nowhere else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn, Protocol
from urllib.parse import urlsplit

from flows.core.errors import GuardRefused, IntegrityError, Unavailable, UserError

if TYPE_CHECKING:
    from flows.adapters.settings import Settings, SiteConnection

PART = 16 * 2**20
"""Bytes held at once of an object under way."""
RECORDED = "sha256"
"""The name under which an object's checksum is kept in its metadata."""
ATTEMPTS = 6
"""How often a request is made at most, waiting longer each time, before a store counts as not answering."""

Chunks = Callable[[int], Iterator[bytes]]
"""The content anew from its beginning, in pieces of so many bytes; only the last may be shorter."""


@dataclass(frozen=True, slots=True)
class Held:
    """An object as its store tells of it: bytes, a tag that changes with the content, the sha256 recorded when it was written.

    `version` names one that is no longer the object: it was deleted or overwritten, and the bucket keeps it.
    """

    key: str
    size: int
    tag: str = ""
    sha256: str | None = None
    version: str | None = None


class Bucket(Protocol):
    """Objects below one prefix of one bucket; keys are relative to it. Every method may raise `Unavailable` or `UserError`."""

    url: str

    def list(self, under: str = "") -> Iterator[Held]:
        """Every object whose key begins so, in order of keys; without recorded checksums."""

    def kept(self, under: str) -> Iterator[str]:
        """Every key that begins so, once; those too of which only earlier versions are left."""

    def earlier(self, under: str) -> Iterator[Held]:
        """Every version that the bucket keeps of objects that were deleted or overwritten, of all whose key begins so."""

    def forget(self, key: str, version: str) -> None:
        """Delete one earlier version; what is not there is no mistake."""

    def head(self, key: str) -> Held | None:
        """What is known of one object; None: there is none."""

    def read(self, key: str) -> tuple[bytes, str] | None:
        """A small object whole, and its tag; None: there is none."""

    def chunks(self, held: Held, size: int) -> Iterator[bytes]:
        """An object's content in pieces; fails if it is replaced meanwhile."""

    def write(self, key: str, chunks: Chunks, *, size: int, sha256: str) -> int:
        """Write a large object, whole or not at all, and record its checksum; the bytes that were sent, less than `size` after a kill.

        Raises:
            IntegrityError: the content is not what the checksum says; nothing was written.
        """

    def swap(self, key: str, body: bytes, *, tag: str | None) -> str | None:
        """Write a small object if it still has this tag (None: if it is not there); its new tag, or None if it has another."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects with every earlier version that the bucket keeps of them; what is not there is no mistake."""

    def copied(self, source: Bucket, key: str, *, size: int, sha256: str) -> bool:
        """Let the store copy an object of its own, where it vouches for the sha256 before and after; False: it was not copied."""


def open_bucket(site: str, connection: SiteConnection) -> Bucket:
    """The bucket of a site. No request is made yet.

    Raises:
        UserError: the address names no bucket, or the client of that cloud is not installed.
    """
    scheme, place = address(connection.url)
    try:
        if scheme == "s3":
            from flows.adapters.bucket_s3 import S3Bucket

            return S3Bucket(site, connection, place)
        from flows.adapters.bucket_gcs import GcsBucket

        return GcsBucket(site, connection, place)
    except ImportError as error:
        raise UserError(f"`{error.name}` is not installed, which `{connection.url}` needs", fix="install the extra `clouds`") from error


def filesystem(url: str, settings: Settings) -> tuple[Any, str]:
    """(`pyarrow.fs` filesystem, path in it) of an address below the root of a declared site, for reading parts of a file.

    Raises:
        GuardRefused: the address lies below no declared site.
    """
    from pyarrow import fs

    from flows.adapters.bucket_credentials import arrow_options

    for connection in settings.sites.values():
        root = connection.url.rstrip("/")
        if url == root or url.startswith(f"{root}/"):
            scheme, _ = address(connection.url)
            made = fs.S3FileSystem if scheme == "s3" else fs.GcsFileSystem
            return made(**arrow_options(connection)), url.partition("://")[2]
    raise GuardRefused(f"`{url}` is below no declared site", expected="an address below a root of `TRADEWIND_SITES`")


def address(url: str) -> tuple[str, PurePosixPath]:
    """(scheme, bucket and prefix) of a root."""
    parts = urlsplit(url)
    inside = PurePosixPath(parts.path.strip("/"))
    if parts.scheme not in ("s3", "gs") or not parts.netloc or "@" in parts.netloc or ".." in inside.parts:
        raise UserError(f"`{url}` names no bucket", field="TRADEWIND_SITES", expected="`s3://bucket/prefix` or `gs://bucket/prefix`")
    return parts.scheme, PurePosixPath(parts.netloc) / inside


def plain(key: str, site: str) -> str:
    """A key that stays below the prefix it is put under.

    Raises:
        GuardRefused: it would not.
    """
    if key.startswith("/") or any(part in ("", ".", "..") for part in key.rstrip("/").split("/") if key):
        raise GuardRefused(
            f"`{key}` is not under site `{site}`",
            expected="a key below the site's prefix",
            fix="data reaches another site only through the `transfer` step",
        )
    return key


def checked(pieces: Iterable[bytes], *, size: int, sha256: str, what: str) -> Iterator[bytes]:
    """The pieces as they come; the last is held back until the whole was compared.

    Raises:
        IntegrityError: they are not what the checksum says.
    """
    digest, seen = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        seen += len(piece)
        if seen >= size:
            break
        yield piece
    if seen != size or digest.hexdigest() != sha256:
        raise IntegrityError(
            f"{what} is missing or changed",
            expected=f"sha256 {sha256}",
            fix="remove the version and run the step that makes it again",
        )
    if seen:
        yield piece


def replaced(key: str, site: str) -> Unavailable:
    """An object is no longer the one that was begun with."""
    return Unavailable(f"`{key}` at `{site}` was replaced while it was read", fix="run the step again")


def part_size(size: int) -> int:
    """How large each part of an object is sent: S3 takes 10,000 of them."""
    return max(PART, -(-size // 9_000 // 2**20) * 2**20)


@contextlib.contextmanager
def answered(site: str, bucket: str, judge: Callable[[Exception], tuple[str, str] | None]) -> Iterator[None]:
    """Let an error of a client be one message with what to do. `judge` gives (kind, detail) of an error of its own, None of any other."""
    try:
        yield
    except Exception as error:
        found = judge(error)
        if found is None:
            raise
        _tell(site, bucket, *found, error)


def _tell(site: str, bucket: str, kind: str, detail: str, error: Exception) -> NoReturn:
    here = f"bucket `{bucket}` of site `{site}`"
    if kind == "absent":
        raise UserError(f"there is no {here}", field="TRADEWIND_SITES", fix="make it, or correct the site's `url`") from error
    if kind == "key":
        raise UserError(
            f"{here} cannot use its key: {detail}",
            field="TRADEWIND_SITES",
            fix="correct the site's `kms_key`, enable the key, or let the run's role use it",
        ) from error
    if kind == "denied":
        raise Unavailable(
            f"{here} refused this run: {detail}",
            fix="look whether the run's role may read, write and list below the site's prefix, and use its key; `tradewind doctor`",
        ) from error
    if kind == "credentials":
        raise Unavailable(
            f"the credentials for {here} do not hold: {detail}",
            fix="give the worker an identity, or renew its keys, then run the step again",
        ) from error
    if kind == "unfit":
        raise UserError(
            f"{here} has no conditional writes: {detail}",
            expected="a store that takes `If-None-Match` and `If-Match` on a put",
            fix="use a newer release of the object store",
        ) from error
    raise Unavailable(f"{here} did not answer: {detail}", fix="try again later: what was sent already is not sent again") from error


def secret_of(connection: SiteConnection) -> dict[str, Any] | None:
    """The declared credentials of a site, None: the run's own identity."""
    if connection.credentials is None:
        return None
    try:
        found = json.loads(connection.credentials.get_secret_value())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError("the site's `credentials` are no JSON object", field="TRADEWIND_SITES")
    return found
