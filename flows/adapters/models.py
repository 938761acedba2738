"""Models in MLflow: training runs, registered versions and their aliases; and model folders that rest in datasets.

MLflow's metadata is in control; the artifacts of a run rest at the run's own site, since every (workload, site) has an experiment of its
own whose artifact location is that site's folder. Works with a tracking server and with a database URI alike. A registered version
stands for exactly one dataset version, so that training the same thing twice gives one version.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from flows.core.errors import GuardRefused, IntegrityError, Unavailable, UserError

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
CHALLENGER = "challenger"
MODEL_FOLDER = "model"
TAG = "tradewind."
_EXISTS = "RESOURCE_ALREADY_EXISTS"
_ABSENT = "RESOURCE_DOES_NOT_EXIST"
_DOWN = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")
_HEALTH_SECONDS = 10.0
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """One version of a workload's model: `version` counts from "1", `dataset` is the `<workload>-model@<version>` it stands for."""

    version: str
    dataset: str
    site: str
    run_id: str
    tags: Mapping[str, str]
    link: str | None = None


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """All that MLflow is told of a training; aggregates and names only.

    `dataset` is the model's own version, `features` the one it learnt from, both `dataset@version`; `model` is an MLflow model folder,
    `plots` a folder of PNG files, `intent` the id of the intent that made it.
    """

    dataset: str
    features: str
    intent: str
    model: Path
    plots: Path
    parameters: Mapping[str, Any]
    metrics: Mapping[str, float]
    tags: Mapping[str, str] = field(default_factory=dict)


def _answered(method: Callable[P, T]) -> Callable[P, T]:
    """Let a method of `Models` say in our words that MLflow or its database failed to answer."""

    @functools.wraps(method)
    def asked(*args: P.args, **kwargs: P.kwargs) -> T:
        from mlflow.exceptions import MlflowException

        try:
            return method(*args, **kwargs)
        except MlflowException as error:
            if error.error_code in _DOWN:
                raise Unavailable(f"MLflow did not do its part: {error.message}", fix="`tradewind status`, then try again") from error
            raise

    return asked


