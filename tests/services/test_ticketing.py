"""Signed dispatches, signed models, and who is behind a lifecycle: what control did not say is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import update

from flows.adapters import signing
from flows.adapters.settings import Settings
from flows.core.canonical import content_hash
from flows.core.errors import GuardRefused, IntegrityError, PolicyDenied, UserError
from flows.services import placing, promotion_runs, requesting, signed, ticketing
from flows.services.context import DatasetRef, StepContext
from flows.services.identity import Identity
from flows.services.lifecycle import LifecycleOrder
from flows.services.local_run import acting_as
from flows.services.model_folders import signed_model
from flows.services.running import StepOrder, run_step
from flows.services.stepping import STALE_AFTER
from flows.store import dispatches, ledger, outbox, principals, replicas, signatures
from flows.store.database import State
from flows.store.models import DecisionRow, ReplicaRow
from tests.services.tiny import tiny_steps
from tests.tickets import keyed, sent, sign_model

AS_OF = datetime(2013, 7, 1, tzinfo=UTC)
POOL = "onprem-fra-k8s"
INTENT = "nafld/ingest/2013-07-01/manual"


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    found = keyed(Settings(home=tmp_path / "home"))
    State(found.state_url).migrate()
    with tiny_steps():
        yield found


@pytest.fixture
def state(settings: Settings) -> State:
    return State(settings.state_url)


@pytest.fixture
def order(settings: Settings, state: State) -> StepOrder:
    """A placed ingest that control is about to send."""
    decision = placing.place_step(state, settings, placing.PlaceOrder("nafld", "ingest", INTENT, {}, "scheduler"), at=datetime.now(UTC))
    with state.transaction() as tx:
        outbox.ensure(tx, outbox.Intent.of("nafld", "ingest", "2013-07-01", "manual", due_at=AS_OF))
        outbox.claim(tx, INTENT, owner="run", at=datetime.now(UTC), stale_after=STALE_AFTER)
    return StepOrder("ingest", "nafld", AS_OF, INTENT, decision["decision_id"], {}, "run-1")


def run(settings: Settings, order: StepOrder) -> dict[str, Any]:
    with acting_as("onprem-fra", POOL):
        return run_step(order, settings=settings)


def edited(found: Any, *path: str, to: Any) -> dict[str, Any]:
    """The ticket with one value changed."""
    copied = copy.deepcopy(found)
    inner = copied
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = to
    return dict(copied)


def test_what_control_sent_runs_and_is_in_the_ledger(settings: Settings, state: State, order: StepOrder) -> None:
    """The dispatch is on record before the run is."""
    run(settings, sent(settings, order, POOL))
    with state.reading() as tx:
        (row,) = ledger.rows(tx, kind="dispatch")
        assert (row.body["intent"], row.body["deployment"], row.body["attempt"]) == (INTENT, f"ingest/{POOL}", 0)
        assert ledger.rows(tx, kind="guard-refusal") == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s, o: replace(o, ticket=None), "has no ticket"),
        (lambda s, o: replace(o, ticket={"body": {}, "signature": {}}), "cannot be read"),
        (lambda s, o: replace(o, ticket=edited(o.ticket, "body", "expires_at", to="2099-01-01T00:00:00Z")), "not signed by control"),
        (lambda s, o: replace(o, ticket=edited(o.ticket, "signature", "key", to="0" * 16)), "not signed by control"),
        (lambda s, o: replace(o, ticket=edited(o.ticket, "signature", to="none")), "not signed by control"),
        (lambda s, o: replace(o, as_of=AS_OF + timedelta(days=1)), "not the ones that control signed"),
        (lambda s, o: replace(o, inputs={"raw": DatasetRef("nafld-raw", "0" * 16)}), "not the ones that control signed"),
        (lambda s, o: sent(s, o, POOL, at=datetime.now(UTC) - timedelta(days=1)), "the ticket holds from"),
        (lambda s, o: sent(s, o, POOL, at=datetime.now(UTC) + timedelta(days=1)), "the ticket holds from"),
        (lambda s, o: sent(s, o, "gcp-europe-west4-run"), "the ticket is for `ingest/gcp-europe-west4-run`"),
    ],
    ids=["none", "malformed", "edited", "unknown key", "no signature", "another clock", "other data", "expired", "early", "another pool"],
)
def test_anything_else_is_refused_and_ledgered(
    settings: Settings, state: State, order: StepOrder, change: Callable[[Settings, StepOrder], StepOrder], told: str
) -> None:
    """The intent goes on: whoever was really sent still fulfils it."""
    forged = change(settings, sent(settings, order, POOL))
    with pytest.raises(GuardRefused, match=told):
        run(settings, forged)
    with state.reading() as tx:
        (row,) = ledger.rows(tx, kind="guard-refusal")
        assert row.body["intent"] == INTENT and told.split("`")[0] in row.body["why"]
        found = outbox.get(tx, INTENT)
        assert found is not None and found.state == "running"


def test_a_key_that_was_not_enrolled_signs_nothing(settings: Settings, order: StepOrder) -> None:
    """Whoever makes a key of their own is not control."""
    stranger = settings.model_copy(update={"signing_key": keyed(Settings(home=settings.home / "elsewhere")).signing_key})
    with pytest.raises(GuardRefused, match="not signed by control"):
        run(settings, sent(stranger, order, POOL))


def test_a_ticket_is_for_one_run(settings: Settings, order: StepOrder) -> None:
    """Another run with the very same parameters and ticket is a replay; the run itself may begin again after a restart."""
    ticket = sent(settings, order, POOL)

    def admit(run_id: str) -> None:
        ticketing.admit(
            State(settings.state_url),
            settings,
            ticket.ticket,
            deployment=f"ingest/{POOL}",
            parameters=ticket.parameters,
            run_id=run_id,
            at=datetime.now(UTC),
        )

    admit("run-1")
    admit("run-1")
    with pytest.raises(GuardRefused, match="used by run `run-1` already"):
        admit("run-2")


def test_a_decision_that_was_changed_after_it_was_signed_sends_nothing(settings: Settings, state: State, order: StepOrder) -> None:
    """Whoever edits the state database moves no run, and `explain` names no signer."""
    ticket = sent(settings, order, POOL)
    with state.transaction() as tx:
        row = tx.get(DecisionRow, order.decision_id)
        assert row is not None
        assert signed.signer_of(tx, settings, row.body) in signing.Keyring.load(settings.anchors).keys
        changed = {**row.body, "summary": "anywhere will do"}
        tx.execute(update(DecisionRow).where(DecisionRow.id == order.decision_id).values(body=changed))
        with pytest.raises(IntegrityError, match="not what control signed"):
            signed.signer_of(tx, settings, changed)
    with pytest.raises(GuardRefused, match="was changed after control signed it"):
        run(settings, ticket)


def test_control_without_a_key_sends_nothing(settings: Settings, order: StepOrder) -> None:
    """Rather than send what every worker refuses."""
    with pytest.raises(UserError, match="no key to sign"):
        sent(settings.model_copy(update={"signing_key": None}), order, POOL)


@given(data=st.data())
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_byte_of_a_ticket_can_be_changed(settings: Settings, order: StepOrder, data: st.DataObject) -> None:
    """Whatever field of its body is given another text, the signature no longer holds."""
    found: Any = sent(settings, order, POOL).ticket
    name = data.draw(
        st.sampled_from(sorted(name for name, value in found["body"].items() if isinstance(value, str) and not name.endswith("_at")))
    )
    other = data.draw(st.text(max_size=64).filter(lambda text: text != found["body"][name]))
    with pytest.raises(GuardRefused):
        ticketing.verified(edited(found, "body", name, to=other), signing.Keyring.load(settings.anchors))


class TestModels:
    """A model is loaded only if control signed the checksums of exactly its files."""

    @pytest.fixture
    def ref(self, settings: Settings, state: State) -> DatasetRef:
        """A model that a finished training recorded."""
        return self.trained(settings, state)

    def trained(self, settings: Settings, state: State) -> DatasetRef:
        with state.transaction() as tx:
            replicas.add(
                tx, dataset="nafld-model", version=content_hash(self.files)[:16], site="onprem-fra", bytes=1, files=self.files, facts={},
                intent_id="nafld/train/2013-07-01/manual", at=AS_OF,
            )  # fmt: skip
            outbox.ensure(tx, outbox.Intent.of("nafld", "train", "2013-07-01", "manual", due_at=AS_OF))
            outbox.claim(tx, "nafld/train/2013-07-01/manual", owner="run", at=AS_OF, stale_after=STALE_AFTER)
            ref = DatasetRef("nafld-model", content_hash(self.files)[:16])
            outbox.finish(tx, "nafld/train/2013-07-01/manual", {"outputs": {"nafld-model": str(ref)}}, AS_OF)
        return ref

    files: ClassVar = {"model/model.pkl": "a" * 64}

    def test_what_was_trained_is_signed_once(self, settings: Settings, state: State, ref: DatasetRef) -> None:
        """A second time changes nothing, and the check passes."""
        for at in (AS_OF, AS_OF + timedelta(days=1)):
            signed.model(state, settings, ref, "nafld/train/2013-07-01/manual", at=at)
        with state.reading() as tx:
            row = signatures.get(tx, f"model/{ref}")
            assert row is not None and row.at == AS_OF
            signed.require_model(tx, settings, ref)

    def test_a_version_that_no_training_made_is_not_signed(self, settings: Settings, state: State, ref: DatasetRef) -> None:
        """Control signs what an intent recorded, not what it is told."""
        with pytest.raises(IntegrityError, match="did not make"):
            signed.model(state, settings, DatasetRef("nafld-model", "0" * 16), "nafld/train/2013-07-01/manual", at=AS_OF)

    def test_checksums_that_do_not_give_the_version_are_not_signed(self, settings: Settings, state: State, ref: DatasetRef) -> None:
        """Somebody edited the record before control signed."""
        with state.transaction() as tx:
            tx.execute(update(ReplicaRow).values(files={"model/model.pkl": "b" * 64}))
        with pytest.raises(IntegrityError, match="not what was published"):
            signed.model(state, settings, ref, "nafld/train/2013-07-01/manual", at=AS_OF)

    @pytest.mark.parametrize("how", ["unsigned", "other files", "another key"])
    def test_a_model_that_control_did_not_sign_is_refused_with_one_message(
        self, settings: Settings, state: State, ref: DatasetRef, how: str
    ) -> None:
        """Whichever way it came to rest there."""
        if how == "other files":
            sign_model(settings, ref, {"model/model.pkl": "b" * 64})
        elif how == "another key":
            sign_model(keyed(Settings(home=settings.home / "elsewhere", database_url=settings.state_url)), ref, self.files)
        with state.reading() as tx, pytest.raises(IntegrityError, match="is not a model that control signed") as caught:
            signed.require_model(tx, settings, ref)
        assert len(caught.value.problems) == 1


def test_a_pickle_that_was_planted_is_never_loaded(world: Any) -> None:
    """A whole version with sound checksums of its own, put beside the real ones: it is opened, and not unpickled."""
    context: StepContext = world.context("score")
    with context.storage.draft("shops-model") as draft:
        (draft / "model").mkdir()
        (draft / "model" / "model.pkl").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
        made = context.storage.publish("shops-model", draft, {})
    ref = DatasetRef("shops-model", made.version)
    planted = world.context("score", champion=ref)
    with pytest.raises(IntegrityError, match="is not a model that control signed"):
        signed_model(planted, "champion")
    sign_model(world.settings, ref, dict(made.files))
    assert signed_model(planted, "champion").name == "model"


def test_data_that_was_exchanged_is_not_what_control_sent(world: Any) -> None:
    """A folder under the right version with other files in it, its own manifest in order."""
    ref = world.publish("raw", "x.parquet", pd.DataFrame({"a": [1]}), {})
    context: StepContext = world.context("score", raw=ref)
    assert replace(context, manifests={str(ref): context.manifest(ref)}).open("raw").is_dir()
    with pytest.raises(IntegrityError, match="is not what control sent"):
        replace(context, manifests={str(ref): "0" * 64}).open("raw")


class TestRequests:
    """Who a lifecycle acts for."""

    ADA = Identity("ada", ("data-scientist",), "oidc")

    def order(self, **other: Any) -> LifecycleOrder:
        return LifecycleOrder(**{"workload": "nafld", "as_of": AS_OF, "cause": "manual", "owner": "run-1", "principal": "?", **other})

    def known(
        self, settings: Settings, order: LifecycleOrder, asked: dict[str, Any], request: str | None = None, **how: Any
    ) -> LifecycleOrder:
        at = how.pop("at", datetime.now(UTC))
        return requesting.known(order, asked, settings=settings, request_id=request, scheduled=how.get("scheduled", False), at=at)

    def test_a_request_names_the_person_who_made_it(self, settings: Settings, state: State) -> None:
        """For the one run that uses it, however often that begins."""
        asked = requesting.wanted("nafld", "2013-07-01T00:00:00Z", "manual")
        request = requesting.request(state, self.ADA, asked, at=datetime.now(UTC))
        found = [self.known(settings, self.order(), asked, request) for _ in range(2)]
        with state.reading() as tx:
            assert {principals.name_of(tx, each.principal) for each in found} == {"ada"}
        assert found[0].roles == ("data-scientist",)
        again = self.known(settings, self.order(owner="run-2"), asked, request)
        assert (again.principal, again.roles) == ("prefect-ui", ("operator",))

    @pytest.mark.parametrize("how", ["other parameters", "made up", "late"])
    def test_anything_else_is_whoever_knows_the_password(self, settings: Settings, state: State, how: str) -> None:
        """A request that is copied, guessed or too old names nobody."""
        asked, now = requesting.wanted("nafld", "2013-07-01T00:00:00Z", "manual"), datetime.now(UTC)
        request = requesting.request(state, self.ADA, asked, at=now)
        given = {
            "other parameters": (requesting.wanted("nafld", "2013-07-01T00:00:00Z", "manual", again=True), request, now),
            "made up": (asked, "0" * 32, now),
            "late": (asked, request, now + timedelta(hours=2)),
        }[how]
        assert self.known(settings, self.order(), given[0], given[1], at=given[2]).principal == "prefect-ui"

    def test_what_a_schedule_started_is_the_schedulers(self, settings: Settings) -> None:
        """And what only says so is not."""
        order = self.order(cause="schedule")
        assert self.known(settings, order, {}, scheduled=True).principal == "scheduler"
        assert self.known(settings, order, {}).principal == "prefect-ui"

    def test_a_stored_intent_keeps_the_principal_that_opened_it(self, settings: Settings, state: State) -> None:
        """Gone on with as it is stored; with other parameters it is whoever edited them."""
        own = "nafld/lifecycle/2013-07-01/manual"
        with state.transaction() as tx:
            by = {"principal": principals.id_for(tx, "ada"), "roles": ["data-scientist"]}
            payload = {**self.order().payload, "by": by}
            outbox.ensure(tx, outbox.Intent.of("nafld", "lifecycle", "2013-07-01", "manual", due_at=AS_OF, payload=payload))
        found = self.known(settings, self.order(intent=own), {})
        assert (found.principal, found.roles) == (by["principal"], ("data-scientist",))
        assert self.known(settings, self.order(intent=own, retrain=True), {}).principal == "prefect-ui"

    @pytest.mark.parametrize("intent", [INTENT, "flight_delay/lifecycle/2013-07-01/manual", "nafld/lifecycle/2013-07-01/none"])
    def test_no_other_intent_can_be_taken_for_a_lifecycle(self, settings: Settings, state: State, order: StepOrder, intent: str) -> None:
        """Neither a step's, nor another workload's, nor one that nobody stored."""
        with pytest.raises(GuardRefused, match="no stored lifecycle of `nafld`"):
            self.known(settings, self.order(intent=intent), {})

    def test_the_rules_decide_who_may_start_one(self, settings: Settings, state: State) -> None:
        """A refusal is in the ledger."""
        asked = requesting.wanted("nafld", None, "manual")
        request = requesting.request(state, Identity("eve", ("viewer",), "oidc"), asked, at=datetime.now(UTC))
        with pytest.raises(PolicyDenied, match="may not run `nafld`"):
            self.known(settings, self.order(), asked, request)
        with state.reading() as tx:
            assert [row.body["workload"] for row in ledger.rows(tx, kind="guard-refusal")] == ["nafld"]

    def test_a_request_is_used_once_by_one_of_many(self, state: State) -> None:
        """Whoever comes first has it."""
        now = datetime.now(UTC)
        with state.transaction() as tx:
            request = dispatches.ask(tx, "ada", ["viewer"], "p" * 64, at=now, expires_at=now + timedelta(hours=1))
        found = []
        for number in range(3):
            with state.transaction() as tx:
                found.append(dispatches.answer(tx, request, "p" * 64, run_id=f"run-{number}", at=now) is not None)
        assert found == [True, False, False]


def test_a_promotion_ends_no_intent_but_its_own(settings: Settings, state: State, order: StepOrder) -> None:
    """Started by hand under another intent's id, it is refused, ledgered, and that intent goes on."""
    with acting_as("control", "control"), pytest.raises(GuardRefused, match="is not the promotion asked for"):
        promotion_runs.run("nafld", AS_OF, INTENT, "manual", run_id="run-1", settings=settings)
    with state.reading() as tx:
        assert [row.body["intent"] for row in ledger.rows(tx, kind="guard-refusal")] == [INTENT]
        found = outbox.get(tx, INTENT)
        assert found is not None and (found.state, found.attempt) == ("running", 0)
