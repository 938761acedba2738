"""The Parquet files that feature views read: microsecond UTC instants, one row per entity and instant, replaced at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.core.errors import UserError
from flows.core.workload import EVENT_TIMESTAMP

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

INSTANT = ("us", "UTC")


@dataclass(frozen=True, slots=True)
class SourceTable:
    """One written source: rows in the file, rows left out as known after `as_of`, rows left out as doubles of (entity, instant)."""

    rows: int
    future: int
    doubles: int


def write_table(
    frame: pd.DataFrame, path: Path, *, table: str, keys: Sequence[str], columns: Mapping[str, bool], as_of: datetime
) -> SourceTable:
    """Write the rows known by `as_of`, sorted by instant and keys; of doubles the last one stays.

    `columns` are the wanted columns, keys among them, each with whether it is text: an empty table has no types of its own.

    Raises:
        UserError: a column is missing, or `event_timestamp` has no time zone.
    """
    import pandas as pd

    wanted = list(dict.fromkeys([*keys, EVENT_TIMESTAMP, *columns]))
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise UserError(
            f"feature table `{table}` lacks {', '.join(f'`{name}`' for name in missing)}", expected=f"columns {', '.join(wanted)}"
        )
    if not isinstance(frame[EVENT_TIMESTAMP].dtype, pd.DatetimeTZDtype):
        raise UserError(
            f"`{EVENT_TIMESTAMP}` of feature table `{table}` is {frame[EVENT_TIMESTAMP].dtype}", expected="instants with a time zone"
        )
    frame = frame[wanted].assign(**{EVENT_TIMESTAMP: frame[EVENT_TIMESTAMP].dt.tz_convert("UTC").dt.as_unit("us")})
    known = frame[frame[EVENT_TIMESTAMP] <= pd.Timestamp(as_of)]
    order = [EVENT_TIMESTAMP, *keys]
    single = known.drop_duplicates(order, keep="last").sort_values(order, kind="stable", ignore_index=True)
    write_parquet(to_arrow(single, text=[name for name, is_text in columns.items() if is_text]), path)
    return SourceTable(rows=len(single), future=len(frame) - len(known), doubles=len(known) - len(single))


def to_arrow(frame: pd.DataFrame, text: Sequence[str] = ()) -> pa.Table:
    """The frame without pandas' own metadata, so that equal rows give equal bytes; instants become microseconds UTC.

    Columns named in `text` become strings whatever pandas made of them (an empty column is float64 to it); other columns of
    nulls alone become float64.
    """
    import pyarrow as pa

    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    for place, field in enumerate(table.schema):
        wanted = field.type
        if field.name in text:
            wanted = pa.string()
        elif pa.types.is_timestamp(field.type):
            wanted = pa.timestamp(*INSTANT)
        elif pa.types.is_null(field.type):
            wanted = pa.float64()
        if wanted != field.type:
            table = table.set_column(place, field.name, table.column(place).cast(wanted, safe=not pa.types.is_timestamp(wanted)))
    return table


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write a file beside its place and move it there when it is whole."""
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, draft, compression="zstd")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def newest(path: Path, until: datetime) -> datetime | None:
    """The newest `event_timestamp` of a source up to `until`, None if there is none."""
    import pyarrow.compute as pc

    moments = _read(path, [EVENT_TIMESTAMP]).column(EVENT_TIMESTAMP)
    found = pc.max(moments.filter(pc.less_equal(moments, _instant(until)))).as_py()
    return found if isinstance(found, datetime) else None


def occupied(path: Path, keys: Sequence[str], since: datetime, until: datetime) -> int:
    """How many entities have a row in [since, until]."""
    import pyarrow.compute as pc

    table = _read(path, [*keys, EVENT_TIMESTAMP])
    moments = table.column(EVENT_TIMESTAMP)
    inside = table.filter(pc.and_(pc.greater_equal(moments, _instant(since)), pc.less_equal(moments, _instant(until))))
    return int(inside.group_by(list(keys)).aggregate([]).num_rows)


def _read(path: Path, columns: list[str]) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=columns)


def _instant(moment: datetime) -> Any:
    import pyarrow as pa

    return pa.scalar(moment, pa.timestamp(*INSTANT))
