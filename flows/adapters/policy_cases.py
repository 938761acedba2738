"""The table of allow and deny cases that every rule must pass, and what it says about a set of rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StrictBool, model_validator

from flows.adapters.declared import Declared, load_yaml, validate
from flows.adapters.policy import CedarPolicy, Ruling, pool_entity, request_of, user_entity
from flows.core.errors import Problem
from flows.core.fields import Country, Line, Model, Name, Names
from flows.core.governance.blocs import GdprBasis, not_mistaken
from flows.core.governance.labels import Classification, Label, Regime
from flows.core.placement.policy import Action, PoolFacts, Question
from flows.core.placement.request import Environment, Principal, Role

CASES_FILE = "cases.yaml"

Area = Annotated[
    str,
    Field(pattern=r"^[A-Z][A-Z0-9-]*$", description="an ISO country such as `DE`, or a bloc such as `EU`"),
    AfterValidator(not_mistaken),
]


class LabelGiven(Model):
    """Parts of a label."""

    classification: Classification | None = None
    regimes: tuple[Regime, ...] | None = None
    residency: Annotated[tuple[Area, ...], Field(min_length=1)] | Literal["anywhere"] | None = None


class PoolGiven(Model):
    """Parts of a pool's facts; `ceiling` is its highest classification."""

    site: Name | None = None
    cloud: Name | None = None
    country: Country | None = None
    operator_country: Country | None = None
    ceiling: Classification | None = None
    certifications: Names | None = None
    gdpr_basis: GdprBasis | None = None
    customer_managed_keys: StrictBool | None = None


class Given(Model):
    """Parts of a question; what is left out is taken from the defaults.

    `image_approved`, `exceptions` and `approved` say what the lists of images and of exceptions and the records of approvals would: the
    table does not depend on today's.
    """

    roles: tuple[Role, ...] | None = None
    action: Action | None = None
    step: Name | None = None
    environment: Environment | None = None
    image: str | None = None
    image_approved: StrictBool = False
    approved: StrictBool = False
    exceptions: Names = ()
    label: LabelGiven = Field(default_factory=LabelGiven)
    pool: PoolGiven = Field(default_factory=PoolGiven)
    to: Country | None = None


class Case(Model):
    """What one rule must say to one question; `also` are the other rules that forbid it."""

    rule: Name
    expect: Literal["allow", "deny"]
    name: Line
    also: Names = ()
    given: Given = Field(default_factory=Given)


class Table(Model):
    """All cases of a folder of rules."""

    defaults: Given
    cases: tuple[Case, ...]

    @model_validator(mode="after")
    def _defaults_are_whole(self) -> Self:
        given = self.defaults
        missing = [name for name in ("roles", "action", "step", "environment", "image") if getattr(given, name) is None]
        missing += [f"label.{name}" for name in LabelGiven.model_fields if getattr(given.label, name) is None]
        missing += [f"pool.{name}" for name in PoolGiven.model_fields if getattr(given.pool, name) is None]
        if missing:
            raise ValueError(f"the defaults leave out `{'`, `'.join(missing)}`")
        return self


@dataclass(frozen=True, slots=True)
class Asked:
    """A request with the entities it names, as plain JSON values."""

    request: dict[str, Any]
    user: dict[str, Any]
    pool: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One case and what the rules really said; `line` is where the case is written."""

    case: Case
    line: int
    ruling: Ruling
    passed: bool


@dataclass(frozen=True, slots=True)
class Report:
    """All outcomes, what is wrong with the rules or the table besides, and what someone should look at soon."""

    outcomes: tuple[Outcome, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every case came out as expected and nothing else is wrong."""
        return not self.problems and all(outcome.passed for outcome in self.outcomes)


def read_cases(folder: Path) -> tuple[Table, Declared]:
    """The table of the folder, with the document it was read from.

    Raises:
        UserError: there is no table, or it is malformed.
    """
    document = load_yaml(folder / CASES_FILE)
    return validate(Table, document), document


