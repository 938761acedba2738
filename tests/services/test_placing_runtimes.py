"""A step that ran often enough is placed by how long it took, not by what was declared."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.adapters.settings import Settings
from flows.core.placement.runtimes import ENOUGH_RUNS
from flows.services.placing import PlaceOrder, place_step
from flows.services.replaying import Replay
from flows.store import decisions, runs
from flows.store.database import State

AT = datetime(2026, 11, 24, 8, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = Settings(home=tmp_path / "home")
    found.home.mkdir()
    return found


@pytest.fixture
def state(settings: Settings) -> Iterator[State]:
    found = State(settings.state_url)
    found.migrate()
    yield found
    found.close()


def placed(state: State, settings: Settings, number: int) -> dict[str, Any]:
    """The decision for one more ingest of `nafld`."""
    order = PlaceOrder("nafld", "ingest", f"nafld/ingest/2026-11-24/test-{number}", {}, "scheduler")
    return place_step(state, settings, order, at=AT + timedelta(hours=3 * number))


def ran(state: State, decision: dict[str, Any], number: int, seconds: float) -> None:
    """A completed run of it."""
    began, chosen = AT + timedelta(hours=3 * number), decision["chosen"]
    with state.transaction() as tx:
        runs.start(
            tx,
            id=f"run-{number}",
            workload="nafld",
            step="ingest",
            pool=chosen["pool"],
            site=chosen["site"],
            pid=None,
            at=began,
            intent_id=None,
            decision_id=decision["decision_id"],
        )
        runs.finish(tx, f"run-{number}", "completed", began + timedelta(seconds=seconds))


def inputs(state: State, decision: dict[str, Any]) -> dict[str, Any]:
    """What the decision was made of."""
    with state.reading() as tx:
        return decisions.inputs(tx, decision["decision_id"])


def test_the_twentieth_run_replaces_the_declared_runtime(state: State, settings: Settings) -> None:
    """Until then the request carries it; then the conditions do, with the number of runs, and the decision says so."""
    for number in range(ENOUGH_RUNS):
        decision = placed(state, settings, number)
        assert "runtime" in inputs(state, decision)["request"]
        assert not [line for line in decision["warnings"] if line.startswith("runtime")]
        ran(state, decision, number, 36.0 * (number + 1))
    decision = placed(state, settings, ENOUGH_RUNS)
    found, offer = inputs(state, decision), decision["chosen"]["offer"]
    assert "runtime" not in found["request"]
    measured = [row for row in found["conditions"]["runtimes"] if "offer" in row]
    assert measured == [{"workload": "nafld", "step": "ingest", "offer": offer, "p50_hours": "0.1", "p90_hours": "0.18", "runs": "20"}]
    assert f"runtime on `{offer}`: 0.1 h at p50, 0.18 h at p90, from 20 runs" in decision["warnings"]
    assert all(row.reproduced for row in Replay(state).run())
