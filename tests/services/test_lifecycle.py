"""A lifecycle is resumable, exactly once, placed, and leaves its data where the decisions say."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.adapters.settings import Settings
from flows.core.errors import Infeasible, TradewindError
from flows.services import lifecycle
from flows.services.declarations import Declarations
from flows.services.lifecycle import LifecycleOrder, Report
from flows.store import decisions, ledger, outbox, replicas, reservations, transfers
from flows.store.database import State
from tests.services.tiny import TinyDispatcher, drifted, tiny_steps
from tests.tickets import keyed

AS_OF = datetime(2013, 7, 1, tzinfo=UTC)
ALL = ["ingest", "materialize", "train", "evaluate", "promote", "score", "watch"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = keyed(Settings(home=tmp_path / "home"))
    State(found.state_url).migrate()
    return found


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    with tiny_steps():
        yield


def run(settings: Settings, dispatcher: TinyDispatcher, *, owner: str = "run-1", **wanted: object) -> Report:
    order = LifecycleOrder("flight_delay", AS_OF, "manual", owner, "scheduler", **wanted)  # type: ignore[arg-type]
    return asyncio.run(lifecycle.run(order, settings=settings, dispatcher=dispatcher))


def steps(dispatcher: TinyDispatcher) -> list[str]:
    return [deployment.partition("/")[0] for deployment in dispatcher.ran]


def test_runs_every_step_in_order(settings: Settings) -> None:
    """Without a champion the loop takes in data, trains, judges; the data of a training elsewhere goes there and the model comes back."""
    dispatcher = TinyDispatcher(settings)
    report = run(settings, dispatcher)
    assert report.state == "done"
    assert [step for step in steps(dispatcher) if step != "transfer"] == ALL


def test_each_step_has_a_stored_decision_and_a_ledger_row(settings: Settings) -> None:
    """What was placed can be read again with every input it was made of."""
    run(settings, TinyDispatcher(settings))
    with State(settings.state_url).reading() as tx:
        placed = decisions.recent(tx)
        assert {"ingest", "materialize", "train", "evaluate"} <= {row.step for row in placed}
        for row in placed:
            assert set(decisions.inputs(tx, row.id)) == {"request", "estate", "catalog", "conditions", "policies"}
        assert len(ledger.rows(tx, kind="decision")) == len(placed)
    assert ledger.verify(State(settings.state_url), None).ok


def test_a_second_run_finds_everything_done(settings: Settings) -> None:
    """The same workload, window and cause is one intent: a doubled event or a second click starts nothing."""
    run(settings, TinyDispatcher(settings))
    again = TinyDispatcher(settings)
    report = run(settings, again, owner="run-2")
    assert (report.state, again.ran) == ("taken", [])


def test_goes_on_where_a_killed_run_stopped(settings: Settings) -> None:
    """A run killed after the training was recorded does not train again when the intent is taken up."""
    first = TinyDispatcher(settings, crash={"train": "after"})
    with pytest.raises(KeyboardInterrupt):
        run(settings, first)
    second = TinyDispatcher(settings)
    assert run(settings, second, owner="run-2").state == "done"
    assert "train" not in steps(second)
    assert "evaluate" in steps(second)


def test_a_crashed_step_is_tried_again_under_a_new_key(settings: Settings) -> None:
    """A worker that dies mid-run costs one attempt, and the second has its own idempotency key."""
    dispatcher = TinyDispatcher(settings, crash={"train": "before"})
    assert run(settings, dispatcher).state == "done"
    keys = [key for key in dispatcher.keys if "/train/" in key]
    assert keys == ["flight_delay/train/2013-07-01/manual#0", "flight_delay/train/2013-07-01/manual#1"]


def test_gives_up_after_three_crashes(settings: Settings) -> None:
    """What fails each time, with pools that need no cool-down, ends in one clear error, and the intent says so."""
    settings = settings.model_copy(update={"cool_down_minutes": 0})

    class Broken(TinyDispatcher):
        async def run(self, deployment, parameters, *, key):  # type: ignore[no-untyped-def]
            self.crash["ingest"] = "before"
            return await super().run(deployment, parameters, key=key)

    with pytest.raises(TradewindError, match="the process is gone"):
        run(settings, Broken(settings))
    with State(settings.state_url).reading() as tx:
        row = outbox.get(tx, "flight_delay/ingest/2013-07-01/manual")
        assert row is not None and (row.state, row.attempt) == ("failed", 3)


def test_a_users_mistake_is_told_at_once(settings: Settings) -> None:
    """A second try cannot mend a wrong file: the step fails the first time, and the message is the step's own."""
    dispatcher = TinyDispatcher(settings)
    with tiny_steps(ingest=f"{drifted.__module__}:mistaken"), pytest.raises(TradewindError, match="column `dest` is missing"):
        run(settings, dispatcher)
    assert steps(dispatcher) == ["ingest"]
    with State(settings.state_url).reading() as tx:
        row = outbox.get(tx, "flight_delay/ingest/2013-07-01/manual")
        assert row is not None and row.state == "failed"


