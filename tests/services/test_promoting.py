"""Promotion in control: judged again, moved once, mended after a kill, rolled back on request."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flows.adapters.models import Models
from flows.core.canonical import content_hash
from flows.core.errors import IntegrityError, Unavailable, UserError
from flows.services import promoting, signed
from flows.services.promoting import PromotionOutcome
from flows.store import aliases, ledger, signatures

if TYPE_CHECKING:
    from tests.services.conftest import World

AT = datetime(2026, 1, 5, 8, tzinfo=UTC)
PROJECT = Path(__file__).resolve().parents[2]


def a_verdict(challenger: str, champion: str | None, *, auc: float = 0.75, low: float = 0.01, passed: bool = True) -> dict[str, Any]:
    """What `evaluate` sends: numbers that pass unless told otherwise."""
    model = {"auc": auc, "brier": 0.15, "calibration_error": 0.03, "latency_ms_per_1k_rows": 20.0}
    numbers = {"rows": 1000, "positives": 200, "challenger": model}
    if champion is not None:
        numbers |= {"champion": model | {"auc": 0.7}, "gain": {"estimate": 0.05, "low": low, "high": 0.09}}
    named = {"challenger": f"shops-model@{challenger}", "champion": champion and f"shops-model@{champion}"}
    return {"passed": passed, "numbers": numbers, **named}


def promote(world: World, version: str, verdict: dict[str, Any], intent: str = "shops/promote/day/test") -> PromotionOutcome:
    """Promote with the defaults of these tests."""
    return promoting.promote(world.state, world.settings, world.workload, intent, version, verdict, AT, "ada")


def champion_in_mlflow(world: World) -> str | None:
    """What MLflow's alias says."""
    return Models(world.settings.tracking_url, "shops").alias("champion")


def kinds(world: World) -> list[str]:
    """The kinds of all ledger rows, in order."""
    with world.state.reading() as tx:
        return [row.kind for row in ledger.rows(tx)]


@pytest.fixture(autouse=True)
def _recorded_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of these models is on record: each one's hash is that of its name."""
    monkeypatch.setattr("flows.services.signed.manifest", lambda tx, ref: content_hash(str(ref)))


def signed_by_control(world: World, name: str) -> None:
    """Sign a model as control does once it is trained."""
    sign = signed.signs(world.settings)
    assert sign is not None
    with world.state.transaction() as tx:
        signatures.add(tx, f"model/shops-model@{name}", content_hash(f"shops-model@{name}"), sign=sign, at=AT)


@pytest.fixture
def first(world: World) -> str:
    """A champion, version 1, that stands for `shops-model@a`."""
    version = world.register("a")
    signed_by_control(world, "a")
    assert promote(world, version, a_verdict("a", None), "shops/promote/first/test").outcome == "promoted"
    return version


def test_the_first_model_becomes_champion_on_absolute_rules(world: World) -> None:
    """Alias in MLflow, alias in the state database and ledger agree."""
    version = world.register("a")
    outcome = promote(world, version, a_verdict("a", None))
    assert outcome.outcome == "promoted" and outcome.previous is None
    assert champion_in_mlflow(world) == version
    assert kinds(world) == ["promotion-begun", "promotion"]
    with world.state.reading() as tx:
        assert promoting.champion_dataset(tx, "shops") == "shops-model@a"


def test_a_better_challenger_takes_the_place(world: World, first: str) -> None:
    """The ledger row has the numbers, the thresholds and who asked."""
    outcome = promote(world, world.register("b"), a_verdict("b", "a"))
    assert (outcome.outcome, outcome.version, outcome.previous) == ("promoted", "2", first)
    with world.state.reading() as tx:
        body = ledger.rows(tx, kind="promotion")[-1].body
    assert body["numbers"]["gain"]["low"] == 0.01 and body["thresholds"]["min_auc"] == 0.6


def test_a_refusal_is_recorded_with_its_numbers(world: World, first: str) -> None:
    """The champion stays; the ledger says which rule, what was seen and what was required."""
    outcome = promote(world, world.register("b"), a_verdict("b", "a", low=-0.01))
    assert outcome.outcome == "refused" and "AUC gain over the champion is -0.01" in outcome.summary
    assert champion_in_mlflow(world) == first and kinds(world)[-1] == "promotion-refusal"
    with world.state.reading() as tx:
        failed = [check for check in ledger.rows(tx, kind="promotion-refusal")[0].body["checks"] if not check["passed"]]
    assert [(check["rule"], check["observed"]) for check in failed] == [("auc-gain", -0.01)]
    assert Models(world.settings.tracking_url, "shops").version("2").tags["promotion"] == "refused"


