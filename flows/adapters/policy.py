"""Policy in Cedar: questions in, answers with every reason out; anything doubtful is a refusal.

Cedar skips a rule that it cannot evaluate, so a failing `forbid` would permit. Therefore: rules are validated strictly when they are
read, entities and requests are checked against the schema, and only Allow without any diagnostics error passes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cedarpy

from flows.adapters.cedar_rules import Rule, RuleBook, load_rules, rules_from
from flows.adapters.policy_data import EXCEPTIONS_FILE, Exceptions, Granted, PolicyData
from flows.core.governance.blocs import ANYWHERE, ISO_COUNTRIES, Blocs
from flows.core.placement.decision import Reason
from flows.core.placement.policy import Answer, PoolFacts, Question
from flows.core.placement.request import Principal

ROLES = ("viewer", "data-scientist", "ml-engineer", "platform-engineer", "compliance-officer", "approver", "operator")
ADEQUATE = "gdpr-adequate"
"""The area of countries whose adequacy decision holds that day and asks nothing of the recipient."""

KEPT = 16
"""How many sets of entities are kept ready."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ruling:
    """What Cedar said: allowed or not, the ids of the rules that decided, and what it could not evaluate."""

    allowed: bool
    rules: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


@dataclass(slots=True)
class Batch:
    """Questions that can share one set of entities: of one day, no pool with two sets of facts, no user with two sets of roles."""

    day: date
    pools: dict[str, PoolFacts] = field(default_factory=dict)
    users: dict[str, Principal] = field(default_factory=dict)
    places: list[int] = field(default_factory=list)

    def takes(self, question: Question) -> bool:
        """Whether the question agrees with what is here."""
        pool, principal = question.pool, question.principal
        same_pool = self.pools.get(pool.name, pool) == pool
        return self.day == question.day and same_pool and self.users.get(principal.user, principal) == principal

    def add(self, place: int, question: Question) -> None:
        """Take the question in."""
        self.pools[question.pool.name] = question.pool
        self.users[question.principal.user] = question.principal
        self.places.append(place)


