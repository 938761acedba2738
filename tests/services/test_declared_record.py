"""Policies, labels and applies are on record when they change, and only then."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.adapters.settings import Settings
from flows.core.governance.chain import GENESIS
from flows.services import declared_record, lifecycle
from flows.services.lifecycle import LifecycleOrder
from flows.store import ledger
from flows.store.database import State
from flows.store.models import LedgerRow
from tests.services.tiny import TinyDispatcher, drifted, tiny_steps
from tests.tickets import keyed

AS_OF = datetime(2013, 7, 1, tzinfo=UTC)
NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The shipped declarations, in a copy that may be changed."""
    copy = shutil.copytree(
        Settings().deployments, tmp_path / "deployments", ignore=shutil.ignore_patterns("*.py", "__pycache__", "local", "cli")
    )
    found = keyed(Settings(home=tmp_path / "home", deployments=copy))
    State(found.state_url).migrate()
    return found


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    with tiny_steps():
        yield


def rows(settings: Settings, kind: str) -> list[LedgerRow]:
    """What the ledger holds of a kind."""
    with State(settings.state_url).reading() as tx:
        return ledger.rows(tx, kind=kind)


def run(settings: Settings, day: datetime, **wanted: object) -> None:
    """A lifecycle of the small steps."""
    order = LifecycleOrder("flight_delay", day, "manual", f"run-{day}", "scheduler", **wanted)  # type: ignore[arg-type]
    asyncio.run(lifecycle.run(order, settings=settings, dispatcher=TinyDispatcher(settings)))


def test_decisions_record_the_policies_that_they_meet_once(settings: Settings) -> None:
    """One row for many decisions; another when a rule's text changes; the first again when it is put back."""
    run(settings, AS_OF, steps=("ingest", "materialize"))
    (first,) = rows(settings, "policy-version")
    decided = rows(settings, "decision")
    assert len(decided) > 1 and decided[0].seq == first.seq + 1
    rules = settings.deployments / "policies" / "roles.cedar"
    before = rules.read_text()
    rules.write_text(before + "\n// a remark\n")
    run(settings, AS_OF, steps=("ingest",), tag="b")
    rules.write_text(before)
    run(settings, AS_OF, steps=("ingest",), tag="c")
    first, second, third = (row.body for row in rows(settings, "policy-version"))
    assert first == third != second
    assert {name for name in first["files"] if first["files"][name] != second["files"][name]} == {"roles.cedar"}


def test_an_apply_that_changes_nothing_leaves_no_row(settings: Settings) -> None:
    """Each dataset's label at first, then nothing; a changed object is told although no file changed."""
    state = State(settings.state_url)
    declared_record.applied(state, settings, [], principal="ada", at=NOW)
    (configured,) = rows(settings, "configuration")
    assert (configured.body["from"], configured.body["changes"]) == (None, [])
    labelled = len(rows(settings, "label-change"))
    assert labelled > 3 and len(rows(settings, "policy-version")) == 1
    with state.reading() as tx:
        before = len(ledger.rows(tx))
    declared_record.applied(state, settings, [], principal="ada", at=NOW + timedelta(hours=1))
    with state.reading() as tx:
        assert len(ledger.rows(tx)) == before
    change = {"action": "update", "kind": "pool", "name": "control", "fields": ["paused"], "from": None, "to": "a.b"}
    declared_record.applied(state, settings, [change], principal="ada", at=NOW + timedelta(hours=2))
    second = rows(settings, "configuration")[-1].body
    assert second["from"] == second["to"] == configured.body["to"] != GENESIS
    assert second["changes"] == [change]


def test_a_label_that_changes_is_recorded_with_those_derived_from_it(settings: Settings) -> None:
    """Before and after, for the dataset and for every one whose label follows from it."""
    state = State(settings.state_url)
    declared_record.applied(state, settings, [], principal="ada", at=NOW)
    known = len(rows(settings, "label-change"))
    catalog = settings.deployments / "catalog" / "flight_delay.yaml"
    catalog.write_text(catalog.read_text().replace("classification: internal", "classification: confidential", 1))
    declared_record.applied(state, settings, [], principal="ada", at=NOW)
    changed = [row.body for row in rows(settings, "label-change")[known:]]
    moves = {(body["before"]["classification"], body["after"]["classification"]) for body in changed}
    assert moves == {("internal", "confidential")}
    assert len({body["dataset"] for body in changed}) == len(changed) > 1
    assert len(rows(settings, "configuration")) == 2


def test_a_retrain_that_cools_down_is_recorded_as_refused(settings: Settings) -> None:
    """The first verdict opens a retrain; that of a week later does not, and says why; a champion that holds leaves neither."""
    run(settings, AS_OF)
    with tiny_steps(watch=f"{drifted.__module__}:drifted"):
        run(settings, AS_OF, steps=("watch",), tag="drift")
        run(settings, AS_OF + timedelta(days=7), steps=("watch",))
    assert len(rows(settings, "retrain-trigger")) == 1
    (refused,) = rows(settings, "retrain-refusal")
    assert "cooling down" in refused.body["reason"] and refused.body["workload"] == "flight_delay"
