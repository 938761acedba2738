"""Objects in Google Cloud Storage."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import google.auth.exceptions as refused
import requests
from google.api_core import exceptions as failures
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from flows.adapters.bucket_credentials import gcs_credentials, gcs_endpoint
from flows.adapters.buckets import PART, RECORDED, Bucket, Chunks, Held, answered, checked, plain, replaced

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from flows.adapters.settings import SiteConnection

CALL: dict[str, Any] = {"timeout": (5, 60), "retry": DEFAULT_RETRY.with_timeout(60)}
"""Seconds to connect and to wait for an answer; throttled and failed requests again, ever later, for a minute."""


class GcsBucket:
    """See `flows.adapters.buckets.Bucket`."""

    def __init__(self, site: str, connection: SiteConnection, place: PurePosixPath) -> None:
        self.site, self.url = site, connection.url.rstrip("/")
        self.name, self._prefix = place.parts[0], "".join(f"{part}/" for part in place.parts[1:])
        endpoint = gcs_endpoint(connection)
        with self._answered():
            client = storage.Client(
                project="-",  # no request here needs one
                credentials=gcs_credentials(connection),
                client_options={"api_endpoint": endpoint} if endpoint else None,
            )
        self._bucket: Any = client.bucket(self.name)
        self._kms_key = connection.kms_key

    def list(self, under: str = "") -> Iterator[Held]:
        """See `Bucket`."""
        found = iter(self._bucket.client.list_blobs(self._bucket, prefix=self._prefix + plain(under, self.site), **CALL))
        while True:
            with self._answered():
                one = next(found, None)
            if one is None:
                return
            yield self._held(one)

    def kept(self, under: str) -> Iterator[str]:
        """See `Bucket`."""
        with self._answered():
            found = dict.fromkeys(one.name.removeprefix(self._prefix) for one in self._versions(under))
        yield from found

    def earlier(self, under: str) -> Iterator[Held]:
        """See `Bucket`."""
        with self._answered():
            found = [one for one in self._versions(under) if one.time_deleted is not None]
        for one in found:
            yield replace(self._held(one), version=str(one.generation))

    def forget(self, key: str, version: str) -> None:
        """See `Bucket`."""
        with self._answered(), contextlib.suppress(failures.NotFound):
            self._bucket.delete_blob(self._full(key), generation=int(version), **CALL)

    def _versions(self, under: str) -> list[Any]:
        return list(self._bucket.client.list_blobs(self._bucket, prefix=self._full(under), versions=True, **CALL))

    def head(self, key: str) -> Held | None:
        """See `Bucket`."""
        with self._answered():
            found = self._got(key)
            return None if found is None else self._held(found)

    def _got(self, key: str) -> Any:
        """An object's record. Whoever may list below a prefix only may be told 403 of what is missing, too: the list tells."""
        try:
            return self._bucket.get_blob(self._full(key), **CALL)
        except failures.Forbidden:
            if any(held.key == key for held in self.list(key)):
                raise
            return None

    def _held(self, blob: Any) -> Held:
        return Held(blob.name.removeprefix(self._prefix), blob.size, str(blob.generation), (blob.metadata or {}).get(RECORDED))

    def read(self, key: str) -> tuple[bytes, str] | None:
        """See `Bucket`."""
        with self._answered():
            found = self._got(key)
            if found is None:
                return None
            try:
                return found.download_as_bytes(if_generation_match=found.generation, checksum="crc32c", **CALL), str(found.generation)
            except (failures.NotFound, failures.PreconditionFailed) as error:
                raise replaced(key, self.site) from error

    def chunks(self, held: Held, size: int) -> Iterator[bytes]:
        """See `Bucket`."""
        blob = self._bucket.blob(self._full(held.key), generation=int(held.tag))
        for start in range(0, held.size, size):
            with self._answered():
                try:
                    # the checksum that Google keeps is of the whole; ours is compared by whoever reads this
                    yield blob.download_as_bytes(start=start, end=min(start + size, held.size) - 1, checksum=None, **CALL)
                except failures.NotFound as error:
                    raise replaced(held.key, self.site) from error

    def write(self, key: str, chunks: Chunks, *, size: int, sha256: str) -> int:
        """See `Bucket`."""
        blob = self._bucket.blob(self._full(key), chunk_size=PART, kms_key_name=self._kms_key)
        blob.metadata = {RECORDED: sha256}
        pieces = checked(chunks(PART), size=size, sha256=sha256, what=f"what was to be `{key}` at `{self.site}`")
        with self._answered():
            if size <= PART:
                blob.upload_from_string(b"".join(pieces), content_type="application/octet-stream", checksum="crc32c", **CALL)
            else:
                blob.upload_from_file(_Stream(pieces), size=size, content_type="application/octet-stream", checksum="crc32c", **CALL)
        return size

    def swap(self, key: str, body: bytes, *, tag: str | None) -> str | None:
        """See `Bucket`."""
        blob = self._bucket.blob(self._full(key), kms_key_name=self._kms_key)
        blob.metadata = {RECORDED: hashlib.sha256(body).hexdigest()}
        with self._answered():
            try:
                blob.upload_from_string(body, content_type="application/json", if_generation_match=int(tag or 0), checksum="crc32c", **CALL)
            except failures.PreconditionFailed:
                # an answer that was lost, then the same put again
                found = self.read(key)
                return found[1] if found is not None and found[0] == body else None
            return str(blob.generation)

    def delete(self, keys: Iterable[str]) -> None:
        """See `Bucket`."""
        for key in keys:
            with self._answered():
                for one in self._versions(key):
                    if one.name != self._full(key):
                        continue
                    try:
                        self._bucket.delete_blob(one.name, generation=one.generation, **CALL)
                    except failures.NotFound:
                        continue

    def copied(self, source: Bucket, key: str, *, size: int, sha256: str) -> bool:
        """Never: Google keeps no sha256 of an object, so it has to be read."""
        return False

    def _full(self, key: str) -> str:
        return self._prefix + plain(key, self.site)

    def _answered(self) -> AbstractContextManager[None]:
        return answered(self.site, self.name, _judged)


class _Stream(io.RawIOBase):
    """Pieces as a file that is read once, front to back."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._left, self._at = pieces, b"", 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        parts, have = [self._left], len(self._left)
        while size < 0 or have < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            parts.append(piece)
            have += len(piece)
        whole = b"".join(parts)
        cut = len(whole) if size < 0 else size
        found, self._left = whole[:cut], whole[cut:]
        self._at += len(found)
        return found


def _message(error: failures.GoogleAPICallError) -> str:
    """Google's own words; the library's begin with the address of the request, key and all."""
    try:
        return f"{error.code} {error.response.json()['error']['message']}"
    except (AttributeError, ValueError, KeyError, TypeError):
        return str(error.message)


def _judged(error: Exception) -> tuple[str, str] | None:
    if isinstance(error, failures.RetryError):
        return "silent", str(error.cause or error)
    if isinstance(error, failures.GoogleAPICallError):
        detail = _message(error)
        if "kms" in detail.lower() or "cryptokey" in detail.lower():
            return "key", detail
        if isinstance(error, failures.NotFound):
            return "absent", detail
        if isinstance(error, failures.Unauthorized):
            return "credentials", detail
        if isinstance(error, failures.Forbidden):
            return "denied", detail
        return "silent", detail
    if isinstance(error, refused.TransportError):
        return "silent", str(error)
    if isinstance(error, refused.GoogleAuthError):
        return "credentials", str(error)
    if isinstance(error, (requests.RequestException, ConnectionError, TimeoutError)):
        return "silent", str(error)
    return None
