"""Everything one decision looks at, resolved once: datasets and outputs with sizes and homes, slots, labels, and what is unknown."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fnmatch import fnmatchcase

from flows.core.errors import Problem, UserError
from flows.core.governance.blocs import ANYWHERE, ISO_COUNTRIES
from flows.core.governance.labels import Catalog, Classification, Label, ResidencyClash, join
from flows.core.placement.estate import Estate, Offer, Pool, Site, Speed
from flows.core.placement.request import Conditions, Request, Runtime
from flows.core.placement.slots import slots
from flows.core.placement.speeds import scaled

SHARED = ("nodes", "cpus", "memory_gib")
"""What every offer takes of a pool's capacity, besides its accelerators."""

LONGEST_WINDOW = timedelta(days=366)
"""Further ahead nobody plans one run."""

UNKNOWN = Label(classification=Classification.RESTRICTED, regimes=frozenset(), residency=frozenset({ANYWHERE}))
"""What a dataset without entry or label counts as; it may be at its home only."""


@dataclass(frozen=True, slots=True)
class Input:
    """A dataset that is read: where it rests at least (`home` None: the catalog does not have it) and where copies of it rest."""

    name: str
    size_gb: Decimal
    home: str | None
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """A dataset that is written, to rest at `home` (None: the chosen site) for `keep_days`."""

    name: str
    size_gb: Decimal
    home: str | None
    keep_days: Decimal


@dataclass(frozen=True, slots=True)
class Scene:
    """The resolved request in its estate and moment; pure data behind the filters and the score."""

    request: Request
    estate: Estate
    catalog: Catalog
    conditions: Conditions
    at: datetime
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    slots: tuple[datetime, ...]
    deadline: datetime | None
    budget_usd: Decimal | None
    boundaries: tuple[date, ...]
    runtimes: dict[str | None, Runtime]
    measured_anywhere: bool
    runtimes_differ: bool
    warnings: tuple[str, ...]
    _labels: dict[tuple[str, int], Label | None] = field(default_factory=dict)
    _joined: dict[int, tuple[str | None, Label | None]] = field(default_factory=dict)

    @property
    def serves(self) -> bool:
        """Whether the step never ends by itself."""
        return self.request.step == "serve"

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The pools that take placed steps, sorted by name."""
        return tuple(sorted((pool for pool in self.estate.pools if pool.offers), key=lambda pool: pool.name))

    def site_of(self, pool: Pool) -> Site:
        """The pool's site."""
        return self.estate.site_by_id[pool.site]

    def runtime_on(self, offer: Offer) -> Runtime | None:
        """The request's own runtime, else the estimate for the offer, else the estimate for any offer; a declared one as `scaled`."""
        if self.request.runtime is not None:
            return scaled(self.request.runtime, self.speed_of(offer))
        if offer.name in self.runtimes:
            return self.runtimes[offer.name]
        declared = self.runtimes.get(None)
        return declared if declared is None or self.measured_anywhere else scaled(declared, self.speed_of(offer))

    def speed_of(self, offer: Offer) -> Speed | None:
        """The declared speed of the offer; None for what takes its time on any hardware: bytes on their way, a service that never ends."""
        return None if self.request.step in ("serve", "transfer") else self.estate.speed_of(offer)

    def era(self, through: datetime) -> int:
        """Spans of days between the last valid days of dated facts: two instants of one era see the same facts."""
        return bisect_left(self.boundaries, through.astimezone(UTC).date()) if self.boundaries else 0

    def day_of(self, era: int) -> date:
        """A day of the era that stands for all of it."""
        if era < len(self.boundaries):
            return self.boundaries[era]
        return max([self.at.date(), *(day + timedelta(days=1) for day in self.boundaries[-1:])])

    def label(self, name: str, era: int) -> Label | None:
        """The dataset's label that holds through the era; None if nothing is known or its origins clash."""
        key = (name, era)
        if key not in self._labels:
            try:
                self._labels[key] = self.catalog.label_of(name, datetime.combine(self.day_of(era), time(), UTC), self.estate.blocs)
            except ResidencyClash:
                self._labels[key] = None
        return self._labels[key]

    def clash(self, era: int) -> str | None:
        """Which datasets leave no country where they may be together; None if there is one."""
        return self._join(era)[0]

    def output_label(self, era: int) -> Label | None:
        """The join of the inputs' labels, an unknown one counting as restricted; None if they clash."""
        return self._join(era)[1]

    def _join(self, era: int) -> tuple[str | None, Label | None]:
        if era not in self._joined:
            self._joined[era] = self._joined_now(datetime.combine(self.day_of(era), time(), UTC))
        return self._joined[era]

    def _joined_now(self, day: datetime) -> tuple[str | None, Label | None]:
        blocs = self.estate.blocs
        try:
            return None, join({use.name: self.catalog.label_of(use.name, day, blocs) or UNKNOWN for use in self.inputs}, blocs)
        except ResidencyClash as error:
            return ", ".join(f"`{name}`" for name in error.datasets), None


