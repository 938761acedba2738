"""A closed site gets nothing new: no decision, no run, no data; what runs there goes on, and data may leave."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.adapters.settings import Settings
from flows.core.errors import Infeasible, Unavailable, UserError
from flows.services import cordoning, lifecycle, placing
from flows.services.context import DatasetRef
from flows.services.dispatching import Outcome
from flows.services.lifecycle import LifecycleOrder, Report
from flows.services.local_run import acting_as
from flows.services.running import StepOrder, run_step
from flows.store import decisions, ledger, outbox, replicas, runs, sites
from flows.store.database import State
from tests.services.tiny import TinyDispatcher, tiny_steps
from tests.tickets import keyed, sent

AS_OF = datetime(2013, 7, 1, tzinfo=UTC)
HOME = "gcp-us-central1"
INTENT = "nafld/ingest/2013-07-01/manual"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = keyed(Settings(home=tmp_path / "home"))
    State(found.state_url).migrate()
    return found


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    with tiny_steps():
        yield


def change(settings: Settings, site: str, wanted: sites.SiteState, reason: str = "disks") -> tuple[str | None, cordoning.SiteView]:
    return cordoning.change(State(settings.state_url), settings, site, wanted, reason=reason, principal="ada", at=datetime.now(UTC))


def run(settings: Settings, dispatcher: TinyDispatcher, *, owner: str = "run-1", **wanted: Any) -> Report:
    order = LifecycleOrder("flight_delay", AS_OF, "manual", owner, "scheduler", **wanted)
    return asyncio.run(lifecycle.run(order, settings=settings, dispatcher=dispatcher))


def newest_training(settings: Settings) -> dict[str, Any]:
    """The last decision on a training, in the order of the ledger: two may share a second."""
    with State(settings.state_url).reading() as tx:
        told = [row.body["decision"] for row in ledger.rows(tx, kind="decision") if row.body["step"] == "train"]
        found = decisions.get(tx, told[-1])
    assert found is not None
    return found


def train_site(settings: Settings) -> str:
    """Where the newest training was placed."""
    return str(newest_training(settings)["chosen"]["site"])


@pytest.mark.parametrize("wanted", ["cordoned", "draining"])
def test_a_closed_site_is_in_no_new_decision(settings: Settings, wanted: sites.SiteState) -> None:
    """The next training goes elsewhere, and the decision says why not there; opened again, it goes there again."""
    run(settings, TinyDispatcher(settings))
    usual = train_site(settings)
    change(settings, usual, wanted, "disks")
    run(settings, TinyDispatcher(settings), owner="run-2", tag="again", steps=("train",))
    assert train_site(settings) != usual
    lost = [each for each in newest_training(settings)["rejected"] if each["site"] == usual]
    assert "cordoned" in {reason["rule"] for each in lost for reason in each["reasons"]}
    change(settings, usual, "open")
    run(settings, TinyDispatcher(settings), owner="run-3", tag="once-more", steps=("train",))
    assert train_site(settings) == usual


def test_data_leaves_a_closed_site_and_none_arrives(settings: Settings) -> None:
    """A transfer starts at a draining site; one that would end there is refused with its reason."""
    state = State(settings.state_url)
    change(settings, "onprem-fra", "draining")
    with state.transaction() as tx:
        where = {"files": {}, "facts": {}, "intent_id": None, "at": AS_OF, "bytes": 1}
        for site in ("onprem-fra", "aws-eu-central-1"):
            replicas.add(tx, dataset="nafld-features", version=site, site=site, **where)
    leaves = {"data": DatasetRef("nafld-features", "onprem-fra")}
    order = placing.PlaceOrder("nafld", "transfer", "nafld/transfer/2013-07-01/out", leaves, "scheduler", "aws-eu-central-1")
    assert placing.place_step(state, settings, order, at=datetime.now(UTC))["chosen"]["site"] == "onprem-fra"
    arrives = {"data": DatasetRef("nafld-features", "aws-eu-central-1")}
    order = placing.PlaceOrder("nafld", "transfer", "nafld/transfer/2013-07-01/in", arrives, "scheduler", "onprem-fra")
    refused = placing.place_step(state, settings, order, at=datetime.now(UTC))
    assert refused["chosen"] is None and "cordoned" in refused["summary"]


def test_a_workload_whose_home_is_closed_ends_with_the_reason(settings: Settings) -> None:
    """Its steps may run nowhere else: nothing starts, and the refusal names the cordon."""
    change(settings, HOME, "cordoned")
    dispatcher = TinyDispatcher(settings)
    with pytest.raises(Infeasible, match="cordoned"):
        run(settings, dispatcher)
    assert dispatcher.ran == []


def test_a_step_that_was_sent_before_the_cordon_goes_elsewhere(settings: Settings) -> None:
    """The worker of the closed site refuses it, and the lifecycle places it once more; no pool is blamed."""

    class JustThen(TinyDispatcher):
        closed = ""

        async def run(self, deployment: str, parameters: Mapping[str, Any], *, key: str) -> Outcome:
            if deployment.startswith("train/") and not self.closed:
                self.closed = train_site(self.settings)
                change(self.settings, self.closed, "cordoned")
            return await super().run(deployment, parameters, key=key)

    dispatcher = JustThen(settings)
    run(settings, dispatcher, steps=("ingest", "materialize", "train"))
    with State(settings.state_url).reading() as tx:
        (row,) = ledger.rows(tx, kind="failover")
        assert "is cordoned" in row.body["why"]
        assert sites.cooling(tx, datetime.now(UTC)) == {}
        done = outbox.get(tx, "flight_delay/train/2013-07-01/manual")
        assert done is not None and done.result is not None and done.result["site"] != dispatcher.closed


@pytest.fixture
def order(settings: Settings) -> StepOrder:
    """A step that was placed at `onprem-fra` and not begun, before the site was closed."""
    state = State(settings.state_url)
    decision = placing.place_step(state, settings, placing.PlaceOrder("nafld", "ingest", INTENT, {}, "scheduler"), at=datetime.now(UTC))
    with state.transaction() as tx:
        outbox.ensure(tx, outbox.Intent.of("nafld", "ingest", "2013-07-01", "manual", due_at=AS_OF))
        outbox.claim(tx, INTENT, owner="run", at=datetime.now(UTC), stale_after=timedelta(days=1))
    return StepOrder("ingest", "nafld", AS_OF, INTENT, decision["decision_id"], {}, "run-1")


def begin(settings: Settings, order: StepOrder, begun_at: datetime) -> None:
    """The run has begun, and its process is gone without a word."""
    with State(settings.state_url).transaction() as tx:
        where = {"workload": "nafld", "step": "ingest", "pool": "onprem-fra-k8s", "site": "onprem-fra", "pid": os.getpid()}
        runs.start(tx, id=order.run_id, at=begun_at, intent_id=INTENT, decision_id=order.decision_id, **where)


def test_a_worker_begins_nothing_at_a_closed_site(settings: Settings, order: StepOrder) -> None:
    """Whatever was decided before: the intent is open again, one try the poorer, and the message says what to do."""
    change(settings, "onprem-fra", "cordoned")
    with acting_as("onprem-fra", "onprem-fra-k8s"), pytest.raises(Unavailable, match="`onprem-fra` is cordoned"):
        run_step(sent(settings, order, "onprem-fra-k8s"), settings=settings)
    with State(settings.state_url).reading() as tx:
        row = outbox.get(tx, INTENT)
        assert row is not None and (row.state, row.attempt) == ("open", 1)


def test_a_run_that_had_begun_is_resumed_at_a_closed_site(settings: Settings, order: StepOrder) -> None:
    """The same run, started again after its process died, is not new there."""
    begin(settings, order, datetime.now(UTC))
    change(settings, "onprem-fra", "draining")
    with acting_as("onprem-fra", "onprem-fra-k8s"):
        assert run_step(sent(settings, order, "onprem-fra-k8s"), settings=settings)["site"] == "onprem-fra"


def test_a_run_that_was_refused_is_not_resumed(settings: Settings, order: StepOrder) -> None:
    """A second attempt of the same run at the closed site is as new as the first."""
    change(settings, "onprem-fra", "cordoned")
    for _ in range(2):
        with acting_as("onprem-fra", "onprem-fra-k8s"), pytest.raises(Unavailable):
            run_step(sent(settings, order, "onprem-fra-k8s"), settings=settings)


def test_draining_tells_what_is_still_there(settings: Settings, order: StepOrder) -> None:
    """The runs that go on there and the intents that hold capacity; the ledger has the same."""
    _, before = change(settings, "onprem-fra", "cordoned")
    assert (before.runs, before.reserved) == ((), (INTENT,))
    begin(settings, order, AS_OF)
    was, view = change(settings, "onprem-fra", "draining", "moving out")
    assert was == "cordoned"
    assert [(each.run, each.step, each.pool) for each in view.runs] == [("run-1", "ingest", "onprem-fra-k8s")]
    with State(settings.state_url).reading() as tx:
        (row,) = ledger.rows(tx, kind="site-drain")
        assert row.body == {"site": "onprem-fra", "before": "cordoned", "reason": "moving out", "still_there": ["run-1"]}


def test_each_change_is_in_the_ledger_once(settings: Settings) -> None:
    """A cordon that is there already adds no row."""
    for wanted in ("cordoned", "cordoned", "open", "open"):
        change(settings, "onprem-fra", wanted)  # type: ignore[arg-type]
    with State(settings.state_url).reading() as tx:
        assert [row.kind for row in ledger.rows(tx)] == ["site-cordon", "site-uncordon"]
    assert ledger.verify(State(settings.state_url), None).ok


@pytest.mark.parametrize("wanted", ["cordoned", "draining"])
@pytest.mark.parametrize(("reason", "told"), [("", "needs its reason"), ("   ", "needs its reason"), ("-", "`-` is too short")])
def test_closing_a_site_needs_a_reason(settings: Settings, wanted: sites.SiteState, reason: str, told: str) -> None:
    """Whoever finds it closed asks why, and the ledger answers; opening it needs none."""
    with pytest.raises(UserError, match=f"`--reason`.*{told}"):
        change(settings, "onprem-fra", wanted, reason)
    with State(settings.state_url).reading() as tx:
        assert sites.closed(tx) == {} and ledger.rows(tx) == []
    change(settings, "onprem-fra", "open", "")


def test_opening_a_site_ends_the_cool_down_of_its_pools(settings: Settings) -> None:
    """Who says that it works need not wait; the row says which pools."""
    now = datetime.now(UTC)
    with State(settings.state_url).transaction() as tx:
        for pool in ("onprem-fra-k8s", "aws-us-east-1-ecs"):
            sites.cool(tx, pool, INTENT, until=now + timedelta(minutes=30), error="Crashed", at=now)
    change(settings, "onprem-fra", "open")
    with State(settings.state_url).reading() as tx:
        assert list(sites.cooling(tx, now)) == ["aws-us-east-1-ecs"]
        (row,) = ledger.rows(tx, kind="site-uncordon")
        assert row.body["cooled"] == ["onprem-fra-k8s"]


@pytest.mark.parametrize(("site", "told"), [("onprem-ham", "no site `onprem-ham`"), ("control", "nothing is ever placed at `control`")])
def test_only_a_site_that_takes_steps_can_be_closed(settings: Settings, site: str, told: str) -> None:
    """A wrong name is told with the right ones."""
    with pytest.raises(UserError, match=f"{told}.*`onprem-fra`"):
        change(settings, site, "cordoned")
