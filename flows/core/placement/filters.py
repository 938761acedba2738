"""The rules that say where a request may run: one plain function each, in order; every one is asked, so that all reasons show.

A filter returns its reasons against a candidate; none means that it passes. What depends only on the pool or the offer is kept in `Facts`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import cached_property

from flows.core.canonical import instant, plain
from flows.core.governance.proofs import unproven_for
from flows.core.placement.decision import Kind, Reason
from flows.core.placement.estate import MULTI_NODE, Offer, Pool
from flows.core.placement.knowledge import unknowns
from flows.core.placement.request import Request
from flows.core.placement.scene import Scene
from flows.core.placement.score import MAX_SECONDS, Candidate, Pricer
from flows.core.placement.slots import Usage

Reasons = tuple[Reason, ...]
NOT_ASKED: Reasons = (Reason("policy-error", "policy", "policy was not asked", "an answer", "policies"),)


class Facts:
    """What filters look up: the scene, prices of movement, policy's verdicts, and reservations; remembers what pools and offers share."""

    def __init__(self, scene: Scene, pricer: Pricer, verdicts: Mapping[tuple[str, int], Reasons]) -> None:
        self.scene = scene
        self.pricer = pricer
        self.verdicts = verdicts
        self._kept: dict[tuple[str | int, ...], Reasons] = {}
        self._usage: dict[tuple[str, str], Usage] = {}
        self._needs: dict[tuple[str, str], tuple[tuple[str, Decimal, Decimal], ...]] = {}

    @cached_property
    def with_one_node(self) -> Facts:
        """The facts if the request were of one node; what policy was not asked then counts as no."""
        resources = self.scene.request.resources.model_copy(update={"nodes": 1})
        scene = replace(self.scene, request=self.scene.request.model_copy(update={"resources": resources}))
        return Facts(scene, Pricer(scene), defaultdict(lambda: NOT_ASKED, self.verdicts))

    def kept(self, key: tuple[str | int, ...], make: Callable[[], Reasons]) -> Reasons:
        """The reasons under the key, made once."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def usage(self, pool: str, resource: str) -> Usage:
        """What reservations take of the pool's resource over time."""
        key = (pool, resource)
        if key not in self._usage:
            rows = [row for row in self.scene.conditions.reservations if row.pool == pool and resource in row.use]
            self._usage[key] = Usage([(row.from_, row.until, row.use[resource]) for row in rows])
        return self._usage[key]

    def needs(self, pool: Pool, offer: Offer) -> tuple[tuple[str, Decimal, Decimal], ...]:
        """(resource, what the request takes of it on this offer, the pool's capacity) for each limited resource."""
        key = (pool.name, offer.name)
        if key not in self._needs:
            taken = taken_by(offer, self.scene.request.resources.nodes)
            limits = sorted(pool.capacity.items())
            self._needs[key] = tuple((name, taken[name], limit) for name, limit in limits if taken.get(name))
        return self._needs[key]


def taken_by(offer: Offer, nodes: int) -> dict[str, Decimal]:
    """What `nodes` of the offer take of a pool's capacity."""
    taken = {"nodes": Decimal(nodes), "cpus": nodes * (offer.cpus or Decimal(0)), "memory_gib": nodes * (offer.memory_gib or Decimal(0))}
    if offer.accelerator is not None and offer.accelerator_count is not None:
        taken[offer.accelerator] = nodes * offer.accelerator_count
    return taken


def cordoned_for(request: Request, site: str, cordoned: Collection[str]) -> tuple[str, ...]:
    """The cordoned sites that would get something new if the request ran at the site: the run itself, or data that comes to rest there.

    A transfer brings nothing new to the site that it starts from: data may always leave.
    """
    gets = {output.home or site for output in request.outputs} | (set() if request.step == "transfer" else {site})
    return tuple(sorted(gets & set(cordoned)))


def policy(candidate: Candidate, facts: Facts) -> Reasons:
    """Policy's reasons, with the dated facts that hold through finish_p90."""
    return facts.verdicts[candidate.lane.pool.name, candidate.era]


def data(candidate: Candidate, facts: Facts) -> Reasons:
    """What the catalog, the map or the price list does not know is not allowed."""
    known = facts.kept(("data", candidate.lane.pool.name, candidate.era), lambda: _data(candidate, facts, candidate.era))
    if facts.scene.conditions.unproven:
        known += facts.kept(("unproven", candidate.lane.site.id), lambda: _unproven(candidate.lane.site.id, facts.scene))
    if candidate.lane.known:
        return known
    scene = facts.scene
    what = f"no estimate of `{scene.request.step}` on `{candidate.lane.offer.name}`"
    return (*known, Reason("runtime-unknown", "data", what, "a runtime in the request or the conditions", "conditions: runtimes"))


