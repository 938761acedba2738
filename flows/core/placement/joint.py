"""Several steps placed at once, so that what they hand to each other is paid for where it must move.

Each step has its own request and its own filters, as if it were placed alone. An edge hands a dataset from one step to another: at the same
site it costs nothing, else the egress between the two sites, and it may go only where policy lets data of that label be transferred and
stored. A dataset that its maker lets come to rest at a home is also fetched from there, whichever is cheaper.

The choice is the least total of all steps and edges. What step by step finds (each step where it is best once the steps before it are
placed) stands beside it, and is the choice unless another total is lower; among equal others the one that ranks first, in order of flow.

Edges move data, not clocks: each step keeps the window of its own request, and its own budget, which holds what `place` prices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from itertools import pairwise
from typing import Any

from pydantic import Field

from flows.core.canonical import canonical_json, content_hash, instant
from flows.core.errors import IntegrityError, Problem, UserError
from flows.core.fields import Model, Name, NonNegative
from flows.core.governance.labels import Catalog
from flows.core.placement.decision import Chosen, Reason, Rejection, number
from flows.core.placement.estate import Estate
from flows.core.placement.hashing import content_form, engine
from flows.core.placement.joint_options import Hop, Option, Step, prepare
from flows.core.placement.joint_solve import Choice, solve
from flows.core.placement.joint_solve import Problem as Puzzle
from flows.core.placement.policy import Policy
from flows.core.placement.request import Conditions, Request

ZERO = Decimal(0)
MICRO = Decimal(1_000_000)
"""Every USD amount has six places: in millionths all sums are whole."""


class Edge(Model):
    """A dataset that one step hands to another; size left out: the catalog's. GB are 10^9 bytes."""

    from_: Name = Field(alias="from")
    to: Name
    dataset: Name
    size_gb: NonNegative | None = None


@dataclass(frozen=True, slots=True)
class Handed:
    """An edge of the decision: from which site to which its dataset goes, and what that costs."""

    from_: str
    to: str
    dataset: str
    size_gb: Decimal
    src: str
    dst: str
    usd: Decimal

    def to_json(self) -> dict[str, Any]:
        """As the decision prints it."""
        return {
            "from": self.from_,
            "to": self.to,
            "dataset": self.dataset,
            "size_gb": number(self.size_gb),
            "src": self.src,
            "dst": self.dst,
            "usd": number(self.usd),
        }


@dataclass(frozen=True, slots=True)
class Stuck:
    """A step that has no place: alone, or beside the steps before it that are named in `beside`."""

    step: str
    beside: tuple[str, ...]
    rejected: tuple[Rejection, ...]

    def to_json(self) -> dict[str, Any]:
        """As the decision prints it."""
        return {"step": self.step, "beside": list(self.beside), "rejected": [rejection.to_json() for rejection in self.rejected]}


@dataclass(frozen=True, slots=True)
class Alone:
    """What step by step finds: each step where it is best, once the steps before it are placed; own USD of each, and the edges."""

    chosen: Mapping[str, Chosen]
    edges: tuple[Handed, ...]
    usd_total: Decimal

    def to_json(self) -> dict[str, Any]:
        """As the decision prints it."""
        return {
            "chosen": {name: chosen.to_json() for name, chosen in self.chosen.items()},
            "edges": [edge.to_json() for edge in self.edges],
            "usd_total": number(self.usd_total),
        }


