"""A site that lost its proof gets nothing new: no decision, no run, no data; and what is on record of each check."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.adapters.settings import PROJECT_ROOT, Settings
from flows.core.errors import Infeasible, Unavailable, UserError
from flows.core.governance.proofs import Check, Finding, Outcome
from flows.core.placement import Conditions
from flows.services import lifecycle, placing, proving
from flows.services.declarations import Declarations
from flows.services.dispatching import Outcome as Ended
from flows.services.lifecycle import LifecycleOrder, Report
from flows.services.local_run import acting_as
from flows.services.replaying import Replay
from flows.services.running import StepOrder, run_step
from flows.store import decisions, ledger, outbox, proofs, sites
from flows.store.database import State
from tests.services.tiny import TinyDispatcher, tiny_steps
from tests.tickets import keyed, sent

AS_OF = datetime(2013, 7, 1, tzinfo=UTC)
AT = datetime(2026, 1, 5, 8, tzinfo=UTC)
HOME = "gcp-us-central1"
INTENT = "nafld/ingest/2013-07-01/manual"
STRICT = "holds_hours: 36\ndemands: [{profile: embedded, sites: [aws-*], checks: [secrets, encryption-at-rest]}]\n"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    declared = shutil.copytree(PROJECT_ROOT / "deployments", tmp_path / "deployments", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    found = keyed(Settings(home=tmp_path / "home", deployments=declared))
    State(found.state_url).migrate()
    return found


@pytest.fixture
def state(settings: Settings) -> State:
    return State(settings.state_url)


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    with tiny_steps():
        yield


def found(site: str, outcome: Outcome, check: Check = "secrets") -> Finding:
    return Finding(site, check, outcome, "seen", "expected", "fix", {"seen": outcome})


def put(state: State, settings: Settings, *findings: Finding, at: datetime | None = None) -> proving.Summary:
    return proving.record(state, settings, findings, principal="ada", at=at or datetime.now(UTC))


def lost(state: State, settings: Settings, at: datetime) -> dict[str, dict[str, str]]:
    with state.reading() as tx:
        return proving.unproven(tx, settings, Declarations.load(settings), at)


def run(settings: Settings, dispatcher: TinyDispatcher, *, owner: str = "run-1", **wanted: Any) -> Report:
    order = LifecycleOrder("flight_delay", AS_OF, "manual", owner, "scheduler", **wanted)
    return asyncio.run(lifecycle.run(order, settings=settings, dispatcher=dispatcher))


def newest_training(state: State) -> dict[str, Any]:
    with state.reading() as tx:
        told = [row.body["decision"] for row in ledger.rows(tx, kind="decision") if row.body["step"] == "train"]
        decision = decisions.get(tx, told[-1])
    assert decision is not None
    return decision


def test_a_fresh_embedded_stack_is_eligible_everywhere(state: State, settings: Settings) -> None:
    """As shipped nothing was proved yet and nothing is kept away; the conditions of decisions are what they were."""
    assert lost(state, settings, AT) == {}
    run(settings, TinyDispatcher(settings))
    with state.reading() as tx:
        stored = decisions.document(tx, newest_training(state)["inputs"]["conditions"])
    assert stored is not None and "unproven" not in stored


def test_a_site_that_lost_its_proof_is_in_no_new_decision(state: State, settings: Settings) -> None:
    """The next training goes elsewhere and says why not there; proved again, it goes there again. Each decision replays to the byte."""
    run(settings, TinyDispatcher(settings))
    usual = str(newest_training(state)["chosen"]["site"])
    put(state, settings, found(usual, "failed"))
    run(settings, TinyDispatcher(settings), owner="run-2", tag="again", steps=("train",))
    decision = newest_training(state)
    assert decision["chosen"]["site"] != usual
    reasons = {reason["rule"] for row in decision["rejected"] if row["site"] == usual for reason in row["reasons"]}
    assert "unproven" in reasons
    put(state, settings, found(usual, "proved"))
    run(settings, TinyDispatcher(settings), owner="run-3", tag="once-more", steps=("train",))
    assert newest_training(state)["chosen"]["site"] == usual
    rows = list(Replay(state).run())
    assert len(rows) > 3 and all(row.reproduced for row in rows)


def test_a_workload_whose_home_lost_its_proof_ends_with_the_reason(state: State, settings: Settings) -> None:
    """Its steps may run nowhere else: nothing starts, and the refusal names the proof."""
    put(state, settings, found(HOME, "failed"))
    dispatcher = TinyDispatcher(settings)
    with pytest.raises(Infeasible, match="unproven"):
        run(settings, dispatcher)
    assert dispatcher.ran == []


def test_a_step_that_was_sent_before_the_loss_goes_elsewhere(state: State, settings: Settings) -> None:
    """The worker there refuses it, and the lifecycle places it once more; no pool is blamed."""

    class JustThen(TinyDispatcher):
        closed = ""

        async def run(self, deployment: str, parameters: Mapping[str, Any], *, key: str) -> Ended:
            if deployment.startswith("train/") and not self.closed:
                self.closed = str(newest_training(state)["chosen"]["site"])
                put(state, settings, found(self.closed, "failed"))
            return await super().run(deployment, parameters, key=key)

    dispatcher = JustThen(settings)
    run(settings, dispatcher, steps=("ingest", "materialize", "train"))
    with state.reading() as tx:
        (row,) = ledger.rows(tx, kind="failover")
        assert "has no proof of secrets" in row.body["why"]
        assert sites.cooling(tx, datetime.now(UTC)) == {}
        done = outbox.get(tx, "flight_delay/train/2013-07-01/manual")
        assert done is not None and done.result is not None and done.result["site"] != dispatcher.closed


def test_a_worker_begins_nothing_at_a_site_that_lost_its_proof(state: State, settings: Settings) -> None:
    """Whatever was decided before; once it is proved again, the same order runs."""
    decision = placing.place_step(state, settings, placing.PlaceOrder("nafld", "ingest", INTENT, {}, "scheduler"), at=datetime.now(UTC))
    with state.transaction() as tx:
        outbox.ensure(tx, outbox.Intent.of("nafld", "ingest", "2013-07-01", "manual", due_at=AS_OF))
        outbox.claim(tx, INTENT, owner="run", at=datetime.now(UTC), stale_after=timedelta(days=1))
    order = StepOrder("ingest", "nafld", AS_OF, INTENT, decision["decision_id"], {}, "run-1")
    put(state, settings, found("onprem-fra", "failed"))
    with acting_as("onprem-fra", "onprem-fra-k8s"):
        with pytest.raises(Unavailable, match=r"(?s)`onprem-fra` has no proof of secrets, which failed at .*doctor --security"):
            run_step(sent(settings, order, "onprem-fra-k8s"), settings=settings)
        put(state, settings, found("onprem-fra", "proved"))
        with state.transaction() as tx:
            outbox.claim(tx, INTENT, owner="run", at=datetime.now(UTC), stale_after=timedelta(days=1))
        assert run_step(sent(settings, order, "onprem-fra-k8s"), settings=settings)["site"] == "onprem-fra"


def test_a_proof_goes_stale_by_the_clock_alone(state: State, settings: Settings) -> None:
    """Nobody needs to notice: after its hours it no longer counts, and a check that could not be made does not prolong it."""
    (settings.deployments / "security.yaml").write_text(STRICT)
    wanted = [
        found(site, "proved", check)
        for site in ("aws-us-east-1", "aws-eu-central-1", "aws-eu-north-1")
        for check in ("secrets", "encryption-at-rest")
    ]
    assert put(state, settings, *wanted, at=AT).lost == {}  # type: ignore[arg-type]
    later = AT + timedelta(hours=30)
    assert put(state, settings, found("aws-us-east-1", "unchecked"), at=later).lost == {}
    put(state, settings, *(one for one in wanted if one.site != "aws-us-east-1"), at=later)
    stale = AT + timedelta(hours=36)
    assert lost(state, settings, stale - timedelta(seconds=1)) == {}
    why = "stale since 2026-01-06T20:00:00Z"
    assert lost(state, settings, stale) == {"aws-us-east-1": {"encryption-at-rest": why, "secrets": why}}


def test_what_was_never_proved_is_refused_where_it_is_demanded(state: State, settings: Settings) -> None:
    """Sites that nothing is demanded of are not touched."""
    (settings.deployments / "security.yaml").write_text(STRICT)
    found_ = lost(state, settings, AT)
    assert set(found_) == {"aws-us-east-1", "aws-eu-central-1", "aws-eu-north-1"}
    assert set(found_["aws-eu-north-1"].values()) == {"was never proved"}


def test_the_cloud_profile_demands_all_of_its_cloud_sites_as_shipped(state: State, settings: Settings) -> None:
    """And without a declaration it goes nowhere: to take the file away does not open a site."""
    cloud = settings.model_copy(update={"profile": "cloud"})
    found_ = lost(state, cloud, AT)
    assert set(found_) == {site.id for site in Declarations.load(settings).estate.sites if site.cloud in ("aws", "gcp")}
    assert all(len(checks) == 4 for checks in found_.values())
    (settings.deployments / "security.yaml").unlink()
    with pytest.raises(UserError, match=r"security\.yaml: no such file"):
        lost(state, cloud, AT)
    assert lost(state, settings, AT) == {}


def test_each_recording_is_in_the_ledger_with_its_evidence(state: State, settings: Settings) -> None:
    """One row a site: each outcome, the hash of what was seen, until when it holds, whether it stands; nothing that was seen itself."""
    put(state, settings, found("onprem-fra", "proved"), found("onprem-fra", "failed", "no-public-access"), found(HOME, "unchecked"), at=AT)
    with state.reading() as tx:
        rows = {row.body["site"]: row.body["checks"] for row in ledger.rows(tx, kind="security-proof")}
        assert [(one.site, one.check, one.outcome) for one in proofs.all_(tx)] == [
            (HOME, "secrets", "unchecked"),
            ("onprem-fra", "no-public-access", "failed"),
            ("onprem-fra", "secrets", "proved"),
        ]
    proved = rows["onprem-fra"]["secrets"]
    assert proved == {
        "outcome": "proved",
        "counts": True,
        "evidence": found("onprem-fra", "proved").evidence,
        "valid_until": "2026-01-06T20:00:00Z",
    }
    assert "seen" not in json.dumps(rows)
    assert ledger.verify(state, None).ok


def test_the_embedded_profile_says_what_is_not_provable_there(state: State, settings: Settings) -> None:
    """One finding for each site and check: files are exempt and say so, volumes cannot be seen, no server was searched."""
    findings = proving.prove(settings, at=AT)
    placed = {pool.site for pool in Declarations.load(settings).estate.pools if pool.offers}
    assert sorted((one.site, one.check) for one in findings) == sorted((site, check) for site in placed for check in proving.rules.CHECKS)
    by = {one.check: one for one in findings if one.site == "onprem-fra"}
    assert {check: one.outcome for check, one in by.items()} == {
        "encryption-at-rest": "unchecked",
        "no-public-access": "unchecked",
        "tls-in-transit": "proved",
        "secrets": "unchecked",
    }
    assert "not provable here" in by["encryption-at-rest"].observed and "attested" in by["encryption-at-rest"].fix
    assert by["tls-in-transit"].observed == "`sqlite`: exempt: a file of this machine"
    assert by["secrets"].observed == "not all was searched: no Prefect server is named"


def test_an_attestation_counts_until_its_day(state: State, settings: Settings) -> None:
    """Declared by compliance, with the day on which it ends."""
    path = settings.deployments / "security.yaml"
    word = "attested: [{check: encryption-at-rest, by: security-officer, saw: LUKS2, on: 2026-01-01, until: 2026-01-05}]"
    path.write_text(path.read_text().replace("{site: onprem-fra, namespace: tradewind}", f"{{site: onprem-fra, {word}}}"))

    def outcome(at: datetime) -> str:
        return next(one.outcome for one in proving.prove(settings, at=at) if (one.site, one.check) == ("onprem-fra", "encryption-at-rest"))

    assert outcome(AT) == "proved"
    assert outcome(AT + timedelta(days=1)) == "unchecked"


def test_a_secret_in_the_declarations_ends_the_proof_of_every_site(state: State, settings: Settings) -> None:
    """They are shared. The scheduled check finds it, records it, and names the place but not the secret."""
    (settings.deployments / "workloads" / "note.yml").write_text("password: aVeryOwnOne7\n")
    summary = proving.govern(state, settings, at=AT)
    assert summary is not None and set(summary.lost) == {pool.site for pool in Declarations.load(settings).estate.pools if pool.offers}
    told = [one for one in proving.prove(settings, at=AT) if one.check == "secrets"]
    assert {one.observed for one in told} == {"deployments/workloads/note.yml:1: a value under `password`"}
    assert "aVeryOwnOne7" not in repr(told)
    (settings.deployments / "workloads" / "note.yml").unlink()
    again = proving.govern(state, settings, at=AT + timedelta(hours=1))
    assert again is not None and again.lost == summary.lost, "what could not be searched does not end a failure"


def test_a_leak_of_one_pool_counts_for_its_site_alone(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the orchestrator holds for a pool is that site's; what belongs to none is everyone's."""
    leaks = [proving.secrets.Leak("deployment `train`: `env.X`", "onprem-fra-k8s", "a value in the clear")]
    told = proving.rules.SiteSecurity(site="onprem-fra")
    here = proving._secrets(told, {"onprem-fra-k8s"}, leaks, "", cluster=False)
    there = proving._secrets(proving.rules.SiteSecurity(site=HOME), {"gcp-us-central1-vertex"}, leaks, "", cluster=False)
    assert (here.outcome, there.outcome) == ("failed", "proved")


