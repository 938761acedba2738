"""The decision of a placement on the page of the run that asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect import task
from prefect.artifacts import acreate_markdown_artifact

from flows.core.placement.explain import decision_markdown
from flows.placed import artifact_key


@task(name="place", task_run_name="place {step}")
async def place(step: str, workload: str, decision: Mapping[str, Any]) -> str | None:
    """Show where the step goes and why every other place lost; returns the chosen pool, None if there is none."""
    await acreate_markdown_artifact(
        key=artifact_key("decision", step, workload), markdown=decision_markdown(decision), description=decision["summary"]
    )
    chosen = decision["chosen"]
    return str(chosen["pool"]) if chosen else None
