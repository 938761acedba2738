"""Stored decisions are decided again from what was stored with them, and from nothing else."""

from __future__ import annotations

import asyncio
import json
import shutil
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import update

from flows.adapters.catalog import load_catalog
from flows.adapters.estate import load_estate
from flows.adapters.policy import CedarPolicy
from flows.adapters.settings import Settings
from flows.core.errors import IntegrityError, UserError
from flows.core.governance.labels import Catalog
from flows.core.placement import Conditions, Estate, Request, documents, place
from flows.core.placement.hashing import content_form
from flows.services import lifecycle
from flows.services.lifecycle import LifecycleOrder
from flows.services.replaying import Replay, Replayed, change_between, restored, totals
from flows.store import decisions
from flows.store.database import State
from flows.store.models import DocumentRow
from tests.core.placement.strategies import World, worlds
from tests.services.tiny import TinyDispatcher, tiny_steps
from tests.tickets import keyed

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "placement"
POLICIES = ROOT / "deployments" / "policies"
AT = datetime(2026, 1, 5, 7, tzinfo=UTC)
ADA = {"user": "ada", "roles": ["data-scientist"]}
TRAIN: dict[str, Any] = {"workload": "nafld", "step": "train", "requested_by": ADA, "runtime": {"p50_hours": 2, "p90_hours": 3}}
SERVE: dict[str, Any] = {**TRAIN, "step": "serve", "latency": {"from": ["FR", "DE"], "max_ms": 60, "percentile": 99}}


@pytest.fixture
def state(tmp_path: Path) -> State:
    found = State(f"sqlite:///{tmp_path / 'state.db'}")
    found.migrate()
    return found


def store(
    state: State, request: dict[str, Any], *, at: datetime = AT, conditions: dict[str, Any] | None = None, policies: Path = POLICIES
) -> dict[str, Any]:
    """Decide over the golden estate, and keep the decision with its inputs."""
    estate, catalog = load_estate(GOLDEN / "estate"), load_catalog(GOLDEN / "catalog.yaml")
    policy = CedarPolicy.load(policies, estate.blocs)
    asked, moment = Request.model_validate(request), Conditions.model_validate(conditions or {})
    body = place(asked, estate, policy, catalog, moment, at).to_json()
    with state.transaction() as tx:
        decisions.save(tx, body, {**documents(asked, estate, catalog, moment), "policies": policy.document}, at=at)
    return body


def replayed(state: State, **folders: Path) -> list[Replayed]:
    """All of them."""
    return list(Replay(state, **folders).run())


def forbidding(tmp_path: Path) -> Path:
    """The shipped rules and one that forbids every training."""
    folder = shutil.copytree(POLICIES, tmp_path / "policies")
    (folder / "new.cedar").write_text('@id("no-training")\nforbid (principal, action, resource) when { context.step == "train" };\n')
    return folder


def test_every_decision_comes_out_byte_for_byte(state: State) -> None:
    """Placed or not, with latency, reservations, a cool-down, estimates, or a narrow window."""
    store(state, TRAIN)
    store(state, {**TRAIN, "budget_usd": 0})
    store(state, SERVE)
    store(state, {**TRAIN, "interruptible": True, "checkpoint_minutes": 10, "window": {"deadline": "2026-01-06T07:00:00Z"}})
    store(state, {**TRAIN, "environment": "prod", "outputs": [{"name": "m", "size_gb": "0.5", "home": "clinic-fra", "keep_days": 30}]})
    estimate = {"workload": "nafld", "step": "train", "p50_hours": 1, "p90_hours": 2, "runs": 23}
    reserved = {"pool": "clinic-fra-k8s", "use": {"nodes": 1}, "from": "2026-01-05T08:00:00Z", "until": "2026-01-05T09:00:00Z"}
    moment = {"runtimes": [estimate], "reservations": [reserved], "cooling": {"aws-frankfurt-ecs": None}, "cordoned": ["aws-virginia"]}
    store(state, {key: value for key, value in TRAIN.items() if key != "runtime"}, conditions=moment)
    rows = replayed(state)
    assert [(row.change, row.reproduced) for row in rows] == [("same", True)] * 6
    assert all(row.after == row.before for row in rows)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(worlds())
