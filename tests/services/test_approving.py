"""A restricted model waits for a person; only that person's record, of exactly this version and evaluation, makes it champion."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import event, text, update
from sqlalchemy.engine import Engine

from flows.adapters.models import RegisteredVersion
from flows.adapters.settings import Settings
from flows.core.errors import GuardRefused, IntegrityError, PolicyDenied, TradewindError, UserError
from flows.core.governance.approvals import Subject
from flows.core.placement.model import Principal
from flows.services import approving, lifecycle, promoting
from flows.services.approving import Waiting
from flows.services.declarations import Declarations
from flows.services.identity import Identity
from flows.services.promoting import PromotionOutcome
from flows.store import aliases, approvals, ledger, outbox, principals
from flows.store.database import State
from flows.store.models_governance import ApprovalRow
from tests.services.conftest import SmallWorkload
from tests.services.test_promoting import a_verdict
from tests.services.tiny import TinyDispatcher, tiny_steps
from tests.tickets import keyed

AT = datetime(2026, 12, 1, 8, tzinfo=UTC)
ADA = Identity("ada", ("approver",), "oidc")
BEN = Identity("ben", ("data-scientist",), "oidc")
STARTER = Identity("carla", ("approver", "data-scientist"), "oidc")
PROMOTER = Principal(user="tradewind:promote", roles=("operator",))


class Registry:
    """A model registry in one small file: it outlives the process that writes it."""

    file: ClassVar[Path]

    def __init__(self, _url: str, name: str) -> None:
        self.name = name

    def version(self, version: str) -> RegisteredVersion:
        """Any version stands for the model of its number."""
        return RegisteredVersion(version=version, dataset=f"shops-model@{version}", **dict.fromkeys(_rest()))

    def alias(self, _name: str) -> str | None:
        """What the alias names."""
        return json.loads(self.file.read_text()) if self.file.exists() else None

    def set_alias(self, _name: str, version: str) -> None:
        """Move it."""
        self.file.write_text(json.dumps(version))

    def note(self, _version: str, **_tags: str) -> None:
        """Tags are for people."""


def _rest() -> list[str]:
    return [name for name in RegisteredVersion.__dataclass_fields__ if name not in ("version", "dataset")]


@dataclass
class Clinic:
    """A restricted workload with its state; `at` is the clock."""

    home: Path
    at: datetime = AT
    declarations: Declarations = field(default_factory=lambda: Declarations.load(Settings()))

    def __post_init__(self) -> None:
        self.settings = Settings(home=self.home, database_url=None)
        self.state = State(self.settings.state_url)
        self.state.migrate()
        self.workload = SmallWorkload()
        self.workload.name = "nafld"
        with self.state.transaction() as tx:
            self.starter = principals.id_for(tx, STARTER.name)
        Registry.file = self.home / "alias.json"

    def promote(self, version: str, champion: str | None = None, *, auc: float = 0.75) -> PromotionOutcome:
        """Try to promote a version by its evaluation."""
        ask = approving.approval_of(self.declarations, PROMOTER, started_by=frozenset({self.starter}), links={"evaluate: roc": "roc.html"})
        verdict = a_verdict(version, champion, auc=auc)
        intent = f"nafld/promote/{version}/test"
        return promoting.promote(self.state, self.settings, self.workload, intent, version, verdict, self.at, PROMOTER.user, ask)

    def decide(self, request: str | None, identity: Identity = ADA, *, approve: bool = True, days: int = 7) -> Waiting:
        """Decide a request."""
        assert request is not None
        return approving.decide(
            self.state, self.settings, request, identity=identity, approve=approve, reason="the numbers hold", at=self.at, days=days
        )

    def champion(self) -> str | None:
        """What serves, by the state and by the registry."""
        with self.state.reading() as tx:
            row = aliases.current(tx, "nafld", "champion")
        assert (row.version if row else None) == Registry("", "nafld").alias("champion")
        return row.version if row else None

    def kinds(self) -> list[str]:
        """The kinds of all ledger rows."""
        with self.state.reading() as tx:
            return [row.kind for row in ledger.rows(tx)]


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promoting, "Models", Registry)


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    found = Clinic(tmp_path / "home")
    yield found
    found.state.close()


def test_a_restricted_model_waits_and_its_approval_makes_it_champion(clinic: Clinic) -> None:
    """Request, judgement, use and move are each a row of the ledger."""
    waits = clinic.promote("1")
    assert (waits.outcome, clinic.champion()) == ("waiting", None)
    clinic.decide(waits.request)
    assert clinic.promote("1").outcome == "promoted"
    assert clinic.champion() == "1"
    assert clinic.kinds() == ["approval-request", "approval", "approval-use", "promotion-begun", "promotion"]
    assert approving.waiting(clinic.state, at=AT) == []


def test_trying_again_without_a_record_waits_again_and_is_in_the_ledger(clinic: Clinic) -> None:
    """Whoever resumes the run by hand changes nothing but the record of it."""
    first, second = clinic.promote("1"), clinic.promote("1")
    assert (second.outcome, second.request) == ("waiting", first.request)
    assert clinic.kinds() == ["approval-request", "approval-absence"]


def test_a_model_that_fails_its_gate_asks_nobody(clinic: Clinic) -> None:
    """People judge what the gate let through."""
    assert clinic.promote("1", auc=0.5).outcome == "refused"
    assert clinic.kinds() == ["promotion-refusal"]


def test_a_denial_refuses_for_good(clinic: Clinic) -> None:
    """Nobody can approve afterwards, and trying again gives the refusal."""
    waits = clinic.promote("1")
    clinic.decide(waits.request, approve=False)
    with pytest.raises(UserError, match="denied already"):
        clinic.decide(waits.request)
    assert [clinic.promote("1").outcome for _ in range(2)] == ["refused", "refused"]
    assert clinic.champion() is None


def test_four_eyes(clinic: Clinic) -> None:
    """Who started the training does not approve its model, whatever their role; the attempt is in the ledger."""
    waits = clinic.promote("1")
    with pytest.raises(GuardRefused, match="does not decide it"):
        clinic.decide(waits.request, STARTER)
    assert clinic.kinds()[-1] == "guard-refusal"
    assert clinic.promote("1").outcome == "waiting"


def test_only_approvers_approve(clinic: Clinic) -> None:
    """Policy decides who, and its refusal names nobody in the ledger."""
    waits = clinic.promote("1")
    with pytest.raises(PolicyDenied):
        clinic.decide(waits.request, BEN)
    with clinic.state.reading() as tx:
        assert "ben" not in json.dumps(ledger.rows(tx)[-1].body)
    assert clinic.promote("1").outcome == "waiting"


@pytest.mark.parametrize(
    ("reason", "days", "told"),
    [
        (" ", 7, "`--reason`: a decision needs its reason"),
        (" - ", 7, "`--reason`: ` - ` is too short"),
        ("fine by me", 0, "--expires"),
        ("fine by me", 91, "--expires"),
    ],
)
def test_a_decision_needs_a_reason_and_an_end(clinic: Clinic, reason: str, days: int, told: str) -> None:
    """Each is told by the option that is wrong, once there is such a request."""
    waits = clinic.promote("1").request
    assert waits is not None
    for request, message in ((waits, told), ("nope", "`nope`")):
        with pytest.raises(UserError, match=message):
            approving.decide(clinic.state, clinic.settings, request, identity=ADA, approve=True, reason=reason, at=AT, days=days)


def test_an_approval_is_of_one_evaluation(clinic: Clinic) -> None:
    """The same version judged anew is another request, and the old one waits no more."""
    first = clinic.promote("1")
    second = clinic.promote("1", auc=0.76)
    assert second.request != first.request
    with pytest.raises(UserError, match="has ended"):
        clinic.decide(first.request)
    assert clinic.promote("1", auc=0.76).outcome == "waiting"


def test_an_approval_ends(clinic: Clinic) -> None:
    """What comes after its last day is refused."""
    clinic.decide(clinic.promote("1").request, days=1)
    clinic.at += timedelta(days=1)
    assert clinic.promote("1").outcome == "refused"
    assert clinic.champion() is None


def test_a_request_ends_and_may_be_made_again(clinic: Clinic) -> None:
    """Nobody decided in time: that promotion is refused, another one of the same model asks anew."""
    waits = clinic.promote("1")
    clinic.at += timedelta(days=14)
    with pytest.raises(UserError, match="expired"):
        clinic.decide(waits.request)
    assert clinic.promote("1").outcome == "refused"
    assert clinic.promote("2").outcome == "waiting"


def test_an_approver_who_lost_the_role_carries_nothing(clinic: Clinic) -> None:
    """The role counts when the alias moves, not only when the record was made."""
    clinic.decide(clinic.promote("1").request)
    without = clinic.declarations.roles.model_copy(update={"groups": {}})
    clinic.declarations = replace(clinic.declarations, roles=without)
    outcome = clinic.promote("1")
    assert (outcome.outcome, outcome.reasons) == ("refused", ("the approver may not approve it any more",))


def test_a_record_made_by_hand_carries_nothing(clinic: Clinic) -> None:
    """A denial that was turned into an approval in the database differs from its ledger row."""
    clinic.decide(clinic.promote("1").request, approve=False)
    with clinic.state.transaction() as tx:
        tx.execute(update(ApprovalRow).values(approved=True))
    with pytest.raises(IntegrityError, match="not what the ledger holds"):
        clinic.promote("1")
    assert clinic.champion() is None


def test_a_decision_wakes_the_lifecycle_that_waits(clinic: Clinic) -> None:
    """Its intent, put off until the request ends, is due at once."""
    waits = clinic.promote("1")
    own = outbox.Intent.of("nafld", "lifecycle", "1", "test", due_at=AT)
    with clinic.state.transaction() as tx:
        outbox.ensure(tx, own)
        due = approvals.hold(tx, "nafld/promote/1/test", lifecycle=own.id, run="run-1", at=AT)
        assert due == AT + timedelta(days=14)
        outbox.postpone(tx, own.id, due, AT)
        assert outbox.due(tx, AT) == []
    clinic.decide(waits.request)
    with clinic.state.reading() as tx:
        assert [row.id for row in outbox.due(tx, AT)] == [own.id]
        assert approvals.run_of(tx, own.id) == "run-1"


def killed_at(statement: int, act: Callable[[], Any]) -> bool:
    """Do it in a process that is killed before its n-th statement to the database; whether it came that far."""
    child = os.fork()
    if child == 0:
        seen = 0

        def count(*_: Any) -> None:
            nonlocal seen
            seen += 1
            if seen == statement:
                os.kill(os.getpid(), signal.SIGKILL)

        event.listen(Engine, "before_cursor_execute", count)
        event.listen(Engine, "commit", count)
        try:
            act()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the parent fails by the exit code
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_a_kill_at_any_statement_of_approving_loses_nothing(tmp_path: Path) -> None:
    """The request waits as before, or is approved; never half of it."""
    kills = 0
    while True:
        clinic = Clinic(tmp_path / str(kills))
        request = clinic.promote("1").request
        clinic.state.close()
        died = killed_at(kills + 1, lambda clinic=clinic, request=request: clinic.decide(request))  # type: ignore[misc]
        with clinic.state.reading() as tx:
            assert (tx.scalar(text("SELECT count(*) FROM approvals")) == 1) == ("approval" in [row.kind for row in ledger.rows(tx)])
        if "approval" not in clinic.kinds():
            clinic.decide(request)
        assert clinic.promote("1").outcome == "promoted"
        assert ledger.verify(clinic.state, None).ok
        clinic.state.close()
        if not died:
            break
        kills += 1
    assert kills > 10


def test_a_kill_at_any_statement_of_the_promotion_loses_nothing(tmp_path: Path) -> None:
    """Whatever was left, the next try ends with the approved version as champion, once."""
    kills = 0
    while True:
        clinic = Clinic(tmp_path / str(kills))
        clinic.decide(clinic.promote("1").request)
        clinic.state.close()
        died = killed_at(kills + 1, lambda clinic=clinic: clinic.promote("1"))  # type: ignore[misc]
        promoting.mend(clinic.state, clinic.settings, clinic.at)
        assert clinic.promote("1").outcome == "promoted"
        assert (clinic.champion(), clinic.kinds().count("promotion"), clinic.kinds().count("approval-use")) == ("1", 1, 1)
        clinic.state.close()
        if not died:
            break
        kills += 1
    assert kills > 10


class Office(RuleBasedStateMachine):
    """Versions come, people decide or do not, time passes, runs are resumed in any order."""

    @initialize()
    def open(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(promoting, "Models", Registry)
        self.folder = tempfile.TemporaryDirectory()
        self.clinic = Clinic(Path(self.folder.name) / "home")
        self.made: list[tuple[str, str | None]] = []
        self.approved: dict[str, datetime] = {}
        self.denied: set[str] = set()
        self.requests: dict[str, str] = {}
        self.carried: set[str] = set()

    @rule()
    def new_version(self) -> None:
        version = str(len(self.made) + 1)
        self.made.append((version, self.clinic.champion()))
        outcome = self.clinic.promote(*self.made[-1])
        assert outcome.outcome == "waiting" and outcome.request
        self.requests[version] = outcome.request

    @precondition(lambda self: self.made)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        version, against = data.draw(st.sampled_from(self.made))
        before = self.clinic.champion()
        outcome = self.clinic.promote(version, against)
        valid = version in self.approved and self.clinic.at < self.approved[version]
        if before != self.clinic.champion():
            assert (self.clinic.champion(), outcome.outcome, valid) == (version, "promoted", True)
            self.carried.add(version)
        elif outcome.outcome == "waiting":
            assert version not in self.approved and version not in self.denied

    @precondition(lambda self: self.made)
    @rule(data=st.data(), approve=st.booleans(), days=st.integers(1, 10), by=st.sampled_from([ADA, BEN, STARTER]))
    def decide(self, data: st.DataObject, approve: bool, days: int, by: Identity) -> None:
        version, _ = data.draw(st.sampled_from(self.made))
        try:
            self.clinic.decide(self.requests[version], by, approve=approve, days=days)
        except TradewindError:
            return
        assert by is ADA and version not in self.approved and version not in self.denied
        if approve:
            self.approved[version] = self.clinic.at + timedelta(days=days)
        else:
            self.denied.add(version)

    @rule(days=st.integers(1, 8))
    def time_passes(self, days: int) -> None:
        self.clinic.at += timedelta(days=days)

    @invariant()
    def champion_was_approved(self) -> None:
        if hasattr(self, "clinic"):
            champion = self.clinic.champion()
            assert champion is None or (champion in self.carried and champion not in self.denied)

    def teardown(self) -> None:
        if hasattr(self, "clinic"):
            assert ledger.verify(self.clinic.state, None).ok
            self.clinic.state.close()
            self.folder.cleanup()
            self.patch.undo()


TestOffice = Office.TestCase
TestOffice.settings = settings(max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck))


class Asking(TinyDispatcher):
    """Promotes if policy and the records let it, as the run in control does; the model registry is not asked."""

    def _promote(self, parameters: Mapping[str, Any]) -> None:
        declarations, own, now = Declarations.load(self.settings), parameters["intent_id"], datetime.now(UTC)
        ask = approving.approval_of(declarations, PROMOTER)
        with State(self.settings.state_url).transaction() as tx:
            ruling = ask(tx, own, Subject("nafld", "1", "nafld-model@1", "e" * 64), now)
            if ruling.waits is not None:
                outbox.postpone(tx, own, now, now)
                return
            assert not ruling.reasons
            approvals.close(tx, own, now)
        super()._promote(parameters)


def test_a_lifecycle_waits_and_goes_on_behind_what_is_done(tmp_path: Path) -> None:
    """It ends as waiting with a page to judge by, waits again when it is only resumed, and after the approval runs what is left."""
    settings = keyed(Settings(home=tmp_path / "home", database_url=None))
    state = State(settings.state_url)
    state.migrate()

    def go(owner: str) -> tuple[lifecycle.Report, list[str]]:
        dispatcher = Asking(settings)
        order = lifecycle.LifecycleOrder("nafld", datetime(2013, 3, 15, tzinfo=UTC), "manual", owner, "prefect-ui", urgent=True)
        report = asyncio.run(lifecycle.run(order, settings=settings, dispatcher=dispatcher))
        return report, [deployment.partition("/")[0] for deployment in dispatcher.ran if not deployment.startswith("transfer/")]

    with tiny_steps():
        first, ran = go("run-1")
        assert (first.state, ran[-1]) == ("waiting", "promote")
        assert first.approval is not None and f"tradewind approve {first.approval['request']}" in first.approval["page"]
        second, ran = go("run-1")
        assert (second.state, ran) == ("waiting", ["promote"])
        with state.reading() as tx:
            row = outbox.get(tx, "nafld/lifecycle/2013-03-15/manual")
            assert row is not None and (row.state, row.attempt) == ("open", 0) and row.due_at > datetime.now(UTC) + timedelta(days=13)
        approving.decide(state, settings, first.approval["request"], identity=ADA, approve=True, reason="it holds", at=datetime.now(UTC))
        third, ran = go("run-2")
        assert (third.state, ran) == ("done", ["promote", "score", "watch"])
    state.close()