def known_country(code: str | None) -> bool:
    """Whether the code is an ISO 3166 country."""
    return code is not None and code in ISO_COUNTRIES


def resolve(
    request: Request,
    estate: Estate,
    catalog: Catalog,
    conditions: Conditions,
    at: datetime,
    *,
    needs_runtime: bool = True,
    last_days: Iterable[date] = (),
) -> Scene:
    """The scene of a decision; without `needs_runtime` nothing can be priced in it. `last_days`: when dated facts of policy end.

    Raises:
        UserError: a name or a value that makes no sense in this estate; carries every problem found.
    """
    problems: list[Problem] = []
    warnings: list[str] = [*estate.assumptions]
    names = sorted({use.name for use in request.datasets} | catalog.datasets_of(request.workload, request.step))
    sizes = {use.name: use.size_gb for use in request.datasets}
    inputs = tuple(_input(name, sizes.get(name), catalog, conditions, warnings) for name in names)
    outputs = []
    for use in sorted(request.outputs, key=lambda use: use.name):
        if use.home is not None and use.home not in estate.site_by_id:
            fix = f"use one of `{'`, `'.join(sorted(estate.site_by_id))}`"
            problems.append(Problem(f"output `{use.name}` has its home at `{use.home}`, which is no site", field="outputs", fix=fix))
        outputs.append(Output(use.name, _size(use.name, use.size_gb, catalog, warnings), use.home, use.keep_days))
    rows = [row for row in conditions.runtimes if (row.workload, row.step) == (request.workload, request.step)]
    runtimes = {row.offer: Runtime(p50_hours=row.p50_hours, p90_hours=row.p90_hours) for row in rows}
    if needs_runtime and request.runtime is None and not runtimes:
        what = f"no runtime is known for `{request.step}` of `{request.workload}`"
        problems.append(
            Problem(what, field="runtime", fix="write `runtime: {p50_hours: …, p90_hours: …}`, or an estimate in the conditions")
        )
    if request.window.earliest is not None and request.window.earliest - at > LONGEST_WINDOW:
        what = f"more than {LONGEST_WINDOW.days} days after the decision, and prices are followed up to it"
        problems.append(Problem(what, field="window.earliest", expected="an earlier start", fix="ask again when it is nearer"))
    deadline = None if request.step == "serve" else request.window.deadline
    if deadline is not None and deadline - max(at, request.window.earliest or at) > LONGEST_WINDOW:
        what = f"the window is longer than {LONGEST_WINDOW.days} days, and each of its hours is a possible start"
        problems.append(Problem(what, field="window.deadline", expected="a nearer deadline", fix="leave it out if there is none"))
    if problems:
        raise UserError(problems=problems)
    warnings += _unmatched(request, estate, conditions)
    if request.step == "serve":
        if request.window.deadline is not None:
            warnings.append("`serve` has no end: `window.deadline` is not used")
        if request.interruptible:
            warnings.append("`serve` never runs on spot: `interruptible` is not used")
    limits = [limit for limit in (request.budget_usd, conditions.budget_left_usd.get(request.workload)) if limit is not None]
    return Scene(
        request=request,
        estate=estate,
        catalog=catalog,
        conditions=conditions,
        at=at,
        inputs=inputs,
        outputs=tuple(outputs),
        slots=slots(at, request.window.earliest, deadline, only_first=request.step == "serve"),
        deadline=deadline,
        budget_usd=min(limits) if limits else None,
        boundaries=tuple(sorted(day for day in {*_last_days(estate, catalog), *last_days} if day >= at.date())),
        runtimes=runtimes,
        measured_anywhere=any(row.runs and row.offer is None for row in rows),
        runtimes_differ=bool(estate.speeds) or set(runtimes) - {None} != set(),
        warnings=tuple(warnings),
    )


