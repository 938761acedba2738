"""The questions of one decision, asked of policy in a single batch, and their reasons by pool."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date

from flows.core.governance.labels import PUBLIC, Label
from flows.core.placement.decision import Reason
from flows.core.placement.estate import LEVELS, Estate, Pool, Site
from flows.core.placement.policy import Action, Answer, Policy, PoolFacts, Question
from flows.core.placement.scene import UNKNOWN, Scene, known_country


def facts(scene: Scene, site: Site, pool: Pool | None, era: int) -> PoolFacts:
    """The pool, or the site itself where data only rests, with what holds from `at` through the era."""
    return facts_on(scene.estate, site, pool, scene.day_of(era))


def facts_on(estate: Estate, site: Site, pool: Pool | None, day: date) -> PoolFacts:
    """As `facts`, with what holds through that UTC day."""
    held = {name for name, until in site.certifications.items() if until is None or day <= until}
    if pool is not None and pool.certifications is not None:
        held &= set(pool.certifications)
    country = site.country or ""
    return PoolFacts(
        name=site.id if pool is None else pool.name,
        site=site.id,
        cloud=site.cloud,
        country=country,
        operator_country=site.operator_country or "",
        max_level=LEVELS[site.max_classification],
        certifications=frozenset(held),
        gdpr_basis=estate.blocs.gdpr_basis(country, held, day),
        customer_managed_keys=site.customer_managed_keys,
    )


def known_place(site: Site) -> bool:
    """Whether policy can be asked about the site at all: it knows only real countries."""
    return known_country(site.country) and known_country(site.operator_country)


class Verdicts(dict[tuple[str, int], tuple[Reason, ...]]):
    """Policy's reasons against each (pool, era), and the dated exceptions that let some through."""

    excepted: tuple[str, ...] = ()


def questions(scene: Scene, pool: Pool, era: int, through: date, *, named: bool) -> Iterator[Question]:
    """What must be allowed for the request to run on the pool and end in the era.

    Per dataset `process`, and `transfer` + `store` if its home is elsewhere; per output `store` at its home, and `transfer` if that
    is elsewhere; `serve` per country of users. Without datasets: `process` of public data. `through` is the last day that dated facts must
    cover; `named`: with the names of datasets, which only exceptions go by.
    """
    site = scene.site_of(pool)
    here = facts(scene, site, pool, era)

    def ask(action: Action, label_of: str | None, where: PoolFacts, to: str) -> Question:
        label = PUBLIC if label_of is None else scene.label(label_of, era) or UNKNOWN
        return about(action, label, where, to, label_of)

    def about(action: Action, label: Label, where: PoolFacts, to: str, dataset: str | None) -> Question:
        return _question(scene, action, label, where, to, dataset or "" if named else "", through)

    names: list[str | None] = [use.name for use in scene.inputs]
    for name in names or [None]:
        yield ask("process", name, here, here.country)
        if scene.request.latency is not None:
            for country in scene.request.latency.from_:
                if known_country(country):
                    yield ask("serve", name, here, country)
    for use in scene.inputs:
        if use.home != site.id:
            yield ask("transfer", use.name, here, here.country)
            yield ask("store", use.name, here, here.country)
    written = scene.output_label(era) or UNKNOWN
    for output in scene.outputs:
        if output.home in (None, site.id):
            yield about("store", written, here, here.country, output.name)
        elif known_place(home := scene.estate.site_by_id[output.home or site.id]):
            there = facts(scene, home, None, era)
            yield about("transfer", written, there, there.country, output.name)
            yield about("store", written, there, there.country, output.name)


def _question(scene: Scene, action: Action, label: Label, where: PoolFacts, to: str, dataset: str, through: date) -> Question:
    request = scene.request
    return Question(
        action=action,
        principal=request.requested_by,
        pool=where,
        label=label,
        step=request.step,
        workload=request.workload,
        environment=request.environment,
        image=request.image or "",
        at=scene.at,
        to=to,
        dataset=dataset,
        through=through,
    )


def against(question: Question, answer: Answer | None) -> tuple[Reason, ...]:
    """The reasons against it; nothing but a clean Allow is none."""
    if answer is None:
        return (Reason("policy-error", "policy", "policy gave no answer", "one answer for each question", "policies"),)
    if answer.allowed or answer.reasons:
        return answer.reasons
    who = ", ".join(question.principal.roles) or "no role"
    return (Reason("default-deny", "policy", f"`{question.action}` by {who}", "a rule that permits it", "policies"),)


def verdicts(scene: Scene, policy: Policy, wanted: Iterable[tuple[Pool, int]]) -> Verdicts:
    """Policy's reasons against each pool in each era, in one batch of distinct questions.

    Dated facts count only if the scene's eras end where those of policy end.
    """
    dated, named = {day for day in policy.last_days if day >= scene.at.date()} <= set(scene.boundaries), bool(policy.last_days)
    needed = {
        (pool.name, era): list(questions(scene, pool, era, scene.day_of(era) if dated else date.max, named=named))
        if known_place(scene.site_of(pool))
        else []
        for pool, era in sorted(wanted, key=lambda pair: (pair[0].name, pair[1]))
    }
    distinct = list(dict.fromkeys(question for asked in needed.values() for question in asked))
    answers = policy.ask(distinct) if distinct else []
    complete = len(answers) == len(distinct)
    reasons = {question: against(question, answers[index] if complete else None) for index, question in enumerate(distinct)}
    found = Verdicts(
        {key: tuple(dict.fromkeys(reason for question in asked for reason in reasons[question])) for key, asked in needed.items()}
    )
    let_through = [question for key, asked in needed.items() if not found[key] for question in asked]
    told = {question: answer.excepted for question, answer in zip(distinct, answers, strict=False)}
    found.excepted = tuple(sorted({line for question in let_through for line in told.get(question, ())}))
    return found
