"""`tradewind costs`: what runs cost, by pool, by workload or one by one."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from flows.store.costs import CostLine

app = typer.Typer(no_args_is_help=True, help="What runs cost, in USD and kg CO2.")

RUN_COLUMNS = ("run_id", "kind", "decision_id", "workload", "step", "pool", "site")
NUMBER_COLUMNS = ("usd_compute", "usd_egress", "usd_storage", "usd_total", "seconds", "kg_co2")
LINE_COLUMNS = ("runs", "settled_runs", "seconds", "usd_compute", "usd_egress", "usd_storage", "usd_total", "usd_decided", "kg_co2")

By = Literal["pool", "workload"]
Since = Annotated[
    str | None, typer.Option("--since", help="Only what is stored from this instant on: `2026-01-05` or `2026-01-05T08:00:00Z`.")
]


@app.command()
def show(
    by: Annotated[By, typer.Option("--by", help="What a line stands for.")] = "pool",
    since: Since = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines as a JSON list.")] = False,
) -> None:
    """Print costs by pool or by workload: settled where there is a bill, decided elsewhere."""
    lines = _lines(by, parse_since(since))
    if as_json:
        typer.echo(json.dumps([{by: line.key} | {k: v for k, v in line.to_json().items() if k != "key"} for line in lines], indent=1))
    elif not lines:
        typer.echo("no costs are stored yet")
    else:
        typer.echo(_table(by, lines))


@app.command()
def export(
    by: Annotated[Literal["run", "pool", "workload"], typer.Option("--by", help="What a row stands for.")] = "run",
    since: Since = None,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; left out: standard output.")] = None,
) -> None:
    """Write costs as CSV, USD and kg with six places."""
    start = parse_since(since)
    text = _csv((by, *LINE_COLUMNS), [_line_row(by, line) for line in _lines(by, start)]) if by != "run" else _runs_csv(start)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_whole(out, text)


def parse_since(text: str | None, field: str = "--since") -> datetime | None:
    """An instant as people type it: a date is its first instant in UTC.

    Raises:
        UserError: the text is no instant, or has no offset.
    """
    from flows.core.errors import UserError
    from flows.store.replicas import as_instant

    try:
        return as_instant(text)
    except (ValueError, OverflowError):  # the latter: within an offset of the first or the last day of all
        raise UserError(
            f"`{text}` is no instant", field=field, expected="a date or an instant with its offset, such as `2026-01-05T08:00:00Z`"
        ) from None


def parse_period(since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    """The instants of `--since` and `--until`.

    Raises:
        UserError: one is no instant, or the period ends before it begins.
    """
    from flows.core.errors import UserError

    start, end = parse_since(since), parse_since(until, "--until")
    if start is not None and end is not None and start >= end:
        raise UserError("the period ends before it begins", field="--since", expected=f"an instant before `{until}`")
    return start, end


def write_whole(path: Path, text: str, field: str = "--out") -> None:
    """Write a file at once or not at all.

    Raises:
        UserError: it cannot be written.
    """
    from flows.core.errors import UserError

    if not path.name:
        raise UserError(f"`{path}` cannot be written: it names no file", field=field)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8", newline="")
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise UserError(f"`{path}` cannot be written: {(error.strerror or '').lower()}", field=field) from error


def _lines(by: By, since: datetime | None) -> list[CostLine]:
    from flows.adapters.settings import Settings
    from flows.store import costs
    from flows.store.database import State

    with State(Settings().state_url).reading() as tx:
        return costs.by_pool(tx, since) if by == "pool" else costs.by_workload(tx, since)


def _runs_csv(since: datetime | None) -> str:
    from flows.adapters.settings import Settings
    from flows.core.canonical import instant
    from flows.store import costs
    from flows.store.database import State

    with State(Settings().state_url).reading() as tx:
        rows = [
            {name: getattr(row, name) for name in RUN_COLUMNS + NUMBER_COLUMNS} | {"at": instant(row.at)}
            for row in costs.rows(tx, since=since)
        ]
    return _csv((*RUN_COLUMNS, *NUMBER_COLUMNS, "at"), rows)


def _line_row(by: str, line: CostLine) -> dict[str, Any]:
    return {by: line.key} | {name: getattr(line, name) for name in LINE_COLUMNS}


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _table(by: str, lines: Sequence[CostLine]) -> str:
    heads = (by, "runs", "hours", "compute USD", "egress USD", "storage USD", "total USD", "decided USD", "kg CO2")
    rows = [
        (
            line.key,
            str(line.runs),
            f"{line.seconds / 3600:.3f}",
            *(f"{usd:.6f}" for usd in (line.usd_compute, line.usd_egress, line.usd_storage, line.usd_total, line.usd_decided)),
            f"{line.kg_co2:.6f}",
        )
        for line in lines
    ]
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in (heads, *rows)
    )
