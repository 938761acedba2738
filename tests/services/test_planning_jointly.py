"""The due steps of a lifecycle are planned together; each is still placed anew, and leaves the plan where it can no longer be kept."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer

from flows.adapters.settings import Settings
from flows.core.errors import Infeasible
from flows.services import lifecycle
from flows.services.dispatching import Outcome
from flows.services.lifecycle import LifecycleOrder, Report
from flows.services.planning_jointly import edges_of, remake
from flows.services.replaying import Replay
from flows.store import decisions, ledger, outbox, plans, reservations, sites
from flows.store.database import State
from tests.services.tiny import TinyDispatcher, tiny_steps
from tests.tickets import keyed

AS_OF = datetime(2013, 7, 1, tzinfo=UTC)
HOME, GPUS = "gcp-us-central1", "onprem-fra"


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    with tiny_steps():
        yield


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Training must go to `GPUS`; features weigh 20 GB, and leaving `HOME` costs twenty times what coming there does."""
    given = Settings()
    declared = shutil.copytree(given.deployments, tmp_path / "deployments", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    change(declared / "estate" / "sites.yaml", r"\n  off_peak:.*(\n    - .*)*", "")
    change(declared / "catalog" / "flight_delay.yaml", "size_gb: 0.03", "size_gb: 20")
    change(
        declared / "workloads" / "flight_delay.yaml",
        r"materialize:\n    restrict: \{sites: \[gcp-us-central1\]\}",
        f"materialize:\n    restrict: {{sites: [{HOME}, {GPUS}]}}",
    )
    change(declared / "workloads" / "flight_delay.yaml", r"  train:\n", f"  train:\n    restrict: {{sites: [{GPUS}]}}\n")
    found = keyed(Settings(home=tmp_path / "home", deployments=declared))
    State(found.state_url).migrate()
    return found


def change(path: Path, pattern: str, new: str) -> None:
    """Put other words into a declaration; they must be there."""
    text, count = re.subn(pattern, new, path.read_text())
    assert count, (path, pattern)
    path.write_text(text)


def run(settings: Settings, dispatcher: TinyDispatcher, *, owner: str = "run-1", **wanted: Any) -> Report:
    order = LifecycleOrder("flight_delay", AS_OF, "manual", owner, "scheduler", **wanted)
    return asyncio.run(lifecycle.run(order, settings=settings, dispatcher=dispatcher))


def ran_at(settings: Settings, step: str) -> str | None:
    """Where the newest decision of a step sent it."""
    with State(settings.state_url).reading() as tx:
        return next(row.site for row in decisions.recent(tx) if row.step == step)


def told(settings: Settings, kind: str) -> list[Mapping[str, Any]]:
    """The bodies of the ledger's rows of a kind."""
    with State(settings.state_url).reading() as tx:
        return [row.body for row in ledger.rows(tx, kind=kind)]


def fill(settings: Settings, pool: str) -> None:
    """Let others hold all of a pool for three days."""
    now = datetime.now(UTC)
    with State(settings.state_url).transaction() as tx:
        reservations.add(tx, pool, {"cpus": 10_000, "nodes": 1_000}, now, now + timedelta(days=3), "other/train/x/y")


def test_steps_go_where_all_of_them_cost_least(settings: Settings) -> None:
    """Features are made beside the GPUs, though a step alone would make them at home; the plan and its price are in the ledger."""
    assert run(settings, TinyDispatcher(settings)).state == "done"
    assert (ran_at(settings, "materialize"), ran_at(settings, "train")) == (GPUS, GPUS)
    (plan,) = told(settings, "plan")
    assert plan["sites"] == dict.fromkeys(("ingest", "evaluate", "score", "watch"), HOME) | dict.fromkeys(("materialize", "train"), GPUS)
    assert plan["binds"] and float(plan["usd_total"]) < float(plan["usd_step_by_step"]) - 1


def test_what_narrowed_a_request_is_in_the_request(settings: Settings) -> None:
    """A decision under a plan is replayed from its own inputs, and so is the plan, byte for byte."""
    run(settings, TinyDispatcher(settings))
    state = State(settings.state_url)
    with state.reading() as tx:
        row = next(row for row in decisions.recent(tx) if row.step == "materialize")
        assert decisions.inputs(tx, row.id)["request"]["restrict"] == {"sites": [GPUS]}
    assert all(each.reproduced for each in Replay(state).run())
    remade = list(remake(state))
    assert len(remade) == 1 and remade[0].reproduced


def test_replay_proves_plans_too(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`tradewind replay` makes every stored plan again, and fails if one comes out otherwise."""
    from deployments.cli.replay import replay

    run(settings, TinyDispatcher(settings))
    monkeypatch.setenv("TRADEWIND_HOME", str(settings.home))
    replay(since="2020-01-01")
    assert "1 of 1 joint plans came out byte for byte" in capsys.readouterr().out
    with State(settings.state_url).transaction() as tx:
        row = plans.latest(tx, "flight_delay/lifecycle/2013-07-01/manual")
        assert row is not None
        row.body = {**row.body, "summary": "another"}
    with pytest.raises(typer.Exit):
        replay(since="2020-01-01")


def test_a_plan_that_saves_nothing_binds_no_step(settings: Settings) -> None:
    """Where step by step is as cheap, requests are as declared, not narrowed to what they would have found anyway."""
    change(settings.deployments / "catalog" / "flight_delay.yaml", "size_gb: 20", "size_gb: 0.03")
    run(settings, TinyDispatcher(settings))
    (plan,) = told(settings, "plan")
    assert not plan["binds"] and plan["usd_total"] == plan["usd_step_by_step"]
    with State(settings.state_url).reading() as tx:
        row = next(row for row in decisions.recent(tx) if row.step == "materialize")
        assert decisions.inputs(tx, row.id)["request"]["restrict"] == {"sites": sorted([HOME, GPUS])}
    assert all("plan" not in body for body in told(settings, "decision"))


def test_a_lifecycle_taken_up_again_keeps_its_plan(settings: Settings) -> None:
    """Killed behind its first step, it goes on under the same plan."""
    with pytest.raises(KeyboardInterrupt):
        run(settings, TinyDispatcher(settings, crash={"ingest": "after"}))
    assert run(settings, TinyDispatcher(settings), owner="run-2").state == "done"
    assert len(told(settings, "plan")) == 1
    assert ran_at(settings, "materialize") == GPUS


def test_a_site_that_closes_in_between_makes_a_new_plan(settings: Settings) -> None:
    """What moved while the lifecycle rested is planned with."""
    with pytest.raises(KeyboardInterrupt):
        run(settings, TinyDispatcher(settings, crash={"ingest": "after"}))
    with State(settings.state_url).transaction() as tx:
        sites.change(tx, "aws-eu-north-1", "cordoned", reason="audit", principal="ada", at=datetime.now(UTC))
    run(settings, TinyDispatcher(settings), owner="run-2")
    first, second = told(settings, "plan")
    assert first["plan"] != second["plan"]
    assert "ingest" in first["sites"] and "ingest" not in second["sites"]


class Filling(TinyDispatcher):
    """Others take all of the planned pool while `ingest` runs."""

    async def run(self, deployment: str, parameters: Mapping[str, Any], *, key: str) -> Outcome:
        if deployment.startswith("ingest/"):
            fill(self.settings, f"{GPUS}-k8s")
        return await super().run(deployment, parameters, key=key)


def test_a_step_leaves_the_plan_when_its_site_is_full(settings: Settings) -> None:
    """It goes where it still may, the reason is in the ledger, and what is left is planned anew; training has nowhere else to go."""
    with pytest.raises(Infeasible, match="train"):
        run(settings, Filling(settings))
    (left,) = [body for body in told(settings, "decision") if body.get("plan_dropped")]
    first, second = told(settings, "plan")
    assert (left["step"], left["plan"], left["planned_site"]) == ("materialize", first["plan"], GPUS)
    assert "capacity" in left["plan_dropped"]
    assert ran_at(settings, "materialize") == HOME
    assert second["sites"] == {} and "`train` has no place" in second["summary"]


class Failing(TinyDispatcher):
    """The machine of the planned pool is gone when `materialize` comes."""

    async def run(self, deployment: str, parameters: Mapping[str, Any], *, key: str) -> Outcome:
        if deployment == f"materialize/{GPUS}-k8s":
            return Outcome(key, succeeded=False, state="Crashed", message="the machine is gone")
        return await super().run(deployment, parameters, key=key)


def test_a_step_leaves_the_plan_when_a_run_failed_there(settings: Settings) -> None:
    """The next try goes to the best other place, not to another slot at the planned site; training waits until the pool has cooled down."""
    assert run(settings, Failing(settings)).state == "scheduled"
    assert ran_at(settings, "materialize") == HOME
    assert [body["plan_dropped"] for body in told(settings, "decision") if "plan_dropped" in body and body["step"] == "materialize"] == [
        None,
        f"a run failed on `{GPUS}-k8s`",
    ]


def test_a_single_step_is_not_planned(settings: Settings) -> None:
    """One step that is due is placed as ever."""
    run(settings, TinyDispatcher(settings), steps=("ingest",), tag="again")
    assert told(settings, "plan") == []


def test_a_lifecycle_with_nothing_to_do_plans_nothing(settings: Settings) -> None:
    """The second start of a lifecycle that is done adds no row."""
    run(settings, TinyDispatcher(settings))
    assert run(settings, TinyDispatcher(settings), owner="run-2").state == "taken"
    assert len(told(settings, "plan")) == 1


def test_edges_are_what_steps_read_of_steps_before_them() -> None:
    """Champion and challenger are both the model; what no due step makes is on no edge."""
    found = [(edge.from_, edge.to, edge.dataset) for edge in edges_of("w", ["materialize", "train", "evaluate", "score"])]
    assert found == [
        ("materialize", "train", "w-features"),
        ("materialize", "evaluate", "w-features"),
        ("train", "evaluate", "w-model"),
        ("materialize", "score", "w-features"),
        ("train", "score", "w-model"),
    ]
    assert edges_of("w", ["score", "train"]) == []


def test_a_plan_is_found_by_the_beginning_of_its_id(settings: Settings) -> None:
    """As people type it."""
    run(settings, TinyDispatcher(settings))
    with State(settings.state_url).reading() as tx:
        row = plans.latest(tx, "flight_delay/lifecycle/2013-07-01/manual")
        assert row is not None and plans.find(tx, row.id[:12]) == [row.id]
        assert outbox.get(tx, row.intent_id) is not None
