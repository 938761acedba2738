"""Evaluating: two models on one fresh holdout, aggregates only."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from flows.core.errors import UserError
from flows.core.promotion import EvaluationNumbers, judge
from flows.services.context import DatasetRef
from flows.services.evaluating import evaluate

if TYPE_CHECKING:
    from tests.services.conftest import World
from tests.tickets import trained


@pytest.fixture(scope="module")
def world(shared_world: World) -> World:
    """One world for all tests here: datasets are named by content, so that they do not meet."""
    return shared_world


_trained: dict[tuple[str, str], DatasetRef] = {}


def model(world: World, features: DatasetRef) -> DatasetRef:
    """A model trained on these features, once."""
    key = (str(world.settings.home), str(features))
    if key not in _trained:
        (made,) = trained(world.context("train", features=features, intent=f"shops/train/{features.version}/test")).outputs
        _trained[key] = DatasetRef(made.dataset, made.version)
    return _trained[key]


def test_the_first_model_is_judged_alone(world: World) -> None:
    """Without a champion the verdict has no gain, and a good model passes."""
    features = world.features()
    verdict = evaluate(world.context("evaluate", features=features, challenger=model(world, features))).numbers["verdict"]
    assert verdict["passed"] and verdict["champion"] is None and verdict["numbers"]["gain"] is None
    assert verdict["numbers"]["challenger"]["latency_ms_per_1k_rows"] > 0


def test_a_better_model_passes_and_a_worse_one_does_not(world: World) -> None:
    """Trained on what tells more, against one trained on noise: the interval of the gain decides, both ways."""
    features = world.features()
    good, poor = model(world, features), model(world, world.features(strength=0.0, seed=2))
    up = evaluate(world.context("evaluate", features=features, challenger=good, champion=poor)).numbers["verdict"]
    down = evaluate(world.context("evaluate", features=features, challenger=poor, champion=good)).numbers["verdict"]
    assert up["passed"] and up["numbers"]["gain"]["low"] > 0
    assert not down["passed"] and "auc-gain" in [reason["rule"] for reason in down["reasons"]]
    assert {part["value"] for part in up["numbers"]["slices"]} == {"north", "south"}


def test_the_verdict_names_what_it_compared(world: World) -> None:
    """Control can see whether the verdict is about the models it knows, and judges it to the same end."""
    features = world.features()
    new = model(world, features)
    verdict = evaluate(world.context("evaluate", features=features, challenger=new, champion=new)).numbers["verdict"]
    assert verdict["challenger"] == verdict["champion"] == str(new)
    again = judge(EvaluationNumbers.model_validate(json.loads(json.dumps(verdict["numbers"]))), world.workload.gate)
    assert again.passed == verdict["passed"] is False


def test_the_same_inputs_give_the_same_numbers(world: World) -> None:
    """All but the latency is repeatable."""
    features = world.features()
    new, old = model(world, features), model(world, world.features(seed=3))
    runs = [evaluate(world.context("evaluate", features=features, challenger=new, champion=old)).numbers["verdict"] for _ in range(2)]
    for verdict in runs:
        verdict["numbers"]["challenger"].pop("latency_ms_per_1k_rows")
    assert runs[0]["numbers"] == runs[1]["numbers"]


def test_rows_that_the_challenger_learnt_from_are_cut(world: World) -> None:
    """Judged as of an earlier day than it was trained for, only rows behind its training count."""
    features = world.features()
    new = model(world, features)
    earlier = world.as_of - timedelta(days=5)
    verdict = evaluate(world.context("evaluate", earlier, features=features, challenger=new)).numbers["verdict"]
    assert verdict["numbers"]["start"].startswith("2013-06-11") and verdict["numbers"]["fresh"]


def test_a_holdout_within_the_training_is_refused(world: World) -> None:
    """Where nothing fresh is left, the verdict says so and does not pass."""
    features = world.features()
    new = model(world, features)
    earlier = world.as_of - timedelta(days=30)
    verdict = evaluate(world.context("evaluate", earlier, features=features, challenger=new)).numbers["verdict"]
    assert not verdict["passed"] and "fresh-holdout" in [reason["rule"] for reason in verdict["reasons"]]


def test_no_row_leaves_the_site(world: World) -> None:
    """Neither an id nor a value of a row is in what control gets."""
    features = world.features()
    result = evaluate(world.context("evaluate", features=features, challenger=model(world, features), level="restricted"))
    assert "secret-" not in json.dumps(result.numbers) and not result.outputs


def test_a_missing_challenger_is_told(world: World) -> None:
    """The step before is named as the fix."""
    with pytest.raises(UserError, match="was given no `challenger`"):
        evaluate(world.context("evaluate", features=world.features()))
