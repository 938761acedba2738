"""One step's decision over what the state holds: capacity and deadlines of others and its own, and where its data rests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flows.adapters.settings import Settings
from flows.services.context import DatasetRef
from flows.services.placing import PlaceOrder, Planned, place_step
from flows.services.replaying import Replay
from flows.services.stepping import STALE_AFTER
from flows.store import decisions, ledger, outbox, replicas, reservations
from flows.store.database import State

AT = datetime(2026, 11, 24, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
WINDOW, WEEKS = "window_hours: 24", "window_hours: 1440"
HUNGRY = "    resources: {cpus: 4, memory_gib: 8, accelerators: {A100: 1}}\n    runtime: {p50_hours: 1, p90_hours: 2}\n"
"""One of these fills the only pool of its kind at `onprem-fra`."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    declared = shutil.copytree(Settings().deployments, tmp_path / "deployments", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    found = Settings(home=tmp_path / "home", deployments=declared)
    found.home.mkdir()
    return found


@pytest.fixture
def state(settings: Settings) -> Iterator[State]:
    found = State(settings.state_url)
    found.migrate()
    yield found
    found.close()


def hungry(settings: Settings, window: str = WINDOW, runtime: str = "") -> None:
    """Let `materialize` of nafld want the one A100 of its site."""
    declared = settings.deployments / "workloads" / "nafld.yaml"
    before = declared.read_text()
    step = "  materialize:\n    restrict: {sites: [onprem-fra]}\n"
    assert before.count(step) == 1
    wanted = HUNGRY.replace("p50_hours: 1, p90_hours: 2", runtime) if runtime else HUNGRY
    declared.write_text(before.replace(step, f"{step}{wanted}    {window}\n    budget_usd: 100000\n"))


def placed(state: State, settings: Settings, name: str, at: datetime = AT, **more: Any) -> dict[str, Any]:
    """The decision for a step of its own intent."""
    workload, step = more.pop("workload", "nafld"), more.pop("step", "materialize")
    order = PlaceOrder(workload, step, f"{workload}/{step}/2026-11-24/{name}", more.pop("inputs", {}), "scheduler", **more)
    return place_step(state, settings, order, at=at)


def running(state: State, name: str) -> None:
    """Let the step's run have begun."""
    intent = outbox.Intent.of("nafld", "materialize", "2026-11-24", name, due_at=AT)
    with state.transaction() as tx:
        outbox.ensure(tx, intent)
        outbox.claim(tx, intent.id, owner="run", at=AT, stale_after=STALE_AFTER)


def rests(state: State, dataset: str, version: str, *sites: str, gb: int) -> DatasetRef:
    with state.transaction() as tx:
        for site in sites:
            replicas.add(
                tx, dataset=dataset, version=version, site=site, bytes=gb * 10**9, files={}, facts={}, intent_id="x", at=AT
            )  # fmt: skip
    return DatasetRef(dataset, version)


def test_a_run_that_takes_longer_than_its_p90_keeps_its_place(state: State, settings: Settings) -> None:
    """Nobody is put on top of it; a step that only waits for its slot is not in the way beyond its end."""
    hungry(settings)
    first = placed(state, settings, "first")["chosen"]
    assert first["start"] == "2026-11-24T08:00:00Z"
    after = datetime.fromisoformat(first["finish_p90"]) + HOUR / 12
    running(state, "first")
    second = placed(state, settings, "second", after)["chosen"]
    assert datetime.fromisoformat(second["start"]) >= after + (datetime.fromisoformat(first["finish_p90"]) - AT)
    with state.transaction() as tx:
        outbox.finish(tx, "nafld/materialize/2026-11-24/first", {}, after)
    assert datetime.fromisoformat(placed(state, settings, "second", after)["chosen"]["start"]) == after


def test_however_far_ahead_capacity_is_held_once(state: State, settings: Settings) -> None:
    """Runs of five days queue up for weeks."""
    hungry(settings, WEEKS, "p50_hours: 100, p90_hours: 120")
    spans = [placed(state, settings, f"n{number}")["chosen"] for number in range(8)]
    assert datetime.fromisoformat(spans[-1]["start"]) > AT + timedelta(days=30)
    assert all(before["finish_p90"] <= after["start"] for before, after in pairwise(spans))


def deadline(state: State, decision: dict[str, Any]) -> str:
    """By when its request wanted it done."""
    with state.reading() as tx:
        return str(decisions.inputs(tx, decision["decision_id"])["request"]["window"]["deadline"])


