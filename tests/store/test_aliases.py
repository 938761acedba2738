"""Moves of champion and challenger: one at a time, from the version that was seen."""

from __future__ import annotations

import threading

import pytest

from flows.store import aliases
from flows.store.aliases import StaleAlias
from flows.store.database import State
from tests.store.conftest import NOW


def begin(state: State, expected: str | None, new: str, intent: str) -> None:
    """Begin a move in a transaction of its own."""
    with state.transaction() as tx:
        aliases.begin_move(tx, "w", "champion", expected_version=expected, new_version=new, intent_id=intent, at=NOW)


def settle(state: State, intent: str) -> None:
    """Settle a move in a transaction of its own."""
    with state.transaction() as tx:
        aliases.settle(tx, "w", "champion", intent, NOW)


def seen(state: State) -> tuple[str, str | None, str] | None:
    """What the alias names, named before, and whether it is at rest."""
    with state.reading() as tx:
        row = aliases.current(tx, "w", "champion")
    return row and (row.version, row.previous, row.state)


def test_an_alias_moves_in_two_steps(state: State) -> None:
    """Between begin and settle the move is seen as under way."""
    assert seen(state) is None
    begin(state, None, "1", "i1")
    assert seen(state) == ("1", None, "moving")
    settle(state, "i1")
    begin(state, "1", "2", "i2")
    with state.reading() as tx:
        assert [row.version for row in aliases.moving(tx)] == ["2"]
    settle(state, "i2")
    assert seen(state) == ("2", "1", "settled")
    with state.reading() as tx:
        assert aliases.moving(tx) == []
        assert [(row.previous, row.version, row.settled_at) for row in aliases.history(tx, "w", "champion")] == [
            ("1", "2", NOW),
            (None, "1", NOW),
        ]


def test_a_move_from_another_version_is_stale(state: State) -> None:
    """Who has not seen the current version moves nothing, in both directions."""
    with pytest.raises(StaleAlias, match="names no version"):
        begin(state, "7", "8", "i0")
    begin(state, None, "1", "i1")
    settle(state, "i1")
    for expected in (None, "7"):
        with pytest.raises(StaleAlias, match="names version `1`"):
            begin(state, expected, "2", "i2")
    assert seen(state) == ("1", None, "settled")


def test_a_move_under_way_blocks_another(state: State) -> None:
    """The first one is settled or given up before a second begins."""
    begin(state, None, "1", "i1")
    with pytest.raises(StaleAlias, match="is being moved"):
        begin(state, "1", "2", "i2")
    with pytest.raises(StaleAlias, match="last moved by `i1`"):
        settle(state, "i2")


def test_the_same_intent_again_changes_nothing(state: State) -> None:
    """A promotion that starts again after a kill finds its own move, begun or settled."""
    for _ in range(2):
        begin(state, None, "1", "i1")
    for _ in range(2):
        settle(state, "i1")
    begin(state, None, "1", "i1")
    assert seen(state) == ("1", None, "settled")
    with state.reading() as tx:
        assert len(aliases.history(tx, "w", "champion")) == 1


def test_a_move_that_is_given_up_leaves_the_version_before(state: State) -> None:
    """The alias names what it named, or nothing if there was nothing; a settled move stays."""
    begin(state, None, "1", "i1")
    with state.transaction() as tx:
        assert aliases.abandon(tx, "w", "champion", "i1", NOW) is None
    assert seen(state) is None
    begin(state, None, "1", "i1")
    settle(state, "i1")
    begin(state, "1", "2", "i2")
    with state.transaction() as tx:
        aliases.abandon(tx, "w", "champion", "i2", NOW)
    assert seen(state) == ("1", None, "settled")
    with pytest.raises(StaleAlias, match="is settled"), state.transaction() as tx:
        aliases.abandon(tx, "w", "champion", "i1", NOW)


@pytest.mark.parametrize("expected", [None, "1"])
def test_the_second_of_two_moves_waits_and_is_told(state: State, expected: str | None) -> None:
    """A move that begins while another's transaction is open sees its outcome, not the version before it."""
    if expected:
        begin(state, None, expected, "i1")
        settle(state, "i1")
    told: list[Exception] = []

    def move() -> None:
        try:
            begin(state, expected, "3", "late")
        except StaleAlias as error:
            told.append(error)

    second = threading.Thread(target=move)
    with state.transaction() as tx:
        aliases.begin_move(tx, "w", "champion", expected_version=expected, new_version="2", intent_id="first", at=NOW)
        second.start()
        second.join(0.5)
        assert second.is_alive()
    second.join()
    assert len(told) == 1
    assert seen(state) == ("2", expected, "moving")
