"""Train a challenger where the data is: fit, measure on the holdout, publish the model, log the run, register the version."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.adapters.models import CHALLENGER, MODEL_FOLDER, Models, TrainingRecord, save_model
from flows.core.canonical import canonical_json, instant
from flows.core.promotion import DIGITS, auc, brier, calibration_error, reliability, roc_points
from flows.core.workload import EVENT_TIMESTAMP, LABEL
from flows.services import progress
from flows.services.context import StepContext, StepResult
from flows.services.frames import INTERNAL, Split, guarded, read_features, require_classes, scores, split

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

TRAINING_FILE = "training.json"
REFERENCE_FILE = "reference.parquet"
SCORE = "score"
REFERENCE_ROWS = 5000
IMPORTANCE_ROWS = 2000


def train(ctx: StepContext) -> StepResult:
    """Publish `<workload>-model` as of `ctx.as_of` and register it in MLflow as `challenger`.

    The same features, workload and library versions give the same bytes, and so the same dataset version and the same registered one. One
    that went on from a checkpoint predicts the same, to the bit, but its file differs.

    Raises:
        UserError: a window has no rows of both outcomes, or a feature is missing.
        IntegrityError: the features are not what was published.
        Unavailable: MLflow does not answer; the model is published by then, and a second try registers it.
    """
    started = time.monotonic()
    with guarded(ctx):
        parts = split(read_features(ctx), ctx)
        require_classes(parts.train, "train", ctx)
        require_classes(parts.holdout, "holdout", ctx)
        ctx.log.info("training on %s rows, holdout of %s", len(parts.train), len(parts.holdout))
        features = list(ctx.workload.model.features)
        kept = progress.of(ctx)
        estimator = progress.fit(ctx.workload.estimator(), parts.train[features], parts.train[LABEL].astype("int64"), kept)
        fitted = time.monotonic()
        score = scores(estimator, parts.holdout, ctx)
        importances = _importances(estimator, parts.holdout, ctx)
        report = _report(ctx, parts, score, importances)
        with ctx.storage.draft(ctx.dataset("model")) as draft, tempfile.TemporaryDirectory(dir=draft.parent) as scratch:
            shown = ctx.label.level <= INTERNAL
            name = f"{ctx.workload.name}/{ctx.inputs['features']}"
            save_model(
                estimator, draft / MODEL_FOLDER, parts.train[features], name=name, trained_as_of=instant(ctx.as_of), with_example=shown
            )
            (draft / TRAINING_FILE).write_bytes(canonical_json(report))
            _write_reference(draft / REFERENCE_FILE, parts.holdout, score, ctx)
            facts = {"as_of": instant(ctx.as_of), "rows": len(parts.train), "auc": report["metrics"]["auc"], "features": report["features"]}
            published = ctx.storage.publish(ctx.dataset("model"), draft, facts)
            saved = time.monotonic()
            plots = Path(scratch) / "plots"
            _draw(plots, ctx, parts.holdout, score, report)
            registered = _register(ctx, f"{published.dataset}@{published.version}", draft / MODEL_FOLDER, plots, report)
        kept.clear()
    seconds = round(time.monotonic() - started, 3)
    ctx.log.info("model version %s: AUC %.4f in %.1f s", registered.version, report["metrics"]["auc"], seconds)
    numbers = {
        **report["metrics"],
        "rows": len(parts.train),
        "holdout_rows": len(parts.holdout),
        "model_version": registered.version,
        "model": registered.dataset,
        "run_id": registered.run_id,
        "seconds": seconds,
        "seconds_by_part": {
            "fit": round(fitted - started, 3),
            "publish": round(saved - fitted, 3),
            "mlflow": round(seconds + started - saved, 3),
        },
    }
    links = {"model version": registered.link} if registered.link else {}
    summary = (
        f"version {registered.version}: AUC {report['metrics']['auc']:.4f} on {len(parts.holdout):,} rows, trained on {len(parts.train):,}"
    )
    return StepResult(outputs=(published,), numbers=numbers, links=links, summary=summary)


def _register(ctx: StepContext, dataset: str, model: Path, plots: Path, report: Mapping[str, Any]) -> Any:
    models = Models(ctx.settings.tracking_url, ctx.workload.name)
    spec = ctx.workload.model
    record = TrainingRecord(
        dataset=dataset,
        features=report["features"],
        intent=ctx.intent_id,
        model=model,
        plots=plots,
        parameters={
            **spec.parameters,
            "seed": spec.seed,
            "features": ", ".join(spec.features),
            "train_start": report["windows"]["train"]["start"],
            "train_end": report["windows"]["train"]["end"],
            "holdout_end": report["windows"]["holdout"]["end"],
        },
        metrics={**report["metrics"], "train_rows": report["rows"]["train"], "holdout_rows": report["rows"]["holdout"]},
        tags={
            "workload": ctx.workload.name,
            "pool": ctx.pool,
            "as_of": report["as_of"],
            "decision": ctx.decision_id or "none",
            "feature_service": report["feature_service"],
            "feature_service_version": str(report["feature_service_version"]),
            "classification": ctx.label.classification.value,
        },
    )
    with ctx.storage.reached():
        registered = models.log_training(record, site=ctx.site, artifacts=ctx.storage.link("artifacts", ctx.workload.name))
    models.set_alias(CHALLENGER, registered.version)
    return registered


def _report(ctx: StepContext, parts: Split, score: NDArray[np.float64], importances: Mapping[str, float]) -> dict[str, Any]:
    """What `training.json` holds: everything but the clock, the run and the place, so that a second training says the same."""
    import sklearn

    source = ctx.inputs["features"]
    facts = ctx.storage.describe(source.dataset, source.version).facts
    truth, spec = parts.holdout[LABEL].to_numpy(), ctx.workload.model
    return {
        "workload": ctx.workload.name,
        "as_of": instant(ctx.as_of),
        "features": str(source),
        "feature_service": ctx.workload.feature_service,
        "feature_service_version": facts.get("feature_service_version"),
        "windows": {
            "train": {"start": instant(parts.train_start), "end": instant(parts.boundary)},
            "holdout": {"start": instant(parts.boundary), "end": instant(parts.end)},
        },
        "rows": {"train": len(parts.train), "holdout": len(parts.holdout)},
        "metrics": {
            "auc": round(auc(truth, score) or 0.0, DIGITS),
            "brier": round(brier(truth, score), DIGITS),
            "calibration_error": round(calibration_error(truth, score), DIGITS),
            "positive_share": round(float(truth.mean()), DIGITS),
            "train_positive_share": round(float(parts.train[LABEL].mean()), DIGITS),
        },
        "importances": importances,
        "model": {
            "numeric": list(spec.numeric),
            "categorical": list(spec.categorical),
            "seed": spec.seed,
            "parameters": {name: str(value) for name, value in spec.parameters.items()},
        },
        "libraries": {"scikit-learn": sklearn.__version__},
    }


def _importances(estimator: Any, holdout: pd.DataFrame, ctx: StepContext) -> dict[str, float]:
    """AUC lost when one feature is shuffled, by feature. Source: Breiman 2001, doi 10.1023/A:1010933404324."""
    import numpy as np

    generator = np.random.default_rng(ctx.workload.model.seed)
    rows = holdout.sample(n=min(len(holdout), IMPORTANCE_ROWS), random_state=ctx.workload.model.seed).reset_index(drop=True)
    truth = rows[LABEL].to_numpy()
    before = auc(truth, scores(estimator, rows, ctx))
    found: dict[str, float] = {}
    for name in ctx.workload.model.features:
        shuffled = rows.assign(**{name: rows[name].to_numpy()[generator.permutation(len(rows))]})
        after = auc(truth, scores(estimator, shuffled, ctx))
        found[name] = 0.0 if before is None or after is None else round(before - after, DIGITS) + 0.0
    return found


def _write_reference(path: Path, holdout: pd.DataFrame, score: NDArray[np.float64], ctx: StepContext) -> None:
    """A seeded sample of the holdout: what later data is compared with. These rows were scored as new ones are, unseen by the model."""
    from flows.adapters.feature_tables import to_arrow, write_parquet

    spec = ctx.workload.model
    columns = list(dict.fromkeys((EVENT_TIMESTAMP, *spec.features, *spec.slices, SCORE, LABEL)))
    sample = holdout.assign(**{SCORE: score}).sample(n=min(len(holdout), REFERENCE_ROWS), random_state=spec.seed).sort_index()
    write_parquet(to_arrow(sample[columns], text=(*spec.categorical, *spec.slices)), path)


def _draw(folder: Path, ctx: StepContext, holdout: pd.DataFrame, score: NDArray[np.float64], report: Mapping[str, Any]) -> None:
    from flows.adapters.plots import training_plots

    truth = holdout[LABEL].to_numpy()
    false_rate, true_rate = roc_points(truth, score)
    mean_score, share, _ = reliability(truth, score)
    training_plots(
        folder,
        title=ctx.workload.name,
        auc=report["metrics"]["auc"],
        roc=(false_rate.tolist(), true_rate.tolist()),
        reliability=(mean_score.tolist(), share.tolist()),
        importances=report["importances"],
    )
