"""Find one person's key in files of any kind, and write tables again without that person's rows.

A table is searched value by value, since its bytes are compressed; anything else byte by byte, archives unpacked. A key of fewer than
`DISTINCT` characters, such as a number of four digits, is in every file by chance: it is looked for in the declared columns alone.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

DISTINCT = 6
"""Characters from which on a key is looked for everywhere."""
MAX_UNPACKED = 1 << 30
"""Bytes up to which an archive's member is unpacked; a larger one is taken to hold the key, as nobody can say that it does not."""


@dataclass(frozen=True)
class Subject:
    """A person's key as it was given and as its pseudonyms, and the columns whose value is such a key. Never printed."""

    key: str = field(repr=False)
    columns: frozenset[str]
    pseudonyms: frozenset[str] = field(default=frozenset(), repr=False)

    @cached_property
    def texts(self) -> frozenset[str]:
        """The key in every form that may rest somewhere."""
        return frozenset({self.key, *self.pseudonyms})

    @cached_property
    def _words(self) -> re.Pattern[str] | None:
        found = self._expressions
        return re.compile("|".join(found)) if found else None

    @cached_property
    def _bytes(self) -> re.Pattern[bytes] | None:
        found = [text.encode() for text in self._expressions]
        found += [re.escape(text.encode("utf-16-le")) for text in sorted(self.texts) if len(text) >= DISTINCT]
        return re.compile(b"|".join(found)) if found else None

    @cached_property
    def _expressions(self) -> list[str]:
        """A key that ends in a digit is not meant where another digit follows: person 12 is not person 123."""
        keys = [f"{_edge(self.key[0], '<!')}{re.escape(self.key)}{_edge(self.key[-1], '!')}"] if len(self.key) >= DISTINCT else []
        return keys + [re.escape(text) for text in sorted(self.pseudonyms)]

    def is_in(self, column: str, value: Any) -> bool:
        """Whether a value of this column is the key, or text that holds it."""
        if column in self.columns and _plain(value) in self.texts:
            return True
        if isinstance(value, bytes):
            return self.is_in_bytes(value)
        if isinstance(value, int | float | bool) or value is None:
            return False
        return self._words is not None and self._words.search(str(value)) is not None

    def is_in_bytes(self, content: bytes) -> bool:
        """Whether the bytes hold the key as text."""
        return self._bytes is not None and self._bytes.search(content) is not None


def _edge(letter: str, side: str) -> str:
    kind = r"\d" if letter.isdigit() else "[A-Za-z]" if letter.isalpha() else ""
    return f"(?{side}{kind})" if kind else ""


def _plain(value: Any) -> str:
    """A number as its decimal text, and 7.0 as 7: keys are numbers in one table and text in another."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def is_table(path: Path) -> bool:
    """Whether the file is Parquet, by its first bytes."""
    with path.open("rb") as stream:
        return stream.read(4) == b"PAR1"


def rows_of(path: Path, subject: Subject) -> int:
    """How many rows of a Parquet file are the subject's: a declared column has the key, or any other value holds it."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    mask = _mask(pq.ParquetFile(path).read(), subject)
    return 0 if mask is None else int(pc.sum(mask).as_py() or 0)


def without(source: Path, target: Path, subject: Subject) -> int:
    """Write a Parquet file again without the subject's rows, all others as they were and in their order; returns how many are left."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    file = pq.ParquetFile(source)
    table = file.read()
    mask = _mask(table, subject)
    left = _fresh(table if mask is None else table.filter(pc.invert(mask)))
    left = left.replace_schema_metadata(_told(left.schema.metadata, subject))
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(left, target, compression="zstd", version=file.metadata.format_version)
    return int(left.num_rows)


def _fresh(table: pa.Table) -> pa.Table:
    """The table with dictionaries of what is still there: one of before would keep the words of rows that are gone."""
    import pyarrow as pa

    for place, kept in enumerate(table.schema):
        if pa.types.is_dictionary(kept.type):
            column = table.column(place).cast(kept.type.value_type).combine_chunks()
            table = table.set_column(place, kept, column.dictionary_encode().cast(kept.type))
    return table


def _told(metadata: dict[bytes, bytes] | None, subject: Subject) -> dict[bytes, bytes] | None:
    return metadata and {name: value for name, value in metadata.items() if not subject.is_in_bytes(name + b" " + value)}


def holds(path: Path, subject: Subject) -> bool:
    """Whether any byte of the file, unpacked where it is packed, is the subject's key."""
    content = path.read_bytes()
    if subject.is_in_bytes(content):
        return True
    if content[:4] == b"PAR1":
        return rows_of(path, subject) > 0
    return any(part is None or subject.is_in_bytes(part) for part in _unpacked(path, content))


def _unpacked(path: Path, content: bytes) -> Iterator[bytes | None]:
    """What is packed in a file; None for what is too large to look at."""
    if content[:2] == b"\x1f\x8b":
        try:
            with gzip.open(path) as stream:
                found = stream.read(MAX_UNPACKED + 1)
            yield found if len(found) <= MAX_UNPACKED else None
        except (OSError, EOFError, zlib.error):  # not packed after all: the bytes as they lie were searched
            return
    elif content[:2] == b"PK" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                yield archive.read(member) if member.file_size <= MAX_UNPACKED else None


def digest(paths: Iterable[tuple[str, Path]]) -> tuple[str, int, int]:
    """(sha256 over names and contents in order of name, number of files, bytes): what a scan looked at, without a word of it."""
    lines, size = [], 0
    for name, path in paths:
        try:
            with path.open("rb") as stream:
                one = hashlib.file_digest(stream, "sha256").hexdigest()
                length = stream.tell()
        except FileNotFoundError:  # a run beside this one removed its own scratch file
            continue
        lines.append((name, f"{one}  {name}\n"))
        size += length
    return hashlib.sha256("".join(line for _, line in sorted(lines)).encode()).hexdigest(), len(lines), size


def _mask(table: pa.Table, subject: Subject) -> Any | None:
    """True for the subject's rows; None if there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    mask = None
    for name, column in zip(table.column_names, table.columns, strict=True):
        searched = name in subject.columns or not (pa.types.is_primitive(column.type) or pa.types.is_null(column.type))
        if not searched:
            continue
        if pa.types.is_nested(column.type):
            found = pa.array([subject.is_in(name, value) for value in column.to_pylist()])
        else:
            plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
            hits = [value for value in plain.unique().to_pylist() if subject.is_in(name, value)]
            if not hits:
                continue
            found = pc.is_in(plain, value_set=pa.array(hits, type=plain.type))
        mask = found if mask is None else pc.or_(mask, found)
    return mask
