"""What a candidate takes in time, USD and CO2. Exact decimals; nothing here decides whether it may run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from math import inf

from flows.core.fields import MAX_HOURS
from flows.core.placement.decision import Chosen, Usd
from flows.core.placement.estate import Estate, Offer, Pool, Site
from flows.core.placement.haul import HOURS_PER_MONTH, Haul, haul
from flows.core.placement.request import Runtime
from flows.core.placement.scene import Scene
from flows.core.placement.slots import HOUR, QUARTER, Tariff, ceil_seconds, off_peak_factor, seconds_between
from flows.core.placement.spot import SpotRun, SpotTerms, latest_start, spot_run, unhurried

SIX_PLACES = Decimal("0.000001")
MAX_SECONDS = int(MAX_HOURS) * 3600
ZERO = Decimal(0)
KG_SECONDS = 3600 * 1000
"""Gram seconds per hour in a kilogram hour."""


@dataclass(frozen=True, slots=True)
class Lane:
    """Pool x offer x (on-demand or spot): what the slots of a request share. `known` is false if nobody knows the runtime there."""

    pool: Pool
    site: Site
    offer: Offer
    spot: SpotTerms | None
    runtime: Runtime
    known: bool


@dataclass(frozen=True, slots=True)
class Candidate:
    """A lane at one start slot.

    `safe_at` is the instant that must not lie after the deadline; `endless`: spot work that would not end; `era`: which dated facts hold
    through finish_p90.
    """

    lane: Lane
    start: datetime
    run_from: datetime
    finish_p50: datetime
    finish_p90: datetime
    safe_at: datetime
    endless: bool
    era: int
    usd_per_hour: Decimal
    usd: Usd
    usd_p90: Decimal
    kg_co2: Decimal

    @property
    def rank(self) -> tuple[Decimal, datetime, str, str, bool]:
        """Total, start, pool, offer, on demand first."""
        return (self.usd.total, self.start, self.lane.pool.name, self.lane.offer.name, self.lane.spot is not None)

    def chosen(self, fallback: Candidate | None = None) -> Chosen:
        """The candidate as a decision prints it."""
        return Chosen(
            pool=self.lane.pool.name,
            site=self.lane.site.id,
            offer=self.lane.offer.name,
            spot=self.lane.spot is not None,
            start=self.start,
            finish_p50=self.finish_p50,
            finish_p90=self.finish_p90,
            usd_per_hour=self.usd_per_hour,
            usd=self.usd,
            usd_p90=self.usd_p90,
            kg_co2=self.kg_co2,
            fallback=None if fallback is None else fallback.chosen(),
        )


def lanes_on(scene: Scene, pool: Pool, offer: Offer) -> Iterator[Lane]:
    """The lanes of one offer of the pool, on demand first; none without a price.

    Spot needs an interruptible request that ends, a pool that has spot, a spot price, an on-demand price to fall back on, and a known rate.
    """
    if offer.usd_per_hour is None:
        return
    site, request, runtime = scene.site_of(pool), scene.request, scene.runtime_on(offer)
    held = runtime or max(scene.runtimes.values(), key=lambda known: (known.p90_hours, known.p50_hours))
    yield Lane(pool, site, offer, None, held, runtime is not None)
    rate = pool.spot_interruptions_per_hour if offer.spot_interruptions_per_hour is None else offer.spot_interruptions_per_hour
    if not scene.serves and request.interruptible and pool.spot and offer.spot_usd_per_hour is not None and rate is not None:
        terms = SpotTerms(
            rate=rate * request.resources.nodes / 3600,
            restart=pool.startup_minutes * 60,
            wait=pool.spot_wait_minutes * 60,
            interval=None if request.checkpoint_minutes is None else request.checkpoint_minutes * 60,
            write=request.checkpoint_write_minutes * 60,
        )
        yield Lane(pool, site, offer, terms, held, runtime is not None)


@dataclass(frozen=True, slots=True)
class Span:
    """Whole seconds billed on spot and on demand, and from the run's begin to its end."""

    spot: int
    on_demand: int
    wall: int

    @classmethod
    def of(cls, run: SpotRun) -> Span:
        """Each part rounded up, none longer than just over ten years."""
        return cls(*(min(ceil_seconds(part), MAX_SECONDS + 1) for part in (run.spot, run.on_demand, run.wall)))


@dataclass(frozen=True, slots=True)
class Starts:
    """When work begins on a pool, for every slot; and how many seconds that is after the slot, and after the first slot."""

    at: tuple[datetime, ...]
    after_slot: tuple[float, ...]
    after_first: tuple[float, ...]


