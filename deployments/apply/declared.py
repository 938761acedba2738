"""What is declared, read from the files: the estate's pools, the workloads' schedules, the templates of the profile."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployments.apply.desired import CONTROL, GOVERN, RECONCILE, Declared, PoolSpec, ScheduleSpec, WorkloadSpec
from deployments.apply.templates import filled
from flows.core.errors import Problem, UserError

if TYPE_CHECKING:
    from deployments.apply.options import ApplyOptions
    from flows.adapters.estate import EstateFiles
    from flows.adapters.settings import Settings
    from flows.adapters.workload_declarations import WorkloadDeclaration
    from flows.core.placement.model import Pool

EMBEDDED_TEMPLATE = "process"


def load(settings: Settings, options: ApplyOptions) -> Declared:
    """Everything that apply declares.

    Raises:
        UserError: a file is wrong or missing, with every problem that it has.
    """
    from flows.adapters.estate import read_estate

    files = read_estate(settings.deployments / "estate")
    embedded = settings.profile == "embedded"
    wanted = {pool.name: EMBEDDED_TEMPLATE if embedded else pool.template or pool.type for pool in files.estate.pools}
    templates = load_templates(settings.deployments / "templates", wanted)
    bodies = {name: templates[template] for name, template in wanted.items()}
    if not embedded:
        bodies = fill_templates(files, bodies, settings)
    return Declared(
        pools=tuple(_pool(pool, embedded, bodies[pool.name], options) for pool in files.estate.pools),
        workloads=load_workloads(settings.deployments / "workloads"),
        reconcile=ScheduleSpec(RECONCILE, "UTC", interval=options.reconcile_every, active=options.reconcile_active),
        govern=ScheduleSpec(GOVERN, "UTC", interval=options.govern_every, active=options.govern_active),
    )


def fill_templates(files: EstateFiles, bodies: Mapping[str, Mapping[str, Any]], settings: Settings) -> dict[str, dict[str, Any]]:
    """Each pool's template with what the estate says of its site and its infrastructure.

    Raises:
        UserError: every pool that its template does not fit, and why.
    """
    done: dict[str, dict[str, Any]] = {}
    problems: list[Problem] = []
    for index, pool in enumerate(files.estate.pools):
        done[pool.name], found = filled(files, bodies[pool.name], index, settings)
        problems += found
    if problems:
        raise UserError(problems=problems)
    return done


def _pool(pool: Pool, embedded: bool, template: dict[str, Any], options: ApplyOptions) -> PoolSpec:
    concurrency = options.control_concurrency if pool.name == CONTROL else options.pool_concurrency
    return PoolSpec(pool.name, pool.site, "process" if embedded else pool.type, template, concurrency)


def load_templates(folder: Path, wanted: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The base job templates that the pools ask for, by name; `wanted` maps a pool to its template.

    Raises:
        UserError: a template is missing or is no JSON object with `job_configuration` and `variables`.
    """
    templates: dict[str, dict[str, Any]] = {}
    problems: list[Problem] = []
    first = {name: pool for pool, name in reversed(wanted.items())}
    for name, pool in sorted(first.items()):
        path = folder / f"{name}.json"
        try:
            template = json.loads(path.read_text())
        except FileNotFoundError:
            there = ", ".join(f"`{found.stem}`" for found in sorted(folder.glob("*.json")))
            problems.append(Problem(f"pool `{pool}` asks for template `{name}`, which is not there", str(path), expected=f"one of {there}"))
            continue
        except ValueError as error:
            problems.append(Problem(f"no JSON: {error}", str(path)))
            continue
        if not (isinstance(template, dict) and template.get("job_configuration") and template.get("variables")):
            problems.append(Problem("no base job template", str(path), expected="an object with `job_configuration` and `variables`"))
        templates[name] = template
    if problems:
        raise UserError(problems=problems)
    return templates


def load_workloads(folder: Path) -> tuple[WorkloadSpec, ...]:
    """Each workload that has a declaration, by name; a schedule's own parameters go over those that every schedule has."""
    from flows.adapters.workload_declarations import load_declarations

    return tuple(_workload(declaration) for _, declaration in sorted(load_declarations(folder).items()))


def _workload(declaration: WorkloadDeclaration) -> WorkloadSpec:
    schedules = tuple(
        ScheduleSpec(
            schedule.name,
            declaration.schedule_zone(schedule),
            cron=schedule.cron,
            interval=schedule.interval,
            active=schedule.active,
            parameters={"cause": "schedule", **schedule.parameters},
        )
        for schedule in declaration.schedules
    )
    return WorkloadSpec(declaration.name, declaration.title, schedules)
