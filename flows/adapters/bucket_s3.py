"""Objects in S3, or in a store that speaks S3."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import botocore.exceptions as failures
from botocore.config import Config

from flows.adapters.bucket_credentials import aws_session, s3_endpoint, s3_region
from flows.adapters.buckets import ATTEMPTS, PART, RECORDED, Bucket, Chunks, Held, answered, checked, part_size, plain, replaced
from flows.core.errors import IntegrityError, Unavailable

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from flows.adapters.settings import SiteConnection

COPIED_AT_ONCE = 5 * 2**30
"""The largest object that one request copies."""
ABSENT = frozenset({"NoSuchKey", "404", "NotFound"})
HIDDEN = frozenset({"AccessDenied", "403", "Forbidden"})
CHANGED = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
LAPSED = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "InvalidClientTokenId"}
)


class S3Bucket:
    """See `flows.adapters.buckets.Bucket`."""

    def __init__(self, site: str, connection: SiteConnection, place: PurePosixPath) -> None:
        self.site, self.url = site, connection.url.rstrip("/")
        self.name, self._prefix = place.parts[0], "".join(f"{part}/" for part in place.parts[1:])
        self._endpoint = endpoint = s3_endpoint(connection)
        config = Config(
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=5,
            read_timeout=60,
            s3={"addressing_style": "path"} if endpoint else None,
        )
        self._client: Any = aws_session(connection).client("s3", endpoint_url=endpoint, region_name=s3_region(), config=config)
        self._key = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": connection.kms_key} if connection.kms_key else {}

    def list(self, under: str = "") -> Iterator[Held]:
        """See `Bucket`."""
        pages = iter(
            self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=self._prefix + plain(under, self.site))
        )
        while True:
            with self._answered():
                page = next(pages, None)
            if page is None:
                return
            for one in page.get("Contents", ()):
                yield Held(one["Key"].removeprefix(self._prefix), one["Size"], one["ETag"])

    def kept(self, under: str) -> Iterator[str]:
        """See `Bucket`."""
        with self._answered():
            found = dict.fromkeys(one["Key"].removeprefix(self._prefix) for one in self._versions(under))
        yield from found

    def earlier(self, under: str) -> Iterator[Held]:
        """See `Bucket`."""
        with self._answered():
            found = [one for page in self._history(under) for one in page.get("Versions", ()) if not one["IsLatest"]]
        for one in found:
            yield Held(one["Key"].removeprefix(self._prefix), one["Size"], one["ETag"], version=one["VersionId"])

    def forget(self, key: str, version: str) -> None:
        """See `Bucket`."""
        with self._answered():
            self._client.delete_object(**self._at(key), VersionId=version)

    def head(self, key: str) -> Held | None:
        """See `Bucket`."""
        found = self._head(key)
        return None if found is None else Held(key, found["ContentLength"], found["ETag"], found["Metadata"].get(RECORDED))

    def _head(self, key: str) -> dict[str, Any] | None:
        with self._answered():
            try:
                found: dict[str, Any] = self._client.head_object(**self._at(key), ChecksumMode="ENABLED")
            except failures.ClientError as error:
                if self._absent(error, key):
                    return None
                raise
            return found

    def read(self, key: str) -> tuple[bytes, str] | None:
        """See `Bucket`."""
        with self._answered():
            try:
                found = self._client.get_object(**self._at(key))
            except failures.ClientError as error:
                if self._absent(error, key):
                    return None
                raise
            return found["Body"].read(), found["ETag"]

    def _absent(self, error: failures.ClientError, key: str) -> bool:
        """Whether an object is not there. To a role that may list below some prefixes only, S3 says `denied` instead; then a list tells."""
        if _code(error) not in HIDDEN:
            return _code(error) in ABSENT
        full = self._prefix + plain(key, self.site)
        found = self._client.list_objects_v2(Bucket=self.name, Prefix=full, MaxKeys=1).get("Contents", ())
        return all(one["Key"] != full for one in found)

    def chunks(self, held: Held, size: int) -> Iterator[bytes]:
        """See `Bucket`."""
        for start in range(0, held.size, size):
            end = min(start + size, held.size) - 1
            yield self._range(held, f"bytes={start}-{end}")

    def _range(self, held: Held, span: str) -> bytes:
        which = {} if held.version is None else {"VersionId": held.version}
        with self._answered():
            for attempt in range(3):
                try:
                    body: bytes = self._client.get_object(**self._at(held.key), **which, Range=span, IfMatch=held.tag)["Body"].read()
                except (failures.ResponseStreamingError, failures.IncompleteReadError, failures.ReadTimeoutError):
                    # the client tries a request again, but not the reading of its answer
                    if attempt == 2:
                        raise
                except failures.ClientError as error:
                    if _code(error) in CHANGED | ABSENT:
                        raise replaced(held.key, self.site) from error
                    raise
                else:
                    return body
        raise AssertionError("unreachable")

    def write(self, key: str, chunks: Chunks, *, size: int, sha256: str) -> int:
        """See `Bucket`."""
        part = part_size(size)
        pieces = checked(chunks(part), size=size, sha256=sha256, what=f"what was to be `{key}` at `{self.site}`")
        about = {"Metadata": {RECORDED: sha256}, "ChecksumAlgorithm": "SHA256", **self._key}
        if size <= PART:
            body = b"".join(pieces)
            with self._answered():
                self._client.put_object(**self._at(key), Body=body, **about)
            return size
        with self._answered():
            upload, there = self._upload(key, about)
            sent, parts = 0, []
            try:
                for number, piece in enumerate(pieces, start=1):
                    known = there.get(number)
                    if known is None or not _same(known, piece):
                        known = self._client.upload_part(
                            **self._at(key), UploadId=upload, PartNumber=number, Body=piece, ChecksumAlgorithm="SHA256"
                        )
                        sent += len(piece)
                    parts.append({"PartNumber": number, **{name: known[name] for name in ("ETag", "ChecksumSHA256") if name in known}})
                self._client.complete_multipart_upload(**self._at(key), UploadId=upload, MultipartUpload={"Parts": parts})
            except IntegrityError:
                self._client.abort_multipart_upload(**self._at(key), UploadId=upload)
                raise
            except failures.ClientError as error:
                # another run sent the same object and was first
                held = self.head(key) if _code(error) == "NoSuchUpload" else None
                if held is None or held.sha256 != sha256:
                    raise
        return sent

    def _upload(self, key: str, about: dict[str, Any]) -> tuple[str, dict[int, dict[str, Any]]]:
        """An upload to go on with and its parts by number, or a new one."""
        full = self._prefix + key
        found = self._client.list_multipart_uploads(Bucket=self.name, Prefix=full).get("Uploads", ())
        left = [one["UploadId"] for one in found if one["Key"] == full]
        if not left:
            return self._client.create_multipart_upload(**self._at(key), **about)["UploadId"], {}
        pages = self._client.get_paginator("list_parts").paginate(**self._at(key), UploadId=left[0])
        return left[0], {one["PartNumber"]: one for page in pages for one in page.get("Parts", ())}

    def swap(self, key: str, body: bytes, *, tag: str | None) -> str | None:
        """See `Bucket`."""
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        with self._answered():
            try:
                made = self._client.put_object(
                    **self._at(key), Body=body, Metadata={RECORDED: hashlib.sha256(body).hexdigest()}, **condition, **self._key
                )
            except failures.ClientError as error:
                if _code(error) not in CHANGED | ABSENT:
                    raise
                # an answer that was lost, then the same put again
                found = self.read(key)
                return found[1] if found is not None and found[0] == body else None
            return str(made["ETag"])

    def delete(self, keys: Iterable[str]) -> None:
        """See `Bucket`."""
        with self._answered():
            wanted = iter([one for key in keys for one in self._versions(key) if one["Key"] == self._prefix + key])
            while batch := list(islice(wanted, 1000)):
                failed = self._client.delete_objects(Bucket=self.name, Delete={"Objects": batch, "Quiet": True}).get("Errors")
                if failed:
                    what = f"`{failed[0]['Key']}` at `{self.site}` cannot be deleted: {failed[0].get('Message') or failed[0]['Code']}"
                    raise Unavailable(what, fix="give the run's role `s3:DeleteObject` and `s3:DeleteObjectVersion`, then try again")

    def _history(self, under: str) -> Iterator[dict[str, Any]]:
        full = self._prefix + plain(under, self.site)
        return iter(self._client.get_paginator("list_object_versions").paginate(Bucket=self.name, Prefix=full))

    def _versions(self, under: str) -> Iterator[dict[str, str]]:
        for page in self._history(under):
            for one in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                yield {"Key": one["Key"], "VersionId": one["VersionId"]}

    def copied(self, source: Bucket, key: str, *, size: int, sha256: str) -> bool:
        """See `Bucket`."""
        if not isinstance(source, S3Bucket) or source._endpoint != self._endpoint or size > COPIED_AT_ONCE:
            return False
        wanted = base64.b64encode(bytes.fromhex(sha256)).decode()
        found = source._head(key)
        if found is None or found.get("ChecksumSHA256") != wanted:
            return False
        try:
            made = self._client.copy_object(
                **self._at(key),
                CopySource={"Bucket": source.name, "Key": source._prefix + key},
                CopySourceIfMatch=found["ETag"],
                ChecksumAlgorithm="SHA256",
                Metadata={RECORDED: sha256},
                MetadataDirective="REPLACE",
                **self._key,
            )
        except (failures.ClientError, failures.BotoCoreError):
            return False  # the stream tells what is wrong, if anything is
        if made["CopyObjectResult"].get("ChecksumSHA256") == wanted:
            return True
        self.delete([key])
        return False

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.name, "Key": self._prefix + plain(key, self.site)}

    def _answered(self) -> AbstractContextManager[None]:
        return answered(self.site, self.name, _judged)


def _same(known: dict[str, Any], piece: bytes) -> bool:
    """Whether a part that is there already is this one: by its sha256, or, where the store keeps none, by the MD5 that its tag is."""
    if known.get("Size") != len(piece):
        return False
    if "ChecksumSHA256" in known:
        return bool(known["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(piece).digest()).decode())
    return bool(known["ETag"].strip('"') == hashlib.md5(piece, usedforsecurity=False).hexdigest())


def _code(error: failures.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _judged(error: Exception) -> tuple[str, str] | None:
    if isinstance(error, failures.ClientError):
        code, text = _code(error), str(error.response.get("Error", {}).get("Message") or "")
        detail = f"{code} {text}".strip()
        if code == "NoSuchBucket":
            return "absent", detail
        if code.startswith("KMS.") or "kms" in text.lower():
            return "key", detail
        if code in LAPSED:
            return "credentials", detail
        if code in ("AccessDenied", "403", "Forbidden", "AllAccessDisabled"):
            return "denied", detail
        if code == "NotImplemented":
            return "unfit", detail
        return "silent", detail
    if isinstance(error, (failures.NoCredentialsError, failures.PartialCredentialsError, failures.CredentialRetrievalError)):
        return "credentials", str(error)
    if isinstance(error, failures.BotoCoreError):
        return "silent", str(error)
    return None
