"""A small estate for tests of apply: two data pools, control, one workload."""

from __future__ import annotations

from datetime import timedelta

from deployments.apply.desired import STEPS, Declared, FlowSpec, PoolSpec, ScheduleSpec, WorkloadSpec

TEMPLATE = {"job_configuration": {"stream_output": True}, "variables": {"type": "object", "properties": {}, "additionalProperties": False}}
SCHEMA = {"type": "object", "title": "Parameters", "properties": {"workload": {"type": "string"}}, "required": ["workload"]}

POOLS = (
    PoolSpec("control", "control", "process", TEMPLATE, 10),
    PoolSpec("onprem-fra-k8s", "onprem-fra", "process", TEMPLATE, 2),
    PoolSpec("aws-eu-central-1-ecs", "aws-eu-central-1", "process", TEMPLATE, 2),
)
DAILY = ScheduleSpec("daily", "Europe/Berlin", cron="0 6 * * *", parameters={"cause": "schedule"})
NAFLD = WorkloadSpec("nafld", "Fatty liver disease", (DAILY,))
RECONCILE = ScheduleSpec("reconcile", "UTC", interval=timedelta(seconds=60), active=True)
GOVERN = ScheduleSpec("govern", "UTC", interval=timedelta(days=1), active=True)
ESTATE = Declared(POOLS, (NAFLD,), RECONCILE, GOVERN)


def flows(package: str = "flows") -> dict[str, FlowSpec]:
    """A flow for every step, all with the same parameters."""
    return {step: FlowSpec(step, f"{package}.{step}.{step}", f"Run {step}.", SCHEMA) for step in STEPS}