def _data(candidate: Candidate, facts: Facts, era: int) -> Reasons:
    site = candidate.lane.site
    unpriced = facts.pricer.haul(site).unknown
    return (
        *unknowns(facts.scene, site, era),
        *(Reason("egress-unknown", "data", f"{src} -> {dst} has no price", "a row for it", "estate: egress.csv") for src, dst in unpriced),
    )


def _unproven(site: str, scene: Scene) -> Reasons:
    lost = unproven_for(scene.request, site, scene.conditions.unproven)
    return tuple(
        Reason("unproven", "data", f"`{name}`: {check} {why}", f"a proof of {check} that holds", f"conditions: unproven.{name}")
        for name, check, why in lost
    )


def restrict(candidate: Candidate, facts: Facts) -> Reasons:
    """What the user narrowed."""
    lane = candidate.lane
    spot = lane.spot is not None
    return facts.kept(("restrict", lane.pool.name, lane.offer.name, spot), lambda: _restrict(candidate, facts, spot))


def _restrict(candidate: Candidate, facts: Facts, spot: bool) -> Reasons:
    wanted, lane = facts.scene.request.restrict, candidate.lane
    found = [
        Reason(f"restrict-{field}", "restrict", seen, f"one of {', '.join(allowed)}", f"request: restrict.{field}")
        for field, seen, allowed, fits in (
            ("clouds", lane.site.cloud, wanted.clouds, lane.site.cloud in wanted.clouds),
            ("sites", lane.site.id, wanted.sites, lane.site.id in wanted.sites),
            ("pools", lane.pool.name, wanted.pools, lane.pool.name in wanted.pools),
            ("offers", lane.offer.name, wanted.offers, any(fnmatchcase(lane.offer.name, name) for name in wanted.offers)),
        )
        if allowed and not fits
    ]
    if wanted.spot is not None and wanted.spot != spot:
        words = {True: "spot", False: "on demand"}
        found.append(Reason("restrict-spot", "restrict", words[spot], words[wanted.spot], "request: restrict.spot"))
    return tuple(found)


def fit(candidate: Candidate, facts: Facts) -> Reasons:
    """Whether the pool starts all nodes, each node of the offer has what the request needs, and spot work ends at all."""
    lane = candidate.lane
    found = facts.kept(("fit", lane.pool.name, lane.offer.name), lambda: _fit(lane.pool, lane.offer, facts.scene))
    if not candidate.endless or lane.spot is None:
        return found
    seen = f"{plain((lane.spot.rate * 3600).quantize(Decimal('0.001')))} interruptions per hour, {_interval(facts.scene)}"
    return (*found, Reason("spot", "fit", seen, "at most 20 interruptions per checkpoint interval or start", "request: checkpoint_minutes"))


def _interval(scene: Scene) -> str:
    minutes = scene.request.checkpoint_minutes
    return "no checkpoint" if minutes is None else f"a checkpoint each {plain(minutes)} minutes"


def _fit(pool: Pool, offer: Offer, scene: Scene) -> Reasons:
    needed, found = scene.request.resources, []
    if needed.nodes > 1 and pool.type not in MULTI_NODE:
        found.append(Reason("nodes", "fit", f"one node a run on `{pool.type}`", f"{needed.nodes} nodes", "request: resources.nodes"))
    for rule, has, wants in (("cpus", offer.cpus, needed.cpus), ("memory_gib", offer.memory_gib, needed.memory_gib)):
        if wants and (has is None or has < wants):
            seen = "unknown" if has is None else plain(has)
            found.append(Reason(rule, "fit", seen, f"at least {plain(wants)} per node", f"request: resources.{rule}"))
    if needed.arch is not None and offer.arch != needed.arch:
        found.append(Reason("arch", "fit", offer.arch or "unknown", needed.arch, "request: resources.arch"))
    count = offer.accelerator_count or Decimal(0)
    if needed.accelerators and not any(offer.accelerator == name and count >= wants for name, wants in needed.accelerators.items()):
        seen = "none" if offer.accelerator is None else f"{plain(count)} {offer.accelerator}"
        wanted = " or ".join(f"{plain(wants)} {name}" for name, wants in sorted(needed.accelerators.items()))
        found.append(Reason("accelerators", "fit", seen, f"at least {wanted} per node", "request: resources.accelerators"))
    return tuple(found)


