"""A step whose place fails it goes to the best other place that is allowed; one whose user is wrong does not."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flows.adapters.settings import Settings
from flows.core.errors import Infeasible, TradewindError
from flows.services import lifecycle
from flows.services.declarations import Declarations
from flows.services.dispatching import Outcome
from flows.services.lifecycle import LifecycleOrder, Report
from flows.store import decisions, ledger, outbox, reservations, runs, sites
from flows.store.database import State
from tests.services.tiny import TinyDispatcher, drifted, tiny_steps
from tests.tickets import keyed

AS_OF = datetime(2013, 7, 1, tzinfo=UTC)
TRAIN = "flight_delay/train/2013-07-01/manual"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = keyed(Settings(home=tmp_path / "home"))
    State(found.state_url).migrate()
    return found


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    with tiny_steps():
        yield


class Failing(TinyDispatcher):
    """Every run of one step fails in one way, until it has done so `times` times."""

    def __init__(self, settings: Settings, step: str, state: str = "Crashed", times: int = 99) -> None:
        super().__init__(settings)
        self.step, self.state, self.times, self.sent = step, state, times, list[str]()

    async def run(self, deployment: str, parameters: Mapping[str, Any], *, key: str) -> Outcome:
        if deployment.startswith(f"{self.step}/"):
            self.sent.append(deployment.partition("/")[2])
            if len(self.sent) <= self.times:
                return Outcome(key, succeeded=False, state=self.state, message="the machine is gone")
        return await super().run(deployment, parameters, key=key)


def run(settings: Settings, dispatcher: TinyDispatcher, *, owner: str = "run-1", **wanted: Any) -> Report:
    order = LifecycleOrder("flight_delay", AS_OF, "manual", owner, "scheduler", **wanted)
    return asyncio.run(lifecycle.run(order, settings=settings, dispatcher=dispatcher))


def with_workload(settings: Settings, tmp_path: Path, old: str, new: str) -> Settings:
    """The same state under declarations with one line changed."""
    declared = shutil.copytree(settings.deployments, tmp_path / "deployments", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    workload = declared / "workloads" / "flight_delay.yaml"
    assert old in workload.read_text()
    workload.write_text(workload.read_text().replace(old, new))
    return settings.model_copy(update={"deployments": declared})


@pytest.mark.parametrize("state", ["Crashed", "TimedOut", "Unavailable"])
def test_a_failed_place_is_left_for_the_best_other_one(settings: Settings, state: str) -> None:
    """The second try runs on the first alternative of the first decision, and both decisions stand in the ledger."""
    dispatcher = Failing(settings, "train", state, times=1)
    assert run(settings, dispatcher).state == "done"
    first, second = dispatcher.sent
    with State(settings.state_url).reading() as tx:
        (row,) = ledger.rows(tx, kind="failover")
        left, taken = (decisions.get(tx, row.body[side]["decision"]) for side in ("from", "to"))
        assert left is not None and taken is not None
        assert (row.body["from"]["pool"], row.body["to"]["pool"]) == (first, second)
        assert row.body["why"].startswith(f"{row.body['failure']}: the machine is gone\n  fix: ")
        assert taken["chosen"]["pool"] == second == left["alternatives"][0]["pool"]
        reasons = {reason["rule"] for each in taken["rejected"] if each["pool"] == first for reason in each["reasons"]}
        assert reasons == {"cooling-down"}
        assert decisions.inputs(tx, taken["decision_id"])["conditions"]["cooling"] == {first: None}


def test_other_steps_keep_away_from_the_pool_until_it_has_cooled_down(settings: Settings) -> None:
    """What failed one step is not offered to the next workload's; half an hour later it is."""
    dispatcher = Failing(settings, "train", times=1)
    run(settings, dispatcher)
    now = datetime.now(UTC)
    with State(settings.state_url).reading() as tx:
        assert list(sites.cooling(tx, now)) == [dispatcher.sent[0]]
        assert sites.cooling(tx, now + timedelta(minutes=30)) == {}
    again = Failing(settings, "train", times=0)
    run(settings, again, owner="run-2", tag="again", steps=("train",))
    assert again.sent != dispatcher.sent[:1]


def test_three_places_are_tried_and_no_more(settings: Settings) -> None:
    """Each try has a place and a key of its own; then the step has failed, and holds nothing any more."""
    dispatcher = Failing(settings, "train")
    with pytest.raises(TradewindError, match="the machine is gone"):
        run(settings, dispatcher)
    assert len(dispatcher.sent) == len(set(dispatcher.sent)) == 3
    with State(settings.state_url).reading() as tx:
        row = outbox.get(tx, TRAIN)
        assert row is not None and (row.state, row.attempt) == ("failed", 3)
        assert len(ledger.rows(tx, kind="failover")) == 2
        assert TRAIN not in {held.intent_id for held in reservations.active(tx, AS_OF)}


