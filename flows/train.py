"""Train a challenger on the features at the chosen place and register it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import flow

from flows.placed import run_placed


@flow(name="train", flow_run_name="train {workload} {as_of:%Y-%m-%d}")
async def train(
    workload: str, as_of: datetime, intent_id: str, decision_id: str, inputs: dict[str, str], ticket: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Train a challenger. Started by `lifecycle`, which decides where.

    Args:
        workload: name of the workload, a folder under `flows/workloads`
        as_of: the data clock; nothing known after it is seen
        intent_id: what must happen exactly once
        decision_id: the placement decision that sent this run to its pool
        inputs: `dataset@version` by role
        ticket: control's signature over all of this; without it a worker refuses the run
    """
    return await run_placed("train", workload, as_of, intent_id, decision_id, inputs, ticket)
