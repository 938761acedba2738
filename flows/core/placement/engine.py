"""`place`: filter, score, choose. Filters say where a request may run, the score ranks what is left; the two are never mixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from typing import Any

from flows.core.canonical import content_hash
from flows.core.errors import UserError
from flows.core.governance.labels import Catalog
from flows.core.placement import runtimes
from flows.core.placement.asking import verdicts
from flows.core.placement.decision import Decision, Kind, Reason, Rejection, Relaxation
from flows.core.placement.estate import Estate, Pool
from flows.core.placement.filters import Facts, reasons_against
from flows.core.placement.hashing import content_form, decision_id, engine
from flows.core.placement.knowledge import unknowns
from flows.core.placement.policy import Policy
from flows.core.placement.relax import nearness, relaxation
from flows.core.placement.request import Conditions, Request
from flows.core.placement.scene import Scene, resolve
from flows.core.placement.score import NEAR, Candidate, Pricer, lanes_on

LASTING: tuple[Kind, ...] = ("policy", "data", "restrict", "fit", "latency")
"""What is the same at every slot of a lane, while no dated fact ends."""


def place(request: Request, estate: Estate, policy: Policy, catalog: Catalog, conditions: Conditions, at: datetime) -> Decision:
    """Where the request may run, where it should and when, and why nowhere else. Pure: equal inputs give equal bytes.

    Raises:
        UserError: `at` has no offset, or a name or value makes no sense in this estate.
    """
    if at.tzinfo is None:
        raise UserError("the instant of the decision has no offset", field="at", expected="an instant such as `2026-01-05T08:00:00Z`")
    at = at.astimezone(UTC)
    with localcontext(Context(prec=28, rounding=ROUND_HALF_EVEN)):
        return _place(resolve(request, estate, catalog, conditions, at, last_days=policy.last_days), policy)


def against_pool(
    request: Request, estate: Estate, policy: Policy, catalog: Catalog, pool: str, at: datetime, through: datetime | None = None
) -> tuple[Reason, ...]:
    """Why policy, or what is not known of the data, forbids the request on this very pool from `at` through that instant (left out: `at`).

    What a worker asks before it opens any data; money, time and capacity are not looked at. No reason at all means that it may.

    Raises:
        UserError: there is no such pool, or a name makes no sense in this estate.
    """
    if pool not in estate.pool_by_name:
        raise UserError(f"no pool `{pool}`", expected=f"one of `{'`, `'.join(sorted(estate.pool_by_name))}`")
    scene = resolve(request, estate, catalog, Conditions(), at.astimezone(UTC), needs_runtime=False, last_days=policy.last_days)
    asked, era = estate.pool_by_name[pool], scene.era(through or at)
    return (*verdicts(scene, policy, [(asked, era)])[pool, era], *unknowns(scene, scene.site_of(asked), era))


def documents(request: Request, estate: Estate, catalog: Catalog, conditions: Conditions) -> dict[str, Any]:
    """The inputs by kind as JSON, whose content hashes a decision names; policies are stored by their own hash."""
    return {
        "estate": estate.document,
        "catalog": content_form(catalog),
        "request": content_form(request),
        "conditions": content_form(conditions),
    }


def input_hashes(request: Request, estate: Estate, policy: Policy, catalog: Catalog, conditions: Conditions) -> dict[str, str]:
    """What a decision depends on: the engine's versions and the hash of every input."""
    given = {"catalog": catalog, "request": request, "conditions": conditions}
    found = {kind: content_hash(content_form(document)) for kind, document in given.items()}
    return {"engine": engine(policy.engine), "policies": policy.hash, "estate": estate.hash, **found}


@dataclass(slots=True)
class Miss:
    """The nearest miss of one offer of a pool, and how many offers end as it does."""

    candidate: Candidate
    reasons: tuple[Reason, ...]
    near: tuple[object, ...]
    alike: int


@dataclass(slots=True)
class Outcome:
    """What became of one pool: its best survivor, the nearest miss of each offer without one, and how many offers it has."""

    pool: Pool
    best: Candidate | None
    misses: list[Miss]
    unpriced: tuple[str, ...]