def test_the_only_place_is_tried_again_when_it_has_cooled_down(settings: Settings, tmp_path: Path) -> None:
    """Where no other pool may run it the lifecycle ends, due at a slot after the cool-down, and no try is lost until then."""
    only = with_workload(settings, tmp_path, "  train:\n", "  train:\n    restrict: {pools: [gcp-us-central1-vertex]}\n")
    assert run(only, Failing(only, "train", times=1)).state == "scheduled"
    with State(only.state_url).reading() as tx:
        row, mine = outbox.get(tx, "flight_delay/lifecycle/2013-07-01/manual"), outbox.get(tx, TRAIN)
        (until,) = sites.cooling(tx, datetime.now(UTC)).values()
        assert row is not None and row.state == "open" and until <= row.due_at <= until + timedelta(hours=1)
        assert mine is not None and (mine.state, mine.attempt) == ("open", 1)
        (told,) = ledger.rows(tx, kind="failover")
        assert told.body["from"]["pool"] == told.body["to"]["pool"] == "gcp-us-central1-vertex"


def test_without_a_later_slot_the_run_ends_with_the_reasons(settings: Settings, tmp_path: Path) -> None:
    """The window closes before the only pool has cooled down: the lifecycle is refused, and the decision says by what."""
    short = "  train:\n    restrict: {pools: [gcp-us-central1-vertex]}\n    window_hours: 1\n"
    only = with_workload(settings, tmp_path, "  train:\n", short)
    only = only.model_copy(update={"cool_down_minutes": 120})
    with pytest.raises(Infeasible, match="1 cooling-down"):
        run(only, Failing(only, "train", times=1))
    with State(only.state_url).reading() as tx:
        row = outbox.get(tx, "flight_delay/lifecycle/2013-07-01/manual")
        assert row is not None and row.state == "refused"
        assert TRAIN not in {held.intent_id for held in reservations.active(tx, AS_OF)}


def test_a_users_mistake_moves_nothing(settings: Settings) -> None:
    """No failover, no cool-down: another place cannot mend a wrong file."""
    with tiny_steps(train=f"{drifted.__module__}:mistaken"), pytest.raises(TradewindError, match="column `dest` is missing"):
        run(settings, TinyDispatcher(settings))
    with State(settings.state_url).reading() as tx:
        assert ledger.rows(tx, kind="failover") == []
        assert sites.cooling(tx, datetime.now(UTC)) == {}


def test_a_failure_of_the_step_itself_is_tried_again_in_place(settings: Settings) -> None:
    """A run that ends as `Failed` says nothing against its pool."""
    dispatcher = Failing(settings, "train", "Failed", times=1)
    assert run(settings, dispatcher).state == "done"
    assert len(set(dispatcher.sent)) == 1


def test_a_transfer_fails_over_too(settings: Settings) -> None:
    """Its data leaves through the other pool of the site where it rests."""
    dispatcher = Failing(settings, "transfer", times=1)
    assert run(settings, dispatcher).state == "done"
    first, second = dispatcher.sent[:2]
    assert first != second
    with State(settings.state_url).reading() as tx:
        (row,) = ledger.rows(tx, kind="failover")
        assert row.body["step"] == "transfer"


def test_a_run_that_died_is_not_running_any_more(settings: Settings) -> None:
    """What its process could not write down itself is written when its end is known."""

    class Dying(TinyDispatcher):
        died = False

        async def run(self, deployment: str, parameters: Mapping[str, Any], *, key: str) -> Outcome:
            if deployment.startswith("train/") and not self.died:
                self.died = True
                with State(self.settings.state_url).transaction() as tx:
                    pool = deployment.partition("/")[2]
                    begun = {"workload": "flight_delay", "step": "train", "pool": pool, "site": pool, "pid": 1, "at": AS_OF}
                    runs.start(tx, id=key, intent_id=parameters["intent_id"], decision_id=parameters["decision_id"], **begun)
                return Outcome(key, succeeded=False, state="Crashed", message="the process is gone")
            return await super().run(deployment, parameters, key=key)

    assert run(settings, Dying(settings)).state == "done"
    with State(settings.state_url).reading() as tx:
        assert runs.recent(tx, state=runs.RUNNING) == []
        (dead,) = runs.recent(tx, state="crash")
        assert dead.error is not None and dead.error.startswith("crash: the process is gone\n  fix: ")


class Ending(TinyDispatcher):
    """The first runs of one step end in these ways, one each; what comes after runs."""

    def __init__(self, settings: Settings, step: str, *endings: tuple[str, str, str]) -> None:
        super().__init__(settings)
        self.step, self.endings, self.sent = step, list(endings), list[str]()

    async def run(self, deployment: str, parameters: Mapping[str, Any], *, key: str) -> Outcome:
        if deployment.startswith(f"{self.step}/"):
            self.sent.append(deployment.partition("/")[2])
            if len(self.sent) <= len(self.endings):
                state, message, evidence = self.endings[len(self.sent) - 1]
                return Outcome(key, succeeded=False, state=state, message=message, evidence=(evidence,))
        return await super().run(deployment, parameters, key=key)