def capacity(candidate: Candidate, facts: Facts) -> Reasons:
    """Whether the sites and the pool take anything new, and the pool has room at every instant of [run_from, finish_p90)."""
    lane, conditions = candidate.lane, facts.scene.conditions
    found: list[Reason] = []
    if conditions.cordoned:
        found += facts.kept(("cordoned", lane.site.id), lambda: _cordoned(lane.site.id, facts.scene))
    if lane.pool.name in conditions.cooling:
        found += _cooling(candidate, conditions.cooling[lane.pool.name])
    for resource, need, limit in facts.needs(lane.pool, lane.offer):
        taken = facts.usage(lane.pool.name, resource).peak(candidate.run_from, candidate.finish_p90)
        if taken + need > limit:
            seen = f"{resource}: {plain(taken)} reserved + {plain(need)}"
            found.append(
                Reason("capacity", "capacity", seen, f"at most {plain(limit)}", f"estate: pools.{lane.pool.name}.capacity.{resource}")
            )
    return tuple(found)


def _cordoned(site: str, scene: Scene) -> Reasons:
    closed = cordoned_for(scene.request, site, scene.conditions.cordoned)
    return tuple(Reason("cordoned", "capacity", f"`{name}` is cordoned", "an open site", "conditions: cordoned") for name in closed)


def _cooling(candidate: Candidate, until: datetime | None) -> Reasons:
    if until is not None and candidate.start >= until:
        return ()
    pool = candidate.lane.pool.name
    wanted = "another pool" if until is None else f"a start at {instant(until)} or later"
    return (Reason("cooling-down", "capacity", f"a run on `{pool}` failed", wanted, f"conditions: cooling.{pool}"),)


def latency(candidate: Candidate, facts: Facts) -> Reasons:
    """Whether every country of users is near enough."""
    if facts.scene.request.latency is None:
        return ()
    site = candidate.lane.site.id
    return facts.kept(("latency", site), lambda: _latency(site, facts.scene))


def _latency(site: str, scene: Scene) -> Reasons:
    target = scene.request.latency
    found = []
    for country in target.from_ if target is not None else ():
        assert target is not None
        row = scene.estate.latency_by_pair.get((country, site))
        rtt = None if row is None else row.p50_ms if target.percentile == 50 else row.p99_ms
        limit = f"at most {plain(target.max_ms)} ms at p{target.percentile}"
        if rtt is None:
            found.append(Reason("latency-unknown", "latency", f"{country} -> {site} is not measured", limit, "estate: latency.csv"))
        elif rtt + target.service_ms > target.max_ms:
            seen = f"{country}: {plain(rtt)} + {plain(target.service_ms)} ms"
            found.append(Reason("latency", "latency", seen, limit, "request: latency.max_ms"))
    return tuple(found)


def time(candidate: Candidate, facts: Facts) -> Reasons:
    """Whether it ends before the deadline at p90, for spot also after falling back to on demand."""
    found = []
    deadline = facts.scene.deadline
    if deadline is not None and candidate.safe_at > deadline:
        seen = f"{'ends' if candidate.lane.spot is None else 'with a fallback ends'} {instant(candidate.safe_at)} at p90"
        found.append(Reason("deadline", "time", seen, f"by {instant(deadline)}", "request: window.deadline"))
    if max(candidate.finish_p90 - candidate.run_from, candidate.run_from - candidate.start) > timedelta(seconds=MAX_SECONDS):
        found.append(Reason("horizon", "time", "takes more than ten years", "at most ten years", "engine"))
    return tuple(found)


def budget(candidate: Candidate, facts: Facts) -> Reasons:
    """Whether cash at p90 stays within the lower of the request's and the workload's budget."""
    limit = facts.scene.budget_usd
    if limit is None or candidate.usd_p90 <= limit:
        return ()
    where = (
        "request: budget_usd" if limit == facts.scene.request.budget_usd else f"conditions: budget_left_usd.{facts.scene.request.workload}"
    )
    return (Reason("budget", "budget", f"{plain(candidate.usd_p90)} USD at p90", f"at most {plain(limit)} USD", where),)


FILTERS: tuple[tuple[Kind, Callable[[Candidate, Facts], Reasons]], ...] = (
    ("policy", policy),
    ("data", data),
    ("restrict", restrict),
    ("fit", fit),
    ("capacity", capacity),
    ("latency", latency),
    ("time", time),
    ("budget", budget),
)
"""In the order in which a decision tells them."""


def reasons_against(candidate: Candidate, facts: Facts) -> Reasons:
    """All reasons of all filters, in their order, each kind sorted."""
    found: list[Reason] = []
    for _, rule in FILTERS:
        reasons = rule(candidate, facts)
        found += sorted(reasons, key=_told) if len(reasons) > 1 else reasons
    return tuple(found)


def _told(reason: Reason) -> tuple[str, str, str, str]:
    return (reason.rule, reason.observed, reason.required, reason.source)
