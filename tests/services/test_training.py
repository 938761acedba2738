"""Training: what is learnt from, what is published, what MLflow knows."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from flows.adapters.models import Models, load_model
from flows.core.errors import IntegrityError, UserError
from flows.services.context import DatasetRef, StepResult
from flows.services.training import train

if TYPE_CHECKING:
    from tests.services.conftest import World


def run(world: World, **options: object) -> StepResult:
    """Train on fresh features."""
    return train(world.context("train", features=world.features(), **options))


def models(world: World) -> Models:
    """The registry of this world."""
    return Models(world.settings.tracking_url, "shops")


def test_it_publishes_a_model_that_can_be_loaded_and_scores(world: World) -> None:
    """The version holds a model folder, what it was made of, and a reference; the numbers are those of the holdout."""
    result = run(world)
    (made,) = result.outputs
    folder = world.storage.open(made.dataset, made.version)
    report = json.loads((folder / "training.json").read_text())
    reference = pd.read_parquet(folder / "reference.parquet")
    scores = load_model(folder / "model").predict_proba(reference[["sales", "noise", "kind"]])[:, 1]
    assert result.numbers["auc"] == report["metrics"]["auc"] > 0.75
    assert scores == pytest.approx(reference["score"])
    assert report["rows"] == {"train": result.numbers["rows"], "holdout": result.numbers["holdout_rows"]}
    assert report["feature_service_version"] == "v-test"


def test_the_train_window_ends_where_the_holdout_begins(world: World) -> None:
    """No row of the holdout is learnt from, and no label that was not known at `as_of`."""
    result = run(world)
    report = json.loads((world.storage.open("shops-model", result.outputs[0].version) / "training.json").read_text())
    assert report["windows"]["train"]["end"] == report["windows"]["holdout"]["start"] == "2013-06-11T00:00:00Z"
    assert result.numbers["rows"] == pytest.approx(60 * 50, rel=0.1)
    assert result.numbers["holdout_rows"] == pytest.approx(18 * 50, rel=0.1)  # the labels of the last two days are not in yet


def test_the_same_inputs_give_the_same_version(world: World) -> None:
    """A training that is done again has the same bytes, metrics and registered version."""
    first, again = run(world), run(world, intent="shops/train/2013-07-01/again")
    assert [made.version for made in first.outputs] == [made.version for made in again.outputs]
    assert first.numbers["auc"] == again.numbers["auc"]
    assert first.numbers["model_version"] == again.numbers["model_version"] == "1"
    assert len(models(world).versions()) == 1


def test_the_registered_version_says_where_it_came_from(world: World) -> None:
    """Site, features, decision and intent are tags; the alias `challenger` names it; its artifacts rest at its site."""
    result = run(world)
    found = models(world).version(result.numbers["model_version"])
    made = result.outputs[0]
    assert found.dataset == f"shops-model@{made.version}" and found.site == "onprem-fra"
    assert found.tags["decision"] == "d" * 64 and found.tags["feature_service_version"] == "v-test"
    assert models(world).alias("challenger") == "1"
    stored = [path.name for path in world.storage.path("artifacts", "shops").rglob("*.png")]
    assert sorted(stored) == ["calibration.png", "importances.png", "roc.png"]


@pytest.mark.parametrize(("level", "kept"), [("internal", True), ("restricted", False)])
def test_an_input_example_is_kept_up_to_internal_only(world: World, level: str, kept: bool) -> None:
    """Above `internal` the signature is all that is told of the rows."""
    result = run(world, level=level)
    folder = world.storage.open("shops-model", result.outputs[0].version) / "model"
    assert (folder / "input_example.json").exists() == kept
    assert "sales" in (folder / "MLmodel").read_text()


def test_a_window_of_one_outcome_is_told(world: World) -> None:
    """Nothing can be learnt where nothing differs: which window, how many rows."""
    frame = pd.read_parquet(world.storage.open("shops-features", world.features().version) / "features.parquet")
    flat = world.publish("features", "features.parquet", frame.assign(label=frame["label"] * 0), {})
    with pytest.raises(UserError, match=r"train window has \d+ labelled rows, 0 of them positive"):
        train(world.context("train", features=flat))


def test_a_missing_feature_is_named(world: World) -> None:
    """A frame that the workload's model does not fit is refused before anything is fitted."""
    frame = pd.read_parquet(world.storage.open("shops-features", world.features().version) / "features.parquet")
    other = world.publish("features", "features.parquet", frame.drop(columns="noise"), {})
    with pytest.raises(UserError, match="lacks `noise`"):
        train(world.context("train", features=other))


def test_a_file_that_is_no_parquet_is_told(world: World) -> None:
    """A corrupt file that was published as such is named, without a traceback of a library."""
    with world.storage.draft("shops-features") as draft:
        (draft / "features.parquet").write_bytes(b"PAR1 but not really")
        made = world.storage.publish("shops-features", draft, {})
    with pytest.raises(IntegrityError, match="is no Parquet file"):
        train(world.context("train", features=DatasetRef(made.dataset, made.version)))


def test_a_changed_byte_is_found_before_it_is_read(world: World) -> None:
    """The checksums of the features are compared first."""
    features = world.features()
    path = world.storage.open(features.dataset, features.version) / "features.parquet"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(IntegrityError, match="missing or changed"):
        train(world.context("train", features=features))


def test_a_failure_above_internal_quotes_no_row(world: World) -> None:
    """A library's message may hold a value; only its type is told on."""
    frame = pd.read_parquet(world.storage.open("shops-features", world.features().version) / "features.parquet")
    odd = world.publish("features", "features.parquet", frame.assign(sales="Mrs Miller, 52"), {})
    with pytest.raises(IntegrityError) as caught:
        train(world.context("train", features=odd, level="restricted"))
    assert "Miller" not in str(caught.value) and caught.value.__cause__ is None


def test_a_later_row_than_as_of_is_not_seen(world: World) -> None:
    """Features made for a later day give the very model and metrics that features cut at the day give."""
    day = world.as_of - timedelta(days=10)
    late = world.features()
    frame = pd.read_parquet(world.storage.open(late.dataset, late.version) / "features.parquet")
    known = frame["label_at"] <= pd.Timestamp(day)
    cut = frame.assign(label=frame["label"].where(known), label_at=frame["label_at"].where(known))
    cut = cut[cut["event_timestamp"] <= pd.Timestamp(day)].reset_index(drop=True)
    exact = world.publish("features", "features.parquet", cut, {})
    results = [train(world.context("train", day, features=ref)) for ref in (late, exact)]
    made = [(each.outputs[0].files["model/model.pkl"], each.numbers["auc"], each.numbers["holdout_rows"]) for each in results]
    assert made[0] == made[1]