@dataclass(frozen=True, slots=True)
class JointDecision:
    """Where all steps go together. If any step is stuck, nothing is chosen; `usd_total` is then None.

    `step_by_step` is None where a step finds no place beside those that were placed before it, each for itself.
    """

    decision_id: str
    at: datetime
    inputs: Mapping[str, str]
    chosen: Mapping[str, Chosen]
    edges: tuple[Handed, ...]
    usd_total: Decimal | None
    step_by_step: Alone | None
    stuck: tuple[Stuck, ...]
    summary: str
    warnings: tuple[str, ...] = field(default=())

    @property
    def pays(self) -> bool:
        """Whether it is better than step by step: a lower total, or a place for all steps where step by step has none."""
        return self.usd_total is not None and (self.step_by_step is None or self.usd_total < self.step_by_step.usd_total)

    def to_json(self) -> dict[str, Any]:
        """The decision as plain JSON values."""
        return {
            "decision_id": self.decision_id,
            "at": instant(self.at),
            "inputs": dict(self.inputs),
            "chosen": {name: chosen.to_json() for name, chosen in self.chosen.items()},
            "edges": [edge.to_json() for edge in self.edges],
            "usd_total": None if self.usd_total is None else number(self.usd_total),
            "step_by_step": None if self.step_by_step is None else self.step_by_step.to_json(),
            "stuck": [stuck.to_json() for stuck in self.stuck],
            "warnings": list(self.warnings),
            "summary": self.summary,
        }

    def to_bytes(self) -> bytes:
        """The decision as RFC 8785 JSON."""
        return canonical_json(self.to_json())


def place_jointly(
    steps: Mapping[str, Request],
    edges: Sequence[Edge],
    estate: Estate,
    policy: Policy,
    catalog: Catalog,
    conditions: Conditions,
    at: datetime,
) -> JointDecision:
    """Where all steps may run together at the least total of their own USD and the edges' egress. Pure: equal inputs give equal bytes.

    One step without edges is chosen as `place` chooses it. A dataset on an edge is read from the step before, not from its home; its
    label is the catalog's, and without one it may not leave the site it is made at.

    Raises:
        UserError: `at` has no offset, an edge names no step, comes twice or closes a circle, or a request makes no sense in this estate.
    """
    if at.tzinfo is None:
        raise UserError("the instant of the decision has no offset", field="at", expected="an instant such as `2026-01-05T08:00:00Z`")
    if not steps:
        raise UserError("no step wants a place", field="steps", expected="at least one request")
    at = at.astimezone(UTC)
    order = in_order_of_flow(steps, edges)
    hops = tuple(
        sorted(
            (_hop(edge, steps[edge.from_], catalog) for edge in edges),
            key=lambda hop: (order.index(hop.from_), order.index(hop.to), hop.dataset),
        )
    )
    with localcontext(Context(prec=28, rounding=ROUND_HALF_EVEN)):
        ready = prepare({name: steps[name] for name in order}, hops, estate, policy, catalog, conditions, at)
        documents = joint_documents(steps, edges, estate, catalog, conditions)
        hashes = {kind: estate.hash if kind == "estate" else content_hash(document) for kind, document in documents.items()}
        inputs = {"engine": engine(policy.engine), "policies": policy.hash, **hashes}
        return _decide(ready, hops, inputs, at)


def joint_documents(
    steps: Mapping[str, Request], edges: Sequence[Edge], estate: Estate, catalog: Catalog, conditions: Conditions
) -> dict[str, Any]:
    """The inputs by kind as JSON, whose content hashes a joint decision names; policies are stored by their own hash."""
    return {
        "estate": estate.document,
        "catalog": content_form(catalog),
        "conditions": content_form(conditions),
        "steps": {name: content_form(request) for name, request in steps.items()},
        "edges": content_form(tuple(edges)),
    }


def in_order_of_flow(steps: Mapping[str, Request], edges: Sequence[Edge]) -> tuple[str, ...]:
    """The names of the steps, each behind those that hand it something, else by name.

    Raises:
        UserError: with every edge that names no step, comes twice or leads back to where it starts.
    """
    problems, seen = [], set()
    known = f"one of `{'`, `'.join(sorted(steps))}`"
    for index, edge in enumerate(edges):
        where = f"edges[{index}]"
        for end, name in (("from", edge.from_), ("to", edge.to)):
            if name not in steps:
                problems.append(Problem(f"no step `{name}`", field=f"{where}.{end}", expected=known))
        key = (edge.from_, edge.to, edge.dataset)
        if key in seen:
            problems.append(Problem(f"`{edge.dataset}` from `{edge.from_}` to `{edge.to}` is declared twice", field=where))
        seen.add(key)
    sources = sorted({(edge.to, edge.dataset, edge.from_) for edge in edges})
    for (to, dataset, first), (other, same, second) in pairwise(sources):
        if (to, dataset) == (other, same):
            what = f"`{to}` gets `{dataset}` from `{first}` and from `{second}`"
            problems.append(Problem(what, field="edges", expected="one step that hands it over"))
    if problems:
        raise UserError(problems=problems)
    left, found = set(steps), list[str]()
    while left:
        free = sorted(left - {edge.to for edge in edges if edge.from_ in left})
        if not free:
            raise _circle(left, edges)
        found.append(free[0])
        left.remove(free[0])
    return tuple(found)


