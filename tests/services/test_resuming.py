"""Spot capacity that is taken back: the step goes elsewhere and takes its checkpoint along, where policy and the sites let it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows.adapters.settings import Settings
from flows.services import lifecycle
from flows.services.context import StepContext, StepResult
from flows.services.dispatching import Outcome
from flows.services.lifecycle import LifecycleOrder, Report
from flows.services.progress import ROLE, Progress
from flows.store import decisions, ledger, runs
from flows.store.database import State
from tests.services.tiny import TinyDispatcher, publish, tiny_steps
from tests.tickets import keyed

AS_OF = datetime(2013, 7, 1, tzinfo=UTC)
TRAIN = "flight_delay/train/2013-07-01/manual"
FOUND: list[tuple[str, object]] = []
"""What each training found of an earlier one: its site, and the checkpoint."""


class Taken(BaseException):
    """The cloud took the capacity back."""


def interrupted_once(ctx: StepContext) -> StepResult:
    """A training that writes a checkpoint and is interrupted, unless it finds one."""
    kept = Progress(ctx, every=0.0)
    earlier = kept.load()
    FOUND.append((ctx.site, earlier))
    if earlier is None and len(FOUND) == 1:
        kept.save({"trees": 12}, 12)
        raise Taken
    return publish(ctx)


class Spot(TinyDispatcher):
    """Runs a training until its capacity is taken back; after that its site may be gone, and no transfer leaves it."""

    def __init__(self, settings: Settings, *, gone: bool = False) -> None:
        super().__init__(settings)
        self.gone, self.trained, self.moved = gone, list[Mapping[str, Any]](), list[Mapping[str, Any]]()

    async def run(self, deployment: str, parameters: Mapping[str, Any], *, key: str) -> Outcome:
        step = deployment.partition("/")[0]
        if step == "transfer" and self.trained:
            self.moved.append(parameters)
            if self.gone and "checkpoint" not in parameters["inputs"] and "-model@" in parameters["inputs"]["data"] and len(FOUND) == 1:
                return Outcome(key, succeeded=False, state="Crashed", message="unreachable: the site does not answer")
        if step == "train":
            self.trained.append(parameters)
        try:
            return await super().run(deployment, parameters, key=key)
        except Taken:
            return Outcome(key, succeeded=False, state="Crashed", message="spot: AWS took the capacity back\n  fix: nothing to do")


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    found = keyed(Settings(home=tmp_path / "home"))
    State(found.state_url).migrate()
    FOUND.clear()
    with tiny_steps(train=f"{__name__}:interrupted_once"):
        yield found


def run(settings: Settings, dispatcher: TinyDispatcher) -> Report:
    order = LifecycleOrder("flight_delay", AS_OF, "manual", "run-1", "scheduler")
    return asyncio.run(lifecycle.run(order, settings=settings, dispatcher=dispatcher))


def test_the_next_place_goes_on_from_the_checkpoint(settings: Settings) -> None:
    """It was moved there by a decided, recorded transfer, and the training read it as an input that control signed."""
    dispatcher = Spot(settings)
    assert run(settings, dispatcher).state == "done"
    (first, nothing), (second, earlier) = FOUND
    assert nothing is None and earlier == ({"trees": 12}, 12)
    assert ROLE not in dispatcher.trained[0]["inputs"] and ROLE in dispatcher.trained[1]["inputs"]
    with State(settings.state_url).reading() as tx:
        (dead,) = runs.recent(tx, state="spot")
        assert dead.intent_id == TRAIN and dead.site == first
        text = dispatcher.trained[1]["inputs"][ROLE]
        decided = decisions.get(tx, dispatcher.trained[1]["decision_id"])
        assert decided is not None and "flight_delay-model" in decided["datasets"]
        moved = [row.body for row in ledger.rows(tx, kind="transfer") if f"{row.body['dataset']}@{row.body['version']}" == text]
        assert [(row["source"], row["destination"]) for row in moved] == ([(first, second)] if first != second else [])


def test_a_checkpoint_whose_site_is_gone_is_given_up(settings: Settings) -> None:
    """The training starts anew elsewhere rather than waiting for it."""
    dispatcher = Spot(settings, gone=True)
    assert run(settings, dispatcher).state == "done"
    assert FOUND[-1][1] is None or FOUND[-1][0] == FOUND[0][0]
    assert (ROLE in dispatcher.trained[-1]["inputs"]) == (FOUND[-1][1] is not None)
