"""The loop of one workload: ingest, materialize, place, transfer, train, evaluate, promote, score, watch. Resumable."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.context import FlowRunContext
from prefect.flow_runs import asuspend_flow_run
from prefect.runtime import flow_run

from flows.adapters.settings import Settings
from flows.core.canonical import instant
from flows.place import place
from flows.placed import artifact_key
from flows.prefect_dispatcher import PrefectDispatcher
from flows.services import lifecycle as service
from flows.services import requesting
from flows.services.declarations import Declarations

Step = Literal["ingest", "materialize", "train", "evaluate", "promote", "score", "watch"]


@flow(name="lifecycle", flow_run_name="lifecycle {workload} {cause}")
async def lifecycle(
    workload: str,
    as_of: datetime | None = None,
    cause: Literal["manual", "schedule", "drift", "erasure"] = "manual",
    intent_id: str | None = None,
    retrain: bool = False,
    urgent: bool = False,
    steps: list[Step] | None = None,
    again: bool = False,
    request_id: str | None = None,
) -> dict[str, Any]:
    """Run a workload's loop up to a moment of its data, or go on where an earlier run of the same loop stopped.

    Args:
        workload: name of the workload, a folder under `flows/workloads`
        as_of: the data clock: nothing known after it is seen; left out, now or the end of the workload's data, whichever is earlier
        cause: a person (manual), the clock (schedule) or a drift alert (drift) or an erasure (erasure), which train on what is there;
            the others take in new data
        intent_id: only for drift alerts, erasures and the reconciler: the intent to fulfil
        retrain: train a challenger even though there is a champion
        urgent: start each step in the first free slot, not in the cheapest one
        steps: run only these again, on what is there; left out, all that are due
        again: do what an earlier run of the same moment has done, or was refused, once more
        request_id: only from `tradewind run`: proves who asked for exactly this, once; left out, whoever knows the server's password
    """
    settings = Settings()
    declarations = Declarations.load(settings)
    order = service.LifecycleOrder(
        workload=workload,
        as_of=as_of or declarations.default_as_of(workload),
        cause=cause,
        owner=str(flow_run.get_id() or "local"),
        principal=requesting.UI,
        intent=intent_id,
        retrain=retrain,
        urgent=urgent,
        steps=tuple(steps or ()),
        tag=f"again-{flow_run.get_id()}" if (steps or again) and intent_id is None else "",
    )

    asked = requesting.wanted(
        workload,
        None if as_of is None else instant(as_of),
        cause,
        retrain=retrain,
        urgent=urgent,
        steps=[str(step) for step in steps or ()],
        again=again,
    )
    scheduled = bool((context := FlowRunContext.get()) and context.flow_run and context.flow_run.auto_scheduled)
    order = await asyncio.to_thread(
        requesting.known, order, asked, settings=settings, request_id=request_id, scheduled=scheduled, at=datetime.now(UTC)
    )

    async def show(step: str, decision: Mapping[str, Any]) -> None:
        await place(step, workload, decision)

    report = await service.run(order, settings=settings, dispatcher=PrefectDispatcher(), on_decision=show)
    if report.approval is not None:
        await wait_for_person(workload, report.approval, report.message)
    return {"state": report.state, "message": report.message, "steps": sorted(report.steps)}


async def wait_for_person(workload: str, approval: Mapping[str, str], message: str) -> None:
    """Show what must be judged, and suspend the run; one that cannot be (the reconciler's own child) ends, and another goes on for it.

    What waits is the intent in the state database, open again: nothing hangs on this run, and its being resumed decides nothing.
    """
    await acreate_markdown_artifact(key=artifact_key("approval", workload), markdown=approval["page"], description=message)
    try:
        # a key of its own each time: the server lets a run go on that it has suspended under the same key before
        await asuspend_flow_run(key=f"{approval['request']} {uuid4().hex}")
    except RuntimeError as error:
        get_run_logger().info("%s; the run ends, the promotion waits: %s", message, error)