def _place(scene: Scene, policy: Policy) -> Decision:
    pricer = Pricer(scene)
    said = verdicts(scene, policy, pools_and_eras(scene, scene.pools, pricer))
    facts = Facts(scene, pricer, said)
    outcomes = [_outcome(pool, facts) for pool in scene.pools]
    ranked = sorted((outcome.best for outcome in outcomes if outcome.best is not None), key=lambda best: best.rank)
    shown = [best.chosen(_twin(best, pricer, scene)) for best in ranked]
    inputs = input_hashes(scene.request, scene.estate, policy, scene.catalog, scene.conditions)
    return Decision(
        decision_id=decision_id(scene.at, inputs),
        at=scene.at,
        inputs=inputs,
        datasets=tuple(use.name for use in scene.inputs),
        output_label=scene.output_label(ranked[0].era if ranked else scene.era(scene.at)),
        chosen=shown[0] if shown else None,
        alternatives=tuple(shown[1:]),
        rejected=tuple(row for outcome in outcomes for row in _rows(outcome, facts)),
        summary=_summary(scene, outcomes),
        warnings=tuple(sorted({*scene.warnings, *said.excepted, *assumed(scene, pricer), *_runtime(scene, ranked)})),
    )


def pools_and_eras(scene: Scene, pools: Iterable[Pool], pricer: Pricer) -> Iterator[tuple[Pool, int]]:
    """Each pool with every era that a run on it may end in."""
    for pool in pools:
        for era in range(scene.era(scene.at), scene.era(pricer.latest(pool)) + 1):
            yield pool, era


def _outcome(pool: Pool, facts: Facts, *, spot: bool = True) -> Outcome:
    best: Candidate | None = None
    survived: set[str] = set()
    nearest: dict[str, Miss] = {}
    one_era = (pool.name, facts.scene.era(facts.scene.at) + 1) not in facts.verdicts
    for lane in facts.pricer.priced(pool):
        if lane.lane.spot is not None and not spot:
            continue
        offer = lane.lane.offer.name
        lasting: tuple[object, ...] | None = None
        for total, slot in lane.slots():
            if offer in survived:
                if best is not None and total > clearly_above(best):
                    break
            elif lasting is not None and offer in nearest and _no_nearer(total, lasting, nearest[offer]):
                break
            candidate = lane.at(slot, facts.scene.deadline)
            reasons = reasons_against(candidate, facts)
            if not reasons:
                survived.add(offer)
                nearest.pop(offer, None)
                if best is None or candidate.rank < best.rank:
                    best = candidate
            elif offer not in survived:
                near = nearness(candidate, reasons)
                if offer not in nearest or near < nearest[offer].near:
                    nearest[offer] = Miss(candidate, reasons, near, facts.pricer.alike(pool, offer))
                if lasting is None and one_era:
                    lasting = nearness(candidate, [reason for reason in reasons if reason.kind in LASTING])[:2]
    return Outcome(pool, best, sorted(nearest.values(), key=lambda miss: miss.near), facts.scene.estate.unpriced_of(pool))


def clearly_above(candidate: Candidate) -> float:
    """A float total above this is dearer than the candidate, whatever floats lose."""
    total = float(candidate.usd.total)
    return total + NEAR + total * 1e-9


def _no_nearer(total: float, lasting: tuple[object, ...], miss: Miss) -> bool:
    """Whether slots from this total on, which fail at least the rules that last, can only miss by more than the known miss does."""
    return miss.near[:2] < lasting or (miss.near[:2] == lasting and total > clearly_above(miss.candidate))


def _twin(best: Candidate, pricer: Pricer, scene: Scene) -> Candidate | None:
    """The on-demand twin of a spot candidate."""
    if best.lane.spot is None:
        return None
    return pricer.candidate(next(lanes_on(scene, best.lane.pool, best.lane.offer)), best.start, scene.deadline)


