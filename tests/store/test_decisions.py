"""Decisions and the documents they were made of."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from sqlalchemy import text

from flows.core.canonical import content_hash
from flows.core.errors import IntegrityError, UserError
from flows.store import decisions
from flows.store.database import State
from tests.store.conftest import NOW

INPUTS: dict[str, Any] = {
    "estate": {"sites": ["a"]},
    "request": {"workload": "nafld", "step": "train", "intent_id": "nafld/train/w/c"},
    "policies": [["p", "x"]],
}
DECISION: dict[str, Any] = {
    "decision_id": "d" * 64,
    "at": "2026-01-05T08:00:00Z",
    "inputs": {"estate": content_hash(INPUTS["estate"]), "request": content_hash(INPUTS["request"]), "policies": "declared", "engine": "1"},
    "chosen": {"pool": "onprem-fra-k8s", "site": "onprem-fra", "usd": {"total": 1.234567}},
    "summary": "1/5 pools may run `train`",
}


def save(state: State, decision: dict[str, Any] = DECISION) -> None:
    """Store in a transaction of its own."""
    with state.transaction() as tx:
        decisions.save(tx, decision, INPUTS, at=NOW)


def test_a_decision_comes_back_with_all_its_inputs(state: State) -> None:
    """The JSON and every document are what was stored; what it is listed by is taken from them."""
    save(state)
    with state.reading() as tx:
        assert decisions.get(tx, "d" * 64) == DECISION
        assert decisions.inputs(tx, "d" * 64) == INPUTS
        (row,) = decisions.recent(tx, workload="nafld")
    assert (row.step, row.intent_id, row.pool, row.site, str(row.usd_total)) == (
        "train",
        "nafld/train/w/c",
        "onprem-fra-k8s",
        "onprem-fra",
        "1.234567",
    )


def test_a_document_is_found_by_its_content_or_its_declared_hash(state: State) -> None:
    """Inputs whose hash is not that of their JSON are found by the name the decision gives them."""
    save(state)
    with state.reading() as tx:
        assert decisions.document(tx, content_hash(INPUTS["estate"])) == INPUTS["estate"]
        assert decisions.document(tx, "declared") == INPUTS["policies"]
        with pytest.raises(UserError, match="no document"):
            decisions.document(tx, "0" * 64)


def test_equal_documents_are_stored_once(state: State) -> None:
    """Two decisions over one estate share its body; the same decision again adds nothing."""
    save(state)
    save(state)
    save(state, DECISION | {"decision_id": "e" * 64})
    with state.reading() as tx:
        counts = [tx.execute(text(f"SELECT count(*) FROM {table}")).scalar() for table in ("documents", "decisions", "decision_inputs")]
        assert decisions.find(tx, "ee") == ["e" * 64]
    assert counts == [3, 2, 6]


def test_another_decision_under_the_same_id_is_told(state: State) -> None:
    """One id, one decision."""
    save(state)
    other = copy.deepcopy(DECISION)
    other["chosen"]["pool"] = "elsewhere"
    with pytest.raises(IntegrityError, match="another decision"):
        save(state, other)


def test_a_decision_without_a_place_is_stored(state: State) -> None:
    """Nothing feasible is a decision too."""
    save(state, DECISION | {"chosen": None})
    with state.reading() as tx:
        (row,) = decisions.recent(tx, since=NOW)
        assert (row.pool, row.usd_total) == (None, None)
        assert decisions.recent(tx, workload="other") == []


def test_decisions_of_one_second_come_in_the_order_they_were_stored(state: State) -> None:
    """A second try within the second of the first is the newer one, whatever their ids; stored again, each keeps its place."""
    for id in ("b", "a", "c", "b"):
        save(state, DECISION | {"decision_id": id * 64})
    with state.reading() as tx:
        assert [row.id[0] for row in decisions.recent(tx)] == ["c", "a", "b"]
        assert [id[0] for id in decisions.between(tx, None)] == ["b", "a", "c"]


def test_a_changed_document_is_told(state: State) -> None:
    """What no longer has its hash is not replayed."""
    save(state)
    with state.transaction() as tx:
        tx.execute(text("UPDATE documents SET body = '{}'"))
    with pytest.raises(IntegrityError, match="was changed"), state.reading() as tx:
        decisions.inputs(tx, "d" * 64)