def _size(name: str, size_gb: Decimal | None, catalog: Catalog, warnings: list[str]) -> Decimal:
    if size_gb is not None:
        return size_gb
    entry = catalog.entry(name)
    if entry is not None:
        return entry.size_gb
    warnings.append(f"the size of `{name}` is not known: counted as 0 GB")
    return Decimal(0)


def _input(name: str, size_gb: Decimal | None, catalog: Catalog, conditions: Conditions, warnings: list[str]) -> Input:
    entry = catalog.entry(name)
    home = None if entry is None else entry.home
    sources = {*conditions.replicas.get(name, ()), *(() if home is None else (home,))}
    return Input(name, _size(name, size_gb, catalog, warnings), home, tuple(sorted(sources)))


def _last_days(estate: Estate, catalog: Catalog) -> set[date]:
    days = {day for site in estate.sites for day in site.certifications.values() if day is not None}
    days |= {decision.until for decision in estate.blocs.adequacy.values() if decision.until is not None}
    return days | {entry.declassified.until for entry in catalog.entries if entry.declassified is not None}


def _unmatched(request: Request, estate: Estate, conditions: Conditions) -> Iterable[str]:
    """Names that the estate does not have: they narrow or say nothing, and the reader should know."""
    pools, sites = set(estate.pool_by_name), set(estate.site_by_id)
    clouds = {site.cloud for site in estate.sites}
    wrong = [f"restrict.clouds: `{name}`" for name in request.restrict.clouds if name not in clouds]
    wrong += [f"restrict.sites: `{name}`" for name in request.restrict.sites if name not in sites]
    wrong += [f"restrict.pools: `{name}`" for name in request.restrict.pools if name not in pools]
    wrong += [
        f"restrict.offers: `{name}`"
        for name in request.restrict.offers
        if not any(fnmatchcase(offer.name, name) for offer in estate.offers)
    ]
    wrong += sorted({f"conditions.reservations: pool `{row.pool}`" for row in conditions.reservations if row.pool not in pools})
    used = {name for row in conditions.reservations for name in row.use} - set(SHARED)
    if used:
        wrong += [f"conditions.reservations: `{name}`" for name in sorted(used - {offer.accelerator for offer in estate.offers})]
    wrong += [f"conditions.queue_hours: pool `{name}`" for name in sorted(conditions.queue_hours) if name not in pools]
    wrong += [f"conditions.cordoned: site `{name}`" for name in conditions.cordoned if name not in sites]
    wrong += [f"conditions.cooling: pool `{name}`" for name in sorted(conditions.cooling) if name not in pools]
    wrong += [f"conditions.unproven: site `{name}`" for name in sorted(conditions.unproven) if name not in sites]
    wrong += sorted(
        {f"conditions.replicas: site `{name}`" for found in conditions.replicas.values() for name in found if name not in sites}
    )
    return [f"{what} is not in this estate" for what in wrong]
