"""Finds a dataset's own bytes wherever they lie: identifiers of its rows in any file, and copies of its files under any name."""

from __future__ import annotations

import gzip
import re
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from flows.adapters.storage import file_sha256


def traces(root: Path, identifier: re.Pattern[bytes], checksums: Iterable[str] = ()) -> list[Path]:
    """All files under the folder that hold an identifier, or are byte for byte one of the files with these sha256 checksums."""
    known = set(checksums)
    found = []
    for path in sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink()):
        if (known and file_sha256(path) in known) or any(identifier.search(part) for part in _contents(path)):
            found.append(path)
    return found


def traces_in_use(root: Path, identifier: re.Pattern[bytes]) -> list[Path]:
    """As `traces`, under a folder with a SQLite database that this process has open.

    Read by another process: closing any file handle of a database drops this process's POSIX locks on it, whereupon SQLite shows it an
    old state (sqlite.org/howtocorrupt.html, section 2.2).
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
        return other.submit(traces, root, identifier).result()


def _contents(path: Path) -> Iterator[bytes]:
    """The bytes as they lie, and as they are once unpacked: what is compressed must not hide."""
    raw = path.read_bytes()
    yield raw
    if raw[:4] == b"PAR1":
        yield from _columns(path)
    elif raw[:2] == b"\x1f\x8b":
        yield gzip.decompress(raw)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield archive.read(name)


def _columns(path: Path) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path).read()
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_dictionary(column.type) or pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            yield "\n".join(str(value) for value in column.unique().to_pylist()).encode()
