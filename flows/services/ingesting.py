"""Land a workload's raw tables at its home site: as of an instant, schema held, rows checked, Parquet by month, versioned by content.

Columns that are declared so are dropped or pseudonymised in memory, and none that holds more personal data than was declared is landed.

A version of `<workload>-raw` holds `<table>/<YYYY-MM>.parquet` (or `<table>/all.parquet`) and `ingest.json`, which names for each file
the fingerprint of its source rows and how many of them were quarantined. A later ingest links every file whose rows and suite are
the same and checks only what is new.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.core.canonical import instant
from flows.core.errors import IntegrityError, Problem, TradewindError, UserError
from flows.services import classifying, erased_rows
from flows.services.context import StepContext, StepResult

if TYPE_CHECKING:
    import pandas as pd

    from flows.adapters.expectations import Checked
    from flows.adapters.storage import DatasetVersion
    from flows.core.workload import Table
    from flows.services.classifying import ColumnRules

RECORD = "ingest.json"
REASON = "reason"
INTERNAL = 1


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One file to be: `table/partition`, the positions of its rows in the table's frame, their fingerprint."""

    name: str
    positions: Any
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Landed:
    """Files of an earlier version: where they are, and by part its fingerprint and its number of quarantined rows."""

    raw: Path
    quarantine: Path | None
    parts: dict[str, dict[str, Any]]
    checksums: dict[str, str]


@dataclass
class Loaded:
    """One table's rows, cut into parts, those of them that must be checked, and what the checks said."""

    table: Table
    frame: pd.DataFrame
    parts: list[Part]
    new: list[Part] = field(default_factory=list)
    checked: Checked | None = None

    def rows_to_judge(self) -> pd.DataFrame:
        """The rows of the new parts, so that many old ones do not hide them; all rows where nothing is new."""
        import numpy as np

        return self.frame.iloc[np.concatenate([part.positions for part in self.new])] if self.new else self.frame


def ingest(ctx: StepContext, *, rules: ColumnRules | None = None) -> StepResult:
    """Publish `<workload>-raw`, and `<workload>-quarantine` and `<workload>-reports` where there is something to tell.

    `rules` of the columns are those that are declared, unless given.

    Raises:
        UserError: the schema changed, keys repeat, a table is empty, a column holds more personal data than declared, a key for
            pseudonyms is missing, or rows fail an expectation that stops; nothing is landed then.
        IntegrityError: a source cannot be read.
        Unavailable: the disk is full; nothing is landed.
    """
    clock = _Clock()
    rules = rules or classifying.rules_of(ctx)
    tables = [_load(ctx, table, rules) for table in ctx.workload.tables]
    earlier = _earlier(ctx, tables)
    clock.lap("read")
    for loaded in tables:
        loaded.new = [part for part in loaded.parts if not _reusable(part, earlier)]
    findings = classifying.judge(ctx, rules, [(loaded.table, loaded.rows_to_judge()) for loaded in tables])
    clock.lap("classify")
    for loaded in tables:
        _check(ctx, loaded)
    clock.lap("check")
    reports, link = _report(ctx, tables)
    clock.lap("docs")
    stopped = [(loaded.table.name, failure) for loaded in tables if loaded.checked for failure in loaded.checked.stops]
    if stopped:
        raise UserError(
            problems=[
                Problem(
                    f"{'rows' if failure.bad_rows is None else failure.bad_rows} of {failure.rows} fail {failure.told}"
                    + (f": {failure.why}" if failure.why else ""),
                    field=name,
                    expected="every row to pass: the suite stops here, nothing was landed",
                    fix=f"mend the source, or the suite of the workload; report: {link}",
                )
                for name, failure in stopped
            ]
        )
    about = classifying.facts_of(rules, ctx.workload.tables, findings)
    quarantine = _land_quarantine(ctx, tables, earlier, about)
    raw, held = _land_raw(ctx, tables, earlier, quarantine, reports, about)
    clock.lap("write")
    result = _result(ctx, tables, held, (raw, quarantine, reports), link or _earlier_link(ctx, raw), clock)
    judged = {"workload": ctx.workload.name, "dataset": rules.dataset, "columns": about["personal_data"]}
    return replace(result, numbers={**result.numbers, "classification": judged})


def _load(ctx: StepContext, table: Table, rules: ColumnRules) -> Loaded:
    """Read one source table up to `as_of`, drop and pseudonymise, hold its schema and keys, cut it into parts."""
    import pandas as pd

    from flows.adapters import raw_tables
    from flows.adapters.expectations import suite_hash

    with _readable(ctx, table):
        frame = classifying.transformed(rules, table, erased_rows.left_out(ctx, ctx.workload.read(table.name, ctx.as_of)))
    problems = raw_tables.schema_problems(table, frame)
    if problems:
        fix = "mend the source, or declare the new schema in the workload's tables; nothing was landed"
        raise UserError(problems=[Problem(each.what, field=each.field, expected=each.expected, fix=fix) for each in problems])
    problems = raw_tables.key_problems(table, frame)
    if problems:
        raise UserError(problems=problems)
    if table.known_at is not None:
        frame = frame[frame[table.known_at] <= pd.Timestamp(ctx.as_of)]
    if frame.empty:
        raise UserError(
            f"table `{table.name}` of `{ctx.workload.name}` has no row known at {instant(ctx.as_of)}",
            expected="at least one row",
            fix="choose a later `as_of`, or look whether the source is empty",
        )
    frame = raw_tables.sorted_frame(table, frame)
    suite, hashes = suite_hash(table), raw_tables.row_hashes(frame)
    parts = [
        Part(f"{table.name}/{name}", positions, raw_tables.fingerprint(suite, hashes[positions]))
        for name, positions in raw_tables.partitions(table, frame)
    ]
    ctx.log.info("table %s: %s rows in %s files", table.name, f"{len(frame):,}", len(parts))
    return Loaded(table, frame, parts)


