"""How long completed runs took, by the offer that their decisions chose."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flows.store import decisions, runs, runtimes
from flows.store.database import State
from tests.store.conftest import NOW


def record(
    state: State,
    number: int,
    *,
    seconds: float = 60,
    offer: str | None = "small",
    spot: bool = False,
    ended: str = "completed",
    **more: Any,
) -> None:
    """One run and the decision that placed it; `offer` None: it chose nothing."""
    chosen = None if offer is None else {"pool": "p", "site": "s", "offer": offer, "spot": spot, "usd": {"total": 1}}
    decision = {"decision_id": f"{number:064d}", "at": "2026-01-05T08:00:00Z", "inputs": {}, "chosen": chosen, "summary": ""}
    run = {"workload": "nafld", "step": "train", "pool": "p", "site": "s", "pid": None, "intent_id": None, **more}
    began = NOW + timedelta(hours=number)
    with state.transaction() as tx:
        decisions.save(tx, decision, {"request": {"workload": "nafld", "step": "train"}}, at=NOW)
        runs.start(tx, id=f"run-{number}", at=began, decision_id=run.pop("decision_id", decision["decision_id"]), **run)
        if ended != runs.RUNNING:
            runs.finish(tx, f"run-{number}", ended, began + timedelta(seconds=seconds))


def found(state: State, **more: Any) -> dict[str, list[float]]:
    """What is recorded of the training."""
    with state.reading() as tx:
        return runtimes.by_offer(tx, "nafld", "train", **more)


def test_completed_runs_are_grouped_by_offer(state: State) -> None:
    """The newest first, in seconds."""
    record(state, 1, seconds=60)
    record(state, 2, seconds=90.5)
    record(state, 3, seconds=30, offer="large")
    assert found(state) == {"small": [90.5, 60.0], "large": [30.0]}


def test_only_completed_runs_of_this_step_that_a_decision_placed_count(state: State) -> None:
    """Not one that failed or still runs, nor another step's or workload's, nor one in control, which no decision placed."""
    record(state, 1, ended="failed")
    record(state, 2, ended=runs.RUNNING)
    record(state, 3, step="score")
    record(state, 4, workload="other")
    record(state, 5, decision_id=None)
    record(state, 6, offer=None)
    assert found(state) == {}


def test_runs_on_spot_are_left_out(state: State) -> None:
    """Those that nothing interrupted are the short ones."""
    record(state, 1, spot=True)
    assert found(state) == {}


def test_only_the_newest_runs_count(state: State) -> None:
    """What a step takes follows its code and its data."""
    for number in range(4):
        record(state, number, seconds=10 + number)
    assert found(state, newest=2) == {"small": [13.0, 12.0]}
