"""Scoring: one window, one model version, one dataset version."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from flows.core.errors import IntegrityError
from flows.services.context import DatasetRef
from flows.services.scoring import score

if TYPE_CHECKING:
    from tests.services.conftest import World
from tests.tickets import trained


@pytest.fixture(scope="module")
def world(shared_world: World) -> World:
    """One world for all tests here: datasets are named by content, so that they do not meet."""
    return shared_world


@pytest.fixture(scope="module")
def features(world: World) -> DatasetRef:
    """The features of the day."""
    return world.features()


@pytest.fixture(scope="module")
def champion(world: World, features: DatasetRef) -> DatasetRef:
    """A model trained on them."""
    (made,) = trained(world.context("train", features=features)).outputs
    return DatasetRef(made.dataset, made.version)


def test_every_event_of_the_window_gets_one_score(world: World, features: DatasetRef, champion: DatasetRef) -> None:
    """Labelled or not: seven days, each row once, with the version that scored it."""
    result = score(world.context("score", features=features, champion=champion))
    frame = pd.read_parquet(world.storage.open("shops-predictions", result.outputs[0].version) / "predictions.parquet")
    assert list(frame.columns) == ["row_id", "event_timestamp", "score", "model_version"]
    assert len(frame) == frame["row_id"].nunique() == result.numbers["rows"]
    assert frame["event_timestamp"].min() >= pd.Timestamp(world.as_of - timedelta(days=7))
    assert frame["event_timestamp"].max() < pd.Timestamp(world.as_of)
    assert frame["score"].between(0, 1).all() and set(frame["model_version"]) == {champion.version}
    assert result.numbers["mean_score"] == pytest.approx(frame["score"].mean(), abs=1e-6)


def test_scoring_again_makes_nothing_new(world: World, features: DatasetRef, champion: DatasetRef) -> None:
    """The same model version and window give the same dataset version."""
    first, again = (score(world.context("score", features=features, champion=champion)) for _ in range(2))
    assert first.outputs == again.outputs


def test_another_day_or_model_gives_another_version(world: World, features: DatasetRef, champion: DatasetRef) -> None:
    """The version is one of (model version, window)."""
    (other,) = trained(world.context("train", features=world.features(seed=5), intent="shops/train/x/other")).outputs
    days = (world.as_of, world.as_of - timedelta(days=1))
    made = {score(world.context("score", day, features=features, champion=champion)).outputs[0].version for day in days}
    made |= {score(world.context("score", features=features, champion=DatasetRef(other.dataset, other.version))).outputs[0].version}
    assert len(made) == 3


def test_an_empty_window_publishes_nothing(world: World, champion: DatasetRef) -> None:
    """Nothing to score is a result, not a failure."""
    old = world.features(world.as_of - timedelta(days=30))
    result = score(world.context("score", features=old, champion=champion))
    assert not result.outputs and result.numbers["rows"] == 0


def test_a_changed_model_is_not_loaded(world: World, features: DatasetRef, champion: DatasetRef) -> None:
    """A model is a pickle: its checksum is compared before it is opened."""
    path = world.storage.open(champion.dataset, champion.version) / "model" / "model.pkl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    try:
        with pytest.raises(IntegrityError, match="missing or changed"):
            score(world.context("score", features=features, champion=champion))
    finally:
        path.write_bytes(whole)
