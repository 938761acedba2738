"""Promote a challenger, or refuse it, on the verdict of its evaluation; runs in control, sees no data."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.runtime import flow_run

from flows.placed import artifact_key, summary
from flows.services import promotion_runs


@flow(name="promote", flow_run_name="promote {workload} {as_of:%Y-%m-%d}")
async def promote(workload: str, as_of: datetime, intent_id: str, cause: str) -> dict[str, Any]:
    """Give the challenger the champion's place if the gate lets it pass. Started by `lifecycle`.

    Args:
        workload: name of the workload, a folder under `flows/workloads`
        as_of: the data clock of the training and its evaluation
        intent_id: what must happen exactly once
        cause: why it was trained: manual, schedule or drift
    """
    run_id = str(flow_run.get_id() or intent_id)
    result = await asyncio.to_thread(promotion_runs.run, workload, as_of, intent_id, cause, run_id=run_id)
    page = result["approval"]["page"] if "approval" in result else summary(result)
    await acreate_markdown_artifact(key=artifact_key("promote", workload), markdown=page, description=result["summary"])
    return result
