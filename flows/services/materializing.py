"""Make the features of a workload at its site: source tables, the point-in-time training frame, the online store, freshness."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.adapters.features import FEATURE_REPO, FeatureStoreAtSite, ViewFreshness, ViewMaterialized, feast_profile
from flows.adapters.raw_tables import schema_of
from flows.core.canonical import instant
from flows.core.errors import IntegrityError, Unavailable, UserError
from flows.core.workload import EVENT_TIMESTAMP, LABEL, LABEL_AT, ROW_ID, Workload
from flows.services.context import StepContext, StepResult
from flows.services.frames import FEATURES_FILE, INTERNAL, guarded

if TYPE_CHECKING:
    from datetime import datetime

    import pandas as pd

MARGIN = timedelta(days=7)
"""Examples older than any window are left out of the frame; the margin keeps a window's edge from depending on the newest rows' hour."""


def materialize(ctx: StepContext, *, repository: Path = FEATURE_REPO) -> StepResult:
    """Publish `<workload>-features` as of `ctx.as_of` and bring the site's online store up to it.

    Raises:
        UserError: workload and feature repository do not fit, or no example is known yet.
        IntegrityError: an example lies after `as_of`, ids repeat, or the join lost or made rows.
        Unavailable: a view that says `stale: error` is stale, the features are in use, or the disk is full.
    """
    workload, as_of = ctx.workload, ctx.as_of
    service = workload.feature_service
    clock = _Clock()
    folder = ctx.open("raw")
    store = FeatureStoreAtSite(ctx.storage, workload.name, repository=repository, profile=feast_profile(ctx.settings))
    with guarded(ctx), ctx.storage.draft(ctx.dataset("features")) as draft, store.exclusive():
        raw = read_raw(folder, workload, as_of)
        tables = workload.feature_tables(raw)
        examples = _examples_known(workload.examples(raw, as_of), as_of)
        wanted, since = in_windows(examples, workload, as_of)
        clock.lap("read")
        ctx.log.info("%s raw rows, %s examples in reach of the windows", sum(map(len, raw.values())), len(wanted))

        sources = store.write_sources(tables, as_of)
        store.apply()
        freshness = store.freshness(as_of)
        _refuse_stale(freshness, as_of)
        clock.lap("sources")

        frame = _frame(wanted, store, workload)
        version = store.service_version(service)
        _write(frame, workload, draft / FEATURES_FILE)
        facts = {
            "as_of": instant(as_of),
            "rows": len(frame),
            "labelled": int(frame[LABEL].notna().sum()),
            "raw": str(ctx.inputs["raw"]),
            "feature_service": service,
            "feature_service_version": version,
            "schema": {"features": schema_of(draft / FEATURES_FILE)},
        }
        published = ctx.storage.publish(ctx.dataset("features"), draft, facts)
        clock.lap("join")
        ctx.log.info("%s rows joined with %s views", len(frame), len(sources))

        online = store.materialize(as_of, on_view=lambda view: ctx.log.info("%s", _told(view)))
        clock.lap("online")

    stale = [each.view for each in freshness if each.stale]
    for name in stale:
        ctx.log.warning("view %s is older than its ttl", name)
    numbers: dict[str, Any] = {
        "raw_rows": sum(map(len, raw.values())),
        "examples": len(examples),
        "rows_in": len(wanted),
        "rows_out": len(frame),
        "labelled": facts["labelled"],
        "features": len(workload.model.features),
        "feature_service": service,
        "feature_service_version": version,
        "views": len(freshness),
        "views_there_already": sum(each.done for each in online),
        "online_rows": sum(each.entities for each in online),
        "source_rows": {name: each.rows for name, each in sources.items()},
        "source_rows_after_as_of": sum(each.future for each in sources.values()),
        "source_doubles": sum(each.doubles for each in sources.values()),
        "stale_views": len(stale),
        "freshness": {each.view: _age(each, shown=ctx.label.level <= INTERNAL) for each in freshness},
        "seconds": clock.laps,
    }
    if ctx.label.level <= INTERNAL:
        numbers["window_start"] = instant(since)
    made = f"{len(frame):,} rows of {len(workload.model.features)} features by `{service}` {version}"
    summary = f"{made}, {numbers['online_rows']:,} online rows"
    return StepResult(outputs=(published,), numbers=numbers, summary=summary + (f", stale: {', '.join(stale)}" if stale else ""))


def read_raw(folder: Path, workload: Workload, as_of: datetime) -> dict[str, pd.DataFrame]:
    """The raw tables of a version by name, only rows known by `as_of`: a version landed later may hold more.

    Raises:
        UserError: a table is missing or lacks a declared column.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    raw = {}
    for table in workload.tables:
        paths = sorted((folder / table.name).glob("*.parquet"))
        if not paths:
            raise UserError(
                f"the raw data of `{workload.name}` has no table `{table.name}`",
                expected=f"`{table.name}/*.parquet`",
                fix="run `ingest` again",
            )
        parts = [pq.read_table(path) for path in paths]
        missing = sorted({name for part in parts for name in table.columns if name not in part.column_names})
        if missing:
            raise UserError(f"raw table `{table.name}` lacks {', '.join(f'`{name}`' for name in missing)}", fix="run `ingest` again")
        frame = pa.concat_tables([part.select(list(table.columns)) for part in parts], promote_options="permissive").to_pandas()
        if table.known_at is not None:
            frame = frame[frame[table.known_at] <= pd.Timestamp(as_of)].reset_index(drop=True)
        raw[table.name] = frame
    return raw