class Clock:
    """When the slots of one scene begin on each pool, and what tariffs come to from then on: what the lanes of a pool share."""

    def __init__(self, slots: tuple[datetime, ...]) -> None:
        self._slots = slots
        self._spans: dict[tuple[str, int, bool], tuple[float, ...]] = {}
        self._starts: dict[str, Starts] = {}

    def starts(self, pool: str, run_from: Callable[[datetime], datetime]) -> Starts:
        """When work begins on the pool, for every slot."""
        if pool not in self._starts:
            slots, at = self._slots, tuple(run_from(slot) for slot in self._slots)
            after_slot = tuple((start - slot).total_seconds() for start, slot in zip(at, slots, strict=True))
            self._starts[pool] = Starts(at, after_slot, tuple((start - slots[0]).total_seconds() for start in at))
        return self._starts[pool]

    def factors(self, pool: str, tariff: Tariff, seconds: int, starts: tuple[datetime, ...], *, carbon: bool) -> tuple[float, ...]:
        """The tariff over so many seconds from each start of the pool, as floats."""
        key = (pool, seconds, carbon)
        if key not in self._spans:
            span = timedelta(seconds=seconds)
            self._spans[key] = tuple(float(tariff.over(start, start + span)) for start in starts)
        return self._spans[key]


NEAR = 1e-5
"""USD by which the float total of a slot may differ from the exact one, besides one part in 10^9."""


FEW = 16
"""A pool of no more offers than this is looked at as a whole: that is faster than to sort it first."""


class Pricer:
    """Prices the lanes of one scene; keeps what sites share.

    Nothing that it keeps refers back to it, so that all of it goes at once when the decision is made, without a garbage collection.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.clock = Clock(scene.slots)
        self._hauls: dict[str, Haul] = {}
        self._off_peak: dict[str, Tariff | None] = {}
        self._carbon: dict[str | None, Tariff] = {}
        self._priced: dict[str, tuple[PricedLane, ...]] = {}
        self._fixed: dict[tuple[str, SpotTerms | None, Decimal, bool], tuple[Span, timedelta]] = {}
        self._latest: dict[str, datetime] = {}
        self._alike: dict[str, Mapping[str, int]] = {}
        self.no_carbon: set[str] = set()

    def haul(self, site: Site) -> Haul:
        """What moves to and from the site."""
        if site.id not in self._hauls:
            self._hauls[site.id] = haul(self.scene, site)
        return self._hauls[site.id]

    def priced(self, pool: Pool) -> tuple[PricedLane, ...]:
        """The lanes of the pool's contenders, priced as far as that does not depend on the slot."""
        if pool.name not in self._priced:
            scene, every = self.scene, self.scene.estate.offers_of(pool)
            found: list[tuple[Offer, int]] = []
            if len(every) > FEW:
                from flows.core.placement.shelf import contenders

                found = contenders(scene, pool)
            priced = self._lanes(pool, [offer for offer, _ in found] or every)
            self._latest[pool.name] = max((lane.latest() for lane in priced), default=scene.at)
            if found and scene.era(self._latest[pool.name]) > scene.era(scene.at):
                found, priced = [], self._lanes(pool, every)
            self._alike[pool.name], self._priced[pool.name] = {offer.name: count for offer, count in found}, priced
        return self._priced[pool.name]

    def _lanes(self, pool: Pool, offers: Iterable[Offer]) -> tuple[PricedLane, ...]:
        return tuple(PricedLane(self, lane) for offer in offers for lane in lanes_on(self.scene, pool, offer))

    def latest(self, pool: Pool) -> datetime:
        """An instant that no run on the pool ends after, at p90; the decision's own where nothing can run."""
        self.priced(pool)
        return self._latest[pool.name]

    def alike(self, pool: Pool, offer: str) -> int:
        """How many offers of the pool end as this contender does, itself among them."""
        return self._alike[pool.name].get(offer, 1)

    @property
    def without_watts(self) -> tuple[str, ...]:
        """The offers of the priced pools whose power nobody knows."""
        return self.scene.estate.without_watts(tuple(sorted(self._priced)))

    def fixed(self, lane: Lane, work: Decimal, *, endless: bool) -> tuple[Span, timedelta]:
        """The lane's span with all the time in the world, and the time to a deadline from which on there is as much."""
        key = (lane.pool.name, lane.spot, work, endless)
        if key not in self._fixed:
            self._fixed[key] = _fixed(lane, work, endless=endless, serves=self.scene.serves)
        return self._fixed[key]

    def candidate(self, lane: Lane, slot: datetime, deadline: datetime | None) -> Candidate:
        """The lane at one slot, under that deadline."""
        return PricedLane(self, lane).at(slot, deadline)

    def off_peak(self, site: Site) -> Tariff | None:
        """The site's price factor over time; None if it never changes."""
        if site.id not in self._off_peak:
            factor = off_peak_factor(site.off_peak, site.timezone) if site.off_peak else None
            self._off_peak[site.id] = None if factor is None else Tariff(self.scene.at, QUARTER, factor)
        return self._off_peak[site.id]

    def grid(self, grid_zone: str | None) -> Tariff:
        """The grid's grams per kWh over time; what is not known counts as the estate's worst."""
        if grid_zone not in self._carbon:
            self._carbon[grid_zone] = Tariff(self.scene.at, HOUR, partial(_grams, self.scene.estate, self.no_carbon, grid_zone))
        return self._carbon[grid_zone]

    def watts(self, lane: Lane) -> Decimal:
        """Watts of one node; what is not known counts as the estate's worst."""
        if lane.offer.watts is not None:
            return lane.offer.watts
        return self.scene.estate.worst_watts or ZERO


