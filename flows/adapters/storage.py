"""Versioned datasets of one site, behind a wall: a store opens no path outside its own site's root.

A dataset version is a folder of files plus `manifest.json`, published by one atomic rename and named by its content, so that a
re-run that produces the same bytes lands on the version that is there. Layout: `<root>/datasets/<dataset>/<version>/<files>`.
A site whose root is a bucket has the same layout there: see `flows.adapters.bucket_storage`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from flows.adapters.buckets import PART, Chunks, checked
from flows.core.canonical import content_hash, sha256_hex
from flows.core.errors import GuardRefused, IntegrityError, Unavailable, UserError

if TYPE_CHECKING:
    from flows.adapters.settings import Settings

MANIFEST = "manifest.json"
VERSION_LENGTH = 16


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """One published version.

    `files` maps a relative path to its sha256; `bytes` is their total size; `facts` are the producer's (rows, `as_of` …).
    """

    dataset: str
    version: str
    site: str
    files: Mapping[str, str]
    bytes: int
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Content:
    """One file of a version, still unread: its bytes, and how to read them in pieces, as often as wanted."""

    size: int
    chunks: Chunks


def site_storage(site: str, settings: Settings) -> SiteStorage:
    """The store of one site, as `TRADEWIND_SITES` declares it: a folder or a bucket; left out (embedded profile): a folder under home.

    Raises:
        UserError: the cloud profile declares no root for the site, or one that names no bucket.
    """
    connection = settings.sites.get(site)
    if connection is None:
        if settings.profile == "cloud":
            raise UserError(
                f"site `{site}` has no root for its data", field="TRADEWIND_SITES", expected=f'`{{"{site}": {{"url": "s3://…"}}}}`'
            )
        return SiteStorage(site, settings.site_folder(site))
    if connection.url.startswith("file://"):
        return SiteStorage(site, Path(unquote(urlsplit(connection.url).path)))
    from flows.adapters.bucket_storage import BucketStorage
    from flows.adapters.buckets import open_bucket

    return BucketStorage(site, open_bucket(site, connection), settings)


def file_sha256(path: Path) -> str:
    """sha256 of a file, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class SiteStorage:
    """The data of one site. `root` is the site's folder; nothing outside it is ever opened, symbolic links included."""

    def __init__(self, site: str, root: Path) -> None:
        self.site = site
        self.root = root.resolve()

    def path(self, *parts: str) -> Path:
        """An absolute path under the site's root, its parent folders made.

        Raises:
            GuardRefused: the path, links resolved, lies outside the site.
        """
        found = self._inside(self.root.joinpath(*parts))
        with _disk(found):
            found.parent.mkdir(parents=True, exist_ok=True)
        return found

    def _inside(self, path: Path) -> Path:
        resolved = path.resolve()
        if resolved != self.root and self.root not in resolved.parents:
            raise GuardRefused(
                f"`{path}` is not under site `{self.site}`",
                expected=f"a path under `{self.root}`",
                fix="data reaches another site only through the `transfer` step",
            )
        return resolved

    @contextlib.contextmanager
    def draft(self, dataset: str) -> Iterator[Path]:
        """A temporary folder on the site's own disk; what is not published is removed."""
        with _disk(self.root):
            parent = self.path("datasets", dataset, ".drafts", "x").parent
            folder = Path(tempfile.mkdtemp(dir=parent))
        try:
            with _disk(folder):
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, dataset: str, draft: Path, facts: Mapping[str, Any]) -> DatasetVersion:
        """Make a draft folder the version its content names; a version that is there already stays as it is.

        The version is the first 16 hexadecimal digits of the hash of the files' paths and checksums: facts do not name it.

        Raises:
            GuardRefused: the draft lies outside the site, or holds a link, which would bring in whatever it leads to.
        """
        draft = self._inside(draft)
        with _disk(draft):
            files, size = self._measured(dataset, draft)
            version = version_of(files)
            if not self._has(dataset, version):
                self._settle(DatasetVersion(dataset, version, self.site, files, size, dict(facts)), draft)
        return self.describe(dataset, version)

    def _measured(self, dataset: str, draft: Path) -> tuple[dict[str, str], int]:
        """The checksums of a draft's files and their bytes in all."""
        links = sorted(p.relative_to(draft).as_posix() for p in draft.rglob("*") if p.is_symlink() or not (p.is_file() or p.is_dir()))
        if links:
            raise GuardRefused(
                f"`{links[0]}` of a draft of `{dataset}` is no plain file", expected="files and folders, no links", fix="copy what it holds"
            )
        names = sorted(p.relative_to(draft).as_posix() for p in draft.rglob("*") if p.is_file() and p.name != MANIFEST)
        return {name: file_sha256(draft / name) for name in names}, sum((draft / name).stat().st_size for name in names)

    def _has(self, dataset: str, version: str) -> bool:
        return (self.path("datasets", dataset, version) / MANIFEST).exists()

    def _settle(self, made: DatasetVersion, draft: Path) -> None:
        """Let a measured draft appear as its version, whole."""
        (draft / MANIFEST).write_bytes(manifest_of(made))
        target = self.path("datasets", made.dataset, made.version)
        staged = target.with_name(f".{made.version}.{os.getpid()}")
        shutil.copytree(draft, staged, copy_function=os.link)
        try:
            staged.replace(target)
        except OSError:
            shutil.rmtree(staged, ignore_errors=True)
            if not (target / MANIFEST).exists():
                raise

    def describe(self, dataset: str, version: str) -> DatasetVersion:
        """What is recorded of a version that rests here.

        Raises:
            UserError: this site has no such version.
            GuardRefused: the name is a path that leads elsewhere, or the record names a file outside the version's folder.
        """
        self._require_name(dataset, version)
        body = self.read(dataset, version, MANIFEST)
        if body is None:
            raise UserError(
                f"`{dataset}` version `{version}` does not rest at site `{self.site}`",
                fix="run the step that makes it, or the `transfer` that brings it here",
            )
        found = json.loads(body)
        for name in map(PurePosixPath, found["files"]):
            if name.is_absolute() or ".." in name.parts:
                raise GuardRefused(
                    f"the record of `{dataset}@{version}` names `{name}`, outside its folder",
                    fix="remove the version's folder and run the step that makes it again",
                )
        return DatasetVersion(dataset, version, self.site, found["files"], found["bytes"], found["facts"])

    @staticmethod
    def _require_name(dataset: str, version: str) -> None:
        for name in (dataset, version):
            if name in ("", ".", "..") or "/" in name:
                raise GuardRefused(f"`{dataset}@{version}` is a path, not the name of a version", expected="`dataset@version`")

    def read(self, dataset: str, version: str, name: str) -> bytes | None:
        """One small file of a version, its checksum not compared; None: there is none."""
        path = self.path("datasets", dataset, version, name)
        return path.read_bytes() if path.is_file() else None

    def versions(self, dataset: str) -> list[str]:
        """All published versions of a dataset at this site, sorted by name."""
        folder = self.path("datasets", dataset)
        return sorted(p.parent.name for p in folder.glob(f"*/{MANIFEST}") if not p.parent.name.startswith("."))

    def open(self, dataset: str, version: str, *, verify: bool = True) -> Path:
        """The folder of a version on this machine, every file's checksum compared first; nothing may be changed in it.

        Raises:
            IntegrityError: a file is missing or differs from what was published.
        """
        described = self.describe(dataset, version)
        folder = self.path("datasets", dataset, version)
        if verify:
            for name, expected in described.files.items():
                path = self._inside(folder / PurePosixPath(name))
                if not path.exists() or file_sha256(path) != expected:
                    raise self._changed(described, name)
        return folder

    def check(self, dataset: str, version: str) -> None:
        """Compare what is recorded of every file of a version with what is there; a bucket's objects are not read for that.

        Raises:
            IntegrityError: a file is missing or differs from what was published.
        """
        self.open(dataset, version)

    def _changed(self, described: DatasetVersion, name: str) -> IntegrityError:
        return IntegrityError(
            f"`{name}` of `{described.dataset}` version `{described.version}` at `{self.site}` is missing or changed",
            expected=f"sha256 {described.files[name]}",
            fix="remove the version's folder and run the step that makes it again",
        )

    def content(self, described: DatasetVersion, name: str) -> Content:
        """One file of a version of this site, to be read as a stream and compared by whoever does."""
        path = self._inside(self.root.joinpath("datasets", described.dataset, described.version, *PurePosixPath(name).parts))
        if not path.is_file():
            raise self._changed(described, name)
        return content_of(path)

    def receive(self, described: DatasetVersion, source: SiteStorage, sent: Callable[[int], None]) -> None:
        """Write a version that rests at another site here, whole or not at all; `sent` is told of the bytes under way.

        Raises:
            IntegrityError: what lies at the source is not what was published.
        """
        with self.draft(described.dataset) as draft:
            for name, sha256 in described.files.items():
                target = draft / PurePosixPath(name)
                target.parent.mkdir(parents=True, exist_ok=True)
                content = source.content(described, name)
                what = f"`{name}` of `{described.dataset}` version `{described.version}` at `{source.site}`"
                with _disk(target), target.open("wb") as stream:
                    for piece in checked(content.chunks(PART), size=content.size, sha256=sha256, what=what):
                        sent(stream.write(piece))
            arrived = self.publish(described.dataset, draft, described.facts)
        if arrived.version != described.version:
            self.remove(described.dataset, arrived.version)
            raise IntegrityError(
                f"`{described.dataset}` arrived at `{self.site}` as version `{arrived.version}`", expected=f"version `{described.version}`"
            )

    def link(self, *parts: str) -> str:
        """The address of something that rests here, for people and for MLflow: `file://`, `s3://` or `gs://`."""
        return self.path(*parts).as_uri()

    def files(self, *under: str) -> Iterator[tuple[str, Path]]:
        """Every file below the root, or a folder of it, by name: its name from the root, and a path that holds until the next one."""
        named = sorted((path.relative_to(self.root).as_posix(), path) for path in self._inside(self.root.joinpath(*under)).rglob("*"))
        yield from ((name, path) for name, path in named if path.is_file() and not path.is_symlink())

    def earlier(self, *under: str) -> Iterator[tuple[str, str, Path]]:
        """What a store keeps of a folder's files that were deleted or overwritten: name from the root, version, path as of `files`."""
        yield from ()

    def forget(self, name: str, version: str) -> None:
        """Delete one of the versions that `earlier` tells of, if it is there; a folder keeps none."""

    @contextlib.contextmanager
    def shared(self, *parts: str) -> Iterator[Path]:
        """A folder that is worked on in place, such as a feature store's files; it need not exist yet.

        Raises:
            Unavailable: another machine changed it meanwhile; then nothing of this one's changes is kept.
        """
        yield self.path(*parts)

    def readable(self, dataset: str, version: str, name: str) -> Any:
        """One file of a version for Arrow, which reads the parts of it that it needs; its checksum is not compared."""
        return self.path("datasets", dataset, version, name)

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        """Let libraries that open this site's addresses themselves do so meanwhile, such as MLflow its artifacts."""
        yield

    def delete(self, *parts: str) -> None:
        """Delete a folder with all below it; nothing happens if it is not there."""
        shutil.rmtree(self.path(*parts), ignore_errors=True)

    def unlink(self, name: str) -> None:
        """Delete one file, by its name from the root; nothing happens if it is not there."""
        self.path(*name.split("/")).unlink(missing_ok=True)

    def remove(self, dataset: str, version: str) -> None:
        """Delete a version; nothing happens if it is not there."""
        self.delete("datasets", dataset, version)


