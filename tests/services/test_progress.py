"""A training that is interrupted goes on from its last checkpoint, here or at the next site, and ends with the same model."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st

from flows.adapters.storage import SiteStorage
from flows.core.errors import IntegrityError
from flows.services.context import DatasetRef, StepContext
from flows.services.progress import FILE, ROLE, Progress, fit, newest
from flows.store import replicas
from flows.workloads.estimators import boosted_trees
from tests.services.conftest import SITE, SmallWorkload, World

MODEL = "shops-model"


class Interrupted(BaseException):
    """The cloud took the capacity back."""


class Memory(Progress):
    """Keeps its checkpoints in memory, and is interrupted after that many."""

    def __init__(self, left: int) -> None:
        self.every, self.left, self.kept = 1.0, left, list[tuple[bytes, int]]()

    def load(self) -> tuple[Any, int] | None:
        return (pickle.loads(self.kept[-1][0]), self.kept[-1][1]) if self.kept else None

    def save(self, made: Any, done: int, *, now: bool = False) -> bool:
        if self.left == 0:
            raise Interrupted
        self.left -= 1
        self.kept.append((pickle.dumps(made), done))
        return True


class Ticking:
    """Each look at this clock is ten minutes later."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 600
        return self.now


def rows(n: int = 400) -> tuple[pd.DataFrame, pd.Series]:
    generator = np.random.default_rng(3)
    frame = pd.DataFrame(
        {"sales": generator.normal(size=n), "noise": generator.normal(size=n), "kind": generator.choice(list("ab"), size=n)}
    )
    return frame, ((frame["sales"] + generator.normal(size=n)) > 0).astype("int64")


def training(world: World, **inputs: DatasetRef) -> StepContext:
    return world.context("train", **inputs)


@tries(max_examples=8, deadline=None)
@given(parts=st.integers(0, 18))
def test_wherever_it_is_interrupted_the_next_try_ends_with_the_same_model(parts: int) -> None:
    """To the bit of every prediction, with the settings of one that was never interrupted."""
    features, truth = rows()
    whole = boosted_trees(SmallWorkload.model).fit(features, truth)
    memory = Memory(parts)
    with pytest.raises(Interrupted):
        fit(boosted_trees(SmallWorkload.model), features, truth, memory)
    assert len(memory.kept) == parts
    memory.left = 99
    again = fit(boosted_trees(SmallWorkload.model), features, truth, memory)
    assert np.array_equal(whole.predict_proba(features), again.predict_proba(features))
    assert {name: repr(value) for name, value in whole.get_params().items()} == {
        name: repr(value) for name, value in again.get_params().items()
    }
    assert len(memory.kept) == 19  # none of the parts that were done was done again


def test_an_estimator_that_does_not_grow_is_fitted_at_once() -> None:
    """It has no part to be resumed from, and none is written."""
    from sklearn.naive_bayes import GaussianNB

    features, truth = rows()
    memory = Memory(0)
    fit(GaussianNB(), features[["sales", "noise"]], truth, memory)
    assert memory.kept == []


def test_the_next_try_at_the_site_finds_the_checkpoint_that_came_farthest(world: World) -> None:
    """Only its own intent's, and only one is kept: the one before is removed with its record."""
    ctx = training(world)
    kept = Progress(ctx, every=60, clock=Ticking())
    assert kept.save({"trees": 1}, 1) and kept.save({"trees": 2}, 2)
    assert Progress(ctx, every=None).load() == ({"trees": 2}, 2)
    assert len(world.storage.versions(MODEL)) == 1
    assert Progress(world.context("train", intent="shops/train/2013-07-01/other"), every=60).load() is None


def test_a_checkpoint_is_written_only_when_it_is_time(world: World) -> None:
    """Without a planned interval never; else not before it is over."""
    assert not Progress(training(world), every=None).save({}, 1)
    assert not Progress(training(world), every=3600).save({}, 1)


def test_checkpoints_go_once_the_model_is_published(world: World) -> None:
    """Nothing of half a model stays."""
    kept = Progress(training(world), every=60, clock=Ticking())
    kept.save({"trees": 1}, 1)
    kept.clear()
    assert world.storage.versions(MODEL) == []
    with world.state.reading() as tx:
        assert newest(tx, MODEL, training(world).intent_id) is None


def test_a_checkpoint_that_was_changed_is_not_opened(world: World) -> None:
    """It would be unpickled: files and their record beside them may both be forged, the state database says what was written."""
    ctx = training(world)
    Progress(ctx, every=60, clock=Ticking()).save({"trees": 1}, 1)
    (version,) = world.storage.versions(MODEL)
    with world.storage.draft(MODEL) as draft:
        (draft / FILE).write_bytes(pickle.dumps({"trees": 666}))
        forged = world.storage.publish(MODEL, draft, {})
    target, source = (world.storage.path("datasets", MODEL, each) for each in (version, forged.version))
    shutil.copytree(source, target, dirs_exist_ok=True)
    with pytest.raises(IntegrityError):
        Progress(ctx, every=60).load()


def test_a_checkpoint_that_was_brought_to_another_site_is_gone_on_from(world: World) -> None:
    """After its transfer the next place reads it as the input that control sent."""
    ctx = training(world)
    Progress(ctx, every=60, clock=Ticking()).save({"trees": 7}, 7)
    with world.state.reading() as tx:
        row = newest(tx, MODEL, ctx.intent_id)
        assert row is not None and row.site == SITE
        ref, facts, files, size = DatasetRef(row.dataset, row.version), dict(row.facts), dict(row.files), row.bytes
    other = SiteStorage("aws-eu-central-1", world.settings.site_folder("aws-eu-central-1"))
    other.receive(world.storage.describe(ref.dataset, ref.version), world.storage, lambda _: None)
    with world.state.transaction() as tx:
        replicas.add(
            tx,
            dataset=ref.dataset,
            version=ref.version,
            site="aws-eu-central-1",
            bytes=size,
            files=files,
            facts=facts,
            intent_id=ctx.intent_id,
            at=datetime.now(UTC),
        )
    there = dataclasses.replace(ctx, site="aws-eu-central-1", storage=other, inputs={ROLE: ref})
    assert Progress(there, every=None).load() == ({"trees": 7}, 7)
