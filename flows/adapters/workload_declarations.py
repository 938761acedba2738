"""How workloads run, from `deployments/workloads/<name>.yaml`: owner, home, schedules, and what each step asks of placement."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field, StrictBool, TypeAdapter, model_validator

from flows.adapters.declared import Declared, load_yaml, validate
from flows.core.errors import Problem, UserError
from flows.core.fields import Instant, KeepDays, Line, Minutes, Model, Name, NonNegative, PositiveHours, wrong
from flows.core.placement.request import Environment, Objective, Resources, Restrict, Runtime, Step
from flows.core.placement.zones import known_zone

CRON = re.compile(r"^(\S+\s+){4}\S+$")


def _zone(name: str) -> str:
    if not known_zone(name):
        raise ValueError(f"`{name}` is not a time zone of the IANA database, such as `Europe/Berlin`")
    return name


def _cron(text: str) -> str:
    if not CRON.match(text):
        raise ValueError(f'`{text}` is not a cron line of five fields, such as "0 5 * * *"')
    try:
        CronSim(text, datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise ValueError(f"`{text}` never starts: {str(error).lower()}") from None
    return text


Zone = Annotated[str, AfterValidator(_zone)]
Told = Literal["as_of", "cause", "intent_id", "retrain", "urgent", "steps", "again", "request_id"]
"""What a schedule may tell the flow `lifecycle`."""
Parameter = Annotated[str, AfterValidator(TypeAdapter(Told).validate_python)]


class ScheduleDeclaration(Model):
    """When a lifecycle starts by itself: a cron line or an interval, in a time zone (left out: the workload's)."""

    name: Name
    cron: Annotated[str, AfterValidator(_cron)] | None = None
    interval_hours: PositiveHours | None = None
    timezone: Zone | None = None
    active: StrictBool = False
    parameters: Mapping[Parameter, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_clock(self) -> Self:
        if (self.cron is None) == (self.interval_hours is None):
            raise ValueError(f"schedule `{self.name}` needs either `cron` or `interval_hours`")
        if self.interval is not None and self.interval < timedelta(minutes=1):
            raise wrong(f"schedule `{self.name}` starts again in less than a minute", "interval_hours")
        return self

    @property
    def interval(self) -> timedelta | None:
        """The span between two starts, to the second; None for a cron schedule."""
        return None if self.interval_hours is None else timedelta(seconds=round(self.interval_hours * 3600))


ColumnPath = Annotated[str, Field(pattern=r"^[^\s.]+\.\S+$", description="a column of the source as `table.column`")]


class ColumnSteps(Model):
    """What ingest does to columns of the source before it writes anything: leave out, or replace by keyed pseudonyms."""

    drop: frozenset[ColumnPath] = frozenset()
    pseudonymise: frozenset[ColumnPath] = frozenset()

    @model_validator(mode="after")
    def _one_fate(self) -> Self:
        if both := sorted(self.drop & self.pseudonymise):
            raise ValueError(f"`{both[0]}` is to be dropped and pseudonymised; keep the one that is meant")
        return self


class StepDeclaration(Model):
    """What one step asks of placement; `window_hours` (366 days at most) from when it is first placed to its deadline, `keep_days`
    how long outputs are kept.

    `columns` is for `ingest` alone.
    """

    resources: Resources = Field(default_factory=Resources)
    runtime: Runtime | None = None
    restrict: Restrict = Field(default_factory=Restrict)
    window_hours: Annotated[PositiveHours, Field(le=8_784)] | None = None
    budget_usd: NonNegative | None = None
    objective: Objective = Field(default_factory=Objective)
    keep_days: KeepDays = Decimal(30)
    interruptible: StrictBool = False
    checkpoint_minutes: Annotated[Minutes, Field(gt=0)] | None = None
    checkpoint_write_minutes: Minutes = Decimal(0)
    columns: ColumnSteps = Field(default_factory=ColumnSteps)


class WorkloadDeclaration(Model):
    """One workload as it is declared; its labels are in the catalog, its code in `flows/workloads/<name>`.

    `data_until`: the instant at which a recorded source ends; left out for a living one. A run without `as_of` sees no further.
    `subject`: the columns, of whatever table, whose value is a person's key in the source: by them a person is erased.
    """

    name: Name
    title: Line
    owner: Name
    environment: Environment = "dev"
    cost_tags: Mapping[Name, Line] = Field(default_factory=dict)
    home: Name
    timezone: Zone = "UTC"
    data_until: Instant | None = None
    subject: frozenset[Annotated[str, Field(pattern=r"^\S+$", description="the name of a column")]] = frozenset()
    schedules: tuple[ScheduleDeclaration, ...] = ()
    defaults: StepDeclaration = Field(default_factory=StepDeclaration)
    steps: Mapping[Step, StepDeclaration] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _schedules_are_unique(self) -> Self:
        seen: set[str] = set()
        for index, schedule in enumerate(self.schedules):
            if schedule.name in seen:
                raise wrong(f"schedule `{schedule.name}` is declared twice", "schedules", index, "name")
            seen.add(schedule.name)
        return self

    @model_validator(mode="after")
    def _columns_at_ingest(self) -> Self:
        for name, step in {"defaults": self.defaults, **self.steps}.items():
            if name != "ingest" and "columns" in step.model_fields_set:
                told = f"`columns` under `{name}`: columns are dropped and pseudonymised by `ingest` alone"
                raise wrong(told, *(() if name == "defaults" else ("steps",)), name, "columns")
        return self

    def step(self, name: Step) -> StepDeclaration:
        """What the step asks: its own words first, the workload's defaults for the rest."""
        own = self.steps.get(name)
        if own is None:
            return self.defaults
        return self.defaults.model_copy(update={field: getattr(own, field) for field in own.model_fields_set})

    def schedule_zone(self, schedule: ScheduleDeclaration) -> str:
        """The IANA time zone that the schedule counts in."""
        return schedule.timezone or self.timezone


def load_declaration(folder: Path, name: str) -> WorkloadDeclaration:
    """The declaration of one workload.

    Raises:
        UserError: there is no such workload, or its file is malformed.
    """
    return read_declaration(folder, name)[0]


def read_declaration(folder: Path, name: str) -> tuple[WorkloadDeclaration, Declared]:
    """As `load_declaration`, with the document it was read from.

    Raises:
        UserError: as `load_declaration`.
    """
    known = names(folder)
    if name not in known:
        expected = f"one of {', '.join(f'`{one}`' for one in known)}" if known else "a workload; none is declared"
        raise UserError(f"no workload `{name}`", file=str(folder), expected=expected, fix=f"`tradewind new {name}` writes one")
    document = load_yaml(folder / f"{name}.yaml")
    declaration = validate(WorkloadDeclaration, document)
    if declaration.name != name:
        raise UserError(problems=[document.problem(("name",), f"`{declaration.name}` in the file of `{name}`", expected=f"`{name}`")])
    return declaration, document


def load_declarations(folder: Path) -> dict[str, WorkloadDeclaration]:
    """All declared workloads by name.

    Raises:
        UserError: everything that is wrong in any of the files.
    """
    found: dict[str, WorkloadDeclaration] = {}
    problems: list[Problem] = []
    for name in names(folder):
        try:
            found[name] = load_declaration(folder, name)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems=problems)
    return found


def names(folder: Path) -> tuple[str, ...]:
    """The names of all declared workloads, sorted.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError("no such folder", file=str(folder), expected="a folder with one `<workload>.yaml` each")
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))