def test_what_the_verdict_says_of_itself_is_not_believed(world: World, first: str) -> None:
    """`passed` in a verdict that was tampered with, or made under an older gate, changes nothing: the numbers count."""
    assert promote(world, world.register("b"), a_verdict("b", "a", auc=0.5, passed=True)).outcome == "refused"


def test_a_verdict_about_another_model_is_refused(world: World, first: str) -> None:
    """A good model's verdict does not carry another one."""
    world.register("good")
    outcome = promote(world, world.register("poor"), a_verdict("good", "a"))
    assert outcome.outcome == "refused" and "about another challenger" in outcome.summary


def test_a_verdict_against_a_former_champion_is_refused(world: World, first: str) -> None:
    """Two challengers judged against the same champion: the second has to be judged again."""
    second, third = world.register("b"), world.register("c")
    promote(world, second, a_verdict("b", "a"), "shops/promote/b/test")
    outcome = promote(world, third, a_verdict("c", "a"), "shops/promote/c/test")
    assert outcome.outcome == "refused" and "champion changed" in outcome.summary
    assert champion_in_mlflow(world) == second


def test_the_same_intent_again_gives_the_same_outcome(world: World, first: str) -> None:
    """Promotion and refusal are each recorded once, however often they are asked for."""
    second, third = world.register("b"), world.register("c")
    for _ in range(2):
        assert promote(world, second, a_verdict("b", "a"), "shops/promote/b/test").outcome == "promoted"
        assert promote(world, third, a_verdict("c", "b", low=-1.0), "shops/promote/c/test").outcome == "refused"
    assert kinds(world).count("promotion") == 2 and kinds(world).count("promotion-refusal") == 1


def test_a_verdict_that_is_none_is_told(world: World) -> None:
    """Numbers of another shape are no evaluation."""
    with pytest.raises(UserError, match="no verdict of an evaluation"):
        promote(world, "1", {"passed": True})


def test_an_unknown_version_is_told(world: World) -> None:
    """A version that MLflow does not list cannot be promoted."""
    world.register("a")
    with pytest.raises(UserError, match="has no version `9`"):
        promote(world, "9", a_verdict("a", None))


def test_a_server_that_is_down_leaves_everything_as_it_was(world: World) -> None:
    """MLflow away: one clear message, nothing begun."""
    away = world.settings.model_copy(update={"mlflow_url": "http://127.0.0.1:9"})
    with pytest.raises(Unavailable, match="does not answer"):
        promoting.promote(world.state, away, world.workload, "i", "1", a_verdict("a", None), AT, "ada")
    assert kinds(world) == []


KILLED = """
import json, os, signal, sys
from datetime import datetime
from flows.adapters import models
from flows.adapters.settings import Settings
from flows.services import promoting
from flows.store.database import State
from tests.services.conftest import SmallWorkload

moved = models.Models.set_alias
def dies(self, alias, version):
    if sys.argv[1] == "after":
        moved(self, alias, version)
    os.kill(os.getpid(), signal.SIGKILL)
models.Models.set_alias = dies
settings = Settings()
promoting.promote(State(settings.state_url), settings, SmallWorkload(), "shops/promote/killed/test", "2", json.loads(sys.argv[2]),
                  datetime.fromisoformat(sys.argv[3]), "ada")
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_between_alias_and_ledger_is_mended(world: World, first: str, moment: str) -> None:
    """A process killed right before or right after MLflow's alias moved leaves a move that `mend` ends, once, with its numbers."""
    second = world.register("b")
    environment = {**os.environ, "TRADEWIND_HOME": str(world.settings.home)}
    command = [sys.executable, "-c", KILLED, moment, json.dumps(a_verdict("b", "a")), AT.isoformat()]
    died = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert champion_in_mlflow(world) == (second if moment == "after" else first)
    with world.state.reading() as tx:
        assert [row.version for row in aliases.moving(tx)] == [second]
        assert promoting.champion_dataset(tx, "shops") == "shops-model@a"

    (outcome,) = promoting.mend(world.state, world.settings, AT)
    assert outcome.outcome == "promoted" and outcome.intent_id == "shops/promote/killed/test"
    assert promoting.mend(world.state, world.settings, AT) == []
    assert champion_in_mlflow(world) == second and kinds(world).count("promotion") == 2
    with world.state.reading() as tx:
        assert not aliases.moving(tx) and ledger.rows(tx, kind="promotion")[-1].body["numbers"]["rows"] == 1000


def test_the_next_promotion_ends_a_killed_one_first(world: World, first: str) -> None:
    """A move that was begun and left is finished before the champion is compared."""
    second, third = world.register("b"), world.register("c")
    with world.state.transaction() as tx:
        aliases.begin_move(tx, "shops", "champion", expected_version=first, new_version=second, intent_id="left", at=AT)
        body = {
            "intent": "left",
            "workload": "shops",
            "alias": "champion",
            "version": second,
            "previous": first,
            "dataset": "shops-model@b",
        }
        ledger.append(tx, "promotion-begun", body | {"reasons": [], "ends_as": "promotion"}, principal="ada", at=AT)
    assert promote(world, third, a_verdict("c", "b")).previous == second
    assert kinds(world).count("promotion") == 3


