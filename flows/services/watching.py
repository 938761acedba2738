"""Watch a champion where the data is: a drift report for people and a verdict as data."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from flows.adapters.drift_report import MIN_ROWS, DriftReport, drift_report
from flows.adapters.models import load_model
from flows.core.canonical import canonical_json, instant
from flows.core.drift import DriftNumbers, DriftVerdict, judge_drift, population_stability_index
from flows.core.promotion import DIGITS, auc
from flows.core.workload import LABEL, ROW_ID
from flows.services.context import StepContext, StepResult
from flows.services.frames import INTERNAL, between, guarded, newest, read_features, read_parquet, scores
from flows.services.model_folders import signed_model, train_end, training_of

if TYPE_CHECKING:
    import pandas as pd

HTML_FILE, NUMBERS_FILE = "drift.html", "drift.json"
SCORE = "score"


def watch(ctx: StepContext) -> StepResult:
    """Compare the events in `[as_of - windows.watch, as_of)` with the champion's reference and judge them.

    `numbers["verdict"]` is the `DriftVerdict` as JSON with `champion` and `as_of`. Performance counts rows with a known label that the
    champion was not trained on. The report goes to `<workload>-reports`; with fewer than 50 rows on a side there is none.

    Raises:
        UserError: a feature is missing.
        IntegrityError: the features, the model or the predictions are not what was published.
    """
    started = time.monotonic()
    with guarded(ctx):
        current = newest(read_features(ctx), ctx.workload.windows.watch, ctx.as_of)
        reference = read_parquet(ctx, "champion", "reference.parquet")
        current = current.assign(**{SCORE: _scores(ctx, current)})
        report = _report(ctx, reference, current)
        numbers = _numbers(ctx, reference, current, report)
        verdict = judge_drift(numbers, ctx.workload.drift)
        body = {**verdict.to_json(), "champion": str(ctx.inputs["champion"]), "as_of": instant(ctx.as_of)}
        published = _publish(ctx, report, body)
    seconds = round(time.monotonic() - started, 3)
    summary = _summary(verdict)
    ctx.log.info(summary)
    links = {"drift report": ctx.storage.link("datasets", published.dataset, published.version, HTML_FILE)} if report else {}
    return StepResult(
        outputs=(published,), numbers={"verdict": body, "rows": len(current), "seconds": seconds}, links=links, summary=summary
    )


def _scores(ctx: StepContext, current: pd.DataFrame) -> Any:
    """The champion's scores of the current rows: those it gave when it predicted, where they are at hand, and new ones for the rest."""
    import numpy as np

    given: Any = np.full(len(current), np.nan)
    if "predictions" in ctx.inputs:
        predicted = read_parquet(ctx, "predictions", "predictions.parquet")
        mine = predicted[predicted["model_version"] == ctx.inputs["champion"].version]
        given = current[ROW_ID].map(mine.drop_duplicates(ROW_ID).set_index(ROW_ID)[SCORE]).to_numpy(dtype=np.float64, copy=True)
    missing = np.isnan(given)
    if missing.any():
        given[missing] = scores(load_model(signed_model(ctx, "champion")), current[missing], ctx)
    return given


def _report(ctx: StepContext, reference: pd.DataFrame, current: pd.DataFrame) -> DriftReport | None:
    if min(len(reference), len(current)) < MIN_ROWS:
        return None
    spec = ctx.workload.model
    return drift_report(
        reference,
        current,
        numeric=(*spec.numeric, SCORE),
        categorical=spec.categorical,
        seed=spec.seed,
        show_rows=ctx.label.level <= INTERNAL,
    )


def _numbers(ctx: StepContext, reference: pd.DataFrame, current: pd.DataFrame, report: DriftReport | None) -> DriftNumbers:
    unseen = between(current, train_end(ctx, "champion"), ctx.as_of)
    labelled = unseen[unseen[LABEL].notna()]
    performance = auc(labelled[LABEL].to_numpy(), labelled[SCORE].to_numpy()) if len(labelled) else None
    moved = population_stability_index(reference[SCORE], current[SCORE]) if len(current) and len(reference) else None
    inputs = {} if report is None else {name: value for name, value in report.scores.items() if name != SCORE}
    return DriftNumbers(
        rows=len(current),
        labelled_rows=len(labelled),
        auc_reference=training_of(ctx, "champion")["metrics"]["auc"],
        auc_current=None if performance is None else round(performance, DIGITS),
        prediction_psi=None if moved is None else round(moved, DIGITS),
        inputs=inputs,
        drifted_inputs=tuple(name for name in report.drifted if name != SCORE) if report else (),
    )


def _publish(ctx: StepContext, report: DriftReport | None, verdict: dict[str, Any]) -> Any:
    with ctx.storage.draft(ctx.dataset("reports")) as draft:
        if report is not None:
            (draft / HTML_FILE).write_text(report.html, encoding="utf-8")
        (draft / NUMBERS_FILE).write_bytes(canonical_json(verdict))
        facts = {"as_of": instant(ctx.as_of), "kind": "drift", "champion": verdict["champion"], "features": str(ctx.inputs["features"])}
        return ctx.storage.publish(ctx.dataset("reports"), draft, facts)


def _summary(verdict: DriftVerdict) -> str:
    first = verdict.reasons[0].message
    inputs = next(finding.message for finding in verdict.reasons if finding.about == "inputs")
    judged = {"labels": "judged by labels", "predictions": "judged by predictions, labels are missing", None: "not enough data to judge"}
    return f"{'retrain: ' + first if verdict.needs_retrain else 'holds'} ({judged[verdict.basis]}); {inputs}"
