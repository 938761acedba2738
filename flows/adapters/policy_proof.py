"""Whether the table of cases proves anything: rules that no case reaches or misses, and attributes that could be lost without a refusal."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flows.adapters.policy import CedarPolicy
from flows.adapters.policy_cases import Asked, Outcome, Report, Table, as_asked, as_expected, rulings_of
from flows.core.errors import Problem

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuleCoverage:
    """One rule over all cases: how many are its own, in how many it decided, and how many fail without it."""

    rule: str
    source: str
    line: int
    effect: str
    allow: int
    deny: int
    decided: int
    noticed: int


@dataclass(frozen=True, slots=True)
class AttributeCoverage:
    """One attribute: how many allowed cases were asked without it, and how many of them were refused with an error."""

    attribute: str
    asked: int
    refused: int


@dataclass(frozen=True, slots=True)
class Proof:
    """Coverage of rules and attributes; `problems` fail the test, `warnings` are only told."""

    rules: tuple[RuleCoverage, ...]
    attributes: tuple[AttributeCoverage, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def prove(policy: CedarPolicy, table: Table, report: Report, at: datetime) -> Proof:
    """Take out each rule and each attribute in turn, and ask every case again."""
    asked = [as_asked(table.defaults, case.given, at, index) for index, case in enumerate(table.cases)]
    rules = tuple(_rule(policy, id_, asked, report.outcomes, at) for id_ in policy.rules)
    attributes = tuple(
        _attributes(policy, [one for one, outcome in zip(asked, report.outcomes, strict=True) if outcome.ruling.allowed], at)
    )
    return Proof(rules, attributes, tuple(_problems(policy, rules, attributes)), tuple(_unreached(policy, rules)))


def _rule(policy: CedarPolicy, id_: str, asked: Sequence[Asked], outcomes: Sequence[Outcome], at: datetime) -> RuleCoverage:
    rule = policy.rules[id_]
    without = rulings_of(policy.without(id_), asked, at)
    own = [outcome.case.expect for outcome in outcomes if outcome.case.rule == id_]
    return RuleCoverage(
        rule=id_,
        source=rule.source,
        line=rule.line,
        effect=rule.effect,
        allow=own.count("allow"),
        deny=own.count("deny"),
        decided=sum(id_ in outcome.ruling.rules for outcome in outcomes),
        noticed=sum(
            outcome.passed and not as_expected(outcome.case, ruling, policy) for outcome, ruling in zip(outcomes, without, strict=True)
        ),
    )


def _attributes(policy: CedarPolicy, allowed: Sequence[Asked], at: datetime) -> Iterator[AttributeCoverage]:
    if not allowed:
        return
    for part, whole in (("context", allowed[0].request["context"]), ("resource", allowed[0].pool["attrs"])):
        for path in paths(whole):
            rulings = rulings_of(policy, [_lost(one, part, path) for one in allowed], at)
            refused = sum(not ruling.allowed and bool(ruling.errors) for ruling in rulings)
            yield AttributeCoverage(".".join((part, *path)), len(allowed), refused)


def _lost(asked: Asked, part: str, path: Path) -> Asked:
    if part == "context":
        return Asked({**asked.request, "context": without(asked.request["context"], path)}, asked.user, asked.pool)
    return Asked(asked.request, asked.user, {**asked.pool, "attrs": without(asked.pool["attrs"], path)})


def paths(record: dict[str, Any], above: Path = ()) -> Iterator[Path]:
    """Every attribute of a Cedar record, nested ones too; entity references and extension values are whole."""
    for key, value in record.items():
        yield (*above, key)
        if isinstance(value, dict) and not any(name.startswith("__") for name in value):
            yield from paths(value, (*above, key))


def without(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """A copy of the record that has lost the attribute."""
    found = copy.deepcopy(record)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return found


def _problems(policy: CedarPolicy, rules: Sequence[RuleCoverage], attributes: Sequence[AttributeCoverage]) -> Iterator[Problem]:
    for row in rules:
        if not row.noticed:
            file = policy.rules[row.rule].file
            yield Problem(
                f"no case notices that rule `{row.rule}` is gone", file=file, line=row.line, fix="add a case that only it decides"
            )
    for lost in attributes:
        if lost.refused < lost.asked:
            what = f"{lost.asked - lost.refused} of {lost.asked} cases are not refused for the loss of `{lost.attribute}`"
            yield Problem(what, file="policies/schema.cedarschema", fix="declare the attribute as required")
    if not attributes:
        yield Problem("no case is allowed, so the loss of attributes was not asked", fix="add a case that expects allow")


def _unreached(policy: CedarPolicy, rules: Sequence[RuleCoverage]) -> Iterator[Problem]:
    for row in rules:
        if not row.decided:
            what = f"rule `{row.rule}` decides no case: unreachable, or never asked"
            yield Problem(what, file=policy.rules[row.rule].file, line=row.line, fix="add a case that it decides, or take it out")