def test_whatever_is_stored_is_read_back_as_the_same_content(world: World) -> None:
    """Requests, estates, catalogs and conditions alike."""
    for model, read in zip((Request, Estate, Catalog, Conditions), world.parts(), strict=True):
        document = json.loads(json.dumps(content_form(read)))
        assert content_form(restored(model, document)) == document


def test_the_oldest_comes_first_and_times_narrow(state: State) -> None:
    """`since` is included, `until` is not."""
    days = [AT + timedelta(hours=hour) for hour in range(3)]
    stored = [store(state, TRAIN, at=at)["decision_id"] for at in reversed(days)][::-1]
    assert [row.before["decision_id"] for row in Replay(state).run()] == stored
    assert [row.before["decision_id"] for row in Replay(state).run(days[1], days[2])] == [stored[1]]


def test_another_rule_loses_a_place_and_says_why(state: State, tmp_path: Path) -> None:
    """Forbidden everywhere: the run counts as lost, with its USD."""
    before = store(state, TRAIN)
    (row,) = replayed(state, policies=forbidding(tmp_path))
    assert (row.change, row.reproduced) == ("lost", False)
    assert row.after is not None and "no-training" in row.after["summary"]
    found = totals([row])
    assert (found.usd_before, found.usd_lost) == (0, Decimal(str(before["chosen"]["usd"]["total"])))


def test_dearer_offers_change_usd_but_not_the_stored_estate(state: State, tmp_path: Path) -> None:
    """The place stays where nothing else is allowed; what is stored is not touched."""
    store(state, {**TRAIN, "restrict": {"pools": ["clinic-fra-k8s"]}})
    folder = shutil.copytree(GOLDEN / "estate", tmp_path / "estate")
    table = (folder / "offers.csv").read_text().splitlines()
    place_of = table[0].split(",").index("Price")
    dearer = [line.split(",") for line in table[1:]]
    for cells in dearer:
        cells[place_of] = str(float(cells[place_of]) * 2)
    (folder / "offers.csv").write_text("\n".join([table[0], *(",".join(cells) for cells in dearer)]) + "\n")
    (row,) = replayed(state, estate=folder)
    found = totals([row])
    assert row.change == "repriced"
    assert found.usd_after > found.usd_before > 0
    assert replayed(state)[0].reproduced


def test_a_looser_rule_gains_a_place(state: State, tmp_path: Path) -> None:
    """What was forbidden everywhere could run now; its USD count apart."""
    store(state, TRAIN, policies=forbidding(tmp_path))
    (row,) = replayed(state, policies=POLICIES)
    assert row.change == "gained"
    found = totals([row])
    assert found.usd_gained > 0 and found.usd_after == 0
    assert replayed(state)[0].reproduced


def test_an_estate_that_lacks_a_site_fails_that_decision_only(state: State, tmp_path: Path) -> None:
    """Its output has its home there; the other decision goes on."""
    store(state, {**TRAIN, "outputs": [{"name": "m", "size_gb": 1, "home": "host-oslo"}]})
    store(state, TRAIN, at=AT + timedelta(hours=1))
    folder = shutil.copytree(GOLDEN / "estate", tmp_path / "estate")
    for name in ("sites.yaml", "pools.yaml", "offers.csv", "egress.csv", "latency.csv"):
        (folder / name).write_text((folder / name).read_text().replace("host-oslo", "host-bergen"))
    failed, other = replayed(state, estate=folder)
    assert failed.change == "failed" and "host-oslo" in failed.problem
    assert other.after is not None


def test_a_decision_without_its_inputs_cannot_be_made_again(state: State) -> None:
    """It says which are missing, and nothing is guessed."""
    body = {"decision_id": "d" * 64, "at": "2026-01-05T08:00:00Z", "inputs": {"estate": "e"}, "chosen": None, "summary": ""}
    with state.transaction() as tx:
        decisions.save(tx, body, {"request": {"workload": "nafld", "step": "train"}}, at=AT)
    (row,) = replayed(state)
    assert (row.change, row.reproduced) == ("failed", False)
    assert "it does not name its request, catalog, conditions, policies" in row.problem