class CedarPolicy:
    """The rules of one folder over the blocs of one estate; parsed once, asked often."""

    def __init__(self, book: RuleBook, blocs: Blocs) -> None:
        self._book = book
        self._blocs = blocs
        self._bases: dict[date, cedarpy.Entities] = {}
        self._known: dict[tuple[date, str], cedarpy.Entities] = {}

    @classmethod
    def load(cls, folder: Path, blocs: Blocs) -> CedarPolicy:
        """Read the folder's rules.

        Raises:
            UserError: the rules or the schema are missing, malformed, or do not fit each other.
        """
        return cls(load_rules(folder), blocs)

    @classmethod
    def of(cls, texts: Mapping[str, str], blocs: Blocs) -> CedarPolicy:
        """The rules of these texts by their path in the folder, as `document` gives them.

        Raises:
            UserError: as `load`.
        """
        return cls(rules_from(texts), blocs)

    def excepting(self, rows: Iterable[Granted]) -> CedarPolicy:
        """The same rules with these exceptions granted besides.

        Raises:
            UserError: an exception to a rule that is not there, allows none, or is another owner's.
        """
        granted = Exceptions(exceptions=(*self._book.data.exceptions, *rows))
        return CedarPolicy.of({**self._book.texts, EXCEPTIONS_FILE: granted.model_dump_json()}, self._blocs)

    @property
    def hash(self) -> str:
        """Names the exact text of rules and schema."""
        return self._book.hash

    @property
    def document(self) -> Mapping[str, str]:
        """The text of every file by its path in the folder, line ends LF: what a replay reads."""
        return self._book.texts

    @cached_property
    def engine(self) -> str:
        """The evaluator, such as `cedar 4.12.2`."""
        return f"cedar {version('cedarpy')}"

    @property
    def rules(self) -> Mapping[str, Rule]:
        """All rules by id, in the order of files and text."""
        return self._book.rules

    @property
    def data(self) -> PolicyData:
        """The approved images and the dated exceptions."""
        return self._book.data

    @cached_property
    def last_days(self) -> frozenset[date]:
        """When the dated exceptions and the approvals of images end."""
        data = self._book.data
        return frozenset(row.until for row in data.exceptions) | {row.until for row in data.images if row.until is not None}

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer for each question, in order, with all reasons of a refusal, or with the exceptions that it needed."""
        rulings = self.rulings(questions)
        answers = [self._answer(question, ruling) for question, ruling in zip(questions, rulings, strict=True)]
        granted = {
            place: rows
            for place, (question, ruling) in enumerate(zip(questions, rulings, strict=True))
            if not ruling.allowed and (rows := self._granted(question, ruling))
        }
        if granted:
            again = self.rulings(
                [questions[place] for place in granted], [frozenset(row.rule for row in rows) for rows in granted.values()]
            )
            for (place, rows), ruling in zip(granted.items(), again, strict=True):
                told = tuple(row.told(questions[place]) for row in rows)
                answers[place] = replace(self._answer(questions[place], ruling), excepted=told if ruling.allowed else ())
        return answers

    def _granted(self, question: Question, ruling: Ruling) -> tuple[Granted, ...]:
        """The exceptions that cover the question and that one of the deciding rules listens to, the longest for each rule."""
        rows = sorted(self._book.data.exceptions, key=lambda row: (row.until, row.reason))
        found = {row.rule: row for row in rows if row.rule in ruling.rules and row.covers(question)}
        return tuple(found[id_] for id_ in sorted(found))

    def rulings(self, questions: Sequence[Question], exceptions: Sequence[frozenset[str]] = ()) -> list[Ruling]:
        """What Cedar says to each question, in order, with the rules that each is excepted from; left out: none."""
        batches: list[Batch] = []
        for place, question in enumerate(questions):
            batch = next((batch for batch in batches if batch.takes(question)), None)
            if batch is None:
                batch = Batch(question.day)
                batches.append(batch)
            batch.add(place, question)
        found: dict[int, Ruling] = {}
        for batch in batches:
            entities = [*map(user_entity, batch.users.values()), *map(pool_entity, batch.pools.values())]
            requests = [self.request_of(questions[place], exceptions[place] if exceptions else frozenset()) for place in batch.places]
            found.update(zip(batch.places, self.evaluate(requests, entities, batch.day), strict=True))
        return [found[place] for place in range(len(questions))]

    def request_of(self, question: Question, exceptions: Iterable[str] = ()) -> Json:
        """The question as a Cedar request, with what the list of images says of its image."""
        return request_of(question, approved=self._book.data.approves(question.image, question.day), exceptions=exceptions)

    def without(self, id_: str) -> CedarPolicy:
        """The same rules but one: what the table of cases must notice."""
        return CedarPolicy(replace(self._book, policies=self._book.without(id_)), self._blocs)

    def evaluate(self, requests: Sequence[Json], entities: Sequence[Json], day: date) -> list[Ruling]:
        """Cedar's word on plain requests and entities; one that does not fit the schema is an error, never a permit."""
        try:
            known = self._with(json.dumps(entities), day)
            results = cedarpy.is_authorized_batch(list(requests), self._book.policies, known, self._book.schema)
        except (ValueError, TypeError) as error:
            return [Ruling(allowed=False, errors=(_one_line(error),)) for _ in requests]
        return [self._ruling(result) for result in results]

    def _ruling(self, result: cedarpy.AuthzResult) -> Ruling:
        errors = tuple(sorted(_one_line(error) for error in result.diagnostics.errors))
        unknown = sorted(id_ for id_ in result.diagnostics.reasons if id_ not in self._book.rules)
        if unknown:
            errors += (f"unknown rules decided: {', '.join(unknown)}",)
        if result.decision is cedarpy.Decision.NoDecision and not errors:
            errors = ("no decision",)
        rules = tuple(sorted((id_ for id_ in result.diagnostics.reasons if id_ in self._book.rules), key=self._book.order.__getitem__))
        return Ruling(result.decision is cedarpy.Decision.Allow and not errors, rules, errors)

    def _answer(self, question: Question, ruling: Ruling) -> Answer:
        if ruling.allowed:
            return Answer(allowed=True)
        reasons = [rule.reason(question) for id_ in ruling.rules if (rule := self._book.rules[id_]).effect == "forbid"]
        reasons += [Reason("policy-error", "policy", error[:200], "an answer without errors", "policies") for error in ruling.errors]
        if not reasons:
            roles = ", ".join(question.principal.roles) or "no role"
            required = f"a role that may {question.action} for step {question.step}"
            reasons = [Reason("default-deny", "policy", roles, required, "policies")]
        return Answer(allowed=False, reasons=tuple(reasons))

    def _with(self, entities: str, day: date) -> cedarpy.Entities:
        """The day's base with these entities; the last few are kept, since an estate's pools are the same from question to question."""
        key = (day, entities)
        if key not in self._known:
            if len(self._known) >= KEPT:
                self._known.clear()
            self._known[key] = self._base(day).with_added_json_str(entities, self._book.schema)
        return self._known[key]

    def _base(self, day: date) -> cedarpy.Entities:
        """Areas and roles, and the actions of the schema, as they are on that day."""
        if day not in self._bases:
            self._bases[day] = cedarpy.Entities.from_json_str(
                json.dumps([*area_entities(self._blocs, day), *role_entities()]), self._book.schema
            )
        return self._bases[day]


