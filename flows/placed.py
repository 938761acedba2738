"""The wiring that every placed step shares: from a flow run's parameters to the use case, and from its result to the run's page."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from prefect.artifacts import acreate_link_artifact, acreate_markdown_artifact
from prefect.runtime import flow_run

from flows.services.context import DatasetRef
from flows.services.running import StepOrder, run_step


async def run_placed(
    step: str,
    workload: str,
    as_of: datetime,
    intent_id: str,
    decision_id: str,
    inputs: Mapping[str, str],
    ticket: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Run the step in a thread, since its libraries block, then link its reports from the run's page."""
    refs = {role: DatasetRef.parse(text) for role, text in inputs.items()}
    order = StepOrder(step, workload, as_of, intent_id, decision_id, refs, str(flow_run.get_id() or intent_id), ticket)
    result = await asyncio.to_thread(run_step, order)
    await acreate_markdown_artifact(key=artifact_key(step, workload), markdown=summary(result), description=result["summary"])
    for name, address in result["links"].items():
        await acreate_link_artifact(key=artifact_key(step, workload, name), link=address, link_text=name)
    return result


def artifact_key(*parts: str) -> str:
    """A key as Prefect wants it: lower-case letters, digits and dashes."""
    return "-".join("".join(letter if letter.isalnum() else "-" for letter in part.lower()).strip("-") for part in parts)


def summary(result: Mapping[str, Any]) -> str:
    """What the step made, for people: a line, its data, its plain numbers."""
    made = [f"| {dataset} | `{ref}` |" for dataset, ref in sorted(result["outputs"].items())]
    numbers = [f"| {name} | {value} |" for name, value in sorted(result["numbers"].items()) if isinstance(value, int | float | str)]
    lines = [f"**{result['summary']}**", "", f"at `{result['site']}`, pool `{result['pool']}`", ""]
    if made:
        lines += ["| dataset | version |", "|---|---|", *made, ""]
    if numbers:
        lines += ["| number | value |", "|---|---|", *numbers]
    return "\n".join(lines)
