"""The reconciler starts what an event missed and frees what a dead run held; whatever comes twice happens once."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.adapters.settings import Settings
from flows.services import lifecycle
from flows.services.lifecycle import LifecycleOrder
from flows.services.reconciling import Reconciled, reconcile
from flows.store import ledger, outbox
from flows.store.database import State
from tests.services.tiny import TinyDispatcher, drifted, tiny_steps
from tests.tickets import keyed

AS_OF = datetime(2013, 7, 1, tzinfo=UTC)
RETRAIN = "flight_delay/lifecycle/2013-07-01/drift"


@pytest.fixture(scope="module")
def after_the_verdict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose watch has just asked for a retrain, and whose event was lost; MLflow knows the champion as the state does."""
    from mlflow import MlflowClient

    settings = keyed(Settings(home=tmp_path_factory.mktemp("after") / "home"))
    (settings.home / "mlflow").mkdir(parents=True)
    State(settings.state_url).migrate()
    with tiny_steps(watch=f"{drifted.__module__}:drifted"):
        order = LifecycleOrder("flight_delay", AS_OF, "manual", "run-1", "scheduler")
        asyncio.run(lifecycle.run(order, settings=settings, dispatcher=TinyDispatcher(settings)))
    registry = MlflowClient(tracking_uri=settings.tracking_url, registry_uri=settings.tracking_url)
    registry.create_registered_model("flight_delay")
    for _ in ("the champion's", "the one of the retrain to come"):
        registry.create_model_version("flight_delay", source=(settings.home / "model").as_uri())
    registry.set_registered_model_alias("flight_delay", "champion", "1")
    return settings.home


@pytest.fixture
def drift(after_the_verdict: Path, tmp_path: Path) -> Iterator[Settings]:
    """A copy of that home for one test."""
    settings = keyed(Settings(home=Path(shutil.copytree(after_the_verdict, tmp_path / "home"))))
    with tiny_steps(watch=f"{drifted.__module__}:drifted"):
        yield settings


class Starter:
    """Runs the lifecycle that the reconciler starts, here and at once, as a server would elsewhere and later."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.dispatcher = TinyDispatcher(settings)
        self.started: list[tuple[str, str]] = []

    async def __call__(self, deployment: str, parameters: Mapping[str, Any], key: str) -> str:
        self.started.append((deployment, key))
        as_of = datetime.fromisoformat(parameters["as_of"])
        order = LifecycleOrder(parameters["workload"], as_of, parameters["cause"], key, "reconciler", intent=parameters["intent_id"])
        await lifecycle.run(order, settings=self.settings, dispatcher=self.dispatcher)
        return key


def one_round(settings: Settings, start: Any, *, over: bool = False) -> Reconciled:
    async def is_over(run_id: str) -> bool:
        return over

    return asyncio.run(reconcile(settings, start=start, is_over=is_over))


def make_due(settings: Settings) -> None:
    """Let the grace that the event's own automation has be over."""
    with State(settings.state_url).transaction() as tx:
        row = outbox.get(tx, RETRAIN)
        assert row is not None
        row.due_at = row.due_at - timedelta(minutes=1)


def test_a_lost_event_still_retrains_once(drift: Settings) -> None:
    """The verdict's intent is enough: the retrain happens, and a second round finds nothing to do."""
    make_due(drift)
    starter = Starter(drift)
    first, second = one_round(drift, starter), one_round(drift, starter)
    assert list(first.started) == [RETRAIN]
    assert second.started == {}
    assert [step.partition("/")[0] for step in starter.dispatcher.ran].count("train") == 1
    with State(drift.state_url).reading() as tx:
        row = outbox.get(tx, RETRAIN)
        assert row is not None and row.state == "done"


def test_the_event_has_the_first_word(drift: Settings) -> None:
    """An intent that is due only now is left to the event for a few seconds."""
    starter = Starter(drift)
    assert one_round(drift, starter).started == {}


def test_a_late_event_after_the_reconciler_changes_nothing(drift: Settings) -> None:
    """The event's own run comes last, finds the intent done, and trains nothing."""
    make_due(drift)
    one_round(drift, Starter(drift))
    late = TinyDispatcher(drift)
    order = LifecycleOrder("flight_delay", AS_OF, "drift", "event-run", "drift-watch", intent=RETRAIN)
    assert asyncio.run(lifecycle.run(order, settings=drift, dispatcher=late)).state == "taken"
    assert late.ran == []


def test_what_a_dead_run_held_is_freed_and_done(drift: Settings) -> None:
    """A run that was killed while it held the intent is seen to be over; the retrain goes on elsewhere."""
    make_due(drift)
    with State(drift.state_url).transaction() as tx:
        assert outbox.claim(tx, RETRAIN, owner="killed-run", at=datetime.now(UTC), stale_after=timedelta(hours=12))
    starter = Starter(drift)
    assert one_round(drift, starter).started == {}, "a run that lives is left alone"
    done = one_round(drift, starter, over=True)
    assert done.freed == [RETRAIN]
    assert list(done.started) == [RETRAIN]


def test_each_round_anchors_the_ledger(drift: Settings) -> None:
    """The newest row's hash lies outside the database after a round, and the chain verifies against it."""
    done = one_round(drift, Starter(drift))
    found = ledger.verify(State(drift.state_url), drift.home / "anchors")
    assert found.ok and done.anchored is not None and found.rows >= done.anchored
