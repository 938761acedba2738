"""Names of the events that start work. An event may be lost, doubled or late: the outbox, not the event, says what must happen."""

from __future__ import annotations

DRIFT_DETECTED = "tradewind.drift.detected"
"""A drift verdict asks for a retrain; payload: workload, as_of, intent_id."""


def workload_resource(workload: str) -> dict[str, str]:
    """The resource that a workload's events are about."""
    return {"prefect.resource.id": f"tradewind.workload.{workload}", "prefect.resource.name": workload}