def test_a_deadline_stays_where_it_was_set(state: State, settings: Settings) -> None:
    """Placed once more at its slot, or after a failure; anew only once it has ended."""
    hungry(settings)
    assert deadline(state, placed(state, settings, "a")) == "2026-11-25T08:00:00Z"
    assert deadline(state, placed(state, settings, "a", AT + HOUR * 20)) == "2026-11-25T08:00:00Z"
    with state.transaction() as tx:
        reservations.release(tx, "nafld/materialize/2026-11-24/a")
    assert deadline(state, placed(state, settings, "a", AT + HOUR * 23)) == "2026-11-26T07:00:00Z"


@pytest.mark.parametrize("hours", [22, 24, 72])
def test_what_can_no_longer_be_done_by_its_deadline_is_done_at_once_and_told(state: State, settings: Settings, hours: int) -> None:
    """A slot that is taken up late, a control that was down for days: it starts now, and is held to the time that it was given."""
    hungry(settings)
    first, late = placed(state, settings, "a"), AT + HOUR * hours
    again = placed(state, settings, "a", late)
    held = datetime.fromisoformat(first["chosen"]["finish_p90"]) - AT
    assert datetime.fromisoformat(again["chosen"]["start"]) == late
    assert datetime.fromisoformat(deadline(state, again)) == late + held
    with state.reading() as tx:
        told = [row.body.get("deadline_missed") for row in ledger.rows(tx, kind="decision")]
    assert told == [None, "2026-11-25T08:00:00Z"]


def test_a_transfer_starts_where_that_is_cheapest(state: State, settings: Settings) -> None:
    """The step was priced by its cheapest copy, and from there it comes."""
    ref = rests(state, "flight_delay-features", "v1", "gcp-us-central1", "aws-us-east-1", gb=200)
    planned = Planned("p", "aws-eu-central-1")
    step = placed(state, settings, "a", workload="flight_delay", step="train", inputs={"features": ref}, planned=planned)["chosen"]
    move = placed(
        state, settings, f"{ref}>there", workload="flight_delay", step="transfer", inputs={"data": ref}, destination=step["site"]
    )["chosen"]
    assert (step["site"], move["site"]) == ("aws-eu-central-1", "aws-us-east-1")
    assert move["usd"]["egress"] == pytest.approx(step["usd"]["egress"], abs=0.01)


def test_of_two_versions_of_one_dataset_both_must_be_there(state: State, settings: Settings) -> None:
    """Champion and challenger at two sites: neither is free of egress, in whichever order they are named."""
    roles = {
        "champion": rests(state, "flight_delay-model", "v1", "gcp-us-central1", gb=100),
        "challenger": rests(state, "flight_delay-model", "v2", "aws-us-east-1", gb=100),
    }
    at = Planned("p", "aws-us-east-1")
    asked = {"workload": "flight_delay", "step": "train", "planned": at}
    first, second = (placed(state, settings, "c", inputs=dict(order), **asked) for order in (roles.items(), reversed(roles.items())))
    assert first["chosen"] == second["chosen"]
    with state.reading() as tx:
        assert decisions.inputs(tx, first["decision_id"])["conditions"]["replicas"] == {"flight_delay-model": []}


def test_a_replay_under_another_estate_drops_the_plan_as_the_loop_would(state: State, settings: Settings, tmp_path: Path) -> None:
    """Where the planned site offers nothing any more the run moves; it is not lost."""
    planned = placed(state, settings, "a", workload="flight_delay", step="train", planned=Planned("p", "aws-eu-north-1"))
    assert planned["chosen"]["site"] == "aws-eu-north-1"
    estate = shutil.copytree(settings.deployments / "estate", tmp_path / "estate")
    rows = (estate / "offers.csv").read_text().splitlines(keepends=True)
    (estate / "offers.csv").write_text("".join(row for row in rows if not row.startswith("aws-eu-north-1,")))
    (same,) = Replay(state).run()
    (other,) = Replay(state, estate=estate).run()
    assert same.reproduced and same.change == "same"
    assert other.change == "moved" and other.after is not None
    shutil.rmtree(settings.deployments / "estate")
    shutil.copytree(estate, settings.deployments / "estate")
    live = placed(state, settings, "b", workload="flight_delay", step="train", planned=Planned("p", "aws-eu-north-1"))
    assert [live["chosen"][key] for key in ("pool", "offer", "usd")] == [other.after["chosen"][key] for key in ("pool", "offer", "usd")]
