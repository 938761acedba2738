"""What each step of a joint placement may be: its candidates, as few as can matter, and what reaches them over edges at which price."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal

from flows.core.errors import UserError
from flows.core.governance.labels import Catalog
from flows.core.placement import runtimes
from flows.core.placement.asking import verdicts
from flows.core.placement.decision import Chosen, Reason, Rejection
from flows.core.placement.engine import assumed, clearly_above, pools_and_eras, rejections
from flows.core.placement.estate import Estate, Pool, Site
from flows.core.placement.filters import FILTERS, Facts
from flows.core.placement.haul import leg
from flows.core.placement.policy import Answer, Policy, Question
from flows.core.placement.request import Conditions, Request
from flows.core.placement.scene import Input, Scene, resolve
from flows.core.placement.score import SIX_PLACES, Candidate, Pricer, lanes_on

ZERO = Decimal(0)
Reasons = tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Hop:
    """A dataset on its way from one step to another; `sized` is false if nobody knows its size.

    `home` is where the step before lets it come to rest, at that step's own expense: it may be fetched from there as well.
    """

    from_: str
    to: str
    dataset: str
    size_gb: Decimal
    sized: bool
    home: str | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """A candidate that meets every filter of its step, and which datasets may come to it from another site."""

    candidate: Candidate
    may_come: frozenset[str]

    @property
    def pool(self) -> str:
        """The name of its pool."""
        return self.candidate.lane.pool.name

    @property
    def site(self) -> str:
        """The id of its site."""
        return self.candidate.lane.site.id

    @property
    def total(self) -> Decimal:
        """Its own USD, edges not counted."""
        return self.candidate.usd.total


@dataclass(slots=True)
class Ground:
    """Pools that a step sees in the same way: all of them, or those of one site if something comes over an edge.

    `moves` are policy's reasons against each dataset coming to the pool from elsewhere, by (dataset, pool, era).
    """

    scene: Scene
    pools: tuple[Pool, ...]
    pricer: Pricer
    eras: tuple[tuple[Pool, int], ...]
    facts: Facts | None = None
    moves: dict[tuple[str, str, int], Reasons] = field(default_factory=dict)

    def against(self, hop: Hop, pool: str, era: int) -> Reasons:
        """Why the hop's dataset must not come to the pool from elsewhere."""
        return (*self.moves[hop.dataset, pool, era], *(_unlabelled(hop) if self.scene.label(hop.dataset, era) is None else ()))


