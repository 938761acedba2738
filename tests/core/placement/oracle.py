"""Placement a second time, as naively as possible: every candidate in four nested loops, straight from the written rules.

It shares the models and the policy with the engine, none of its arithmetic: no caches, no sums, one quarter-hour after the other.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from fnmatch import fnmatchcase
from math import ceil
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from flows.core.governance.labels import PUBLIC, join
from flows.core.placement.policy import PoolFacts, Question
from flows.core.placement.request import Principal

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

TEN_YEARS_SECONDS = 87_600 * 3600
"""No run is longer; an interruption rate far above the checkpoint interval's inverse would pass the end of the calendar."""


class Found(NamedTuple):
    """A feasible candidate with its price; sorts as the engine ranks."""

    total: Decimal
    start: datetime
    pool: str
    offer: str
    spot: bool


def feasible(request: Any, estate: Any, policy: Any, catalog: Any, conditions: Any, at: datetime) -> list[Found]:
    """Every feasible candidate, best first."""
    with localcontext() as context:
        context.prec = 60
        found = []
        for pool in estate.pools:
            site = next(site for site in estate.sites if site.id == pool.site)
            for offer in estate.offers:
                if offer.site != site.id or not ("*" in pool.offers or offer.name in pool.offers):
                    continue
                for start in _slots(request, at):
                    for spot in (False, True):
                        total = _price_if_allowed(request, estate, policy, catalog, conditions, at, pool, site, offer, start, spot)
                        if total is not None:
                            found.append(Found(total, start, pool.name, offer.name, spot))
        return sorted(found)


def _first(request: Any, at: datetime) -> datetime:
    return max(at, request.window.earliest or at)


def _slots(request: Any, at: datetime) -> list[datetime]:
    first = _first(request, at)
    end = request.window.deadline or first + timedelta(hours=24)
    hours = [first.replace(minute=0, second=0) + timedelta(hours=n) for n in range(1, 48)]
    return [first, *(hour for hour in hours if hour < end)]


def _up(seconds: Decimal) -> Decimal:
    return Decimal(ceil(seconds))


def _price_if_allowed(request, estate, policy, catalog, conditions, at, pool, site, offer, start, spot):  # type: ignore[no-untyped-def]
    nodes, deadline, first = request.resources.nodes, request.window.deadline, _first(request, at)
    egress = seconds = staged = kept = Decimal(0)
    for use in request.datasets:
        entry = next(entry for entry in catalog.entries if entry.name == use.name)
        size = entry.size_gb if use.size_gb is None else use.size_gb
        legs = []
        for src in {entry.home, *conditions.replicas.get(use.name, ())}:
            row = _egress(estate, src, site.id)
            if row is not None:
                legs.append((size * row[0], size * 8 / row[1] if row[1] else Decimal(0), src))
        if site.id in {entry.home, *conditions.replicas.get(use.name, ())}:
            continue
        if not legs:
            return None
        best = min(legs)
        egress, seconds, staged = egress + best[0], seconds + best[1], staged + size
    for output in request.outputs:
        home = output.home or site.id
        row = _egress(estate, site.id, home)
        if row is None:
            return None
        egress += output.size_gb * row[0]
        rate = next(other for other in estate.sites if other.id == home).storage_usd_per_gb_month
        kept += output.size_gb * rate * output.keep_days * 24 / 730
    queue = at + timedelta(seconds=int(_up(conditions.queue_hours.get(pool.name, Decimal(0)) * 3600)))
    run_from = max(start + timedelta(seconds=int(_up(seconds))), queue)
    startup = pool.startup_minutes * 60
    priced = []
    for hours in (request.runtime.p50_hours, request.runtime.p90_hours):
        work = hours * 3600
        if spot:
            rate = pool.spot_interruptions_per_hour if offer.spot_interruptions_per_hour is None else offer.spot_interruptions_per_hour
            if not (request.interruptible and pool.spot and offer.spot_usd_per_hour is not None and rate is not None):
                return None
            left = None if deadline is None else Decimal((deadline - run_from).total_seconds())
            parts = _spot(request, pool, rate * nodes / 3600, work, left)
            if parts is None:
                return None
            on_spot, on_demand, wall = (_up(part) for part in parts)
            if wall > TEN_YEARS_SECONDS:
                return None
            usd = (on_spot * offer.spot_usd_per_hour + on_demand * offer.usd_per_hour) * nodes / 3600
            priced.append((usd, run_from + timedelta(seconds=int(wall)), on_spot + on_demand))
        else:
            billed = _up(startup + work)
            usd = _weighted(site, run_from, billed) * offer.usd_per_hour * nodes / 3600
            priced.append((usd, run_from + timedelta(seconds=int(billed)), billed))
    (usd50, end50, billed50), (usd90, end90, _) = priced
    if not spot and deadline is not None and end90 > deadline:
        return None
    if nodes > 1 and pool.type == "ecs":
        return None
    if not _fits(request, offer) or not _narrow(request, site, pool, offer, spot):
        return None
    resting = {site.id, *(output.home for output in request.outputs)}
    if not _near(request, estate, site) or resting & {*conditions.cordoned}:
        return None
    if not _room(pool, offer, nodes, conditions, run_from, end90):
        return None
    if not _permitted(request, estate, policy, catalog, at, pool, site, end90):
        return None
    six = Decimal("0.000001")
    month = site.storage_usd_per_gb_month / Decimal(730 * 3600)
    cash = [
        (usd.quantize(six) + egress.quantize(six) + (staged * month * Decimal((end - start).total_seconds()) + kept).quantize(six))
        for usd, end in ((usd50, end50), (usd90, end90))
    ]
    limits = [limit for limit in (request.budget_usd, conditions.budget_left_usd.get(request.workload)) if limit is not None]
    if limits and cash[1] > min(limits):
        return None
    delay = request.objective.usd_per_hour_of_delay * Decimal((end50 - first).total_seconds()) / 3600
    carbon = request.objective.usd_per_kg_co2 * _kg(estate, site, offer, run_from, billed50) * nodes
    return cash[0] + delay.quantize(six) + carbon.quantize(six)


