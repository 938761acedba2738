"""MLflow through our adapter: runs at their site, one version for one dataset version, aliases, model folders."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flows.adapters.models import Models, TrainingRecord, load_model, save_model
from flows.adapters.storage import file_sha256
from flows.core.errors import GuardRefused, IntegrityError, Unavailable, UserError
from flows.core.workload import ModelSpec
from flows.workloads.estimators import boosted_trees


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow database for all tests here; each test has a model name of its own."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def models(url: str, request: pytest.FixtureRequest) -> Models:
    """The registry of a workload of the test's own."""
    return Models(url, request.node.name.replace("[", "-").replace("]", ""))


def a_record(tmp_path: Path, version: str = "v1", intent: str = "w/train/day/test") -> TrainingRecord:
    """A training with a little of everything."""
    folder = tmp_path / "draft" / version
    for part, name in (("model", "MLmodel"), ("plots", "roc.png")):
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / name).write_text("flavors: {}\n")
    return TrainingRecord(
        dataset=f"w-model@{version}",
        features="w-features@f1",
        intent=intent,
        model=folder / "model",
        plots=folder / "plots",
        parameters={"max_iter": 20},
        metrics={"auc": 0.75},
        tags={"decision": "d1"},
    )


def log(models: Models, tmp_path: Path, version: str = "v1", **options: str) -> str:
    """Log and register; the version's number."""
    return models.log_training(a_record(tmp_path, version, **options), site="onprem-fra", artifacts=tmp_path / "artifacts").version


def test_a_run_has_everything_and_its_artifacts_rest_at_the_site(models: Models, tmp_path: Path) -> None:
    """Parameters, metrics, tags, the features as input; model and plots below the given folder."""
    found = models.log_training(a_record(tmp_path), site="onprem-fra", artifacts=tmp_path / "artifacts")
    run = models._client.get_run(found.run_id)
    assert run.data.params == {"max_iter": "20"} and run.data.metrics == {"auc": 0.75}
    assert run.data.tags["tradewind.decision"] == "d1" and run.info.status == "FINISHED"
    assert [(each.dataset.name, each.dataset.digest) for each in run.inputs.dataset_inputs] == [("w-features", "f1")]
    stored = {path.name for path in (tmp_path / "artifacts").rglob("*") if path.is_file()}
    assert {"roc.png", "MLmodel"} <= stored


def test_one_dataset_version_is_one_registered_version(models: Models, tmp_path: Path) -> None:
    """The same model again gives the version that is there, under whatever intent."""
    assert log(models, tmp_path) == log(models, tmp_path, intent="w/train/day/again") == "1"
    assert log(models, tmp_path, "v2") == "2"
    found = models.find("w-model@v2")
    assert found is not None and found.version == "2" and found.site == "onprem-fra"
    assert [each.dataset for each in models.versions()] == ["w-model@v1", "w-model@v2"]


def test_a_run_that_was_killed_is_closed_by_the_next_try(models: Models, tmp_path: Path) -> None:
    """A run of the same intent that never ended does not stay RUNNING for ever."""
    log(models, tmp_path, "other")
    experiment = models._client.get_experiment_by_name(f"{models.name}@onprem-fra")
    left = models._client.create_run(experiment.experiment_id, tags={"tradewind.intent": "w/train/day/test"})
    log(models, tmp_path)
    assert models._client.get_run(left.info.run_id).info.status == "KILLED"


def test_a_run_that_fails_registers_nothing(models: Models, tmp_path: Path) -> None:
    """A parameter that MLflow does not take: the run is FAILED, no version is made."""
    record = replace(a_record(tmp_path), parameters={"what?": 1})
    with pytest.raises(Exception, match=r"what\?"):
        models.log_training(record, site="onprem-fra", artifacts=tmp_path / "artifacts")
    experiment = models._client.get_experiment_by_name(f"{models.name}@onprem-fra")
    assert [run.info.status for run in models._client.search_runs([experiment.experiment_id])] == ["FAILED"]
    assert models.versions() == []


