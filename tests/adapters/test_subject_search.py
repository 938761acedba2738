"""Finding a person's key in files, and writing tables again without that person's rows."""

from __future__ import annotations

import gzip
import pickle
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.adapters.subject_search import Subject, digest, holds, rows_of, without

WHO = "patient-000012"
SUBJECT = Subject(WHO, frozenset({"patient"}))


def table(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_rows_are_found_by_the_declared_column_and_by_any_text(tmp_path: Path) -> None:
    """The key itself, and free text, lists or codes that hold it."""
    path = table(
        tmp_path / "t",
        patient=[WHO, "patient-000013", "patient-000014", "patient-000015", "patient-000016"],
        note=["", f"brother of {WHO}, twin", "", None, ""],
        code=pa.array(["a", "b", f"x/{WHO}", "a", "b"]).dictionary_encode(),
        seen=[["a"], [], None, [WHO], ["b"]],
    )
    assert rows_of(path, SUBJECT) == 4


def test_a_number_is_the_key_in_its_own_column_only(tmp_path: Path) -> None:
    """12 is a patient in `patient`, and an age elsewhere; 12, 12.0 and "12" are one key."""
    subject = Subject("12", frozenset({"patient", "id"}))
    path = table(tmp_path / "t", patient=[12, 13, 112], id=[None, 12.0, 1.5], age=[1, 1, 12], word=["12", "x", "12"])
    assert rows_of(path, subject) == 2


def test_nobody_else_is_meant(tmp_path: Path) -> None:
    """A longer number that begins or ends with the key is another person."""
    path = table(tmp_path / "t", patient=["patient-0000123", "xpatient-000012", "patient-000012"])
    assert rows_of(path, SUBJECT) == 1


def test_the_rest_of_a_table_stays_as_it_was(tmp_path: Path) -> None:
    """Schema, order and values of every other row; what a dictionary knew of the person goes too."""
    path = table(
        tmp_path / "t",
        patient=[WHO, "a", "b"],
        when=pa.array([1, 2, None], pa.timestamp("us", "UTC")),
        kind=pa.array([WHO, "x", "x"]).dictionary_encode(),
    )
    assert without(path, tmp_path / "u", SUBJECT) == 2
    assert pq.read_schema(tmp_path / "u") == pq.read_schema(path)
    assert pq.read_table(tmp_path / "u").to_pylist() == pq.read_table(path).to_pylist()[1:]
    assert not holds(tmp_path / "u", SUBJECT)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    """So that copies at two sites become copies again."""
    path = table(tmp_path / "t", patient=[WHO, "a"])
    without(path, tmp_path / "u", SUBJECT)
    without(path, tmp_path / "v", SUBJECT)
    assert (tmp_path / "u").read_bytes() == (tmp_path / "v").read_bytes()


def test_what_a_file_says_of_its_author_goes_too(tmp_path: Path) -> None:
    """A Parquet file's own metadata may name the person."""
    pq.write_table(pa.table({"n": [1]}).replace_schema_metadata({"by": WHO, "of": "x"}), tmp_path / "t")
    assert holds(tmp_path / "t", SUBJECT)
    without(tmp_path / "t", tmp_path / "u", SUBJECT)
    assert pq.read_schema(tmp_path / "u").metadata == {b"of": b"x"}
    assert not holds(tmp_path / "u", SUBJECT)


def _sqlite(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (k BLOB, v TEXT)")
        connection.execute("INSERT INTO t VALUES (?, 'x')", (b"\x02\x00\x00\x00" + WHO.encode() + b"\x01",))
    connection.close()


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", "x " * 100 + WHO + " x" * 100)


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text(f'{{"id": "{WHO}"}}'),
    "UTF-16": lambda path: path.write_bytes(WHO.encode("utf-16-le")),
    "an old pickle": lambda path: path.write_bytes(pickle.dumps([WHO, 1], protocol=2)),
    "a pickled frame": lambda path: pd.DataFrame({"p": [WHO]}).to_pickle(path, compression=None),
    "gzip": lambda path: path.write_bytes(gzip.compress(WHO.encode())),
    "zip": _zip,
    "SQLite": _sqlite,
    "a table": lambda path: table(path, anything=[WHO]),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_key_is_found_in_files_of_any_kind(tmp_path: Path, kind: str) -> None:
    """As it lies, and once it is unpacked."""
    WRITERS[kind](tmp_path / "f")
    assert holds(tmp_path / "f", SUBJECT)
    assert not holds(tmp_path / "f", Subject("patient-000099", frozenset({"patient"})))


def test_what_only_looks_packed_is_no_error(tmp_path: Path) -> None:
    """Two bytes like those of gzip, and nothing behind."""
    (tmp_path / "f").write_bytes(b"\x1f\x8bnothing")
    assert not holds(tmp_path / "f", SUBJECT)


def test_pseudonyms_are_found_whatever_stands_beside_them(tmp_path: Path) -> None:
    """Their length is fixed, so no other one begins like them."""
    subject = Subject(WHO, frozenset({"patient"}), frozenset({"ab" * 16}))
    (tmp_path / "f").write_text("q" + "ab" * 16 + "q")
    assert holds(tmp_path / "f", subject)


def test_a_subject_is_never_printed() -> None:
    """Neither in a log nor in a traceback's values."""
    assert WHO not in repr(SUBJECT)


def test_the_digest_tells_scans_apart(tmp_path: Path) -> None:
    """It follows names and contents, and not the order of looking."""
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    files = [("a", tmp_path / "a"), ("b", tmp_path / "b")]
    first = digest(files)
    assert first == digest(files[::-1])
    assert first[1:] == (2, 2)
    (tmp_path / "b").write_text("3")
    assert digest(files) != first


@given(st.lists(st.sampled_from([WHO, "patient-000013", "patient-0000121", None]), max_size=12))
def test_only_the_persons_rows_go(tmp_path_factory: pytest.TempPathFactory, people: list[str | None]) -> None:
    """Whatever the order and the number of rows."""
    folder = tmp_path_factory.mktemp("t")
    path = table(folder / "t", patient=pa.array(people, pa.string()), n=list(range(len(people))))
    without(path, folder / "u", SUBJECT)
    assert pq.read_table(folder / "u").column("n").to_pylist() == [n for n, who in enumerate(people) if who != WHO]
