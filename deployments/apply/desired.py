"""Desired objects from what is declared: pure, without Prefect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from deployments.apply.model import TAG, Resource
from flows.core.planning import CONTROL_STEPS, PLACED_STEPS, SITE_STEPS

CONTROL = "control"
RECONCILE = "reconcile"
GOVERN = "govern"
LIFECYCLE = "lifecycle"
STEPS = (*PLACED_STEPS, *SITE_STEPS, *CONTROL_STEPS, LIFECYCLE)
"""Every flow that apply deploys."""

MARKER = "(managed by `tradewind apply`)"
"""Pools have no tags: the end of their description says whose they are."""

DRIFT_EVENT = "tradewind.drift.detected"
ANCHOR = "2024-01-01T00:00:00Z"
"""Interval schedules count from here, so that two applies declare the same instants."""


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """One work pool: its Prefect type, its base job template, how many runs at once."""

    name: str
    site: str
    type: str
    template: Mapping[str, Any]
    concurrency: int


@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """One schedule of a workload: a cron line or an interval, in a time zone; `parameters` over the deployment's own."""

    name: str
    timezone: str
    cron: str | None = None
    interval: timedelta | None = None
    active: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """One workload and its schedules."""

    name: str
    title: str
    schedules: tuple[ScheduleSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class FlowSpec:
    """One flow as the UI shows it: entrypoint, first line of its docstring, OpenAPI schema of its parameters."""

    step: str
    entrypoint: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Declared:
    """All that is declared of one estate in one profile."""

    pools: tuple[PoolSpec, ...]
    workloads: tuple[WorkloadSpec, ...]
    reconcile: ScheduleSpec
    govern: ScheduleSpec


def desired(declared: Declared, flows: Mapping[str, FlowSpec]) -> tuple[Resource, ...]:
    """Pools, deployments and automations; `flows` maps each of `STEPS` to its flow."""
    return (
        *(pool(spec) for spec in declared.pools),
        *deployments(declared, flows),
        *(drift_automation(workload.name) for workload in declared.workloads),
    )


def pool(spec: PoolSpec) -> Resource:
    """One work pool."""
    fields = {
        "type": spec.type,
        "description": f"Runs steps at site {spec.site} {MARKER}",
        "template": spec.template,
        "concurrency_limit": spec.concurrency,
    }
    return Resource("pool", spec.name, fields)


def deployments(declared: Declared, flows: Mapping[str, FlowSpec]) -> Iterable[Resource]:
    """One deployment per (step at a site, data pool), per control step, and per workload's lifecycle."""
    for spec in declared.pools:
        if spec.name != CONTROL:
            for step in (*PLACED_STEPS, *SITE_STEPS):
                yield _deployment(flows[step], spec.name, spec.name, tags=(f"site:{spec.site}", f"step:{step}"))
    clocks = {RECONCILE: (declared.reconcile,), GOVERN: (declared.govern,)}
    for step in CONTROL_STEPS:
        yield _deployment(flows[step], CONTROL, CONTROL, tags=(f"step:{step}",), schedules=clocks.get(step, ()))
    for workload in declared.workloads:
        yield _deployment(
            flows[LIFECYCLE],
            workload.name,
            CONTROL,
            tags=(f"workload:{workload.name}",),
            schedules=workload.schedules,
            parameters={"workload": workload.name},
            description=workload.title,
        )


def _deployment(
    flow: FlowSpec,
    name: str,
    pool_name: str,
    *,
    tags: tuple[str, ...],
    schedules: tuple[ScheduleSpec, ...] = (),
    parameters: Mapping[str, Any] | None = None,
    description: str | None = None,
) -> Resource:
    fields = {
        "entrypoint": flow.entrypoint,
        "pool": pool_name,
        "description": f"{description}\n\n{flow.description}" if description else flow.description,
        "tags": sorted((TAG, *tags)),
        "parameters": dict(parameters or {}),
        "parameter_schema": flow.schema,
        "enforce_parameter_schema": True,
        "job_variables": {},
        "pull_steps": [],
        "schedules": {schedule.name: schedule_fields(schedule) for schedule in schedules},
    }
    initial = {"active": {schedule.name: schedule.active for schedule in schedules}}
    return Resource("deployment", f"{flow.step}/{name}", fields, initial).versioned()


def schedule_fields(spec: ScheduleSpec) -> dict[str, Any]:
    """A schedule as JSON: seconds between runs, or a cron line; its time zone and its parameters."""
    when = {"cron": spec.cron} if spec.interval is None else {"interval_seconds": int(spec.interval.total_seconds())}
    return {**when, "timezone": spec.timezone, "parameters": dict(spec.parameters)}


def drift_automation(workload: str) -> Resource:
    """The automation that answers a workload's drift event with a run of its lifecycle."""
    payload = {name: f"{{{{ event.payload.{name} | default(none) }}}}" for name in ("as_of", "intent_id")}
    fields = {
        "description": f"Starts {LIFECYCLE}/{workload} when drift of {workload} is detected",
        "tags": [TAG, f"workload:{workload}"],
        "expect": [DRIFT_EVENT],
        "match": {"prefect.resource.id": f"tradewind.workload.{workload}"},
        "trigger": {"posture": "Reactive", "threshold": 1, "within": 0.0},
        "deployment": f"{LIFECYCLE}/{workload}",
        "parameters": {"workload": workload, "cause": "drift", **payload},
    }
    return Resource("automation", f"tradewind-drift-{workload}", fields, {"enabled": True})
