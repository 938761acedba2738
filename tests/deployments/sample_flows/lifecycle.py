"""A lifecycle that only says what it was given."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from prefect import flow


@flow(name="lifecycle")
async def lifecycle(
    workload: str,
    as_of: datetime | None = None,
    cause: Literal["manual", "schedule", "drift"] = "manual",
    intent_id: str | None = None,
    retrain: bool = False,
) -> str:
    """Run a workload's steps.

    Args:
        workload: The workload to run.
        as_of: The data clock; left out: now.
        cause: Why it runs.
        intent_id: The intent it answers.
        retrain: Train even if there is a champion.
    """
    return f"{workload} {as_of} {cause} {intent_id} {retrain}"
