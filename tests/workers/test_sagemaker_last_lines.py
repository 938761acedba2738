"""Where a failed job's last lines are shown: in the run's log, kept in control, only while no step can have printed of its data."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import anyio
import pytest
from prefect.client.schemas.objects import FlowRun

from flows.workers.sagemaker import SageMakerWorker
from flows.workers.sagemaker_jobs import Jobs

RUN_LOG, WORKER_LOG = "test.run", "test.worker"


class CloudWatch:
    """One stream with one line."""

    exceptions = SimpleNamespace(ResourceNotFoundException=KeyError)

    def get_paginator(self, _: str) -> Any:
        return SimpleNamespace(paginate=lambda **_: [{"logStreams": [{"logStreamName": "job/algo-1-1"}]}])

    def get_log_events(self, **where: Any) -> dict[str, Any]:
        events = [] if "nextToken" in where else [{"timestamp": 1, "message": "patient 17: 1961-02-03"}]
        return {"events": events, "nextForwardToken": "end"}


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("began", [True, False])
def test_the_last_lines_of_a_run_that_began_stay_with_its_worker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, began: bool, streamed: bool
) -> None:
    """A run that never began cannot have read data: its lines say why its program did not start."""
    run = FlowRun(id=uuid4(), flow_id=uuid4(), start_time=datetime.now(UTC) if began else None)
    failed = {"TrainingJobName": "job", "TrainingJobStatus": "Failed", "FailureReason": "AlgorithmError: exit code 3"}

    class Server:
        async def read_flow_run(self, flow_run_id: Any) -> FlowRun:
            return run

    worker = SageMakerWorker("pool")
    worker.drain_seconds = 0.1
    monkeypatch.setattr(worker, "_client", Server())
    monkeypatch.setattr(worker, "_logger", logging.getLogger(WORKER_LOG))
    monkeypatch.setattr(worker, "get_flow_run_logger", lambda _: logging.getLogger(RUN_LOG))
    monkeypatch.setattr(Jobs, "describe", lambda self, name: failed)
    configuration = SimpleNamespace(unreachable_seconds=1.0, stream_output=streamed, poll_seconds=0.1)
    caplog.set_level(logging.INFO)
    anyio.run(worker._follow, run, configuration, Jobs("eu-central-1", {"logs": CloudWatch()}), "job")
    told = {name: "\n".join(row.getMessage() for row in caplog.records if row.name == name) for name in (RUN_LOG, WORKER_LOG)}
    assert "exit code 3" in told[RUN_LOG]
    assert ("1961-02-03" in told[RUN_LOG]) == (not began)
    assert told[WORKER_LOG].count("1961-02-03") == (1 if streamed or began else 0)
