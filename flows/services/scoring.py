"""Batch predictions of the champion where the data is."""

from __future__ import annotations

import time

from flows.adapters.models import load_model
from flows.adapters.raw_tables import schema_of
from flows.core.canonical import instant
from flows.core.promotion import DIGITS
from flows.core.workload import EVENT_TIMESTAMP, ROW_ID
from flows.services.context import StepContext, StepResult
from flows.services.frames import guarded, newest, read_features, scores
from flows.services.model_folders import signed_model

PREDICTIONS_FILE = "predictions.parquet"


def score(ctx: StepContext) -> StepResult:
    """Publish `<workload>-predictions` for the events in `[as_of - windows.score, as_of)`, labelled or not.

    The same model version and window give the same bytes, and so the same dataset version. A window without events publishes nothing.

    Raises:
        UserError: a feature is missing.
        IntegrityError: the features or the model are not what was published.
    """
    from flows.adapters.feature_tables import to_arrow, write_parquet

    started = time.monotonic()
    start = ctx.as_of - ctx.workload.windows.score
    with guarded(ctx):
        model = load_model(signed_model(ctx, "champion"))
        champion = ctx.inputs["champion"]
        rows = newest(read_features(ctx), ctx.workload.windows.score, ctx.as_of)
        base = {"model_version": champion.version, "model": str(champion), "window_start": instant(start), "window_end": instant(ctx.as_of)}
        if rows.empty:
            return StepResult(numbers={**base, "rows": 0, "mean_score": None}, summary="no event to score in the window")
        found = scores(model, rows, ctx)
        frame = rows[[ROW_ID, EVENT_TIMESTAMP]].assign(score=found, model_version=champion.version)
        with ctx.storage.draft(ctx.dataset("predictions")) as draft:
            write_parquet(to_arrow(frame), draft / PREDICTIONS_FILE)
            schema = {"predictions": schema_of(draft / PREDICTIONS_FILE)}
            facts = {**base, "as_of": instant(ctx.as_of), "rows": len(frame), "features": str(ctx.inputs["features"]), "schema": schema}
            published = ctx.storage.publish(ctx.dataset("predictions"), draft, facts)
    numbers = {
        **base,
        "rows": len(frame),
        "mean_score": round(float(found.mean()), DIGITS),
        "seconds": round(time.monotonic() - started, 3),
    }
    ctx.log.info("scored %s rows with %s", len(frame), champion)
    return StepResult(outputs=(published,), numbers=numbers, summary=f"{len(frame):,} predictions by `{champion}`")
