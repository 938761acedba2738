"""At one site: look for a person's data, take it out, or remove versions past their retention, as control asks and signs."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.services import site_tasks
from flows.subject_secrets import fetch


@flow(name="purge", flow_run_name="purge {workload}")
async def purge(workload: str, task_id: str, ticket: dict[str, Any] | None = None) -> dict[str, Any]:
    """Do one task of governance at this pool's site. Started by `govern`.

    Args:
        workload: whose data
        task_id: the task's intent, which says what to do; it names versions, never a person
        ticket: control's signature over all of this; without it a worker refuses the run
    """
    order = site_tasks.SiteOrder(workload, task_id, str(flow_run.get_id() or task_id), ticket)
    await asyncio.to_thread(site_tasks.run, order, fetch=fetch)
    return {"task": task_id}
