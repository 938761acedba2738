"""A promotion and a person's word are under a signed checkpoint as soon as they are on record, where the signing key is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.adapters.settings import CONTROL, Settings
from flows.core.errors import IntegrityError
from flows.core.planning import intent_id, window_of
from flows.services import checkpointing, promotion_runs
from flows.services.local_run import acting_as
from flows.services.promoting import PromotionOutcome
from flows.store import ledger, outbox
from flows.store.checkpoints import ANCHORS
from flows.store.database import State
from tests.services.test_approving import Clinic, registry  # noqa: F401 - a registry that is a file, for each test
from tests.tickets import keyed

AS_OF = datetime(2013, 7, 1, tzinfo=UTC)
INTENT = intent_id("nafld", "promote", window_of(AS_OF), "test")


def uncovered(settings: Settings, state: State) -> list[str]:
    """The kinds of the rows that no checkpoint covers."""
    found = checkpointing.verify(state, settings)
    assert found.ok
    with state.reading() as tx:
        return [row.kind for row in ledger.rows(tx) if found.unanchored_from is not None and row.seq >= found.unanchored_from]


def with_key(clinic: Clinic) -> Clinic:
    clinic.settings = keyed(clinic.settings)
    return clinic


def test_an_approval_is_vouched_for_at_once(tmp_path: Path) -> None:
    """By the command itself if it has the key."""
    clinic = with_key(Clinic(tmp_path / "home"))
    waits = clinic.promote("1")
    assert uncovered(clinic.settings, clinic.state) == ["approval-request"]
    clinic.decide(waits.request)
    assert uncovered(clinic.settings, clinic.state) == []
    with clinic.state.reading() as tx:
        assert "approval" in [row.kind for row in ledger.rows(tx)]


def test_without_the_key_it_is_left_to_control(tmp_path: Path) -> None:
    """No line that nobody signed is written; the row is not yet covered."""
    clinic = Clinic(tmp_path / "home")
    clinic.decide(clinic.promote("1").request)
    assert not (clinic.settings.anchors / ANCHORS).exists()


def test_an_approval_stands_if_no_checkpoint_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """The decision is on record, the failure is told, and the reconciler meets it again."""
    clinic = with_key(Clinic(tmp_path / "home"))
    waits = clinic.promote("1")

    def broken(*_: object, **__: object) -> None:
        raise IntegrityError("row 1 of the ledger is not the anchored one")

    monkeypatch.setattr(ledger, "anchor", broken)
    assert clinic.decide(waits.request).standing == "approved"
    assert "no checkpoint was made, the reconciler tries again: row 1 of the ledger" in caplog.text


@pytest.mark.parametrize("outcome", ["promoted", "refused", "waiting"])
def test_what_a_promotion_records_is_vouched_for_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Any) -> None:
    """By its run in control, after the intent and the run are ended too."""
    settings = keyed(Settings(home=tmp_path / "home", database_url=None, mlflow_url=None))
    state = State(settings.state_url)
    state.migrate()

    def recorded(*_: object) -> PromotionOutcome:
        with state.transaction() as tx:
            ledger.append(tx, "promotion", {"workload": "nafld", "version": "1", "dataset": "d", "intent": INTENT}, principal="p", at=AS_OF)
        return PromotionOutcome(outcome, "nafld", "1", None, "d", INTENT, request="r" if outcome == "waiting" else None)

    monkeypatch.setattr(promotion_runs, "_evaluation", lambda *_: ("1", {"challenger": "nafld-model@v", "numbers": {}}, {}, frozenset()))
    monkeypatch.setattr(promotion_runs, "require_model", lambda *_: None)
    monkeypatch.setattr(promotion_runs.promoting, "promote", recorded)
    monkeypatch.setattr(promotion_runs.approving, "to_judge", lambda *_: {"request": "r", "page": ""})
    with state.transaction() as tx:
        outbox.ensure(tx, outbox.Intent.of("nafld", "promote", window_of(AS_OF), "test", due_at=AS_OF, payload={}))
        outbox.claim(tx, INTENT, owner="o", at=datetime.now(UTC), stale_after=timedelta(hours=1))
    with acting_as(CONTROL, CONTROL):
        promotion_runs.run("nafld", AS_OF, INTENT, "test", run_id="run-1", settings=settings)
    assert uncovered(settings, state) == []
    assert (settings.anchors / ANCHORS).read_text().count("\n") == 1