def in_windows(examples: pd.DataFrame, workload: Workload, as_of: datetime) -> tuple[pd.DataFrame, datetime]:
    """The examples that any window can reach, sorted by (event_timestamp, row_id), and the instant they begin at.

    Windows count back from `as_of`; those of labelled examples may lie earlier by the delay of the labels, so they are also counted
    back from the newest labelled example.
    """
    windows = workload.windows
    learned = max(windows.train + windows.holdout, windows.watch)
    since = as_of - max(learned, windows.score)
    labelled = examples.loc[examples[LABEL].notna(), EVENT_TIMESTAMP]
    if len(labelled):
        since = min(since, labelled.max().to_pydatetime() - learned)
    since -= MARGIN
    found = examples[examples[EVENT_TIMESTAMP] >= since].sort_values([EVENT_TIMESTAMP, ROW_ID], ignore_index=True)
    if found.empty:
        raise UserError(f"`{workload.name}` has no example at {instant(as_of)}", expected="at least one row", fix="choose a later `as_of`")
    return found, since


def _examples_known(examples: pd.DataFrame, as_of: datetime) -> pd.DataFrame:
    """The examples with labels that are known by `as_of`, nulls else.

    Raises:
        IntegrityError: an example lies after `as_of`, or a row id is missing or not unique.
    """
    import pandas as pd

    now = pd.Timestamp(as_of)
    late = int((examples[EVENT_TIMESTAMP] > now).sum())
    if late:
        raise IntegrityError(f"`examples` gave {late} rows after {instant(as_of)}", expected=f"`{EVENT_TIMESTAMP}` at or before `as_of`")
    if examples[ROW_ID].isna().any() or examples[ROW_ID].duplicated().any():
        raise IntegrityError(f"`examples` gave rows without a `{ROW_ID}` of their own", expected="a unique string in each row")
    known = examples[LABEL_AT].notna() & (examples[LABEL_AT] <= now) & examples[LABEL].notna()
    # the instant a label arrives tells of the outcome itself, so it is hidden with the label
    return examples.assign(**{LABEL: examples[LABEL].astype("float64").where(known), LABEL_AT: examples[LABEL_AT].where(known)})


def _frame(examples: pd.DataFrame, store: FeatureStoreAtSite, workload: Workload) -> pd.DataFrame:
    """Examples joined with their features: row_id, event_timestamp, features, slices, label, label_at."""
    service = workload.feature_service
    needed, made = store.inputs(service), set(store.outputs(service))
    columns = list(dict.fromkeys((*workload.model.features, *workload.model.slices)))
    lacking = [name for name in needed if name not in examples.columns]
    unknown = [name for name in columns if name not in made and name not in examples.columns]
    if lacking or unknown:
        parts = [f"`examples` lacks {_names(lacking)}, which `{service}` needs"] if lacking else []
        parts += [f"neither `{service}` nor `examples` has {_names(unknown)}"] if unknown else []
        raise UserError("; ".join(parts), fix="make the workload's `model` and `examples` agree with feature_repo")
    joined = store.training_set(examples[[ROW_ID, EVENT_TIMESTAMP, *needed]], service)
    own = [name for name in (*columns, LABEL, LABEL_AT) if name not in joined.columns]
    frame = joined.merge(examples[[ROW_ID, *own]], on=ROW_ID, how="left", validate="one_to_one")
    frame = frame.astype(dict.fromkeys(workload.model.numeric, "float64"))
    texts = {name: frame[name].astype("string").astype(object).where(frame[name].notna(), None) for name in workload.model.categorical}
    ordered = frame.assign(**texts)[[ROW_ID, EVENT_TIMESTAMP, *columns, LABEL, LABEL_AT]]
    return ordered.sort_values([EVENT_TIMESTAMP, ROW_ID], ignore_index=True)


def _write(frame: pd.DataFrame, workload: Workload, path: Path) -> None:
    from flows.adapters.feature_tables import to_arrow, write_parquet

    words = (name for name in workload.model.slices if name not in workload.model.numeric and frame[name].dtype == object)
    write_parquet(to_arrow(frame, text=(ROW_ID, *workload.model.categorical, *words)), path)


def _refuse_stale(freshness: tuple[ViewFreshness, ...], as_of: datetime) -> None:
    """Stop at a stale view whose definition says so."""
    refused = [each for each in freshness if each.stale and each.on_stale == "error"]
    if refused:
        what = f"stale at {instant(as_of)}: {', '.join(f'`{each.view}` (ttl {each.ttl})' for each in refused)}"
        raise Unavailable(what, expected="a row younger than the view's ttl", fix="ingest what is missing, then run the step again")


def _told(each: ViewMaterialized) -> str:
    return f"view {each.view}: {'there already' if each.done else f'{each.entities} online rows'}"


def _age(each: ViewFreshness, *, shown: bool) -> dict[str, Any]:
    """Hours of age and ttl; unless `shown`, no instant of a row: the date of one person's record is itself personal data."""

    def hours(span: timedelta | None) -> float | None:
        return None if span is None else round(span.total_seconds() / 3600, 3)

    told: dict[str, Any] = {"ttl_hours": hours(each.ttl), "stale": each.stale}
    return told | ({"newest": each.newest and instant(each.newest), "age_hours": hours(each.age)} if shown else {})


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


class _Clock:
    """Seconds per part of the step."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, part: str) -> None:
        now = time.monotonic()
        self.laps[part] = round(now - self._last, 3)
        self._last = now