def _circle(steps: set[str], edges: Sequence[Edge]) -> UserError:
    """That the steps wait for each other, in the words of their requests and at the first that reads; without those that only follow."""
    while ends := steps - {edge.from_ for edge in edges if edge.to in steps}:
        steps = steps - ends
    inside = sorted((edge.to, edge.dataset, edge.from_) for edge in edges if {edge.from_, edge.to} <= steps)
    told = "; ".join(f"`{to}` reads `{dataset}`, which `{maker}` writes" for to, dataset, maker in inside)
    expected = "steps that read only what steps before them write"
    return UserError(f"the steps wait for each other in a circle: {told}", field=f"steps.{inside[0][0]}.datasets", expected=expected)


def _hop(edge: Edge, maker: Request, catalog: Catalog) -> Hop:
    entry = catalog.entry(edge.dataset)
    size = edge.size_gb if edge.size_gb is not None else None if entry is None else entry.size_gb
    home = next((output.home for output in maker.outputs if output.name == edge.dataset), None)
    return Hop(edge.from_, edge.to, edge.dataset, ZERO if size is None else size, size is not None, home)


def _decide(ready: Mapping[str, Step], hops: Sequence[Hop], inputs: Mapping[str, str], at: datetime) -> JointDecision:
    names = list(ready)
    warnings = {warning for step in ready.values() for warning in step.warnings} | set(_unsized(hops))
    stuck = tuple(Stuck(name, (), ready[name].rejections()) for name in names if not ready[name].options)
    puzzle = None if stuck else _puzzle(ready, hops, names)
    choice = None if puzzle is None else solve(puzzle)
    if choice is None and not stuck:
        stuck = (_stuck_beside(ready, hops, names),)
    each = None if puzzle is None else _step_by_step(ready, hops)
    if puzzle is not None and choice is not None and each is not None and puzzle.total(each) == puzzle.total(choice):
        choice = each
    best = None if choice is None else _alone(ready, hops, choice)
    warnings |= {line for name, option in zip(names, choice or (), strict=False) for line in ready[name].told(ready[name].options[option])}
    if puzzle is not None and choice is not None and best is not None and best.usd_total * MICRO != puzzle.total(choice):
        raise IntegrityError(f"the joint total {best.usd_total} USD is not what was minimised", expected="the same sum in millionths")
    return JointDecision(
        decision_id=content_hash({"at": instant(at), "inputs": dict(inputs)}),
        at=at,
        inputs=inputs,
        chosen={} if best is None else best.chosen,
        edges=() if best is None else best.edges,
        usd_total=None if best is None else best.usd_total,
        step_by_step=None if each is None else _alone(ready, hops, each),
        stuck=stuck,
        summary=_summary(names, stuck, () if best is None else best.edges),
        warnings=tuple(sorted(warnings)),
    )


def _step_by_step(ready: Mapping[str, Step], hops: Sequence[Hop]) -> Choice | None:
    """Each step's best option beside those before it, as `place` ranks: total with what comes in, start, pool, offer, on demand first."""
    chosen: dict[str, int] = {}
    for name, step in ready.items():
        sources = [(hop, ready[hop.from_].options[chosen[hop.from_]].site) for hop in hops if hop.to == name]
        ranked = []
        for index, option in enumerate(step.options):
            fetched = [step.usd(hop, src, option) for hop, src in sources]
            if None not in fetched:
                total = option.total + sum((usd for usd in fetched if usd is not None), ZERO)
                ranked.append((total, *option.candidate.rank[1:], index))
        if not ranked:
            return None
        chosen[name] = min(ranked)[-1]
    return tuple(chosen.values())


