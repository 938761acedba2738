"""Rules as written: Cedar files of a folder, each rule with its annotations, its file and the text it gives as a reason."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal

import cedarpy

from flows.adapters.declared import read_text
from flows.core.canonical import content_hash, sha256_hex
from flows.core.errors import Problem, UserError
from flows.core.governance.labels import Classification
from flows.core.placement.decision import Reason
from flows.core.placement.policy import Question

SCHEMA_FILE = "schema.cedarschema"
FOLDER = "policies"
"""How reasons name the folder, wherever it really lies: a decision's bytes do not depend on the machine."""
ANNOTATIONS = ("id", "owner", "basis", "expires", "message")
"""What every rule should carry; a forbid also says `@observed` and `@required`."""

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def _level(level: int) -> str:
    return list(Classification)[level].value if 0 <= level < len(Classification) else str(level)


def _set(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "none"


PLACEHOLDERS: Mapping[str, Callable[[Question], str]] = {
    "resource.site": lambda question: question.pool.site,
    "resource.cloud": lambda question: question.pool.cloud,
    "resource.country": lambda question: question.pool.country,
    "resource.operator_country": lambda question: question.pool.operator_country,
    "resource.max_level": lambda question: _level(question.pool.max_level),
    "resource.certifications": lambda question: _set(question.pool.certifications),
    "resource.gdpr_basis": lambda question: question.pool.gdpr_basis,
    "resource.customer_managed_keys": lambda question: str(question.pool.customer_managed_keys).lower(),
    "context.label.level": lambda question: _level(question.label.level),
    "context.label.regimes": lambda question: _set(question.label.regimes),
    "context.label.residency": lambda question: _set(question.label.residency),
    "context.step": lambda question: question.step,
    "context.workload": lambda question: question.workload,
    "context.environment": lambda question: question.environment,
    "context.image": lambda question: question.image or "none",
    "context.to": lambda question: question.to,
}
"""What `@observed` and `@required` may name in braces."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: `source` is its file as a decision names it, `line` where its `@id` or its effect is written."""

    id: str
    effect: Literal["permit", "forbid"]
    source: str
    file: str
    line: int
    annotations: Mapping[str, str]

    def reason(self, question: Question) -> Reason:
        """Why this forbid fired on the question."""
        return Reason(
            rule=self.id,
            kind="policy",
            observed=self._filled("observed", question) or "forbidden",
            required=self._filled("required", question) or self.annotations.get("message", "a rule that does not forbid it"),
            source=self.source,
            exception_by=self.annotations.get("owner") if self.annotations.get("exceptions") == "yes" else None,
        )

    def _filled(self, annotation: str, question: Question) -> str:
        return PLACEHOLDER.sub(lambda match: PLACEHOLDERS[match[1]](question), self.annotations.get(annotation, ""))

    def problems(self, on: date) -> list[Problem]:
        """What a reviewer would miss in this rule on that day: an annotation, or a review that is overdue."""
        wanted = ANNOTATIONS + (("observed", "required") if self.effect == "forbid" else ())
        found = [
            Problem(f"rule `{self.id}` has no `@{name}`", file=self.file, line=self.line, fix=f'write `@{name}("…")` above it')
            for name in wanted
            if not self.annotations.get(name)
        ]
        expires = self.annotations.get("expires")
        try:
            overdue = expires is not None and date.fromisoformat(expires) < on
        except ValueError:
            return [
                *found,
                Problem(
                    f"rule `{self.id}`: `{expires}` is not a day", file=self.file, line=self.line, expected="a day such as `2028-12-31`"
                ),
            ]
        if overdue:
            fix = f"have {self.annotations.get('owner', 'its owner')} review it and set a later day"
            found.append(Problem(f"rule `{self.id}` was due for review on {expires}", file=self.file, line=self.line, fix=fix))
        return found


@dataclass(frozen=True, slots=True)
class RuleBook:
    """All rules of a folder, parsed and valid against the schema; the handles are cedarpy's."""

    rules: Mapping[str, Rule]
    policies: cedarpy.PolicySet
    schema: cedarpy.Schema
    hash: str
    order: Mapping[str, int] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


def load_rules(folder: Path) -> RuleBook:
    """Read and validate every `*.cedar` of the folder.

    Raises:
        UserError: no folder, no rules, no schema, text that is not Cedar, an id used twice, a rule that does not fit the schema
            strictly, or a placeholder that no question fills.
    """
    if not folder.is_dir():
        raise UserError("no such folder", file=str(folder), expected="a folder with `*.cedar` and `schema.cedarschema`")
    files = sorted(folder.rglob("*.cedar"))
    if not files:
        raise UserError("no rules here", file=str(folder), expected="one `*.cedar` file at least", fix="without a permit nothing could run")
    texts = {path: _lf(read_text(path)) for path in [*files, folder / SCHEMA_FILE]}
    schema = _schema(folder / SCHEMA_FILE, texts[folder / SCHEMA_FILE])
    rules: dict[str, Rule] = {}
    bodies: dict[str, Any] = {}
    problems: list[Problem] = []
    for path in files:
        found = _rules_of(path, texts[path], folder)
        problems += _misfits(texts[path], schema, [rule for rule, _ in found])
        for rule, body in found:
            if rule.id in rules:
                first = rules[rule.id]
                problems.append(
                    Problem(f"rule `{rule.id}` twice, first in {first.source}", file=rule.file, line=rule.line, fix="give it another `@id`")
                )
            rules[rule.id], bodies[rule.id] = rule, body
            problems += _unknown_placeholders(rule)
    if problems:
        raise UserError(problems=problems)
    policies = cedarpy.PolicySet.from_json_str(json.dumps({"staticPolicies": bodies, "templates": {}, "templateLinks": []}))
    named = sorted((path.relative_to(folder).as_posix(), sha256_hex(text.encode())) for path, text in texts.items())
    order = {id_: position for position, id_ in enumerate(rules)}
    return RuleBook(
        rules, policies, schema, content_hash(named), order, {path.relative_to(folder).as_posix(): text for path, text in texts.items()}
    )


def _lf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _schema(path: Path, text: str) -> cedarpy.Schema:
    try:
        return cedarpy.Schema.from_str(text)
    except ValueError as error:
        raise UserError(f"not a Cedar schema: {_one_line(error)}", file=str(path), fix="see the Cedar schema grammar") from None


def _rules_of(path: Path, text: str, folder: Path) -> list[tuple[Rule, Any]]:
    try:
        parsed = json.loads(cedarpy.policies_to_json_str(text))
    except ValueError as error:
        raise UserError(f"not Cedar: {_one_line(error)}", file=str(path), fix="see the Cedar policy grammar") from None
    if parsed.get("templates"):
        raise UserError("policy templates are not used here", file=str(path), fix="write each rule out")
    found = []
    static = sorted(parsed["staticPolicies"].items(), key=lambda item: int(item[0].removeprefix("policy")))
    for position, (_, body) in enumerate(static, 1):
        annotations = {name: str(value or "") for name, value in (body.get("annotations") or {}).items()}
        id_ = annotations.get("id") or f"{path.stem}-{position}"
        rule = Rule(id_, body["effect"], f"{FOLDER}/{path.relative_to(folder).as_posix()}", str(path), _line_of(id_, text), annotations)
        found.append((rule, body))
    return found


def _line_of(id_: str, text: str) -> int:
    at = text.find(f'@id("{id_}")')
    return 1 if at < 0 else text.count("\n", 0, at) + 1


def _unknown_placeholders(rule: Rule) -> list[Problem]:
    return [
        Problem(
            f"`@{annotation}` of rule `{rule.id}` names `{{{name}}}`",
            file=rule.file,
            line=rule.line,
            expected="one of " + ", ".join(f"`{{{known}}}`" for known in PLACEHOLDERS),
            fix="name what the rule looks at",
        )
        for annotation in ("observed", "required")
        for name in PLACEHOLDER.findall(rule.annotations.get(annotation, ""))
        if name not in PLACEHOLDERS
    ]


def _misfits(text: str, schema: cedarpy.Schema, rules: list[Rule]) -> list[Problem]:
    """What strict validation finds in the text, whose rules Cedar numbers in order."""
    problems = []
    for error in cedarpy.validate_policies(text, schema).errors:
        number = error.policy_id.removeprefix("policy")
        rule = rules[int(number)] if number.isdigit() and int(number) < len(rules) else rules[0]
        what = _one_line(error.error).replace(f"for policy `{error.policy_id}`, ", "")
        problems.append(
            Problem(
                f"rule `{rule.id}` does not fit the schema: {what}", file=rule.file, line=rule.line, fix=f"use the names of `{SCHEMA_FILE}`"
            )
        )
    return problems


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
