"""Versioned datasets of one site, behind a wall: a store opens no path outside its own site's root.

A dataset version is a folder of files plus `manifest.json`, published by one atomic rename and named by its content, so that a
re-run that produces the same bytes lands on the version that is there. Layout: `<root>/datasets/<dataset>/<version>/<files>`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from flows.core.canonical import content_hash, sha256_hex
from flows.core.errors import GuardRefused, IntegrityError, Unavailable, UserError

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
        """
        draft = self._inside(draft)
        with _disk(draft):
            names = sorted(p.relative_to(draft).as_posix() for p in draft.rglob("*") if p.is_file() and p.name != MANIFEST)
            files = {name: file_sha256(draft / name) for name in names}
            size = sum((draft / name).stat().st_size for name in names)
            version = content_hash(files)[:VERSION_LENGTH]
            target = self.path("datasets", dataset, version)
            if not (target / MANIFEST).exists():
                manifest = {"dataset": dataset, "version": version, "files": files, "bytes": size, "facts": dict(facts)}
                (draft / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
                staged = target.with_name(f".{version}.{os.getpid()}")
                shutil.copytree(draft, staged, copy_function=os.link)
                try:
                    staged.replace(target)
                except OSError:
                    shutil.rmtree(staged, ignore_errors=True)
                    if not (target / MANIFEST).exists():
                        raise
        return self.describe(dataset, version)

    def describe(self, dataset: str, version: str) -> DatasetVersion:
        """What is recorded of a version that rests here.

        Raises:
            UserError: this site has no such version.
        """
        manifest = self.path("datasets", dataset, version, MANIFEST)
        if not manifest.exists():
            raise UserError(
                f"`{dataset}` version `{version}` does not rest at site `{self.site}`",
                fix="run the step that makes it, or the `transfer` that brings it here",
            )
        body = json.loads(manifest.read_text())
        return DatasetVersion(dataset, version, self.site, body["files"], body["bytes"], body["facts"])

    def versions(self, dataset: str) -> list[str]:
        """All published versions of a dataset at this site, sorted by name."""
        folder = self.path("datasets", dataset)
        return sorted(p.parent.name for p in folder.glob(f"*/{MANIFEST}") if not p.parent.name.startswith("."))

    def open(self, dataset: str, version: str, *, verify: bool = True) -> Path:
        """The folder of a version, every file's checksum compared first.

        Raises:
            IntegrityError: a file is missing or differs from what was published.
        """
        described = self.describe(dataset, version)
        folder = self.path("datasets", dataset, version)
        if verify:
            for name, expected in described.files.items():
                path = self._inside(folder / PurePosixPath(name))
                if not path.exists() or file_sha256(path) != expected:
                    raise IntegrityError(
                        f"`{name}` of `{dataset}` version `{version}` at `{self.site}` is missing or changed",
                        expected=f"sha256 {expected}",
                        fix="remove the version's folder and run the step that makes it again",
                    )
        return folder

    def remove(self, dataset: str, version: str) -> None:
        """Delete a version; nothing happens if it is not there."""
        shutil.rmtree(self.path("datasets", dataset, version), ignore_errors=True)


def copy_version(source: SiteStorage, destination: SiteStorage, dataset: str, version: str) -> DatasetVersion:
    """Copy one version to another site, the only way data crosses the wall: for the `transfer` step, after policy allowed it.

    Every byte is read at the source, written at the destination, and read there again for its checksum; the version appears
    whole, by one rename, or not at all. A version that rests there already, unchanged, is left as it is.

    Raises:
        IntegrityError: what arrived, or what lay at the source, is not what was published.
    """
    folder = source.open(dataset, version)
    described = source.describe(dataset, version)
    if version in destination.versions(dataset):
        destination.open(dataset, version)
        return destination.describe(dataset, version)
    with destination.draft(dataset) as draft:
        for name in described.files:
            target = draft / PurePosixPath(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / PurePosixPath(name), target)
        arrived = destination.publish(dataset, draft, described.facts)
    if arrived.version != version:
        destination.remove(dataset, arrived.version)
        raise IntegrityError(f"`{dataset}` arrived at `{destination.site}` as version `{arrived.version}`", expected=f"version `{version}`")
    return arrived


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
