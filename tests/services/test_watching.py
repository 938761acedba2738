"""Watching: the report for people and the verdict as data."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from flows.core.drift import DriftVerdict
from flows.services.context import DatasetRef
from flows.services.scoring import score
from flows.services.watching import watch

if TYPE_CHECKING:
    from tests.services.conftest import World
from tests.tickets import trained


@pytest.fixture(scope="module")
def world(shared_world: World) -> World:
    """One world for all tests here: datasets are named by content, so that they do not meet."""
    return shared_world


@pytest.fixture(scope="module")
def champion(world: World) -> DatasetRef:
    """A model trained a fortnight ago."""
    day = world.as_of - timedelta(days=14)
    (made,) = trained(world.context("train", day, features=world.features(day))).outputs
    return DatasetRef(made.dataset, made.version)


def verdict_of(world: World, features: DatasetRef, champion: DatasetRef, **inputs: DatasetRef) -> DriftVerdict:
    """The verdict of one watch."""
    body = dict(watch(world.context("watch", features=features, champion=champion, **inputs)).numbers["verdict"])
    assert body.pop("champion") == str(champion) and body.pop("as_of")
    return DriftVerdict.from_json(body)


def test_a_quiet_fortnight_holds(world: World, champion: DatasetRef) -> None:
    """The same kind of rows as before: judged by labels, no retrain, inputs compared."""
    verdict = verdict_of(world, world.features(seed=4), champion)
    assert verdict.basis == "labels" and verdict.passed
    assert set(verdict.numbers.inputs) == {"sales", "noise", "kind"} and not verdict.numbers.drifted_inputs
    assert verdict.numbers.prediction_psi is not None and verdict.numbers.prediction_psi < 0.1


def test_a_model_that_no_longer_tells_needs_a_retrain(world: World, champion: DatasetRef) -> None:
    """Labels that stopped following the inputs are the reason, with both numbers."""
    verdict = verdict_of(world, world.features(seed=4, strength=0.0), champion)
    assert verdict.needs_retrain and verdict.reasons[0].about == "labels"
    assert (verdict.numbers.auc_drop or 0) > 0.1


def test_a_season_in_the_inputs_is_no_reason(world: World, champion: DatasetRef) -> None:
    """`sales` moves while the model stays right: reported as drifted, no retrain."""
    verdict = verdict_of(world, world.features(seed=4, shift=0.4), champion)
    assert "sales" in verdict.numbers.drifted_inputs and not verdict.needs_retrain


def test_without_labels_predictions_decide(world: World, champion: DatasetRef) -> None:
    """Labels that are not in yet leave the predictions as evidence."""
    shifted = world.features(seed=4, shift=3.0)
    frame = pd.read_parquet(world.storage.open(shifted.dataset, shifted.version) / "features.parquet")
    bare = world.publish("features", "features.parquet", frame.assign(label=float("nan")), {})
    verdict = verdict_of(world, bare, champion)
    assert verdict.basis == "predictions" and verdict.needs_retrain


def test_rows_that_the_champion_learnt_from_do_not_count(world: World) -> None:
    """Right after training only the holdout is new: its loss is zero."""
    features = world.features()
    (made,) = trained(world.context("train", features=features)).outputs
    verdict = verdict_of(
        world.with_workload(
            windows=world.workload.windows.__class__(
                train=timedelta(days=60), holdout=timedelta(days=20), score=timedelta(days=7), watch=timedelta(days=60)
            )
        ),
        features,
        DatasetRef(made.dataset, made.version),
    )
    assert verdict.numbers.labelled_rows == pytest.approx(18 * 50, rel=0.1) and verdict.numbers.auc_drop == 0.0


def test_given_predictions_are_used_as_they_were_made(world: World, champion: DatasetRef) -> None:
    """What the champion predicted at its time is what is judged, and the rest is scored now: the same model, the same verdict."""
    features = world.features(seed=4)
    (made,) = score(world.context("score", features=features, champion=champion)).outputs
    assert verdict_of(world, features, champion, predictions=DatasetRef(made.dataset, made.version)) == verdict_of(
        world, features, champion
    )


def test_the_report_rests_at_the_site_and_is_linked(world: World, champion: DatasetRef) -> None:
    """HTML for people, the verdict beside it, the link on the run."""
    result = watch(world.context("watch", features=world.features(seed=4), champion=champion))
    folder = world.storage.open("shops-reports", result.outputs[0].version)
    assert "<html" in (folder / "drift.html").read_text()[:2000].lower()
    assert json.loads((folder / "drift.json").read_text()) == result.numbers["verdict"]
    assert result.links["drift report"] == (folder / "drift.html").as_uri()


def test_above_internal_the_report_shows_no_row(world: World, champion: DatasetRef) -> None:
    """Neither ids nor exact values are in the page; for an `internal` page the same search finds values."""
    features = world.features(seed=4)
    frame = pd.read_parquet(world.storage.open(features.dataset, features.version) / "features.parquet")
    values = {repr(abs(value)) for value in frame["sales"].tolist()}
    found = {}
    for level in ("internal", "restricted"):
        result = watch(world.context("watch", features=features, champion=champion, level=level))
        page = (world.storage.open("shops-reports", result.outputs[0].version) / "drift.html").read_text()
        assert "secret-" not in page
        found[level] = len(values & set(re.findall(r"\d+\.\d+(?:e-?\d+)?", page)))
    assert found["restricted"] == 0 < found["internal"]


def test_a_handful_of_rows_gets_no_page(world: World, champion: DatasetRef) -> None:
    """Fewer than fifty rows would be persons, not a population: no page, and nothing is concluded."""
    few = world.features(world.as_of - timedelta(days=13, hours=12), seed=4)
    result = watch(world.context("watch", features=few, champion=champion))
    assert result.numbers["rows"] < 50 and not result.links
    assert result.numbers["verdict"]["basis"] is None
