"""The loop of one workload: ingest, materialize, place, transfer, train, evaluate, promote, score, watch. Resumable."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from prefect import flow
from prefect.runtime import flow_run

from flows.adapters.settings import Settings
from flows.place import place
from flows.prefect_dispatcher import PrefectDispatcher
from flows.services import lifecycle as service
from flows.services.declarations import Declarations

Step = Literal["ingest", "materialize", "train", "evaluate", "promote", "score", "watch"]


@flow(name="lifecycle", flow_run_name="lifecycle {workload} {cause}")
async def lifecycle(
    workload: str,
    as_of: datetime | None = None,
    cause: Literal["manual", "schedule", "drift"] = "manual",
    intent_id: str | None = None,
    retrain: bool = False,
    urgent: bool = False,
    steps: list[Step] | None = None,
    again: bool = False,
) -> dict[str, Any]:
    """Run a workload's loop up to a moment of its data, or go on where an earlier run of the same loop stopped.

    Args:
        workload: name of the workload, a folder under `flows/workloads`
        as_of: the data clock: nothing known after it is seen; left out, now or the end of the workload's data, whichever is earlier
        cause: a person (manual), the clock (schedule) or a drift alert (drift), which trains on what is there; the others take in new data
        intent_id: only for drift alerts and the reconciler: the intent to fulfil
        retrain: train a challenger even though there is a champion
        urgent: start each step in the first free slot, not in the cheapest one
        steps: run only these again, on what is there; left out, all that are due
        again: do what an earlier run of the same moment has done, or was refused, once more
    """
    settings = Settings()
    declarations = Declarations.load(settings)
    order = service.LifecycleOrder(
        workload=workload,
        as_of=as_of or declarations.default_as_of(workload),
        cause=cause,
        owner=str(flow_run.get_id() or "local"),
        principal=_principal(cause),
        intent=intent_id,
        retrain=retrain,
        urgent=urgent,
        steps=tuple(steps or ()),
        tag=f"again-{flow_run.get_id()}" if (steps or again) and intent_id is None else "",
    )

    async def show(step: str, decision: Mapping[str, Any]) -> None:
        await place(step, workload, decision)

    report = await service.run(order, settings=settings, dispatcher=PrefectDispatcher(), on_decision=show)
    return {"state": report.state, "message": report.message, "steps": sorted(report.steps)}


def _principal(cause: str) -> str:
    """The open-source server knows no users: a run from its UI is `prefect-ui`, with the role operator."""
    return {"manual": "prefect-ui", "schedule": "scheduler", "drift": "drift-watch"}[cause]