def _grams(estate: Estate, unknown: set[str], grid_zone: str | None, moment: datetime) -> Decimal:
    known = None if grid_zone is None else estate.carbon_by_cell.get((grid_zone, moment.month, moment.hour))
    if known is None:
        unknown.add(grid_zone or "unknown")
        return estate.worst_g_per_kwh or ZERO
    return known


def _fixed(lane: Lane, work: Decimal, *, endless: bool, serves: bool) -> tuple[Span, timedelta]:
    if lane.spot is None:
        seconds = work if serves else lane.pool.startup_minutes * 60 + work
        return Span.of(SpotRun(ZERO, seconds, seconds)), timedelta(0)
    if endless:  # rejected by the filter `fit`; priced as if nothing interrupted it
        return Span.of(SpotRun(lane.spot.restart + work, ZERO, lane.spot.restart + work)), timedelta(0)
    room = min(ceil_seconds(unhurried(lane.spot, work)), MAX_SECONDS + 1)
    return Span.of(spot_run(lane.spot, work, None)), timedelta(seconds=room)


class PricedLane:
    """A lane with all that does not depend on the slot worked out."""

    def __init__(self, pricer: Pricer, lane: Lane) -> None:
        scene, moved, nodes = pricer.scene, pricer.haul(lane.site), pricer.scene.request.resources.nodes
        self._clock, self._scene, self.lane, self._spot = pricer.clock, scene, lane, lane.spot
        self._transfer = timedelta(seconds=min(moved.transfer_seconds, MAX_SECONDS + 1))
        self._queued = scene.at + timedelta(seconds=ceil_seconds(scene.conditions.queue_hours.get(lane.pool.name, ZERO) * 3600))
        self._work50, self._work90 = lane.runtime.p50_hours * 3600, lane.runtime.p90_hours * 3600
        self._endless = lane.spot is not None and lane.spot.endless(self._work90)
        fixed = [pricer.fixed(lane, work, endless=self._endless) for work in (self._work50, self._work90)]
        self._spans, self._unhurried = tuple(span for span, _ in fixed), tuple(room for _, room in fixed)
        safe = ZERO if lane.spot is None else latest_start(lane.spot, self._work90)
        self._safe = timedelta(seconds=min(ceil_seconds(safe), MAX_SECONDS + 1))
        self._on_demand_usd = (lane.offer.usd_per_hour or ZERO) * nodes
        self._spot_usd = (lane.offer.spot_usd_per_hour or ZERO) * nodes
        self._tariff = pricer.off_peak(lane.site) if lane.spot is None else None
        self._egress = moved.egress_usd.quantize(SIX_PLACES)
        self._staged, self._kept = moved.staged_gb * lane.site.storage_usd_per_gb_month, moved.kept_usd
        self._grid = pricer.grid(lane.site.grid_zone)
        self._kilowatts = pricer.watts(lane) * lane.site.pue * nodes / 1000

    def _span(self, place: int, work: Decimal, run_from: datetime, deadline: datetime | None) -> Span:
        fixed = self._spans[place]
        if self._spot is None or deadline is None or self._endless or run_from + self._unhurried[place] <= deadline:
            return fixed
        return Span.of(spot_run(self._spot, work, seconds_between(run_from, deadline)))

    def _run_from(self, slot: datetime) -> datetime:
        return max(slot + self._transfer, self._queued)

    def latest(self) -> datetime:
        """An instant that no run of the lane ends after, at p90."""
        run_from = self._run_from(self._scene.slots[-1])
        p50, p90 = self._spans
        self._grid.over(run_from, run_from + timedelta(seconds=p50.spot + p50.on_demand))  # notes what the grid does not know
        return run_from + max(timedelta(seconds=p90.wall), self._unhurried[1])

    def slots(self) -> list[tuple[float, datetime]]:
        """Every slot with its total to within `NEAR`, cheapest first; where a total hangs on the deadline, minus infinity in its place.

        What it says may prune, and never decides.
        """
        scene, p50 = self._scene, self._spans[0]
        starts = self._clock.starts(self.lane.pool.name, self._run_from)
        if (
            self._spot is not None
            and not self._endless
            and scene.deadline is not None
            and starts.at[-1] + self._unhurried[0] > scene.deadline
        ):
            return [(-inf, slot) for slot in scene.slots]
        objective, billed = scene.request.objective, p50.spot + p50.on_demand
        grams = self._clock.factors(self.lane.pool.name, self._grid, billed, starts.at, carbon=True)
        per_gram = float(objective.usd_per_kg_co2 * self._kilowatts / KG_SECONDS)
        per_second = 0.0 if scene.serves else float(objective.usd_per_hour_of_delay / 3600)
        staged = float(self._staged / (3600 * HOURS_PER_MONTH))
        fixed = float(self._egress + self._kept)
        if self._tariff is None:
            fixed += float((p50.spot * self._spot_usd + p50.on_demand * self._on_demand_usd) / 3600)
            rates, usd = grams, 0.0
        else:
            rates = self._clock.factors(self.lane.pool.name, self._tariff, p50.on_demand, starts.at, carbon=False)
            usd = float(self._on_demand_usd / 3600)
        fixed += (staged + per_second) * p50.wall
        found = [
            (fixed + usd * rate + per_gram * gram + staged * after_slot + per_second * after_first, slot)
            for slot, rate, gram, after_slot, after_first in zip(
                scene.slots, rates, grams, starts.after_slot, starts.after_first, strict=True
            )
        ]
        found.sort()
        return found

    def at(self, slot: datetime, deadline: datetime | None) -> Candidate:
        """The lane at one slot, under that deadline."""
        run_from = self._run_from(slot)
        p50, p90 = self._span(0, self._work50, run_from, deadline), self._span(1, self._work90, run_from, deadline)
        finish50, finish90 = run_from + timedelta(seconds=p50.wall), run_from + timedelta(seconds=p90.wall)
        safe_at = finish90
        if self._spot is not None:
            safe_at = run_from + self._safe
            if deadline is not None and safe_at <= deadline:
                finish50, finish90 = min(finish50, deadline), min(finish90, deadline)
        objective, scene = self._scene.request.objective, self._scene
        kg = self._kilowatts * self._grid.over(run_from, run_from + timedelta(seconds=p50.spot + p50.on_demand)) / KG_SECONDS
        delay = ZERO if scene.serves else objective.usd_per_hour_of_delay * seconds_between(scene.slots[0], finish50) / 3600
        usd = Usd(
            self._compute(p50, run_from),
            self._egress,
            self._storage(slot, finish50),
            (objective.usd_per_kg_co2 * kg).quantize(SIX_PLACES),
            delay.quantize(SIX_PLACES),
        )
        cash90 = self._compute(p90, run_from) + self._egress + self._storage(slot, finish90)
        return Candidate(
            lane=self.lane,
            start=slot,
            run_from=run_from,
            finish_p50=finish50,
            finish_p90=finish90,
            safe_at=safe_at,
            endless=self._endless,
            era=scene.era(finish90),
            usd_per_hour=self._on_demand_usd if self._spot is None else self._spot_usd,
            usd=usd,
            usd_p90=cash90,
            kg_co2=kg.quantize(SIX_PLACES),
        )

    def _compute(self, span: Span, run_from: datetime) -> Decimal:
        if self._tariff is None:
            usd_seconds = span.spot * self._spot_usd + span.on_demand * self._on_demand_usd
        else:
            usd_seconds = self._tariff.over(run_from, run_from + timedelta(seconds=span.on_demand)) * self._on_demand_usd
        return (usd_seconds / 3600).quantize(SIX_PLACES)

    def _storage(self, slot: datetime, finish: datetime) -> Decimal:
        staged = self._staged * seconds_between(slot, finish) / (3600 * HOURS_PER_MONTH) if self._staged else ZERO
        return (staged + self._kept).quantize(SIX_PLACES)
