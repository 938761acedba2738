"""The training frame as a step reads it: checked, cut into windows, and without a word of its rows in an error."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from flows.core.canonical import instant
from flows.core.errors import IntegrityError, TradewindError, UserError
from flows.core.workload import EVENT_TIMESTAMP, LABEL, LABEL_AT, ROW_ID
from flows.services.context import StepContext

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

FEATURES_FILE = "features.parquet"
SMALL_ROWS = 20_000
"""Rows up to which one thread predicts as fast as several."""
INTERNAL = 1
"""The highest label level whose rows may be shown to people."""


@dataclass(frozen=True)
class Split:
    """Labelled rows before and inside the holdout window, `[train_start, boundary)` and `[boundary, end)`."""

    train: pd.DataFrame
    holdout: pd.DataFrame
    train_start: datetime
    boundary: datetime
    end: datetime


def read_features(ctx: StepContext, role: str = "features") -> pd.DataFrame:
    """The feature frame of an input, rows up to `as_of`, sorted by (event_timestamp, row_id); a label not known by then is null.

    Raises:
        IntegrityError: the file is missing or is no Parquet.
        UserError: a column of the workload is missing, or there is no row.
    """
    import pandas as pd

    frame = read_parquet(ctx, role, FEATURES_FILE)
    spec = ctx.workload.model
    wanted = list(dict.fromkeys((ROW_ID, EVENT_TIMESTAMP, *spec.features, *spec.slices, LABEL, LABEL_AT)))
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise UserError(
            f"`{ctx.inputs[role]}` lacks {', '.join(f'`{name}`' for name in missing)}",
            expected="every feature and slice that the workload's `model` names",
            fix="run `materialize` again",
        )
    now = pd.Timestamp(ctx.as_of)
    frame = frame.loc[frame[EVENT_TIMESTAMP] <= now, wanted].sort_values([EVENT_TIMESTAMP, ROW_ID], ignore_index=True)
    if frame.empty:
        raise UserError(
            f"`{ctx.inputs[role]}` has no row up to {instant(ctx.as_of)}", fix="run `materialize` again, or choose a later `as_of`"
        )
    known = frame[LABEL].notna() & (frame[LABEL_AT] <= now)
    return frame.assign(**{LABEL: frame[LABEL].astype("float64").where(known)})


def read_parquet(ctx: StepContext, role: str, name: str) -> pd.DataFrame:
    """One Parquet file of an input as a frame.

    Raises:
        IntegrityError: the file is missing or is no Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = ctx.open(role) / name
    try:
        frame: pd.DataFrame = pq.read_table(path).to_pandas()
    except FileNotFoundError as error:
        raise IntegrityError(f"`{ctx.inputs[role]}` has no file `{name}`", fix="run the step that makes it again") from error
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"`{name}` of `{ctx.inputs[role]}` is no Parquet file", fix="run the step that makes it again") from error
    return frame


def split(frame: pd.DataFrame, ctx: StepContext) -> Split:
    """Cut the labelled rows by the workload's windows, counted back from `as_of`."""
    windows, end = ctx.workload.windows, ctx.as_of
    boundary = end - windows.holdout
    labelled = frame[frame[LABEL].notna()]
    start = boundary - windows.train
    return Split(between(labelled, start, boundary), between(labelled, boundary, end), start, boundary, end)


def between(frame: pd.DataFrame, start: datetime, end: datetime) -> pd.DataFrame:
    """The rows with an event in `[start, end)`."""
    import pandas as pd

    moments = frame[EVENT_TIMESTAMP]
    return frame[(moments >= pd.Timestamp(start)) & (moments < pd.Timestamp(end))].reset_index(drop=True)


def newest(frame: pd.DataFrame, span: timedelta, end: datetime) -> pd.DataFrame:
    """The rows with an event in `[end - span, end)`."""
    return between(frame, end - span, end)


def require_classes(rows: pd.DataFrame, what: str, ctx: StepContext) -> None:
    """Make sure that both outcomes occur.

    Raises:
        UserError: there is no labelled row, or only one outcome.
    """
    positives = int(rows[LABEL].sum())
    if not 0 < positives < len(rows):
        raise UserError(
            f"`{ctx.workload.name}` at {instant(ctx.as_of)}: the {what} window has {len(rows)} labelled rows, {positives} of them positive",
            expected="rows of both outcomes",
            fix="choose a later `as_of`, or widen the workload's windows",
        )


def scores(estimator: Any, rows: pd.DataFrame, ctx: StepContext) -> NDArray[np.float64]:
    """The probability of outcome 1 for each row, shape (n_rows,).

    Raises:
        IntegrityError: a score is not a number from 0 to 1.
    """
    import numpy as np
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

    with threadpool_limits(limits=1 if len(rows) <= SMALL_ROWS else None, user_api="openmp"):
        found = np.asarray(estimator.predict_proba(rows[list(ctx.workload.model.features)])[:, 1], dtype=np.float64)
    if not ((found >= 0) & (found <= 1)).all():
        raise IntegrityError(f"the model of `{ctx.workload.name}` gave scores outside 0..1", expected="probabilities")
    return found


@contextlib.contextmanager
def guarded(ctx: StepContext) -> Iterator[None]:
    """Above `internal`, a library's message may quote a value of a row: only its type is told on."""
    _wait_passively()
    try:
        yield
    except (TradewindError, OSError):
        raise
    except Exception as error:
        if ctx.label.level > INTERNAL:
            what = f"`{ctx.step}` of `{ctx.workload.name}` failed with {type(error).__name__}; its message may quote rows and is not shown"
            raise IntegrityError(what, fix="run it at the data's site with a copy you may read") from None
        raise


def _wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait: on busy cores those that spin made a fit of 2 s take 60 s.

    The runtime reads this when scikit-learn loads it; what the worker's environment says stays.
    """
    if "sklearn" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