def copy_version(
    source: SiteStorage, destination: SiteStorage, dataset: str, version: str, *, sent: Callable[[int], None] = lambda _: None
) -> DatasetVersion:
    """Copy one version to another site, the only way data crosses the wall: for the `transfer` step, after policy allowed it.

    Every byte is compared with its checksum while it streams; the version appears whole or not at all. A version that rests there
    already, unchanged, is left as it is; so is a file of it that a call before this one, which was killed, brought to a bucket.

    Args:
        source: where the version rests.
        destination: where it shall rest too.
        dataset: its name.
        version: the version.
        sent: told of the bytes that this call really sends, as it sends them.

    Raises:
        IntegrityError: what arrived, or what lay at the source, is not what was published.
    """
    described = source.describe(dataset, version)
    if version_of(described.files) != version:
        raise IntegrityError(
            f"`{dataset}@{version}` at `{source.site}` lists the files of another version",
            expected=f"version `{version_of(described.files)}`",
        )
    if version in destination.versions(dataset):
        destination.check(dataset, version)
    else:
        destination.receive(described, source, sent)
    return destination.describe(dataset, version)


def version_of(files: Mapping[str, str]) -> str:
    """The name of the version that holds these files: it follows from their paths and checksums."""
    return content_hash(dict(files))[:VERSION_LENGTH]


def manifest_of(version: DatasetVersion) -> bytes:
    """What is kept of a version beside its files."""
    body = {
        "dataset": version.dataset,
        "version": version.version,
        "files": dict(version.files),
        "bytes": version.bytes,
        "facts": dict(version.facts),
    }
    return json.dumps(body, indent=1, sort_keys=True).encode()


def content_of(path: Path) -> Content:
    """A file on this machine."""
    return Content(path.stat().st_size, lambda size: _pieces(path, size))


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while piece := stream.read(size):
            yield piece


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable(
                f"no space left for `{path}`", fix="free disk space, then run the step again: nothing half-written was kept"
            ) from error
        raise


def text_hash(text: str) -> str:
    """sha256 of text with LF line ends."""
    return sha256_hex(text.replace("\r\n", "\n").encode())