def run_cases(policy: CedarPolicy, table: Table, document: Declared, at: datetime) -> Report:
    """Ask every case as of that instant; a rule needs an allow and a deny case, and all its annotations. An overdue review is a warning."""
    asked = [as_asked(table.defaults, case.given, at, index) for index, case in enumerate(table.cases)]
    rulings = rulings_of(policy, asked, at)
    outcomes = tuple(
        Outcome(case, document.mark(("cases", index)).line, ruling, as_expected(case, ruling, policy))
        for index, (case, ruling) in enumerate(zip(table.cases, rulings, strict=True))
    )
    overdue = [problem for rule in policy.rules.values() for problem in rule.overdue(at.date())]
    return Report(outcomes, tuple(_gaps(policy, table.cases, document)), (*overdue, *policy.data.expired(at.date())))


def as_asked(defaults: Given, given: Given, at: datetime, index: int) -> Asked:
    """The case as Cedar is asked; its pool and its user carry the index, so that all cases fit into one batch."""
    question = question_of(defaults, given, at)
    pool = replace(question.pool, name=f"case-{index}")
    user = Principal(user=f"case-{index}", roles=question.principal.roles)
    request = request_of(replace(question, pool=pool, principal=user), approved=given.image_approved, exceptions=given.exceptions)
    return Asked(request, user_entity(user), pool_entity(pool))


def rulings_of(policy: CedarPolicy, asked: Sequence[Asked], at: datetime) -> list[Ruling]:
    """What Cedar says to each, in order."""
    entities = [entity for one in asked for entity in (one.user, one.pool)]
    return policy.evaluate([one.request for one in asked], entities, at.date())


def as_expected(case: Case, ruling: Ruling, policy: CedarPolicy) -> bool:
    """Whether the rules said what the case expects: for a deny, exactly its own rule and those under `also`."""
    if ruling.errors or case.rule not in policy.rules:
        return False
    permit = policy.rules[case.rule].effect == "permit"
    if case.expect == "allow":
        return ruling.allowed and (case.rule in ruling.rules if permit else True)
    wanted = set(case.also) if permit else {case.rule, *case.also}
    return not ruling.allowed and set(ruling.rules) == wanted


def _gaps(policy: CedarPolicy, cases: Sequence[Case], document: Declared) -> list[Problem]:
    problems = [problem for rule in policy.rules.values() for problem in rule.problems()]
    for index, case in enumerate(cases):
        for field, name in (("rule", case.rule), *(("also", name) for name in case.also)):
            if name not in policy.rules:
                problems.append(document.problem(("cases", index, field), f"no rule `{name}`", fix="name a rule by its `@id`"))
    tested = {(case.rule, case.expect) for case in cases}
    for rule in policy.rules.values():
        missing = [expect for expect in ("allow", "deny") if (rule.id, expect) not in tested]
        problems += [
            Problem(f"rule `{rule.id}` has no case that expects {expect}", file=rule.file, line=rule.line, fix=f"add one to {CASES_FILE}")
            for expect in missing
        ]
    return problems


def question_of(defaults: Given, given: Given, at: datetime) -> Question:
    """The case as a question: `given` over `defaults`."""
    facts = {**_said(defaults), **_said(given)}
    label = {**_said(defaults.label), **_said(given.label)}
    pool = {**_said(defaults.pool), **_said(given.pool)}
    residency = label["residency"]
    return Question(
        action=facts["action"],
        principal=Principal(user="case", roles=facts["roles"]),
        pool=PoolFacts(
            name="case",
            site=pool["site"],
            cloud=pool["cloud"],
            country=pool["country"],
            operator_country=pool["operator_country"],
            max_level=pool["ceiling"].level,
            certifications=frozenset(pool["certifications"]),
            gdpr_basis=pool["gdpr_basis"],
            customer_managed_keys=pool["customer_managed_keys"],
        ),
        label=Label(
            classification=label["classification"],
            regimes=frozenset(label["regimes"]),
            residency=frozenset({residency} if isinstance(residency, str) else residency),
        ),
        step=facts["step"],
        workload="case",
        environment=facts["environment"],
        image=facts["image"],
        at=at,
        to=facts.get("to") or pool["country"],
        approved=given.approved,
    )


def _said(part: Model) -> Mapping[str, Any]:
    return {name: value for name in part.model_fields_set if (value := getattr(part, name)) is not None}
