"""What asks for a place (`Request`) and the frozen moment it is decided in (`Conditions`)."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StrictBool, model_validator

from flows.core.fields import (
    Count,
    Countries,
    Hours,
    Instant,
    Integer,
    KeepDays,
    Line,
    Minutes,
    Model,
    Name,
    Names,
    NonNegative,
    Percentile,
    Positive,
    PositiveHours,
    Version,
    wrong,
)
from flows.core.fields import Step as Step

Environment = Literal["dev", "staging", "prod"]
Role = Literal["viewer", "data-scientist", "ml-engineer", "platform-engineer", "compliance-officer", "approver", "operator"]


class Principal(Model):
    """Who asks, and the roles they claim; dispatch puts the authenticated principal here."""

    user: Line
    roles: Annotated[tuple[Role, ...], AfterValidator(lambda roles: tuple(sorted(set(roles))))] = ()


class DatasetUse(Model):
    """A dataset that the step reads; size left out: the catalog's. GB are 10^9 bytes."""

    name: Name
    size_gb: NonNegative | None = None


class OutputUse(Model):
    """A dataset that the step writes, the site it comes to rest at (left out: the chosen one) and for how many days."""

    name: Name
    size_gb: NonNegative | None = None
    home: Name | None = None
    keep_days: KeepDays = Decimal(0)


class Resources(Model):
    """What each of `nodes` needs at least; `accelerators` maps exact names to counts, any one of them will do."""

    nodes: Count = 1
    cpus: NonNegative = Decimal(0)
    memory_gib: NonNegative = Decimal(0)
    arch: Name | None = None
    accelerators: Mapping[Line, Positive] = Field(default_factory=dict)


class Runtime(Model):
    """How long the work itself takes, at the median and at the 90th percentile."""

    p50_hours: PositiveHours
    p90_hours: PositiveHours

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.p50_hours > self.p90_hours:
            raise ValueError(f"`p50_hours` {self.p50_hours} is more than `p90_hours` {self.p90_hours}")
        return self


class Window(Model):
    """When it may start, and when it must have ended in nine of ten cases."""

    earliest: Instant | None = None
    deadline: Instant | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.earliest is not None and self.deadline is not None and self.earliest >= self.deadline:
            raise ValueError("`earliest` is not before `deadline`")
        return self


class LatencyTarget(Model):
    """Round trip plus `service_ms` must stay within `max_ms` for every country, at that percentile."""

    from_: Annotated[Countries, Field(min_length=1)] = Field(alias="from")
    max_ms: Positive
    percentile: Percentile = 50
    service_ms: NonNegative = Decimal(0)


class Objective(Model):
    """What an hour of delay and a kilogram of CO2 are worth, in USD."""

    usd_per_hour_of_delay: NonNegative = Decimal(0)
    usd_per_kg_co2: NonNegative = Decimal(0)


class Restrict(Model):
    """Where the user wants it at most; empty means no narrowing. `offers` takes names or patterns; `spot` true or false takes only that."""

    clouds: Names = ()
    sites: Names = ()
    pools: Names = ()
    offers: Names = ()
    spot: StrictBool | None = None


ANONYMOUS = Principal(user="anonymous")


class Request(Model):
    """One step of one workload that wants a place."""

    version: Version = 1
    workload: Name
    step: Step
    environment: Environment = "dev"
    intent_id: Line | None = None
    image: Line | None = None
    requested_by: Principal = ANONYMOUS
    datasets: tuple[DatasetUse, ...] = ()
    outputs: tuple[OutputUse, ...] = ()
    resources: Resources = Field(default_factory=Resources)
    runtime: Runtime | None = None
    interruptible: StrictBool = False
    checkpoint_minutes: Annotated[Minutes, Field(gt=0)] | None = None
    checkpoint_write_minutes: Minutes = Decimal(0)
    window: Window = Field(default_factory=Window)
    latency: LatencyTarget | None = None
    budget_usd: NonNegative | None = None
    objective: Objective = Field(default_factory=Objective)
    restrict: Restrict = Field(default_factory=Restrict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for what, names in (("dataset", [use.name for use in self.datasets]), ("output", [use.name for use in self.outputs])):
            for index, name in enumerate(names):
                if name in names[:index]:
                    raise wrong(f"{what} `{name}` is named twice", f"{what}s", index, "name")
        if self.checkpoint_write_minutes and self.checkpoint_minutes is None:
            told = "`checkpoint_write_minutes` without `checkpoint_minutes`: say how often a checkpoint is written"
            raise wrong(told, "checkpoint_write_minutes")
        return self


class Reservation(Model):
    """Capacity of a pool that is taken in [from, until)."""

    pool: Name
    use: Mapping[Line, NonNegative]
    from_: Instant = Field(alias="from")
    until: Instant

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.from_ >= self.until:
            raise ValueError("`from` is not before `until`")
        return self


class RuntimeEstimate(Model):
    """How long the step took on an offer in `runs` runs; `offer` left out: on any offer that has no estimate of its own."""

    workload: Name
    step: Step
    offer: Name | None = None
    p50_hours: PositiveHours
    p90_hours: PositiveHours
    runs: Annotated[Integer, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.p50_hours > self.p90_hours:
            raise ValueError(f"`p50_hours` {self.p50_hours} is more than `p90_hours` {self.p90_hours}")
        return self


class Conditions(Model):
    """Free capacity and queue wait per pool, budget left per workload, runtime estimates and replicas; empty: idle and unlimited.

    `cordoned` sites get nothing new, neither a run nor data. `cooling` pools failed a run and get none that starts before the instant;
    none at all, whatever the slot, if there is no instant (the run that failed there wants another place). `unproven` sites lost proofs
    of their security that they owe: check to why.
    """

    replicas: Mapping[Name, Names] = Field(default_factory=dict)
    reservations: tuple[Reservation, ...] = ()
    queue_hours: Mapping[Name, Hours] = Field(default_factory=dict)
    budget_left_usd: Mapping[Name, NonNegative] = Field(default_factory=dict)
    runtimes: tuple[RuntimeEstimate, ...] = ()
    cordoned: Names = ()
    cooling: Mapping[Name, Instant | None] = Field(default_factory=dict)
    unproven: Mapping[Name, Mapping[Name, Line]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _estimates_are_unique(self) -> Self:
        seen: set[tuple[str, str, str | None]] = set()
        for index, row in enumerate(self.runtimes):
            key = (row.workload, row.step, row.offer)
            if key in seen:
                raise wrong(f"two runtime estimates for `{row.workload}` `{row.step}` on `{row.offer or 'any offer'}`", "runtimes", index)
            seen.add(key)
        return self