def _egress(estate, src, dst):  # type: ignore[no-untyped-def]
    if src == dst:
        return (Decimal(0), None)
    for pair in ((src, dst), (src, "*"), ("*", dst), ("*", "*")):
        for row in estate.egress:
            if (row.src, row.dst) == pair:
                return (row.usd_per_gb, row.gbit_per_s)
    return None


def _spot(request, pool, rate, work, left):  # type: ignore[no-untyped-def]
    restart, wait = pool.startup_minutes * 60, pool.spot_wait_minutes * 60
    interval = work if request.checkpoint_minutes is None else request.checkpoint_minutes * 60
    write = request.checkpoint_write_minutes * 60
    longest = request.runtime.p90_hours * 3600 if request.checkpoint_minutes is None else interval
    if rate * (longest + write) > 20 or rate * restart > 20:
        return None
    # multiplied first and divided last, so that what is a whole number of seconds stays one
    steady, longest = (hours * (interval + write) / interval for hours in (work, request.runtime.p90_hours * 3600))
    if left is not None and 2 * restart + longest > left:
        return None
    billed = wall = steady
    if rate:
        billed = work * (rate * restart).exp() * ((rate * (interval + write)).exp() - 1) / (rate * interval)
        wall = billed * (1 + rate * wait)
    slack = None if left is None else left - 2 * restart - steady
    if slack is not None and slack < min(interval, work) + write:
        return (restart + slack, restart + steady, left)
    if left is None or restart + wall <= left:
        return (restart + billed, Decimal(0), restart + wall)
    share = min(slack / (wall - steady), Decimal(1))
    return (restart + share * billed, restart + (1 - share) * steady, left)


def _weighted(site, start, seconds):  # type: ignore[no-untyped-def]
    total, moment, end = Decimal(0), start, start + timedelta(seconds=int(seconds))
    while moment < end:
        quarter = moment.replace(minute=moment.minute // 15 * 15, second=0, microsecond=0)
        until = min(quarter + timedelta(minutes=15), end)
        local = quarter.astimezone(ZoneInfo(site.timezone))
        clock, factors = f"{local:%H:%M}", [Decimal(1)]
        for window in site.off_peak:
            today, yesterday = DAYS[local.weekday()] in window.days, DAYS[local.weekday() - 1] in window.days
            if window.from_ < window.to:
                inside = today and window.from_ <= clock < window.to
            else:
                inside = (today and clock >= window.from_) or (yesterday and clock < window.to)
            if inside:
                factors.append(window.multiplier)
        chosen = min(factors[1:]) if len(factors) > 1 else factors[0]
        total += chosen * Decimal((until - moment).total_seconds())
        moment = until
    return total


def _kg(estate, site, offer, start, seconds):  # type: ignore[no-untyped-def]
    watts = (
        offer.watts
        if offer.watts is not None
        else max((other.watts for other in estate.offers if other.watts is not None), default=Decimal(0))
    )
    worst = max((row.g_per_kwh for row in estate.carbon), default=Decimal(0))
    kg, moment, end = Decimal(0), start, start + timedelta(seconds=int(seconds))
    while moment < end:
        until = min(moment.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1), end)
        cells = [
            row.g_per_kwh
            for row in estate.carbon
            if (row.grid_zone, row.month, row.hour_utc) == (site.grid_zone, moment.month, moment.hour)
        ]
        hours = Decimal((until - moment).total_seconds()) / 3600
        kg += watts * site.pue / 1000 * hours * (cells[0] if cells else worst) / 1000
        moment = until
    return kg


