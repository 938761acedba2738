"""Raw tables as Arrow and Parquet: declared schemas held, rows fingerprinted, equal rows written as equal bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.core.canonical import sha256_hex
from flows.core.errors import IntegrityError, Problem, UserError
from flows.core.workload import Table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

WHOLE = "all"
"""The one partition of a table without a month."""


def arrow_schema(table: Table) -> pa.Schema:
    """The declared columns as an Arrow schema.

    Raises:
        UserError: a declared type is none that a raw table may have.
    """
    import pyarrow as pa

    known = {
        "string": pa.string(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "timestamp[us, tz=UTC]": pa.timestamp("us", "UTC"),
    }
    unknown = {column: kind for column, kind in table.columns.items() if kind not in known}
    if unknown:
        raise UserError(
            problems=[
                Problem(f"unknown type `{kind}`", field=f"{table.name}.{column}", expected=f"one of {', '.join(known)}")
                for column, kind in unknown.items()
            ]
        )
    return pa.schema([(column, known[kind]) for column, kind in table.columns.items()])


def schema_problems(table: Table, frame: pd.DataFrame) -> list[Problem]:
    """Every column that is missing, new, or of another type than declared: what was expected and what was found."""
    import pyarrow as pa

    schema = arrow_schema(table)
    problems = []
    for column in [*schema.names, *(str(name) for name in frame.columns if name not in schema.names)]:
        where = f"{table.name}.{column}"
        if column not in frame.columns:
            problems.append(Problem("the column is missing", field=where, expected=f"`{table.columns[column]}`"))
        elif column not in schema.names:
            problems.append(Problem("a column that the table does not declare", field=where, expected=f"only {_names(schema.names)}"))
        else:
            try:
                found = pa.array(frame[column], from_pandas=True).type
            except (pa.ArrowInvalid, pa.ArrowTypeError):
                problems.append(Problem("values of several types", field=where, expected=f"`{table.columns[column]}`"))
                continue
            if not _same(found, schema.field(column).type):
                problems.append(Problem(f"the type is `{found}`", field=where, expected=f"`{table.columns[column]}`"))
    return problems


def sorted_frame(table: Table, frame: pd.DataFrame) -> pd.DataFrame:
    """The declared columns in their order, rows sorted by partition instant and key, the index 0..n_rows-1."""
    order = [name for name in (table.partition_by, *table.key) if name]
    return frame[list(table.columns)].sort_values(list(dict.fromkeys(order)), kind="stable", ignore_index=True)


def key_problems(table: Table, frame: pd.DataFrame) -> list[Problem]:
    """Rows without a key, or that share one; instants that say when and where a row belongs may not be missing either."""
    problems = []
    for column in dict.fromkeys(name for name in (*table.key, table.known_at, table.partition_by) if name):
        empty = int(frame[column].isna().sum())
        if empty:
            problems.append(
                Problem(f"{empty} of {len(frame)} rows have no value", field=f"{table.name}.{column}", expected="one in each row")
            )
    doubles = int(frame.duplicated(list(table.key)).sum())
    if doubles:
        problems.append(Problem(f"{doubles} of {len(frame)} rows repeat a key", field=table.name, expected=f"{_names(table.key)} unique"))
    return problems


def partitions(table: Table, frame: pd.DataFrame) -> Iterator[tuple[str, Any]]:
    """(`YYYY-MM`, positions of its rows) in order of time; (`all`, every position) for a table without months. Months are UTC."""
    import numpy as np

    if table.partition_by is None:
        yield WHOLE, np.arange(len(frame))
        return
    months = frame[table.partition_by].to_numpy(dtype="datetime64[us]").astype("datetime64[M]")
    for month in np.unique(months):
        yield str(month), np.flatnonzero(months == month)


def row_hashes(frame: pd.DataFrame) -> Any:
    """One unsigned 64-bit number a row, shape (n_rows,), that depends on its values alone."""
    import pandas as pd

    return pd.util.hash_pandas_object(frame, index=False).to_numpy(dtype="<u8")


def fingerprint(suite: str, hashes: Any) -> str:
    """What the content and the checks of a partition are, in 32 hexadecimal digits."""
    return sha256_hex(suite.encode() + hashes.tobytes())[:32]


def write(table: Table, frame: pd.DataFrame, path: Path, *, extra: tuple[str, ...] = ()) -> None:
    """Write Parquet of the declared schema, and of `extra` text columns after it. Equal rows give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = arrow_schema(table)
    for name in extra:
        schema = schema.append(pa.field(name, pa.string()))
    content = pa.Table.from_pandas(frame, schema=schema, preserve_index=False).replace_schema_metadata(None)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path, compression="zstd", version="2.6")


def schema_of(path: Path) -> dict[str, str]:
    """Column names and Arrow types of a Parquet file, in its order, as the catalog shows them."""
    import pyarrow.parquet as pq

    return {field.name: str(field.type) for field in pq.read_schema(path)}


def read_parquet(path: Path) -> pd.DataFrame:
    """A source's Parquet file as a frame, for a workload that reads such files.

    Raises:
        IntegrityError: the file is empty or not Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path).to_pandas()
    except FileNotFoundError as error:
        raise UserError("there is no such file", file=str(path), expected="a Parquet file") from error
    except (pa.ArrowInvalid, OSError) as error:
        empty = path.exists() and path.stat().st_size == 0
        what = "the file is empty" if empty else "the file is damaged or not Parquet"
        raise IntegrityError(what, file=str(path), expected="a whole Parquet file", fix="fetch it again from where it came") from error


def _same(found: pa.DataType, declared: pa.DataType) -> bool:
    """Equal, or a form of the same: all null, another text layout, another resolution of the same instants."""
    import pyarrow as pa

    if found == declared or pa.types.is_null(found):
        return True
    if pa.types.is_string(declared):
        plain = found.value_type if pa.types.is_dictionary(found) else found
        return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain))
    return bool(pa.types.is_timestamp(declared) and pa.types.is_timestamp(found) and found.tz == declared.tz)


def _names(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)