@contextmanager
def _readable(ctx: StepContext, table: Table) -> Iterator[None]:
    """Tell what could not be read in one line; above `internal` without the library's words, which may quote a row."""
    try:
        yield
    except (TradewindError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - a workload's reader may raise anything; it goes on as one message
        why = "" if ctx.label.level > INTERNAL else f": {error}"
        raise IntegrityError(
            f"the source of table `{table.name}` of `{ctx.workload.name}` cannot be read: {type(error).__name__}{why}",
            expected=f"{len(table.columns)} columns of the declared schema",
            fix="look whether the source is whole and of the version that the workload names",
        ) from (None if ctx.label.level > INTERNAL else error)


def _earlier(ctx: StepContext, tables: list[Loaded]) -> Landed | None:
    """The version at this site that shares most files with what was read."""
    wanted = {part.name: part.fingerprint for loaded in tables for part in loaded.parts}
    best: tuple[int, str, dict[str, Any]] | None = None
    for version in ctx.storage.versions(ctx.dataset("raw")):
        record = ctx.storage.read(ctx.dataset("raw"), version, RECORD)
        if record is None:
            continue
        body = json.loads(record)
        shared = sum(body["parts"].get(name, {}).get("fingerprint") == print_ for name, print_ in wanted.items())
        if shared and (best is None or shared > best[0]):
            best = (shared, version, body)
    if best is None:
        return None
    _, version, body = best
    described = ctx.storage.describe(ctx.dataset("raw"), version)
    quarantine = body["quarantine"]
    held = quarantine in ctx.storage.versions(ctx.dataset("quarantine"))
    return Landed(
        raw=ctx.storage.open(ctx.dataset("raw"), version, verify=False),
        quarantine=ctx.storage.open(ctx.dataset("quarantine"), quarantine, verify=False) if held else None,
        parts=body["parts"],
        checksums=dict(described.files),
    )


def _reusable(part: Part, earlier: Landed | None) -> bool:
    """Whether the earlier version's file of the same rows and suite is still whole."""
    from flows.adapters.storage import file_sha256

    if earlier is None or earlier.parts.get(part.name, {}).get("fingerprint") != part.fingerprint:
        return False
    path = earlier.raw / f"{part.name}.parquet"
    if not path.exists() or file_sha256(path) != earlier.checksums.get(f"{part.name}.parquet"):
        return False
    if not earlier.parts[part.name]["quarantined"]:
        return True
    return earlier.quarantine is not None and (earlier.quarantine / f"{part.name}.parquet").exists()


def _check(ctx: StepContext, loaded: Loaded) -> None:
    """Validate the rows of the new parts in one pass."""
    from flows.adapters.expectations import check

    if not loaded.new:
        return
    import numpy as np

    positions = np.concatenate([part.positions for part in loaded.new])
    loaded.checked = check(loaded.table, loaded.frame.iloc[positions].reset_index(drop=True))
    ctx.log.info(
        "table %s: checked %s rows, %s quarantined, %s expectations stop",
        loaded.table.name,
        f"{len(positions):,}",
        len(loaded.checked.reasons),
        len(loaded.checked.stops),
    )


def _report(ctx: StepContext, tables: list[Loaded]) -> tuple[DatasetVersion | None, str | None]:
    """Data Docs of what was checked in this run, kept at the site; nothing checked: none."""
    from flows.adapters.expectations import write_docs

    checks = [loaded.checked for loaded in tables if loaded.checked]
    if not checks:
        return None, None
    dataset = ctx.dataset("reports")
    with ctx.storage.draft(dataset) as draft:
        write_docs(checks, draft / "ingest", as_of=ctx.as_of, samples=ctx.label.level <= INTERNAL)
        published = ctx.storage.publish(dataset, draft, {"as_of": instant(ctx.as_of), "kind": "data-docs", "entry": "ingest/index.html"})
    return published, _link(ctx, published.version)


def _land_quarantine(ctx: StepContext, tables: list[Loaded], earlier: Landed | None, about: dict[str, Any]) -> DatasetVersion | None:
    """Rows moved aside, each with its reason; those of linked parts are linked too."""
    from flows.adapters import raw_tables

    dataset, rows = ctx.dataset("quarantine"), 0
    with ctx.storage.draft(dataset) as draft:
        for loaded in tables:
            for part in loaded.parts:
                path = draft / f"{part.name}.parquet"
                if part not in loaded.new:
                    kept = earlier.parts[part.name]["quarantined"] if earlier else 0
                    if kept and earlier and earlier.quarantine:
                        _link_file(earlier.quarantine / f"{part.name}.parquet", path)
                        rows += kept
            for part, bad in _bad_rows(loaded):
                if len(bad):
                    raw_tables.write(loaded.table, bad, draft / f"{part.name}.parquet", extra=(REASON,))
                    rows += len(bad)
        if not rows:
            return None
        return ctx.storage.publish(dataset, draft, {"as_of": instant(ctx.as_of), "rows": rows, **about})


def _land_raw(
    ctx: StepContext,
    tables: list[Loaded],
    earlier: Landed | None,
    quarantine: DatasetVersion | None,
    reports: DatasetVersion | None,
    about: dict[str, Any],
) -> tuple[DatasetVersion, dict[str, dict[str, int]]]:
    """The good rows; returns the version and, by table, how many rows were landed and quarantined."""
    from flows.adapters import raw_tables

    dataset = ctx.dataset("raw")
    parts: dict[str, dict[str, Any]] = {}
    held: dict[str, dict[str, int]] = {}
    with ctx.storage.draft(dataset) as draft:
        for loaded in tables:
            bad = {part.name: set(rows.index) for part, rows in _bad_rows(loaded)}
            for part in loaded.parts:
                path = draft / f"{part.name}.parquet"
                if part not in loaded.new and earlier is not None:
                    _link_file(earlier.raw / f"{part.name}.parquet", path)
                    parts[part.name] = earlier.parts[part.name]
                    continue
                good = [position for position in part.positions if position not in bad[part.name]] if bad[part.name] else part.positions
                raw_tables.write(loaded.table, loaded.frame.iloc[good], path)
                parts[part.name] = {"fingerprint": part.fingerprint, "rows": len(good), "quarantined": len(bad[part.name])}
            own = [parts[part.name] for part in loaded.parts]
            held[loaded.table.name] = {name: sum(each[name] for each in own) for name in ("rows", "quarantined")}
            if not held[loaded.table.name]["rows"]:
                raise UserError(f"every row of table `{loaded.table.name}` was quarantined", expected="at least one good row")
        record = {"parts": parts, "quarantine": quarantine.version if quarantine else None}
        (draft / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
        facts = {
            "as_of": instant(ctx.as_of),
            "rows": {name: each["rows"] for name, each in held.items()},
            "quarantined": sum(each["quarantined"] for each in held.values()),
            "reports": reports.version if reports else None,
            **about,
        }
        return ctx.storage.publish(dataset, draft, facts), held


def _bad_rows(loaded: Loaded) -> Iterator[tuple[Part, pd.DataFrame]]:
    """For each new part its quarantined rows with the reason; the index holds their positions in the table's frame."""
    offset = 0
    reasons = loaded.checked.reasons if loaded.checked else {}
    for part in loaded.new:
        here = {
            int(part.positions[place - offset]): why for place, why in reasons.items() if offset <= place < offset + len(part.positions)
        }
        yield part, loaded.frame.iloc[list(here)].assign(**{REASON: list(here.values())})
        offset += len(part.positions)


def _link_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.link(source, target)


def _link(ctx: StepContext, version: str) -> str:
    return ctx.storage.link("datasets", ctx.dataset("reports"), version, "ingest", "index.html")


def _earlier_link(ctx: StepContext, raw: DatasetVersion) -> str | None:
    """The Data Docs of the run that first landed this version."""
    version = raw.facts.get("reports")
    return _link(ctx, version) if version in ctx.storage.versions(ctx.dataset("reports")) else None


def _result(
    ctx: StepContext,
    tables: list[Loaded],
    held: dict[str, dict[str, int]],
    made: tuple[DatasetVersion | None, ...],
    link: str | None,
    clock: _Clock,
) -> StepResult:
    rows, aside = (sum(each[name] for each in held.values()) for name in ("rows", "quarantined"))
    files, new = sum(len(loaded.parts) for loaded in tables), sum(len(loaded.new) for loaded in tables)
    numbers = {
        "rows": rows,
        "quarantined": aside,
        "rows_by_table": {name: each["rows"] for name, each in held.items()},
        "quarantined_by_table": {name: each["quarantined"] for name, each in held.items()},
        "files": files,
        "files_new": new,
        "rows_checked": sum(loaded.checked.rows for loaded in tables if loaded.checked),
        "as_of": instant(ctx.as_of),
        "seconds": clock.laps,
    }
    summary = f"{rows:,} rows of {len(tables)} tables in {files} files, {new} of them new, {aside:,} rows quarantined"
    return StepResult(
        outputs=tuple(each for each in made if each is not None),
        numbers=numbers,
        links={"data docs": link} if link else {},
        summary=summary,
    )


class _Clock:
    """Seconds per part of the step."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, part: str) -> None:
        now = time.monotonic()
        self.laps[part] = round(now - self._last, 3)
        self._last = now