def area_entities(blocs: Blocs, day: date) -> Iterable[Json]:
    """Every country and bloc under the blocs that hold it, all under `anywhere`."""
    parents: dict[str, set[str]] = {code: {ANYWHERE} for code in (*ISO_COUNTRIES, *blocs.blocs, ADEQUATE)}
    for bloc, members in blocs.blocs.items():
        for member in members:
            parents.setdefault(member, {ANYWHERE}).add(bloc)
    for country, decision in blocs.adequacy.items():
        if decision.needs is None and (decision.until is None or day <= decision.until):
            parents.setdefault(country, {ANYWHERE}).add(ADEQUATE)
    yield {"uid": _uid("Area", ANYWHERE), "attrs": {}, "parents": []}
    for code in sorted(parents):
        yield {"uid": _uid("Area", code), "attrs": {}, "parents": [_uid("Area", parent) for parent in sorted(parents[code])]}


def role_entities() -> Iterable[Json]:
    """The closed list of roles."""
    return ({"uid": _uid("Role", role), "attrs": {}, "parents": []} for role in ROLES)


def user_entity(principal: Principal) -> Json:
    """A principal in its roles."""
    return {"uid": _uid("User", principal.user), "attrs": {}, "parents": [_uid("Role", role) for role in principal.roles]}


def pool_entity(pool: PoolFacts) -> Json:
    """A pool with all facts that rules may ask."""
    attributes = {
        "site": pool.site,
        "cloud": pool.cloud,
        "country": {"__entity": _uid("Area", pool.country)},
        "operator_country": {"__entity": _uid("Area", pool.operator_country)},
        "max_level": pool.max_level,
        "certifications": sorted(pool.certifications),
        "gdpr_basis": pool.gdpr_basis,
        "customer_managed_keys": pool.customer_managed_keys,
    }
    return {"uid": _uid("Pool", pool.name), "attrs": attributes, "parents": []}


def request_of(question: Question, *, approved: bool = False, exceptions: Iterable[str] = ()) -> Json:
    """The question as a Cedar request; `approved`: its image is on the list, `exceptions`: rules that do not hold for it."""
    label = {
        "level": question.label.level,
        "regimes": sorted(question.label.regimes),
        "residency": [{"__entity": _uid("Area", code)} for code in sorted(question.label.residency)],
    }
    context = {
        "label": label,
        "step": question.step,
        "workload": question.workload,
        "environment": question.environment,
        "image": question.image,
        "image_approved": approved,
        "approved": question.approved,
        "exceptions": sorted(exceptions),
        "at": {"__extn": {"fn": "datetime", "arg": f"{question.at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"}},
        "to": {"__entity": _uid("Area", question.to)},
    }
    return {
        "principal": _uid("User", question.principal.user),
        "action": _uid("Action", question.action),
        "resource": _uid("Pool", question.pool.name),
        "context": context,
    }


def _uid(kind: str, id_: str) -> Json:
    return {"type": kind, "id": id_}


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
