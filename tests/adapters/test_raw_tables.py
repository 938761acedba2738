"""Raw tables: a schema that holds, equal rows as equal bytes, months that are UTC."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from flows.adapters import raw_tables
from flows.core.errors import IntegrityError, UserError
from flows.core.workload import Table

TABLE = Table(
    "sales",
    {"id": "string", "sold_at": "timestamp[us, tz=UTC]", "pieces": "int64"},
    key=("id",),
    known_at="sold_at",
    partition_by="sold_at",
)


def sales(*days: str) -> pd.DataFrame:
    moments = pd.Series(pd.to_datetime(list(days), utc=True, format="ISO8601")).dt.as_unit("us")
    return pd.DataFrame({"id": [f"s{place}" for place in range(len(days))], "sold_at": moments, "pieces": 1})


def told(frame: pd.DataFrame) -> list[str]:
    return [str(problem) for problem in raw_tables.schema_problems(TABLE, frame)]


def test_the_declared_schema_has_no_problem() -> None:
    """Nothing to say of a table that is as declared."""
    assert told(sales("2013-01-01")) == []


def test_a_missing_column_is_named() -> None:
    """Which table, which column, which type was expected."""
    assert told(sales("2013-01-01").drop(columns="pieces")) == ["`sales.pieces`: the column is missing; expected `int64`"]


def test_a_new_column_is_named() -> None:
    """A source that grew a column has changed."""
    assert "`sales.colour`: a column that the table does not declare" in told(sales("2013-01-01").assign(colour="red"))[0]


def test_another_type_is_named_with_what_was_found() -> None:
    """Whole numbers with a gap are floating-point numbers: not the same column."""
    assert told(sales("2013-01-01").assign(pieces=1.5)) == ["`sales.pieces`: the type is `double`; expected `int64`"]


def test_an_instant_without_a_zone_is_another_type() -> None:
    """Nobody knows when a naive instant was."""
    naive = sales("2013-01-01").assign(sold_at=pd.Timestamp("2013-01-01"))
    assert "`sales.sold_at`" in told(naive)[0]


def test_values_of_several_types_are_a_problem() -> None:
    """Text among numbers cannot be written."""
    mixed = sales("2013-01-01", "2013-01-02")
    mixed["pieces"] = pd.Series([1, "two"], dtype="object")
    assert told(mixed) == ["`sales.pieces`: values of several types; expected `int64`"]


def test_a_column_of_nulls_may_be_of_any_type() -> None:
    """No value contradicts the declaration."""
    assert told(sales("2013-01-01").assign(id=None)) == []


def test_an_unknown_declared_type_is_a_mistake() -> None:
    """The message lists the types there are."""
    with pytest.raises(UserError, match="unknown type `decimal`; expected one of string"):
        raw_tables.arrow_schema(Table("t", {"price": "decimal"}, key=("price",)))


def test_a_repeated_key_is_counted() -> None:
    """Two rows of one key are one too many."""
    assert "1 of 2 rows repeat a key" in str(raw_tables.key_problems(TABLE, sales("2013-01-01", "2013-01-02").assign(id="s"))[0])


def test_rows_lie_in_the_month_of_their_utc_instant() -> None:
    """Half past seven on New Year's Eve in New York is January in UTC."""
    frame = sales("2012-12-31T23:30-05:00", "2013-02-01", "2013-01-31T23:59Z")
    assert [(name, list(rows)) for name, rows in raw_tables.partitions(TABLE, frame)] == [("2013-01", [0, 2]), ("2013-02", [1])]


def test_equal_rows_give_equal_bytes_and_fingerprints(tmp_path: Path) -> None:
    """Whatever order the source gives them in."""
    frame = sales("2013-01-03", "2013-01-01", "2013-01-02")
    prints = set()
    for name, rows in (("a", frame), ("b", frame.iloc[::-1])):
        ordered = raw_tables.sorted_frame(TABLE, rows)
        raw_tables.write(TABLE, ordered, tmp_path / name)
        prints.add(raw_tables.fingerprint("suite", raw_tables.row_hashes(ordered)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert len(prints) == 1


def test_one_changed_value_changes_the_fingerprint() -> None:
    """So does another suite over the same rows."""
    frame = sales("2013-01-01", "2013-01-02")
    changed = frame.assign(pieces=[1, 2])
    prints = {raw_tables.fingerprint(suite, raw_tables.row_hashes(rows)) for suite in "ab" for rows in (frame, changed)}
    assert len(prints) == 4


@pytest.mark.parametrize(("content", "what"), [(b"", "the file is empty"), (b"PAR1 and no more", "damaged or not Parquet")])
def test_a_source_file_that_is_no_parquet_is_told(tmp_path: Path, content: bytes, what: str) -> None:
    """Empty and damaged are two different messages, both with the file's name."""
    path = tmp_path / "source.parquet"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=f"source.parquet: .*{what}"):
        raw_tables.read_parquet(path)