def test_a_decision_of_another_engine_is_compared_in_all_but_its_name(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal bytes are promised per engine."""
    monkeypatch.setattr("flows.core.placement.hashing.TRADEWIND", "0.0.9")
    before = store(state, TRAIN)
    monkeypatch.undo()
    (row,) = replayed(state)
    assert row.after is not None and row.after["decision_id"] != before["decision_id"]
    assert row.reproduced


def test_a_stored_decision_that_says_something_else_is_not_reproduced(state: State) -> None:
    """One cent is enough."""
    forged = json.loads(json.dumps(store(state, TRAIN)))
    with state.transaction() as tx:
        forged["chosen"]["usd_p90"] += 0.01
        tx.execute(update(decisions.DecisionRow).values(body=forged))
    (row,) = replayed(state)
    assert not row.reproduced


def test_an_input_that_was_changed_is_never_used(state: State) -> None:
    """Its hash no longer fits."""
    store(state, TRAIN)
    with state.transaction() as tx:
        tx.execute(update(DocumentRow).values(body=DocumentRow.body + " "))
    with pytest.raises(IntegrityError, match="was changed"):
        replayed(state)


def test_wrong_folders_are_told_before_anything_is_decided(state: State, tmp_path: Path) -> None:
    """As everywhere."""
    with pytest.raises(UserError, match="no such folder"):
        Replay(state, policies=tmp_path / "nowhere")
    with pytest.raises(UserError, match="no such folder"):
        Replay(state, estate=tmp_path / "nowhere")


def test_a_run_counts_once_by_its_last_decision(state: State) -> None:
    """It was placed again after its place failed: what it costs is the second place."""
    store(state, {**TRAIN, "intent_id": "nafld/train/2026-01-05/test"})
    cooling = {"cooling": {"clinic-fra-k8s": None}}
    last = store(state, {**TRAIN, "intent_id": "nafld/train/2026-01-05/test"}, at=AT + timedelta(minutes=5), conditions=cooling)
    found = totals(replayed(state))
    assert (found.decisions, found.reproduced, found.runs, dict(found.changes)) == (2, 2, 1, {"same": 1})
    assert found.usd_before == found.usd_after == Decimal(str(last["chosen"]["usd"]["total"]))


def test_a_whole_lifecycle_comes_out_byte_for_byte(tmp_path: Path) -> None:
    """Over the shipped declarations, with its transfers, replicas and reservations."""
    found = keyed(Settings(home=tmp_path / "home"))
    state = State(found.state_url)
    state.migrate()
    order = LifecycleOrder("flight_delay", datetime(2013, 7, 1, tzinfo=UTC), "manual", "run-1", "scheduler")
    with tiny_steps():
        asyncio.run(lifecycle.run(order, settings=found, dispatcher=TinyDispatcher(found)))
    rows = replayed(state)
    assert {"ingest", "train", "transfer"} <= {row.request["step"] for row in rows}
    assert all(row.reproduced for row in rows)


@pytest.mark.parametrize(
    ("new", "change"),
    [
        ({}, "same"),
        ({"offer": "large"}, "moved"),
        ({"pool": "b", "start": "later"}, "moved"),
        ({"spot": True}, "moved"),
        ({"start": "later", "usd": {"total": 2}}, "shifted"),
        ({"usd": {"total": 2}}, "repriced"),
    ],
)
def test_what_changed_is_named_by_what_weighs_most(new: dict[str, Any], change: str) -> None:
    """Place, then time, then price."""
    old = {"pool": "a", "offer": "small", "spot": False, "start": "now", "usd": {"total": 1}}
    assert change_between({"chosen": old}, {"chosen": {**old, **new}}) == change
    assert change_between({"chosen": None}, {"chosen": old}) == "gained"
    assert change_between({"chosen": old}, {"chosen": None}) == "lost"
    assert change_between({"chosen": None}, {"chosen": None}) == "same"