def test_of_two_promotions_at_once_one_wins(world: World, first: str) -> None:
    """Two intents against the same champion: one becomes champion, the other is refused or has to try again; all three records agree."""
    versions = [world.register(name) for name in ("b", "c")]
    ends: list[str] = []

    def go(version: str, name: str) -> None:
        try:
            ends.append(promote(world, version, a_verdict(name, "a"), f"shops/promote/{name}/test").outcome)
        except aliases.StaleAlias:
            ends.append("stale")

    threads = [threading.Thread(target=go, args=pair) for pair in zip(versions, ("b", "c"), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends.count("promoted") == 1 and len(ends) == 2
    found = promoting.champion(world.state, world.settings, "shops")
    assert found is not None and champion_in_mlflow(world) == found.version
    assert kinds(world).count("promotion") == 2


def test_an_alias_that_was_moved_by_hand_is_put_right(world: World, first: str) -> None:
    """The state database says who is champion; a change in MLflow alone is undone and recorded."""
    Models(world.settings.tracking_url, "shops").set_alias("champion", world.register("b"))
    promoting.mend(world.state, world.settings, AT)
    assert champion_in_mlflow(world) == first and kinds(world)[-1] == "alias-repair"


def rollback(world: World, version: str, reason: str = "complaints") -> PromotionOutcome:
    """Roll back with the defaults of these tests."""
    intent = "shops/rollback/1/test"
    return promoting.rollback(world.state, world.settings, "shops", version, intent_id=intent, reason=reason, at=AT, principal="ada")


def test_rollback_brings_an_earlier_champion_back(world: World, first: str) -> None:
    """Alias, state and ledger name the earlier version again, with the reason; the same intent changes nothing more."""
    promote(world, world.register("b"), a_verdict("b", "a"))
    outcome = rollback(world, first)
    assert (outcome.outcome, outcome.version, outcome.previous) == ("rolled-back", first, "2")
    assert rollback(world, first) == outcome
    assert champion_in_mlflow(world) == first and kinds(world).count("rollback") == 1
    with world.state.reading() as tx:
        assert ledger.rows(tx, kind="rollback")[0].body["why"] == "complaints"
        assert promoting.champion_dataset(tx, "shops") == "shops-model@a"


@pytest.mark.parametrize("why", ["never signed", "other files"])
def test_rollback_to_a_model_that_control_did_not_sign_is_refused(
    world: World, first: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it served once is not enough: what is on record of its files must be what control signed, or no worker would load it."""
    second = world.register("b")
    promote(world, second, a_verdict("b", "a"))
    if why == "other files":
        monkeypatch.setattr("flows.services.signed.manifest", lambda tx, ref: content_hash("exchanged"))
        target = first
    else:
        signed_by_control(world, "c")
        promote(world, world.register("c"), a_verdict("c", "b"), "shops/promote/c/test")
        target = second
    before = champion_in_mlflow(world)
    with pytest.raises(IntegrityError, match="is not a model that control signed"):
        rollback(world, target)
    assert champion_in_mlflow(world) == before and "rollback" not in kinds(world)


def test_rollback_to_a_version_that_never_served_is_refused(world: World, first: str) -> None:
    """It is no way around the gate: neither an untried nor a refused version becomes champion by it."""
    refused = world.register("b")
    promote(world, refused, a_verdict("b", "a", low=-1.0))
    with pytest.raises(UserError, match="was never champion"):
        rollback(world, refused)
    assert champion_in_mlflow(world) == first


@pytest.mark.parametrize(("reason", "told"), [(" ", "a rollback needs its reason"), ("x", "`x` is too short")])
def test_rollback_needs_a_reason(world: World, first: str, reason: str, told: str) -> None:
    """One who reads the ledger wants to know why an earlier model serves again."""
    promote(world, world.register("b"), a_verdict("b", "a"))
    with pytest.raises(UserError, match=f"`--reason`.*{told}"):
        rollback(world, first, reason=reason)
    assert champion_in_mlflow(world) == "2" and "rollback" not in kinds(world)


def test_the_ledger_of_all_this_verifies(world: World, first: str) -> None:
    """Promotion, refusal and rollback leave an unbroken chain."""
    promote(world, world.register("b"), a_verdict("b", "a"))
    promote(world, world.register("c"), a_verdict("c", "b", low=-1.0), "shops/promote/c/test")
    rollback(world, first)
    assert ledger.verify(world.state, None).ok
