"""Versioned datasets of a site whose root is a bucket: the same layout and the same promises as in a folder.

A version's objects are written first and its manifest last, by a put that fails if one is there, so that a version is seen whole or not at
all and never changes. What a step reads is fetched to this run's own scratch folder and compared there; what it made is kept there, too,
and is not fetched again. The scratch folder goes with the run.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from flows.adapters.bucket_credentials import mlflow_clients
from flows.adapters.buckets import PART, Bucket, Held, checked, filesystem, plain
from flows.adapters.storage import MANIFEST, Content, DatasetVersion, SiteStorage, content_of, file_sha256, manifest_of
from flows.core.errors import IntegrityError, Unavailable

if TYPE_CHECKING:
    from flows.adapters.settings import Settings

HEAD = "head.json"
"""Says which objects a shared folder consists of; replaced only by whoever saw the one before."""


class BucketStorage(SiteStorage):
    """The data of one site in its bucket. `root` is this run's own scratch folder."""

    def __init__(self, site: str, bucket: Bucket, settings: Settings) -> None:
        super().__init__(site, Path(tempfile.mkdtemp(prefix=f"{site}-", dir=_scratch().name)))
        self.bucket, self._settings = bucket, settings
        self._shared: dict[str, Path] = {}

    def _has(self, dataset: str, version: str) -> bool:
        return self.read(dataset, version, MANIFEST) is not None

    def _settle(self, made: DatasetVersion, draft: Path) -> None:
        """See `SiteStorage`: objects first, manifest last; the draft's files stay at hand for who opens the version in this run."""
        for name, sha256 in made.files.items():
            self._send(made, name, content_of(draft / PurePosixPath(name)), sha256)
        self._seal(made)
        super()._settle(made, draft)

    def _send(self, made: DatasetVersion, name: str, content: Content, sha256: str) -> int:
        """Bring one object here unless it is here already; the bytes that were sent."""
        key = f"{_folder(made.dataset, made.version)}{name}"
        held = self.bucket.head(key)
        if held is not None and (held.size, held.sha256) == (content.size, sha256):
            return 0
        return self.bucket.write(key, content.chunks, size=content.size, sha256=sha256)

    def _seal(self, made: DatasetVersion) -> None:
        """Let a version appear. Another run may have been first: it wrote the same objects, and its manifest stays."""
        self.bucket.swap(f"{_folder(made.dataset, made.version)}{MANIFEST}", manifest_of(made), tag=None)

    def read(self, dataset: str, version: str, name: str) -> bytes | None:
        """See `SiteStorage`."""
        self._require_name(dataset, version)
        found = self.bucket.read(f"{_folder(dataset, version)}{name}")
        return None if found is None else found[0]

    def versions(self, dataset: str) -> list[str]:
        """See `SiteStorage`."""
        keys = (PurePosixPath(held.key).parts for held in self.bucket.list(f"datasets/{dataset}/"))
        return sorted(parts[2] for parts in keys if len(parts) == 4 and parts[3] == MANIFEST)

    def open(self, dataset: str, version: str, *, verify: bool = True) -> Path:
        """See `SiteStorage`: the version's files are fetched, unless this run has them.

        Raises:
            IntegrityError: an object is missing or differs from what was published; with `verify` off it is fetched as it is.
        """
        described = self.describe(dataset, version)
        folder = self.path("datasets", dataset, version)
        for name, sha256 in described.files.items():
            path = self._inside(folder / PurePosixPath(name))
            if not path.is_file() or file_sha256(path) != sha256:
                self._fetch(described, name, path, sha256 if verify else None)
        if not (folder / MANIFEST).exists():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MANIFEST).write_bytes(manifest_of(described))
        return folder

    def _fetch(self, described: DatasetVersion, name: str, path: Path, sha256: str | None) -> None:
        held = self.bucket.head(f"{_folder(described.dataset, described.version)}{name}")
        if held is None:
            if sha256 is not None:
                raise self._changed(described, name)
            return
        pieces = self.bucket.chunks(held, PART)
        if sha256 is not None:
            what = f"`{name}` of `{described.dataset}` version `{described.version}` at `{self.site}`"
            pieces = checked(pieces, size=held.size, sha256=sha256, what=what)
        _write(path, pieces)

    def check(self, dataset: str, version: str) -> None:
        """See `SiteStorage`: each object's recorded checksum is compared; whoever opens the version compares its content."""
        described = self.describe(dataset, version)
        for name, sha256 in described.files.items():
            held = self.bucket.head(f"{_folder(dataset, version)}{name}")
            if held is None or held.sha256 != sha256:
                raise self._changed(described, name)

    def content(self, described: DatasetVersion, name: str) -> Content:
        """See `SiteStorage`."""
        held = self.bucket.head(f"{_folder(described.dataset, described.version)}{name}")
        if held is None:
            raise self._changed(described, name)
        return Content(held.size, lambda size: self.bucket.chunks(held, size))

    def receive(self, described: DatasetVersion, source: SiteStorage, sent: Callable[[int], None]) -> None:
        """See `SiteStorage`: object by object in a stream, or, within one store that vouches for the checksums, copied by the store."""
        for name, sha256 in described.files.items():
            content = source.content(described, name)
            if isinstance(source, BucketStorage) and self._copied(described, name, source, content.size, sha256):
                sent(content.size)
                continue
            try:
                sent(self._send(described, name, content, sha256))
            except IntegrityError as error:
                raise source._changed(described, name) from error
        self._seal(described)

    def _copied(self, described: DatasetVersion, name: str, source: BucketStorage, size: int, sha256: str) -> bool:
        key = f"{_folder(described.dataset, described.version)}{name}"
        return self.bucket.head(key) is None and self.bucket.copied(source.bucket, key, size=size, sha256=sha256)

    def link(self, *parts: str) -> str:
        """See `SiteStorage`."""
        return f"{self.bucket.url}/{plain('/'.join(parts), self.site)}"

    def files(self, *under: str) -> Iterator[tuple[str, Path]]:
        """See `SiteStorage`."""
        yield from ((held.key, path) for held, path in self._fetched(self.bucket.list("".join(f"{part}/" for part in under))))

    def earlier(self, *under: str) -> Iterator[tuple[str, str, Path]]:
        """See `SiteStorage`."""
        found = self._fetched(self.bucket.earlier("".join(f"{part}/" for part in under)))
        yield from ((held.key, held.version or "", path) for held, path in found)

    def forget(self, name: str, version: str) -> None:
        """See `SiteStorage`."""
        self.bucket.forget(name, version)

    def _fetched(self, objects: Iterator[Held]) -> Iterator[tuple[Held, Path]]:
        """One object at a time lies on the disk."""
        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            for held in objects:
                path = Path(folder) / hashlib.sha256(held.key.encode()).hexdigest()
                _write(path, self.bucket.chunks(held, PART))
                yield held, path
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def shared(self, *parts: str) -> Iterator[Path]:
        """See `SiteStorage`: a copy on this machine, written back as a whole if nobody else did meanwhile. It may be entered again inside.

        Files directly in the folder are kept, but for those whose names begin with a dot.
        """
        name = "/".join(parts)
        if name in self._shared:
            yield self._shared[name]
            return
        folder = self.path(*parts)
        shutil.rmtree(folder, ignore_errors=True)
        tag, head = self._pull(name, folder)
        self._shared[name] = folder
        try:
            yield folder
            self._push(name, folder, tag, head)
        finally:
            del self._shared[name]

    def _pull(self, name: str, folder: Path) -> tuple[str | None, dict[str, Any]]:
        """Fetch a shared folder; the tag of its head and what that says. A file that is gone for good is left out."""
        for _ in range(3):
            found = self.bucket.read(f"{name}/{HEAD}")
            if found is None:
                return None, {}
            head, missing = json.loads(found[0]), False
            folder.mkdir(parents=True, exist_ok=True)
            for file, about in head.items():
                if file[:1] in ("", ".") or PurePosixPath(file).name != file:
                    what = f"`{name}/{HEAD}` at `{self.site}` names `{file}`"
                    raise IntegrityError(
                        what, expected="files directly in the folder", fix="find out who may write there: see docs/least-privilege.md"
                    )
                held = self.bucket.head(f"{name}/{about['key']}")
                if held is None:
                    missing = True
                    continue
                what = f"`{file}` of `{name}` at `{self.site}`"
                _write(folder / file, checked(self.bucket.chunks(held, PART), size=held.size, sha256=about["sha256"], what=what))
            again = self.bucket.read(f"{name}/{HEAD}") if missing else found
            if again is not None and again[1] == found[1]:
                return found[1], head
            shutil.rmtree(folder, ignore_errors=True)
        raise Unavailable(
            f"`{name}` at `{self.site}` is changed all the time", fix="wait for the other runs to end, then run the step again"
        )

    def _push(self, name: str, folder: Path, tag: str | None, before: Mapping[str, Any]) -> None:
        """Write back what changed, under names of this call's own; then the head; then what only the head before named goes."""
        paths = sorted(path for path in folder.glob("[!.]*") if path.is_file()) if folder.is_dir() else []
        mine, after = secrets.token_hex(8), {}
        for path in paths:
            sha256 = file_sha256(path)
            if before.get(path.name, {}).get("sha256") == sha256:
                after[path.name] = before[path.name]
                continue
            after[path.name] = {"key": f"{mine}/{path.name}", "sha256": sha256}
            content = content_of(path)
            self.bucket.write(f"{name}/{mine}/{path.name}", content.chunks, size=content.size, sha256=sha256)
        if after == before:
            return
        mine_now = [f"{name}/{about['key']}" for file, about in after.items() if about != before.get(file)]
        if self.bucket.swap(f"{name}/{HEAD}", json.dumps(after, indent=1, sort_keys=True).encode(), tag=tag) is None:
            self.bucket.delete(mine_now)
            raise Unavailable(
                f"another run has changed `{name}` at `{self.site}` since this one read it",
                fix="wait for it to end, then run the step again; what this run published stays",
            )
        self.bucket.delete(f"{name}/{about['key']}" for file, about in before.items() if about != after.get(file))

    def readable(self, dataset: str, version: str, name: str) -> Any:
        """See `SiteStorage`."""
        here = self.path("datasets", dataset, version, name)
        if here.is_file():
            return here
        opened, path = filesystem(self.link("datasets", dataset, version, name), self._settings)
        return opened.open_input_file(path)

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        """See `SiteStorage`."""
        with mlflow_clients(self._settings.sites[self.site]):
            yield

    def delete(self, *parts: str) -> None:
        """See `SiteStorage`: the manifest of a version, or the head of a shared folder, goes first."""
        keys = list(self.bucket.kept("".join(f"{part}/" for part in parts)))
        first = dict.fromkeys(key for key in keys if PurePosixPath(key).name in (MANIFEST, HEAD))
        self.bucket.delete(first)  # by itself: of what is deleted together a part may stay
        self.bucket.delete(key for key in keys if key not in first)
        super().delete(*parts)

    def unlink(self, name: str) -> None:
        """See `SiteStorage`."""
        self.bucket.delete([name])


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """The scratch folder of this process, below `TMPDIR`; removed when it ends."""
    return tempfile.TemporaryDirectory(prefix="tradewind-", ignore_cleanup_errors=True)


def _folder(dataset: str, version: str) -> str:
    return f"datasets/{dataset}/{version}/"


def _write(path: Path, pieces: Iterator[bytes]) -> None:
    """Write a file beside its place and move it there when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as stream:
            stream.writelines(pieces)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
