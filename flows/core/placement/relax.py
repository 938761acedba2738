"""The smallest change that would let a candidate in which fails exactly one rule, written `path: old -> new`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal

from flows.core.canonical import instant, plain
from flows.core.fields import MAX_NUMBER
from flows.core.placement.decision import RELAXATION_ORDER, Kind, Reason, Relaxation
from flows.core.placement.filters import Facts, cordoned_for
from flows.core.placement.scene import LONGEST_WINDOW
from flows.core.placement.score import Candidate
from flows.core.placement.slots import ceil_seconds, seconds_between

MAX_AGE_HOURS = 1_000_000
"""No catalog may be older by its own word."""
KIND_RANK: Mapping[Kind, int] = {kind: index for index, kind in enumerate(RELAXATION_ORDER)}


def nearness(candidate: Candidate, reasons: Iterable[Reason]) -> tuple[object, ...]:
    """How near a miss is: fewest rules, then the kinds that are easiest to relax, then rank."""
    rules = {reason.rule: KIND_RANK[reason.kind] for reason in reasons}
    return (len(rules), sorted(rules.values(), reverse=True), candidate.rank)


def relaxation(candidate: Candidate, reasons: tuple[Reason, ...], facts: Facts) -> Relaxation | None:
    """What would have let it in; None if it fails several rules, or one that nobody can relax, or needs more than can be written there."""
    if len({reason.rule for reason in reasons}) != 1:
        return None
    change = RELAX[reasons[0].kind](candidate, reasons, facts)
    if change is None:
        return None
    cost = candidate.usd.total
    if reasons[0].rule == "deadline":
        cost = facts.pricer.candidate(candidate.lane, candidate.start, candidate.safe_at).usd.total
    return Relaxation(change, cost)


def _budget(candidate: Candidate, reasons: tuple[Reason, ...], facts: Facts) -> str | None:
    request, needed = facts.scene.request, candidate.usd_p90
    if needed > MAX_NUMBER:
        return None
    left = facts.scene.conditions.budget_left_usd.get(request.workload)
    changes = [
        f"{path}: {plain(limit)} -> {plain(needed)}"
        for path, limit in (("budget_usd", request.budget_usd), (f"conditions.budget_left_usd.{request.workload}", left))
        if limit is not None and limit < needed
    ]
    return "; ".join(changes)


def _time(candidate: Candidate, reasons: tuple[Reason, ...], facts: Facts) -> str | None:
    deadline = facts.scene.deadline
    if deadline is None or reasons[0].rule != "deadline" or candidate.safe_at - facts.scene.slots[0] > LONGEST_WINDOW:
        return None
    return f"window.deadline: {instant(deadline)} -> {instant(candidate.safe_at)}"


def _latency(candidate: Candidate, reasons: tuple[Reason, ...], facts: Facts) -> str | None:
    target = facts.scene.request.latency
    if target is None or any(reason.rule != "latency" for reason in reasons):
        return None
    rows = [facts.scene.estate.latency_by_pair[country, candidate.lane.site.id] for country in target.from_]
    slowest = max((row.p50_ms if target.percentile == 50 else row.p99_ms) or Decimal(0) for row in rows)
    needed = slowest + target.service_ms
    return f"latency.max_ms: {plain(target.max_ms)} -> {plain(needed)}" if needed <= MAX_NUMBER else None


def _capacity(candidate: Candidate, reasons: tuple[Reason, ...], facts: Facts) -> str | None:
    lane, conditions, changes = candidate.lane, facts.scene.conditions, []
    if reasons[0].rule == "cordoned":
        closed = cordoned_for(facts.scene.request, lane.site.id, conditions.cordoned)
        left = [name for name in conditions.cordoned if name not in closed]
        return f"conditions.cordoned: [{', '.join(conditions.cordoned)}] -> [{', '.join(left)}]"
    if reasons[0].rule == "cooling-down":
        until = conditions.cooling[lane.pool.name]
        return f"conditions.cooling.{lane.pool.name}: {'null' if until is None else instant(until)} -> {instant(candidate.start)}"
    for resource, need, limit in facts.needs(lane.pool, lane.offer):
        total = facts.usage(lane.pool.name, resource).peak(candidate.run_from, candidate.finish_p90) + need
        if total > MAX_NUMBER:
            return None
        if total > limit:
            changes.append(f"estate.pools.{lane.pool.name}.capacity.{resource}: {plain(limit)} -> {plain(total)}")
    return "; ".join(changes)


def _fit(candidate: Candidate, reasons: tuple[Reason, ...], facts: Facts) -> str | None:
    offer, needed, rule = candidate.lane.offer, facts.scene.request.resources, reasons[0].rule
    if rule == "nodes":
        return f"resources.nodes: {needed.nodes} -> 1"
    if rule == "cpus":
        return f"resources.cpus: {plain(needed.cpus)} -> {plain(offer.cpus or Decimal(0))}"
    if rule == "memory_gib":
        return f"resources.memory_gib: {plain(needed.memory_gib)} -> {plain(offer.memory_gib or Decimal(0))}"
    if rule == "arch":
        return f"resources.arch: {needed.arch} -> {offer.arch or 'null'}"
    if rule == "accelerators":
        asked = ", ".join(f"{name}: {plain(count)}" for name, count in sorted(needed.accelerators.items()))
        has = "" if offer.accelerator is None else f"{offer.accelerator}: {plain(offer.accelerator_count or Decimal(0))}"
        return f"resources.accelerators: {{{asked}}} -> {{{has}}}"
    return None


def _restrict(candidate: Candidate, reasons: tuple[Reason, ...], facts: Facts) -> str | None:
    lane, wanted = candidate.lane, facts.scene.request.restrict
    rule = reasons[0].rule.removeprefix("restrict-")
    if rule == "spot":
        return f"restrict.spot: {str(wanted.spot).lower()} -> null"
    added = {"clouds": lane.site.cloud, "sites": lane.site.id, "pools": lane.pool.name, "offers": lane.offer.name}[rule]
    old = {"clouds": wanted.clouds, "sites": wanted.sites, "pools": wanted.pools, "offers": wanted.offers}[rule]
    return f"restrict.{rule}: [{', '.join(old)}] -> [{', '.join(sorted((*old, added)))}]"


def _data(candidate: Candidate, reasons: tuple[Reason, ...], facts: Facts) -> str | None:
    catalog, at = facts.scene.catalog, facts.scene.at
    if reasons[0].rule != "stale-catalog" or len(reasons) > 1 or at < catalog.as_of or not catalog.stale_at(at):
        return None
    age = Decimal(-(-ceil_seconds(seconds_between(catalog.as_of, at)) // 3600))
    return f"catalog.max_age_hours: {plain(catalog.max_age_hours)} -> {plain(age)}" if age <= MAX_AGE_HOURS else None


def _policy(candidate: Candidate, reasons: tuple[Reason, ...], facts: Facts) -> str | None:
    owners = {reason.exception_by for reason in reasons}
    if len(owners) != 1 or (owner := owners.pop()) is None:
        return None
    until = candidate.finish_p90.date().isoformat()
    return f"policies.{reasons[0].rule}: forbid -> exception for `{candidate.lane.pool.name}` by {owner} until {until}"


RELAX: Mapping[Kind, Callable[[Candidate, tuple[Reason, ...], Facts], str | None]] = {
    "budget": _budget,
    "time": _time,
    "latency": _latency,
    "capacity": _capacity,
    "fit": _fit,
    "restrict": _restrict,
    "data": _data,
    "policy": _policy,
}