SUBMIT = "Failed to submit flow run to infrastructure: "
FAULTS = {
    "crash": ("Crashed", "No active or succeeded pods found for any job", ""),
    "quota": ("Crashed", f"{SUBMIT}InfrastructureError: Unable to create Kubernetes job: Forbidden: exceeded quota: runs", ""),
    "image": ("NotStarted", "no line of it ran within 60 s", "Image pull failed for container 'prefect-job': x Resolution: y"),
    "credentials": ("Crashed", f"{SUBMIT}ClientError: An error occurred (ExpiredTokenException) when calling the RunTask operation", ""),
    "throttled": ("Crashed", f"{SUBMIT}ClientError: An error occurred (ThrottlingException) when calling RunTask: Rate exceeded", ""),
    "worker-lost": ("Unavailable", "`pool` had no worker for 300 s", ""),
    "not-started": ("NotStarted", "no line of it ran within 60 s", ""),
    "spot": ("Crashed", "spot: training job `t` did not end within 60 s of waiting for spot capacity\n  fix: run it on demand", ""),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_of_a_place_is_told_recorded_and_left(settings: Settings, kind: str) -> None:
    """The second run is elsewhere; run, intent's ledger rows and cool-down say of what kind the first one's end was, and what to do."""
    dispatcher = Ending(settings, "train", FAULTS[kind])
    assert run(settings, dispatcher).state == "done"
    first, second = dispatcher.sent
    assert first != second
    with State(settings.state_url).reading() as tx:
        (row,) = runs.recent(tx, state=kind)
        assert (row.pool, row.intent_id, row.seconds) == (first, TRAIN, 0) and row.error is not None
        assert row.error.startswith(f"{kind}: ") and "\n  fix: " in row.error
        now = datetime.now(UTC)
        assert sites.failed_for(tx, TRAIN, now) == [first]
        # that spot capacity ran out is no reason for others, nor for on-demand runs, to keep away
        assert list(sites.cooling(tx, now)) == ([] if kind == "spot" else [first])
        (told,), (moved,) = ledger.rows(tx, kind="place-failure"), ledger.rows(tx, kind="failover")
        assert (told.body["failure"], told.body["pool"], moved.body["failure"]) == (kind, first, kind)


def test_a_site_that_does_not_answer_is_left_with_all_its_pools(settings: Settings) -> None:
    """The other pools of the site are not tried one after the other: they are as far away."""
    gone = ("Crashed", f"{SUBMIT}EndpointConnectionError: Could not connect to the endpoint URL: x", "")
    dispatcher = Ending(settings, "train", gone)
    assert run(settings, dispatcher).state == "done"
    estate = Declarations.load(settings).estate
    first, second = (estate.pool_by_name[name].site for name in dispatcher.sent)
    assert first != second
    with State(settings.state_url).reading() as tx:
        assert set(sites.cooling(tx, datetime.now(UTC))) == {pool.name for pool in estate.pools if pool.site == first and pool.offers}


def test_a_run_out_of_memory_goes_to_an_offer_with_more(settings: Settings) -> None:
    """The next try asks for half as much again as the offer had, twice if need be; no pool is blamed."""
    out = ("Crashed", "Flow run infrastructure exited with non-zero status code 137. Process was killed", "")
    dispatcher = Ending(settings, "train", out, out)
    assert run(settings, dispatcher).state == "done"
    estate = Declarations.load(settings).estate
    with State(settings.state_url).reading() as tx:
        assert sites.cooling(tx, datetime.now(UTC)) == {}
        memories = []
        for row in reversed(runs.recent(tx, intent_id=TRAIN)):
            assert row.decision_id is not None
            chosen = (decisions.get(tx, row.decision_id) or {})["chosen"]
            offers = estate.offers_of(estate.pool_by_name[chosen["pool"]])
            memories.append(next(offer.memory_gib for offer in offers if offer.name == chosen["offer"]))
        assert len(memories) == 3 and memories[1] >= memories[0] * Decimal("1.5") and memories[2] >= memories[1] * Decimal("1.5")


def test_a_want_of_memory_that_nothing_can_meet_is_told_as_such(settings: Settings, tmp_path: Path) -> None:
    """Where no offer that may run it has more, the lifecycle is refused, with the offers that were too small."""
    only = with_workload(settings, tmp_path, "  train:\n", "  train:\n    restrict: {pools: [gcp-europe-west6-cloudrun]}\n")
    out = ("Crashed", "Flow run infrastructure exited with non-zero status code 137. Process was killed", "")
    with pytest.raises(Infeasible, match=r"fit|memory"):
        run(only, Ending(only, "train", out, out, out))


def test_a_job_that_somebody_deleted_is_run_again_in_its_place(settings: Settings) -> None:
    """Nothing is said against the pool, and nothing is decided anew."""
    dispatcher = Ending(settings, "train", ("Crashed", "Kubernetes job was deleted", ""))
    assert run(settings, dispatcher).state == "done"
    assert len(set(dispatcher.sent)) == 1
    with State(settings.state_url).reading() as tx:
        assert ledger.rows(tx, kind="failover") == [] and sites.cooling(tx, datetime.now(UTC)) == {}
        assert [row.body["failure"] for row in ledger.rows(tx, kind="place-failure")] == ["deleted"]