BROKEN: list[tuple[str, str]] = [
    ("holds_hours: 0\ndemands: []\n", "holds_hours"),
    ("holds_hours: 36\ndemands: [{profile: cloud, sites: [aws-us-east-9]}]\n", "no site `aws-us-east-9`"),
    ("holds_hours: 36\ndemands:\n- {profile: cloud, sites: ['gcp-*', 'AWS-*']}\n", r"yaml:3: .*`AWS-\*` fits no site; expected one of"),
    ("holds_hours: 36\ndemands: []\nsites: [{site: ham}]\n", "no site `ham`"),
    ("holds_hours: 36\ndemands: [{profile: cloud, sites: ['*'], checks: [tls]}]\n", "`tls` is not allowed"),
    ("holds_hours: 36\ndemands: []\nsites: [{site: onprem-fra, endpoints: ['https://x']}]\n", r"sites\[0\].endpoints\[0\]"),
    ("holds_hours: 36\ndemands: []\nsites: [{site: onprem-fra}, {site: onprem-fra}]\n", "declared twice"),
]


@pytest.mark.parametrize(("text", "told"), BROKEN)
def test_a_wrong_declaration_is_told_and_nothing_is_placed_by_it(settings: Settings, text: str, told: str) -> None:
    """With file, line and field."""
    (settings.deployments / "security.yaml").write_text(text)
    with pytest.raises(UserError, match=told):
        Declarations.load(settings)


def test_a_decision_holds_what_was_unproven_when_it_was_made(state: State, settings: Settings) -> None:
    """The stored conditions are the ones that it was made in: the moment can be read back, years later."""
    put(state, settings, found("aws-eu-north-1", "failed"), at=AT)
    placing.place_step(state, settings, placing.PlaceOrder("nafld", "ingest", INTENT, {}, "scheduler"), at=AT + timedelta(hours=1))
    with state.reading() as tx:
        (row,) = ledger.rows(tx, kind="decision")
        stored = decisions.document(tx, row.body["inputs"]["conditions"])
    assert stored is not None and stored["unproven"] == {"aws-eu-north-1": {"secrets": "failed at 2026-01-05T08:00:00Z"}}
    assert Conditions.model_validate({"unproven": stored["unproven"]}).unproven == stored["unproven"]
