"""What a worker does with a run that another one left, where time passes while AWS is asked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import anyio
import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from flows.workers.sagemaker import SageMakerWorker
from flows.workers.sagemaker_jobs import Jobs


def in_state(type_: StateType, age_seconds: float = 600) -> State[Any]:
    """A state that old."""
    return State(type=type_, timestamp=datetime.now(UTC) - timedelta(seconds=age_seconds))


def set_anew(monkeypatch: pytest.MonkeyPatch, before: State[Any], after: State[Any] | None) -> list[StateType]:
    """The states that the worker sets for a run without a job which is `before` when it looks, and `after` once AWS has answered."""
    run, told = FlowRun(id=uuid4(), flow_id=uuid4(), state=before), list[StateType]()

    class Server:
        async def read_flow_run(self, flow_run_id: Any) -> FlowRun:
            return run.model_copy(update={"state": after})

        async def set_flow_run_state(self, flow_run_id: Any, state: State[Any], force: bool) -> None:
            told.append(state.type)

    async def resolved(*_: Any, **__: Any) -> Any:
        return SimpleNamespace(region="eu-central-1")

    monkeypatch.setattr(SageMakerWorker.job_configuration, "resolve_for_flow_run", resolved)
    monkeypatch.setattr(Jobs, "latest", lambda self, name: None)
    worker = SageMakerWorker("pool")
    monkeypatch.setattr(worker, "_client", Server())
    monkeypatch.setattr(worker, "_work_pool", SimpleNamespace(model_copy=lambda deep: None))
    anyio.run(worker._take_over_run, run, None)
    return told


def test_a_run_that_was_left_pending_is_scheduled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """It never had a job."""
    pending = in_state(StateType.PENDING)
    assert set_anew(monkeypatch, pending, pending) == [StateType.SCHEDULED]


def test_a_run_that_has_only_just_begun_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker may be about to make the job."""
    pending = in_state(StateType.PENDING, age_seconds=5)
    assert set_anew(monkeypatch, pending, pending) == []


@pytest.mark.parametrize("type_", [StateType.CRASHED, StateType.RUNNING, StateType.PENDING])
def test_a_run_that_went_on_meanwhile_is_left_alone(monkeypatch: pytest.MonkeyPatch, type_: StateType) -> None:
    """A run that was refused must not come back, nor one that runs be started twice."""
    assert set_anew(monkeypatch, in_state(StateType.PENDING), in_state(type_, age_seconds=0)) == []
