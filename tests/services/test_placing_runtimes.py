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


def ran(
    state: State,
    decision: dict[str, Any],
    number: int,
    seconds: float,
    *,
    run: str = "",
    ended: str = "completed",
    intent: str | None = None,
    after: float = 0,
) -> None:
    """A run of it, which began some seconds after its decision."""
    began, chosen, run = AT + timedelta(hours=3 * number, seconds=after), decision["chosen"], run or f"run-{number}"
    with state.transaction() as tx:
        runs.start(
            tx,
            id=run,
            workload="nafld",
            step="ingest",
            pool=chosen["pool"],
            site=chosen["site"],
            pid=None,
            at=began,
            intent_id=intent,
            decision_id=decision["decision_id"],
        )
        runs.finish(tx, run, ended, began + timedelta(seconds=seconds))


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


def test_a_try_that_may_have_gone_on_from_a_checkpoint_is_no_measure(state: State, settings: Settings) -> None:
    """Twenty that crashed after two hours and were done a minute later: the declared runtime stays."""
    for number in range(ENOUGH_RUNS):
        decision = placed(state, settings, number)
        ran(state, decision, number, 7000, run=f"first-{number}", ended="crash", intent=f"i{number}")
        ran(state, decision, number, 60, run=f"second-{number}", intent=f"i{number}", after=7000)
    assert "runtime" in inputs(state, placed(state, settings, ENOUGH_RUNS))["request"]