def test_an_experiment_elsewhere_is_refused(models: Models, tmp_path: Path) -> None:
    """Artifacts of a site never go to another folder than its own."""
    log(models, tmp_path)
    with pytest.raises(GuardRefused, match="outside the folder of site `onprem-fra`"):
        models.log_training(a_record(tmp_path, "v2"), site="onprem-fra", artifacts=tmp_path / "elsewhere")


def test_aliases_name_versions(models: Models, tmp_path: Path) -> None:
    """An alias is absent, then set, then moved."""
    assert models.alias("champion") is None
    for version in (log(models, tmp_path), log(models, tmp_path, "v2")):
        models.set_alias("champion", version)
        models.set_alias("champion", version)
        assert models.alias("champion") == version


@pytest.mark.parametrize("unknown", ["99", "none"])
def test_an_unknown_version_is_told(models: Models, tmp_path: Path, unknown: str) -> None:
    """The user's word is in the message."""
    log(models, tmp_path)
    with pytest.raises(UserError, match=f"has no version `{unknown}`"):
        models.version(unknown)


def test_a_server_that_is_away_is_told_at_once() -> None:
    """No minutes of retries: one message with the fix."""
    started = time.monotonic()
    with pytest.raises(Unavailable, match="does not answer"):
        Models("http://127.0.0.1:9", "w")
    assert time.monotonic() - started < 15


SPEC = ModelSpec(numeric=("number",), categorical=("kind",), parameters={"max_iter": 5})


def fitted() -> tuple[object, pd.DataFrame]:
    """A small pipeline and its rows."""
    generator = np.random.default_rng(1)
    rows = pd.DataFrame({"number": generator.normal(size=200), "kind": generator.choice(["a", "b"], 200)})
    return boosted_trees(SPEC).fit(rows, (rows["number"] > 0).astype(int)), rows


def test_a_saved_model_scores_as_before(tmp_path: Path) -> None:
    """Loaded by us it gives the same probabilities."""
    estimator, rows = fitted()
    save_model(estimator, tmp_path / "model", rows, name="w", trained_as_of="2013-07-01T00:00:00Z", with_example=False)
    assert (load_model(tmp_path / "model").predict_proba(rows) == estimator.predict_proba(rows)).all()  # type: ignore[attr-defined]


def test_the_same_model_is_saved_as_the_same_bytes(tmp_path: Path) -> None:
    """No wall clock and no random id is in the folder, so that its dataset version is one of its content."""
    for name in ("one", "two"):
        estimator, rows = fitted()
        save_model(estimator, tmp_path / name, rows, name="w", trained_as_of="2013-07-01T00:00:00Z", with_example=False)
    one, two = ({path.name: file_sha256(path) for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two and "model.pkl" in one


@pytest.mark.parametrize("shown", [True, False])
def test_rows_are_kept_as_an_example_only_if_they_may_be_shown(tmp_path: Path, shown: bool) -> None:
    """A value of the first row is somewhere in the folder, or nowhere."""
    estimator, rows = fitted()
    save_model(estimator, tmp_path / "model", rows, name="w", trained_as_of="2013-07-01T00:00:00Z", with_example=shown)
    texts = [path.read_text() for path in (tmp_path / "model").iterdir() if path.suffix != ".pkl"]
    assert any(repr(float(rows["number"][0]))[:12] in text for text in texts) == shown


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    """Not a traceback of a library."""
    with pytest.raises(IntegrityError, match="holds no model"):
        load_model(tmp_path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real MLflow server on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    database = f"sqlite:///{tmp_path / 'server.db'}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database, "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "server.log").open("wb") as log_file:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log_file, stderr=log_file, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                Models(address, "probe")
                break
            except Unavailable:
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(timeout=30)


@pytest.mark.integration
def test_a_server_takes_the_same_as_a_database(server: str, tmp_path: Path) -> None:
    """Run, version, alias and link through HTTP; the artifacts rest at the site all the same."""
    models = Models(server, "served")
    version = log(models, tmp_path)
    models.set_alias("champion", version)
    found = models.find("w-model@v1")
    assert models.alias("champion") == version == "1"
    assert found is not None and found.link == f"{server}/#/models/served/versions/1"
    assert any((tmp_path / "artifacts").rglob("roc.png"))