def _fits(request, offer):  # type: ignore[no-untyped-def]
    needed = request.resources
    if needed.cpus and (offer.cpus is None or offer.cpus < needed.cpus):
        return False
    if needed.memory_gib and (offer.memory_gib is None or offer.memory_gib < needed.memory_gib):
        return False
    if needed.arch is not None and offer.arch != needed.arch:
        return False
    wanted = needed.accelerators
    return not wanted or (offer.accelerator in wanted and offer.accelerator_count >= wanted[offer.accelerator])


def _narrow(request, site, pool, offer, spot):  # type: ignore[no-untyped-def]
    wanted = request.restrict
    named = ((wanted.clouds, site.cloud), (wanted.sites, site.id), (wanted.pools, pool.name))
    if wanted.offers and not any(fnmatchcase(offer.name, pattern) for pattern in wanted.offers):
        return False
    return all(not allowed or name in allowed for allowed, name in named) and wanted.spot in (None, spot)


def _near(request, estate, site):  # type: ignore[no-untyped-def]
    target = request.latency
    for country in () if target is None else target.from_:
        cells = [row for row in estate.latency if (row.country, row.site) == (country, site.id)]
        rtt = (cells[0].p50_ms if target.percentile == 50 else cells[0].p99_ms) if cells else None
        if rtt is None or rtt + target.service_ms > target.max_ms:
            return False
    return True


def _room(pool, offer, nodes, conditions, start, end):  # type: ignore[no-untyped-def]
    rows = [row for row in conditions.reservations if row.pool == pool.name]
    moments = [start, *(row.from_ for row in rows if start <= row.from_ < end)]
    needs = {"nodes": Decimal(nodes), "cpus": nodes * (offer.cpus or Decimal(0))}
    if offer.accelerator:
        needs[offer.accelerator] = nodes * offer.accelerator_count
    return all(
        sum((row.use.get(what, Decimal(0)) for row in rows if row.from_ <= moment < row.until), need) <= pool.capacity[what]
        for what, need in needs.items()
        if what in pool.capacity and need
        for moment in moments
    )


def _permitted(request, estate, policy, catalog, at, pool, site, end):  # type: ignore[no-untyped-def]
    def ask(action, label, where, at_site):  # type: ignore[no-untyped-def]
        held = {name for name, until in at_site.certifications.items() if until is None or end.date() <= until}
        if where is not None and where.certifications is not None:
            held &= set(where.certifications)
        levels = ["public", "internal", "confidential", "restricted"]
        facts = PoolFacts(
            name=where.name if where else at_site.id,
            site=at_site.id,
            cloud=at_site.cloud,
            country=at_site.country,
            operator_country=at_site.operator_country,
            max_level=levels.index(at_site.max_classification),
            certifications=frozenset(held),
            gdpr_basis=estate.blocs.gdpr_basis(at_site.country, held, end.date()),
            customer_managed_keys=at_site.customer_managed_keys,
        )
        principal: Principal = request.requested_by
        question = Question(action, principal, facts, label, request.step, request.workload, request.environment, "", at, at_site.country)
        (answer,) = policy.ask([question])
        return answer.allowed and not answer.reasons

    labels = {use.name: catalog.label_of(use.name, end, estate.blocs) for use in request.datasets}
    homes = {entry.name: entry.home for entry in catalog.entries}
    for name, label in (labels or {"": PUBLIC}).items():
        actions = ["process"] if not name or homes[name] == site.id else ["process", "transfer", "store"]
        if not all(ask(action, label, pool, site) for action in actions):
            return False
    joined = join(labels, estate.blocs)
    for output in request.outputs:
        home = next(other for other in estate.sites if other.id == (output.home or site.id))
        where = pool if home.id == site.id else None
        if not all(ask(action, joined, where, home) for action in (["store"] if where else ["transfer", "store"])):
            return False
    return True