def _rows(outcome: Outcome, facts: Facts) -> Iterable[Rejection]:
    """A row per set of failing rules, told by its nearest miss; offers without a price and pools without an offer get one too."""
    grouped: dict[tuple[str, ...], list[Miss]] = {}
    for miss in outcome.misses:
        grouped.setdefault(_rules(miss.reasons), []).append(miss)
    name, site = outcome.pool.name, outcome.pool.site
    for _, misses in sorted(grouped.items(), key=lambda item: item[1][0].near):
        nearest = misses[0]
        offers = sum(miss.alike for miss in misses)
        offer = nearest.candidate.lane.offer.name if offers == 1 else None
        yield Rejection(name, site, offer, offers, nearest.reasons, _relaxed(outcome.pool, misses, facts))
    if outcome.unpriced:
        reason = Reason("no-price", "fit", "no on-demand price", "a price", "estate: offers.csv")
        yield Rejection(name, site, outcome.unpriced[0] if len(outcome.unpriced) == 1 else None, len(outcome.unpriced), (reason,))
    elif outcome.best is None and not outcome.misses:
        yield Rejection(name, site, None, 0, (_no_offer(outcome.pool),))


def _relaxed(pool: Pool, misses: Sequence[Miss], facts: Facts) -> Relaxation | None:
    """The smallest change for the misses of one row; for their on-demand twins if nothing makes spot end."""
    found, rules = relaxation(misses[0].candidate, misses[0].reasons, facts), _rules(misses[0].reasons)
    if rules == ("nodes",) and found is not None:
        best = _outcome(pool, facts.with_one_node).best
        return None if best is None else replace(found, would_cost_usd=best.usd.total)
    if rules in (("spot",), ("horizon",)):
        offers = {miss.candidate.lane.offer.name for miss in misses}
        twins = (miss for miss in _outcome(pool, facts, spot=False).misses if miss.candidate.lane.offer.name in offers)
        found = next((relaxation(twin.candidate, twin.reasons, facts) for twin in twins), None)
    return found


def rejections(pools: Iterable[Pool], facts: Facts) -> tuple[Rejection, ...]:
    """Why not, for each of the pools, as `place` tells it."""
    return tuple(row for pool in pools for row in _rows(_outcome(pool, facts), facts))


def _no_offer(pool: Pool) -> Reason:
    seen = f"no offer of `{pool.site}` matches {', '.join(pool.offers)}"
    return Reason("no-offer", "fit", seen, "an offer", f"estate: pools.{pool.name}.offers")


def _rules(reasons: Iterable[Reason]) -> tuple[str, ...]:
    return tuple(sorted({reason.rule for reason in reasons}))


def _summary(scene: Scene, outcomes: Sequence[Outcome]) -> str:
    lost = [outcome for outcome in outcomes if outcome.best is None]
    counts = Counter(_first_rule(outcome) for outcome in lost)
    told = ", ".join(f"{count} {rule}" for rule, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    text = f"{len(outcomes) - len(lost)}/{len(outcomes)} pools may run `{scene.request.step}` of `{scene.request.workload}`"
    return f"{text}: {told}" if told else text


def _first_rule(outcome: Outcome) -> str:
    if outcome.misses:
        return outcome.misses[0].reasons[0].rule
    return "no-price" if outcome.unpriced else "no-offer"


def _runtime(scene: Scene, ranked: Sequence[Candidate]) -> Iterable[str]:
    """Where the runtime of the chosen candidate comes from, if runs were recorded."""
    return runtimes.told(scene, ranked[0].lane.offer if ranked else None)


def assumed(scene: Scene, pricer: Pricer) -> Iterable[str]:
    """Where the estate's worst stands in for a value that nobody measured."""
    for what, missing, worst, unit in (
        ("Watts", pricer.without_watts, scene.estate.worst_watts, "W"),
        ("carbon", pricer.no_carbon, scene.estate.worst_g_per_kwh, "g/kWh"),
    ):
        if missing:
            names = sorted(missing)
            shown = ", ".join(f"`{name}`" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            stands_in = f"the estate's worst, {_short(worst)} {unit}, is used" if worst is not None else "CO2 counts as 0"
            yield f"no {what} known for {shown}: {stands_in}"


def _short(value: Decimal) -> str:
    return format(value.normalize(), "f")