@dataclass(frozen=True, slots=True)
class Step:
    """A step with its options, those that rank first first; `every` also has the ones that a better one of their site makes needless."""

    name: str
    estate: Estate
    grounds: tuple[Ground, ...]
    options: tuple[Option, ...]
    every: tuple[Option, ...]
    lines: tuple[str, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What must be said, under the step's name."""
        return tuple(f"`{self.name}`: {line}" for line in self.lines)

    def best(self, hop: Hop, src: str, option: Option) -> tuple[Decimal, str] | None:
        """What the hop of a dataset made at that site costs to the option, and the site it then comes from, its maker's or its home.

        None if it must not be or nobody knows its price.
        """
        sources = [src] if hop.home in (None, src) else [src, hop.home or src]
        if option.site in sources:
            return ZERO, option.site
        if hop.dataset not in option.may_come:
            return None
        legs = [found for source in sources if (found := leg(self.estate, hop.size_gb, source, option.site)) is not None]
        return min(((found.usd.quantize(SIX_PLACES), found.src) for found in legs), default=None)

    def usd(self, hop: Hop, src: str, option: Option) -> Decimal | None:
        """The USD of `best`."""
        found = self.best(hop, src, option)
        return None if found is None else found[0]

    def against(self, hop: Hop, src: str, option: Option) -> Reasons:
        """Why the hop from that other site to the option must not be."""
        ground = next(ground for ground in self.grounds if option.candidate.lane.pool in ground.pools)
        found = list(ground.against(hop, option.pool, option.candidate.era))
        if leg(self.estate, hop.size_gb, src, option.site) is None:
            found.append(Reason("egress-unknown", "data", f"{src} -> {option.site} has no price", "a row for it", "estate: egress.csv"))
        return tuple(found)

    def best_of_pools(self) -> tuple[Option, ...]:
        """The first option of each pool."""
        first: dict[str, Option] = {}
        for option in self.every:
            first.setdefault(option.pool, option)
        return tuple(first.values())

    def rejections(self) -> tuple[Rejection, ...]:
        """Why not, for each pool or offer without an option, its datasets on edges being where it runs."""
        found = [row for ground in self.grounds if ground.facts is not None for row in rejections(ground.pools, ground.facts)]
        return tuple(sorted(found, key=lambda row: row.pool))

    def told(self, option: Option) -> Iterator[str]:
        """Where the runtime of the option comes from, if runs were recorded."""
        yield from (f"`{self.name}`: {line}" for line in runtimes.told(self.grounds[0].scene, option.candidate.lane.offer))

    def shown(self, option: Option) -> Chosen:
        """The option as a decision prints it, with the on-demand twin of a spot candidate."""
        lane = option.candidate.lane
        if lane.spot is None:
            return option.candidate.chosen()
        ground = next(ground for ground in self.grounds if lane.pool in ground.pools)
        twin = next(lanes_on(ground.scene, lane.pool, lane.offer))
        return option.candidate.chosen(ground.pricer.candidate(twin, option.candidate.start, ground.scene.deadline))


class Remembered:
    """A policy that first only notes what it is asked, then asks all of it in one batch, then answers."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._answers: dict[Question, Answer] = {}
        self._noted: dict[Question, None] = {}

    @property
    def hash(self) -> str:
        """The policy's own."""
        return self._policy.hash

    @property
    def engine(self) -> str:
        """The policy's own."""
        return self._policy.engine

    @property
    def last_days(self) -> frozenset[date]:
        """The policy's own."""
        return self._policy.last_days

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """The answers, if all are there; else none, which counts as no."""
        if all(question in self._answers for question in questions):
            return [self._answers[question] for question in questions]
        self._noted.update(dict.fromkeys(questions))
        return []

    def settle(self) -> None:
        """Ask everything that was noted, once; too few answers are no answer."""
        wanted = list(self._noted)
        self._noted.clear()
        answers = self._policy.ask(wanted) if wanted else []
        if len(answers) == len(wanted):
            self._answers = dict(zip(wanted, answers, strict=True))


def prepare(
    steps: Mapping[str, Request],
    hops: Sequence[Hop],
    estate: Estate,
    policy: Policy,
    catalog: Catalog,
    conditions: Conditions,
    at: datetime,
) -> dict[str, Step]:
    """Every step with its options; policy is asked once for all of them.

    Raises:
        UserError: a request that makes no sense in this estate, under the step's name.
    """
    asked = Remembered(policy)
    coming = {name: [hop for hop in hops if hop.to == name] for name in steps}
    twins = _twins(steps, coming)
    grounds = {
        name: _grounds(_resolved(name, steps[name], estate, catalog, conditions, at, asked), coming[name])
        for name in dict.fromkeys(twins.values())
    }
    for _ in range(2):  # the first round only notes the questions
        told = {name: sorted({line for ground in found for line in _judge(ground, coming[name], asked)}) for name, found in grounds.items()}
        asked.settle()
    found = {name: _step(name, estate, grounds[name], coming[name], told[name]) for name in grounds}
    return {name: replace(found[twin], name=name) for name, twin in twins.items()}


def _twins(steps: Mapping[str, Request], coming: Mapping[str, Sequence[Hop]]) -> dict[str, str]:
    """For each step the first one that asks for the same and gets the same over its edges, whoever it is from: it has the same options."""
    found: dict[str, str] = {}
    first: list[tuple[Request, list[Hop], str]] = []
    for name, request in steps.items():
        gets = sorted((replace(hop, from_="", to="") for hop in coming[name]), key=lambda hop: hop.dataset)
        found[name] = next((other for asked, got, other in first if got == gets and asked == request), name)
        if found[name] == name:
            first.append((request, gets, name))
    return found


def _resolved(name: str, request: Request, estate: Estate, catalog: Catalog, conditions: Conditions, at: datetime, policy: Policy) -> Scene:
    try:
        return resolve(request, estate, catalog, conditions, at, last_days=policy.last_days)
    except UserError as error:
        raise UserError(
            problems=[replace(one, field=f"steps.{name}.{one.field}" if one.field else f"steps.{name}") for one in error.problems]
        ) from None


def _grounds(scene: Scene, coming: Sequence[Hop]) -> tuple[Ground, ...]:
    if not coming:
        return (_ground(scene, scene.pools),)
    sites = sorted({pool.site for pool in scene.pools})
    return tuple(
        _ground(_at_hand(scene, coming, scene.estate.site_by_id[site]), tuple(pool for pool in scene.pools if pool.site == site))
        for site in sites
    )


def _at_hand(scene: Scene, coming: Sequence[Hop], site: Site) -> Scene:
    """The scene with what comes over edges resting at the site already: what it costs to get there is the edge's."""
    named = {hop.dataset for hop in coming}
    inputs = [use for use in scene.inputs if use.name not in named]
    inputs += [Input(hop.dataset, hop.size_gb, site.id, (site.id,)) for hop in coming]
    return replace(scene, inputs=tuple(sorted(inputs, key=lambda use: use.name)), _labels={}, _joined={})


def _ground(scene: Scene, pools: tuple[Pool, ...]) -> Ground:
    pricer = Pricer(scene)
    return Ground(scene, pools, pricer, tuple(pools_and_eras(scene, pools, pricer)))


def _judge(ground: Ground, coming: Sequence[Hop], policy: Policy) -> Iterable[str]:
    """Ask policy about the ground's pools, and about each dataset coming there from elsewhere; tells which exceptions it used."""
    scene = ground.scene
    said = verdicts(scene, policy, ground.eras)
    ground.facts = Facts(scene, ground.pricer, said)
    used = set(said.excepted)
    for hop in coming:
        arriving = replace(scene, inputs=(Input(hop.dataset, hop.size_gb, None, ()),), outputs=(), _labels={}, _joined={})
        moved = verdicts(arriving, policy, ground.eras)
        used.update(moved.excepted)
        for pool, era in ground.eras:
            ground.moves[hop.dataset, pool.name, era] = moved[pool.name, era]
    return used


def _unlabelled(hop: Hop) -> Reasons:
    seen, needed = f"`{hop.dataset}` has no label that is known", f"a label, or the site of `{hop.from_}`"
    return (Reason("unknown-dataset", "data", seen, needed, f"catalog: entries.{hop.dataset}"),)


def _step(name: str, estate: Estate, grounds: tuple[Ground, ...], coming: Sequence[Hop], told: Iterable[str]) -> Step:
    every = sorted((option for ground in grounds for option in _options(ground, coming)), key=lambda option: option.candidate.rank)
    options: list[Option] = []
    for option in every:
        if not any(better.site == option.site and better.may_come >= option.may_come for better in options):
            options.append(option)
    warnings = {*told, *(line for ground in grounds for line in (*ground.scene.warnings, *assumed(ground.scene, ground.pricer)))}
    return Step(name, estate, grounds, tuple(options), tuple(every), tuple(sorted(warnings)))


def _options(ground: Ground, coming: Sequence[Hop]) -> Iterator[Option]:
    """The best survivor of each pool, and of each set of datasets that may come there."""
    facts = ground.facts
    assert facts is not None
    for pool in ground.pools:
        eras = [era for other, era in ground.eras if other is pool]
        may_come = {era: frozenset(hop.dataset for hop in coming if not ground.against(hop, pool.name, era)) for era in eras}
        best: dict[frozenset[str], Candidate] = {}
        for lane in ground.pricer.priced(pool):
            for total, slot in lane.slots():
                if len(best) == len(set(may_come.values())) and total > max(map(clearly_above, best.values())):
                    break
                candidate = lane.at(slot, ground.scene.deadline)
                held = best.get(may_come[candidate.era])
                if (held is None or candidate.rank < held.rank) and not any(rule(candidate, facts) for _, rule in FILTERS):
                    best[may_come[candidate.era]] = candidate
        for datasets, candidate in best.items():
            yield Option(candidate, datasets)