def test_what_failed_is_tried_again_by_the_next_run(settings: Settings) -> None:
    """Once the mistake is mended, the same lifecycle goes on from there."""
    with tiny_steps(ingest=f"{drifted.__module__}:mistaken"), pytest.raises(TradewindError):
        run(settings, TinyDispatcher(settings))
    dispatcher = TinyDispatcher(settings)
    assert run(settings, dispatcher, owner="run-2").state == "done"
    assert steps(dispatcher)[0] == "ingest"


def test_its_own_reservation_is_not_in_its_way(settings: Settings) -> None:
    """A step that is placed again, because its first run failed, may take the place that it holds."""
    with tiny_steps(train=f"{drifted.__module__}:mistaken"), pytest.raises(TradewindError):
        run(settings, TinyDispatcher(settings))
    state = State(settings.state_url)
    with state.transaction() as tx:
        assert not [row for row in reservations.active(tx, datetime.now(UTC)) if "/train/" in row.intent_id]
        first = next(row for row in decisions.recent(tx) if row.step == "train")
        now = datetime.now(UTC)
        reservations.add(tx, first.pool or "", {"nodes": 1_000, "cpus": 10_000}, now, now + timedelta(days=1), first.intent_id or "")
    run(settings, TinyDispatcher(settings), owner="run-2")
    with state.reading() as tx:
        assert next(row for row in decisions.recent(tx) if row.step == "train").pool == first.pool