class Models:
    """The registered model of one workload. Opening costs the import of MLflow's client (about 1.3 s).

    Args:
        tracking_url: `http(s)://…` of a server, or a database URI such as `sqlite:////absolute/path.db`.
        workload: names the registered model and the experiments.

    Raises:
        Unavailable: the server does not answer.
    """

    def __init__(self, tracking_url: str, workload: str) -> None:
        self.url = tracking_url.rstrip("/")
        self.name = workload
        self._client = _client(self.url)

    @_answered
    def log_training(self, record: TrainingRecord, *, site: str, artifacts: Path | str) -> RegisteredVersion:
        """Log a run at its site and register its model; a dataset version that is registered already gives that version.

        A run of the same intent that was left running, by a kill, is closed as killed. `artifacts` is the folder of this workload's
        artifacts under the site's own root, or its address in the site's bucket.

        Raises:
            GuardRefused: the experiment keeps its artifacts elsewhere than at this site.
        """
        known = self.find(record.dataset)
        if known is not None:
            return known
        experiment = self._experiment(site, artifacts)
        self._close_abandoned(experiment, record.intent)
        tags = {
            "mlflow.user": "tradewind",
            "mlflow.source.name": "flows.train",
            "mlflow.runName": record.dataset,
            TAG + "dataset": record.dataset,
            TAG + "features": record.features,
            TAG + "intent": record.intent,
            TAG + "site": site,
            **{TAG + name: value for name, value in record.tags.items()},
        }
        run = self._client.create_run(experiment, tags=tags, run_name=record.dataset)
        run_id = run.info.run_id
        try:
            model_id, source = self._log(experiment, run_id, record)
            self._ensure_registered()
            mine = {name: value for name, value in tags.items() if name.startswith(TAG)}
            made = self._client.create_model_version(self.name, source, run_id, tags=mine, model_id=model_id)
        except BaseException:
            self._client.set_terminated(run_id, status="FAILED")
            raise
        self._client.set_terminated(run_id, status="FINISHED")
        return self._version(made)

    @_answered
    def find(self, dataset: str) -> RegisteredVersion | None:
        """The version that stands for `<workload>-model@<version>`, or None."""
        found = self._registered(dataset)
        return self._version(min(found, key=lambda each: int(each.version))) if found else None

    @_answered
    def version(self, version: str) -> RegisteredVersion:
        """One version by its number.

        Raises:
            UserError: there is no such version.
        """
        from mlflow.exceptions import MlflowException

        try:
            return self._version(self._client.get_model_version(self.name, version))
        except MlflowException as error:
            if error.error_code in (_ABSENT, "INVALID_PARAMETER_VALUE"):
                raise UserError(f"model `{self.name}` has no version `{version}`", fix="choose one that MLflow lists") from error
            raise

    @_answered
    def versions(self) -> list[RegisteredVersion]:
        """All versions, oldest first."""
        found = self._client.search_model_versions(f"name = '{self.name}'")
        return [self._version(each) for each in sorted(found, key=lambda each: int(each.version))]

    @_answered
    def alias(self, alias: str) -> str | None:
        """The version that an alias names, or None."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self._client.get_model_version_by_alias(self.name, alias).version)
        except MlflowException as error:
            if error.error_code in (_ABSENT, "INVALID_PARAMETER_VALUE"):
                return None
            raise

    @_answered
    def set_alias(self, alias: str, version: str) -> None:
        """Let an alias name a version; the same again changes nothing."""
        self._client.set_registered_model_alias(self.name, alias, version)

    @_answered
    def note(self, version: str, **tags: str) -> None:
        """Tag a version, for those who look at MLflow's page: `note("3", promotion="refused")`."""
        for name, value in tags.items():
            self._client.set_model_version_tag(self.name, version, TAG + name, value)

    @_answered
    def artifacts(self, dataset: str) -> tuple[str, list[str]]:
        """The site of a registered model's artifacts and their folders there, below the workload's own; ("", []) if it is not known."""
        found = self._registered(dataset)
        if not found:
            return "", []
        folders = [each.run_id for each in found if each.run_id]
        folders += [f"models/{model}" for each in found if (model := _logged_model(each))]
        return self._version(found[0]).site, folders

    @_answered
    def forget(self, dataset: str) -> None:
        """Delete a registered version with its run and its logged model, whose files are gone; one that is not known changes nothing."""
        from mlflow.exceptions import MlflowException

        for each in self._registered(dataset):
            for delete, id in ((self._client.delete_logged_model, _logged_model(each)), (self._client.delete_run, each.run_id)):
                try:
                    if id:
                        delete(id)
                except MlflowException as error:
                    if error.error_code not in (_ABSENT, "INVALID_PARAMETER_VALUE"):  # an earlier call got this far
                        raise
            self._client.delete_model_version(self.name, each.version)

    def _registered(self, dataset: str) -> list[ModelVersion]:
        return list(self._client.search_model_versions(f"name = '{self.name}' and tag.`{TAG}dataset` = '{_quotable(dataset)}'"))

    def _experiment(self, site: str, artifacts: Path | str) -> str:
        from mlflow.exceptions import MlflowException

        name, location = f"{self.name}@{site}", artifacts if isinstance(artifacts, str) else artifacts.resolve().as_uri()
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=location))
            except MlflowException as error:
                if error.error_code != _EXISTS:
                    raise
                found = self._client.get_experiment_by_name(name)
        if found is None or found.artifact_location != location:
            raise GuardRefused(
                f"experiment `{name}` keeps its artifacts outside the folder of site `{site}`",
                expected=f"`{location}`",
                fix="the project folder was moved, or the experiment was made by hand: delete it for good in MLflow (`mlflow gc`)",
            )
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _close_abandoned(self, experiment: str, intent: str) -> None:
        left = f"tag.`{TAG}intent` = '{_quotable(intent)}' and attributes.status = 'RUNNING'"
        for run in self._client.search_runs([experiment], left):
            self._client.set_terminated(run.info.run_id, status="KILLED")

    def _log(self, experiment: str, run_id: str, record: TrainingRecord) -> tuple[str, str]:
        """Everything of a run but its end: (id of the logged model, where its files rest)."""
        from mlflow.entities import Dataset, DatasetInput, Metric, Param

        model = self._client.create_logged_model(experiment, name=MODEL_FOLDER, source_run_id=run_id, model_type="sklearn")
        self._client.log_model_artifacts(model.model_id, str(record.model))
        self._client.finalize_logged_model(model.model_id, "READY")
        name, _, version = record.features.partition("@")
        source = Dataset(name=name, digest=version, source_type="tradewind", source=json.dumps({"dataset": record.features}))
        self._client.log_inputs(run_id, [DatasetInput(source)])
        now = int(time.time() * 1000)
        metrics = [Metric(key, value, now, 0, model_id=model.model_id, run_id=run_id) for key, value in record.metrics.items()]
        params = [Param(key, str(value)[:500]) for key, value in record.parameters.items()]
        self._client.log_batch(run_id, metrics=metrics, params=params)
        self._client.log_artifacts(run_id, str(record.plots), "plots")
        return model.model_id, model.artifact_location

    def _ensure_registered(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != _EXISTS:
                raise

    def _version(self, found: ModelVersion) -> RegisteredVersion:
        tags = {name.removeprefix(TAG): value for name, value in found.tags.items() if name.startswith(TAG)}
        link = f"{self.url}/#/models/{self.name}/versions/{found.version}" if self.url.startswith("http") else None
        return RegisteredVersion(str(found.version), tags.get("dataset", ""), tags.get("site", ""), found.run_id or "", tags, link)


def _logged_model(version: ModelVersion) -> str | None:
    """The id of the logged model behind a registered version: a store that is a database keeps it in the source's address alone."""
    found = re.search(r"/models/(m-[^/]+)", version.source or "")
    return version.model_id or (found[1] if found else None)


def save_model(estimator: Any, folder: Path, features: pd.DataFrame, *, name: str, trained_as_of: str, with_example: bool) -> None:
    """Write a fitted scikit-learn estimator as an MLflow model folder; the same estimator gives the same bytes.

    `features` gives the signature, of names and types; only `with_example` its first rows are kept as an example. `name` and
    `trained_as_of` stand in for the random id and the wall clock that MLflow would write.
    """
    import uuid

    with _quiet():
        import mlflow.sklearn
        import numpy
        import pandas
        import sklearn
        from mlflow.models import Model, infer_signature

        signature = infer_signature(features.head(5), estimator.predict_proba(features.head(5)))
        identity = Model(model_uuid=uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{trained_as_of}").hex, utc_time_created=trained_as_of)
        mlflow.sklearn.save_model(
            estimator,
            str(folder),
            mlflow_model=identity,
            serialization_format="cloudpickle",
            signature=signature,
            input_example=features.head(5) if with_example else None,
            pip_requirements=[
                f"scikit-learn=={sklearn.__version__}",
                f"pandas=={pandas.__version__}",
                f"numpy=={numpy.__version__}",
                "cloudpickle",
            ],
            pyfunc_predict_fn="predict_proba",
        )


def load_model(folder: Path) -> Any:
    """The estimator of a model folder. The folder must come from `SiteStorage.open`, which verified its checksums: it holds a pickle.

    Raises:
        IntegrityError: the folder holds no model that this environment can read.
    """
    if not (folder / "MLmodel").is_file():
        raise IntegrityError(f"`{folder.name}` holds no model", file=str(folder), expected="a file `MLmodel`", fix="train it again")
    with _quiet():
        import mlflow.sklearn
        from mlflow.exceptions import MlflowException

        try:
            return mlflow.sklearn.load_model(str(folder))
        except (ImportError, AttributeError, EOFError, MlflowException) as error:
            raise IntegrityError(
                f"the model cannot be read: {type(error).__name__}",
                file=str(folder),
                expected="a model saved by the library versions of this environment",
                fix="train it again",
            ) from error


def _client(url: str) -> MlflowClient:
    # before the import: MLflow reads these once; it would tell its makers of each use and retry a dead server for minutes
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    }.items():
        os.environ.setdefault(name, value)
    if url.startswith("http"):
        _require_server(url)
    with _quiet():
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=url, registry_uri=url)


def _require_server(url: str) -> None:
    import httpx

    try:
        answer = httpx.get(f"{url}/health", timeout=_HEALTH_SECONDS)
        reached = answer.status_code < 500
    except httpx.HTTPError:
        reached = False
    if not reached:
        raise Unavailable(
            f"the MLflow server at `{url}` does not answer", fix="`tradewind status` shows the services, `tradewind up` starts them"
        )


def _quotable(text: str) -> str:
    if "'" in text or "`" in text:
        raise UserError(f"`{text}` cannot be searched for", expected="a name without quotes")
    return text


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back MLflow's advice about pickles and migrations: folders are verified before they are read."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    loggers = [logging.getLogger(name) for name in ("mlflow", "mlflow.sklearn", "alembic")]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)
