"""Land the source's raw rows known by `as_of` at the workload's home: checked, quarantined or stopped, versioned by content."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime
from typing import Any

from prefect import flow
from prefect.blocks.system import Secret

from flows.adapters.settings import Settings
from flows.placed import run_placed
from flows.services.classifying import key_elsewhere
from flows.services.erased_rows import KEY_SECRET, KEY_VARIABLE, key_wanted


@flow(name="ingest", flow_run_name="ingest {workload} {as_of:%Y-%m-%d}")
async def ingest(
    workload: str, as_of: datetime, intent_id: str, decision_id: str, inputs: dict[str, str], ticket: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Take in raw data. Started by `lifecycle`, which decides where.

    Args:
        workload: name of the workload, a folder under `flows/workloads`
        as_of: the data clock; nothing known after it is seen
        intent_id: what must happen exactly once
        decision_id: the placement decision that sent this run to its pool
        inputs: `dataset@version` by role
        ticket: control's signature over all of this; without it a worker refuses the run
    """
    await _fetch_key(workload)
    return await run_placed("ingest", workload, as_of, intent_id, decision_id, inputs, ticket)


async def _fetch_key(workload: str) -> None:
    """Put the keys of the workload's pseudonyms and erasures from their secrets into this process alone; a missing one the step tells."""
    wanted = [await asyncio.to_thread(key_elsewhere, workload, Settings())]
    if await asyncio.to_thread(key_wanted, workload, Settings()):
        wanted.append((KEY_VARIABLE, KEY_SECRET))
    for variable, block in filter(None, wanted):
        try:
            secret: Secret[str] = await Secret.aload(block)
        except ValueError:
            continue
        os.environ[variable] = str(secret.get())
