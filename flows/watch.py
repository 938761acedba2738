"""Watch the champion for drift; a verdict that asks for a retrain is on record before the event tells of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import flow
from prefect.events import emit_event

from flows.core.canonical import instant
from flows.core.events import DRIFT_DETECTED, workload_resource
from flows.placed import run_placed


@flow(name="watch", flow_run_name="watch {workload} {as_of:%Y-%m-%d}")
async def watch(
    workload: str, as_of: datetime, intent_id: str, decision_id: str, inputs: dict[str, str], ticket: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Check for drift. Started by `lifecycle`, which decides where.

    Args:
        workload: name of the workload, a folder under `flows/workloads`
        as_of: the data clock; nothing known after it is seen
        intent_id: what must happen exactly once
        decision_id: the placement decision that sent this run to its pool
        inputs: `dataset@version` by role
        ticket: control's signature over all of this; without it a worker refuses the run
    """
    result = await run_placed("watch", workload, as_of, intent_id, decision_id, inputs, ticket)
    if result.get("retrain_intent"):
        payload = {"workload": workload, "as_of": instant(as_of), "intent_id": result["retrain_intent"]}
        emit_event(event=DRIFT_DETECTED, resource=workload_resource(workload), payload=payload)
    return result