def _alone(ready: Mapping[str, Step], hops: Sequence[Hop], choice: Choice) -> Alone:
    """The choice with its edges and its total."""
    chosen = {name: ready[name].options[option] for name, option in zip(ready, choice, strict=True)}
    handed = tuple(_handed(hop, chosen, ready) for hop in hops)
    total = sum((option.total for option in chosen.values()), ZERO) + sum((edge.usd for edge in handed), ZERO)
    return Alone({name: ready[name].shown(option) for name, option in chosen.items()}, handed, total)


def _unsized(hops: Sequence[Hop]) -> Iterator[str]:
    for hop in hops:
        if not hop.sized:
            yield f"the size of `{hop.dataset}` is not known: counted as 0 GB"


def _puzzle(ready: Mapping[str, Step], hops: Sequence[Hop], names: Sequence[str]) -> Puzzle:
    """The named steps and the edges between them in millionths of a USD."""
    place = {name: index for index, name in enumerate(names)}
    pairs: dict[tuple[int, int], list[list[int | None]]] = {}
    priced: dict[tuple[object, ...], list[list[int | None]]] = {}
    for hop in hops:
        if hop.from_ not in place or hop.to not in place:
            continue
        sources, target = ready[hop.from_].options, ready[hop.to]
        alike = (id(sources), id(target.options), hop.dataset, hop.size_gb, hop.home)
        if alike not in priced:
            priced[alike] = [[_micro(target.usd(hop, src.site, dst)) for dst in target.options] for src in sources]
        new = priced[alike]
        key = (place[hop.from_], place[hop.to])
        pairs[key] = (
            new if key not in pairs else [[_sum(*both) for both in zip(*rows, strict=True)] for rows in zip(pairs[key], new, strict=True)]
        )
    return Puzzle.of([[int(option.total * MICRO) for option in ready[name].options] for name in names], pairs)


def _micro(usd: Decimal | None) -> int | None:
    return None if usd is None else int(usd * MICRO)


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _handed(hop: Hop, chosen: Mapping[str, Option], ready: Mapping[str, Step]) -> Handed:
    maker, dst = chosen[hop.from_].site, chosen[hop.to]
    usd, src = ready[hop.to].best(hop, maker, dst) or (ZERO, maker)
    return Handed(hop.from_, hop.to, hop.dataset, hop.size_gb, src, dst.site, usd)


def _stuck_beside(ready: Mapping[str, Step], hops: Sequence[Hop], names: Sequence[str]) -> Stuck:
    """The first step, in order of flow, that has no place beside those before it."""
    last = next(count for count in range(2, len(names) + 1) if solve(_puzzle(ready, hops, names[:count])) is None)
    step, before = ready[names[last - 1]], names[: last - 1]
    coming = [hop for hop in hops if hop.to == step.name]
    sources = {hop: sorted({option.site for option in ready[hop.from_].options}) for hop in coming}
    refused = tuple(
        Rejection(option.pool, option.site, option.candidate.lane.offer.name, 1, reasons)
        for option in step.best_of_pools()
        if (reasons := tuple(dict.fromkeys(reason for hop in coming for reason in _why_not(step, hop, option, sources[hop]))))
    )
    return Stuck(step.name, tuple(name for name in before if any(hop.from_ == name for hop in coming)), (*refused, *step.rejections()))


def _why_not(step: Step, hop: Hop, option: Option, sources: Sequence[str]) -> Iterator[Reason]:
    for src in sources:
        if step.usd(hop, src, option) is None:
            yield from step.against(hop, src, option)


def _summary(names: Sequence[str], stuck: Sequence[Stuck], handed: Sequence[Handed]) -> str:
    if stuck:
        told = ", ".join(f"`{one.step}` has no place" + (f" beside `{'`, `'.join(one.beside)}`" if one.beside else "") for one in stuck)
        return f"{len(names)} steps cannot be placed together: {told}"
    moved = sum(edge.src != edge.dst for edge in handed)
    return f"{len(names)} {'step' if len(names) == 1 else 'steps'} placed together; {moved} of {len(handed)} edges leave their site"
