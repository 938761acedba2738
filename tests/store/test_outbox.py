"""Intents: exactly one result or one recorded refusal each."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from flows.core.errors import IntegrityError, UserError
from flows.store import outbox
from flows.store.database import State
from flows.store.outbox import Intent
from tests.store.conftest import NOW

HOUR = timedelta(hours=1)
TRAIN = Intent.of("nafld", "train", "2026-01", "schedule", due_at=NOW, payload={"as_of": "2026-01-01"})


@pytest.fixture
def opened(state: State) -> State:
    """A state that holds the intent."""
    with state.transaction() as tx:
        outbox.ensure(tx, TRAIN)
    return state


def claim(state: State, owner: str = "a", after: timedelta = timedelta(), id: str = TRAIN.id) -> bool:
    """Claim in a transaction of its own."""
    with state.transaction() as tx:
        return outbox.claim(tx, id, owner=owner, at=NOW + after, stale_after=HOUR)


def test_an_intent_is_there_once(opened: State) -> None:
    """Ensured again, the first one's payload and due time stay."""
    with opened.transaction() as tx:
        row = outbox.ensure(tx, Intent.of("nafld", "train", "2026-01", "schedule", due_at=NOW + HOUR, payload={"other": 1}))
        assert (row.id, row.state, row.attempt, row.due_at, row.payload) == (TRAIN.id, "open", 0, NOW, {"as_of": "2026-01-01"})


def test_an_id_follows_from_its_parts() -> None:
    """Another id, an ambiguous name or a time without zone is refused."""
    with pytest.raises(ValueError, match="is not"):
        Intent("x", "nafld", "train", "2026-01", "schedule", NOW, {})
    with pytest.raises(ValueError, match="no `/`"):
        Intent.of("naf/ld", "train", "2026-01", "schedule", due_at=NOW)
    with pytest.raises(ValueError, match="time zone"):
        Intent.of("nafld", "train", "2026-01", "schedule", due_at=NOW.replace(tzinfo=None))


def test_two_intents_with_one_id_are_told(state: State) -> None:
    """A slash that moves between window and cause makes no second intent of the same id."""
    with pytest.raises(IntegrityError, match="two intents"), state.transaction() as tx:
        outbox.ensure(tx, Intent.of("w", "train", "a/b", "c", due_at=NOW))
        outbox.ensure(tx, Intent.of("w", "train", "a", "b/c", due_at=NOW))


def test_a_claim_is_exclusive_until_it_is_stale(opened: State) -> None:
    """Another owner waits for the claim to age; the owner renews it at any time."""
    assert claim(opened, "a")
    assert not claim(opened, "b")
    assert claim(opened, "a", HOUR / 2)
    assert not claim(opened, "b", HOUR)
    assert claim(opened, "b", HOUR * 1.5)
    assert not claim(opened, "a", HOUR * 1.5)


def test_the_second_of_two_claims_waits_and_loses(opened: State) -> None:
    """A claim that is made while another's transaction is open sees its outcome, not the state before it."""
    won: list[bool] = []
    second = threading.Thread(target=lambda: won.append(claim(opened, "b")))
    with opened.transaction() as tx:
        assert outbox.claim(tx, TRAIN.id, owner="a", at=NOW, stale_after=HOUR)
        second.start()
        second.join(0.5)
        assert second.is_alive()
    second.join()
    assert won == [False]


def test_a_result_ends_an_intent(opened: State) -> None:
    """Done stays done: the same result again is nothing new, anything else is refused."""
    claim(opened)
    with opened.transaction() as tx:
        outbox.finish(tx, TRAIN.id, {"auc": 0.7}, NOW, owner="a")
        outbox.finish(tx, TRAIN.id, {"auc": 0.7}, NOW)
    for late in (
        lambda tx: outbox.finish(tx, TRAIN.id, {"auc": 0.8}, NOW),
        lambda tx: outbox.fail(tx, TRAIN.id, "late", NOW),
        lambda tx: outbox.refuse(tx, TRAIN.id, "late", NOW),
        lambda tx: outbox.postpone(tx, TRAIN.id, NOW, NOW),
        lambda tx: outbox.reopen(tx, TRAIN.id),
    ):
        with pytest.raises(IntegrityError, match="is done"), opened.transaction() as tx:
            late(tx)
    assert not claim(opened, "b", HOUR * 9)
    with opened.reading() as tx:
        row = outbox.get(tx, TRAIN.id)
    assert row is not None and (row.state, row.result, row.finished_at) == ("done", {"auc": 0.7}, NOW)


def test_a_run_that_lost_its_claim_stores_nothing(opened: State) -> None:
    """What a taken-over owner made is refused with its whole transaction."""
    claim(opened, "a")
    claim(opened, "b", HOUR * 2)
    with pytest.raises(IntegrityError, match="taken over by `b`"), opened.transaction() as tx:
        outbox.finish(tx, TRAIN.id, {}, NOW, owner="a")


def test_three_failures_end_an_intent(opened: State) -> None:
    """Each failure opens it again with a new attempt, the third one fails it; a person may ask for one more."""
    seen = []
    for _ in range(3):
        assert claim(opened)
        with opened.transaction() as tx:
            outbox.fail(tx, TRAIN.id, "no disk", NOW)
            row = outbox.get(tx, TRAIN.id)
            assert row is not None
            seen.append((row.state, row.attempt, row.error))
    assert seen == [("open", 1, "no disk"), ("open", 2, "no disk"), ("failed", 3, "no disk")]
    assert not claim(opened)
    with opened.transaction() as tx:
        outbox.reopen(tx, TRAIN.id)
    assert claim(opened)


def test_a_refusal_ends_an_intent(opened: State) -> None:
    """The reason is kept; nobody runs it any more."""
    with opened.transaction() as tx:
        outbox.refuse(tx, TRAIN.id, "no site may run it", NOW)
        outbox.refuse(tx, TRAIN.id, "no site may run it", NOW)
        row = outbox.get(tx, TRAIN.id)
        assert row is not None and (row.state, row.error) == ("refused", "no site may run it")
    assert not claim(opened)


def test_a_postponed_intent_loses_no_try(opened: State) -> None:
    """It is open again, due later, and free for any owner."""
    claim(opened, "a")
    with opened.transaction() as tx:
        outbox.postpone(tx, TRAIN.id, NOW + HOUR, NOW)
        assert outbox.due(tx, NOW) == []
        (row,) = outbox.due(tx, NOW + HOUR)
        assert (row.attempt, row.owner) == (0, None)


def test_due_intents_come_in_order(opened: State) -> None:
    """Open ones whose time has come, by time; abandoned ones when asked for."""
    with opened.transaction() as tx:
        outbox.ensure(tx, Intent.of("nafld", "score", "2026-01", "schedule", due_at=NOW - HOUR))
        outbox.ensure(tx, Intent.of("nafld", "watch", "2026-01", "schedule", due_at=NOW + HOUR))
        assert [row.step for row in outbox.due(tx, NOW)] == ["score", "train"]
        assert [row.step for row in outbox.due(tx, NOW, "train")] == ["train"]
    claim(opened)
    with opened.reading() as tx:
        assert outbox.due(tx, NOW + HOUR / 2, "train", stale_after=HOUR) == []
        assert [row.owner for row in outbox.due(tx, NOW + HOUR, "train", stale_after=HOUR)] == ["a"]
        assert [row.step for row in outbox.recent(tx, workload="nafld", state="open")] == ["watch", "score"]


def test_an_unknown_intent_is_told(state: State) -> None:
    """A name that is not there is the caller's mistake."""
    with pytest.raises(UserError, match="no intent"):
        claim(state)