def test_a_cheap_slot_tonight_is_waited_for_without_a_run(settings: Settings, tmp_path: Path) -> None:
    """When the cheapest slot is hours away the lifecycle ends, and its intent is due at the slot; an urgent one starts now."""
    declared = shutil.copytree(settings.deployments, tmp_path / "deployments", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    begins = (datetime.now(UTC) + timedelta(hours=4)).replace(minute=0, second=0, microsecond=0)
    tariff = f'timezone: UTC\n  off_peak: [{{from: "{begins:%H:%M}", to: "{begins + timedelta(hours=3):%H:%M}", multiplier: 0.01}}]'
    sites, workload = declared / "estate" / "sites.yaml", declared / "workloads" / "flight_delay.yaml"
    sites.write_text(sites.read_text().replace("timezone: America/Chicago", tariff))
    workload.write_text(workload.read_text().replace("usd_per_hour_of_delay: 0.5", "usd_per_hour_of_delay: 0"))
    tonight = Settings(home=settings.home, deployments=declared, signing_key=settings.signing_key)
    dispatcher = TinyDispatcher(tonight)
    assert run(tonight, dispatcher).state == "scheduled"
    assert dispatcher.ran == []
    with State(settings.state_url).reading() as tx:
        row = outbox.get(tx, "flight_delay/lifecycle/2013-07-01/manual")
        assert row is not None and (row.state, row.due_at) == ("open", begins)
        assert outbox.due(tx, datetime.now(UTC), "lifecycle") == []
        assert [each.id for each in outbox.due(tx, begins, "lifecycle")] == [row.id]
    now = TinyDispatcher(tonight)
    assert run(tonight, now, owner="run-2", tag="now", urgent=True).state == "done"
    assert steps(now)[0] == "ingest"


def test_done_again_on_purpose(settings: Settings) -> None:
    """A tag sets the intents apart: every step runs once more."""
    run(settings, TinyDispatcher(settings))
    dispatcher = TinyDispatcher(settings)
    assert run(settings, dispatcher, owner="run-2", tag="again-2").state == "done"
    assert [step for step in steps(dispatcher) if step != "transfer"] == ["ingest", "materialize", "score", "watch"]


def test_data_lies_only_where_decisions_sent_it(settings: Settings) -> None:
    """Every replica is at home or at a site that a transfer on record, decided by policy, brought it to."""
    run(settings, TinyDispatcher(settings))
    with State(settings.state_url).reading() as tx:
        moved = {(row.dataset, row.destination) for row in transfers.recent(tx)}
        trained = next(row for row in decisions.recent(tx) if row.step == "train")
        for dataset, rows in replicas.by_dataset(tx).items():
            for row in rows:
                made_here = dataset == "flight_delay-model" and row.site == trained.site
                assert row.site == "gcp-us-central1" or made_here or (dataset, row.site) in moved
                assert (settings.site_folder(row.site) / "datasets" / dataset / row.version / "manifest.json").exists()


def test_a_full_pool_sends_the_training_elsewhere(settings: Settings) -> None:
    """A reservation of all of a pool moves the next training, and the decision names the capacity."""
    state = State(settings.state_url)
    run(settings, TinyDispatcher(settings))
    with state.transaction() as tx:
        first = next(row for row in decisions.recent(tx) if row.step == "train")
        pool = Declarations.load(settings).estate.pool_by_name[first.pool or ""]
        now = datetime.now(UTC)
        reservations.add(tx, pool.name, {"cpus": 10_000, "nodes": 1_000}, now, now + timedelta(days=3), "other/train/x/y")
    run(settings, TinyDispatcher(settings), owner="run-2", tag="again", steps=("train",))
    with state.reading() as tx:
        second = next(row for row in decisions.recent(tx) if row.step == "train")
        assert second.pool != first.pool
        assert any(
            row["pool"] == first.pool and {"capacity"} == {reason["rule"] for reason in row["reasons"]} for row in second.body["rejected"]
        )


def test_a_drift_verdict_and_its_retrain_intent_come_together(settings: Settings) -> None:
    """The retrain that a verdict asks for is in the outbox when the verdict is on record, once, whoever starts it."""
    with tiny_steps(watch=f"{drifted.__module__}:drifted"):
        run(settings, TinyDispatcher(settings))
        state = State(settings.state_url)
        with state.reading() as tx:
            row = outbox.get(tx, "flight_delay/lifecycle/2013-07-01/drift")
            assert row is not None and row.state == "open"
            assert len(ledger.rows(tx, kind="retrain-trigger")) == 1
        order = LifecycleOrder("flight_delay", AS_OF, "drift", "run-2", "drift-watch", intent="flight_delay/lifecycle/2013-07-01/drift")
        retrain = TinyDispatcher(settings)
        both = [asyncio.run(lifecycle.run(order, settings=settings, dispatcher=retrain)).state for _ in range(2)]
        assert both == ["done", "taken"]
        assert [step for step in steps(retrain) if step != "transfer"] == ["train", "evaluate", "promote"]


def test_nothing_feasible_is_refused_with_its_reasons(settings: Settings, tmp_path: Path) -> None:
    """A label that no site satisfies ends the intent as refused, before any data moves; the decision keeps every reason."""
    declared = shutil.copytree(settings.deployments, tmp_path / "deployments", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    catalog = declared / "catalog" / "flight_delay.yaml"
    catalog.write_text(catalog.read_text().replace("residency: anywhere", "residency: [JP]"))
    elsewhere = Settings(home=settings.home, deployments=declared, signing_key=settings.signing_key)
    dispatcher = TinyDispatcher(elsewhere)
    with pytest.raises(Infeasible, match="residency"):
        run(elsewhere, dispatcher)
    assert dispatcher.ran == []
    with State(settings.state_url).reading() as tx:
        row = outbox.get(tx, "flight_delay/lifecycle/2013-07-01/manual")
        assert row is not None and row.state == "refused"
        (decision,) = decisions.recent(tx)
        assert all("residency" in [reason["rule"] for reason in each["reasons"]] for each in decision.body["rejected"])
