"""Rules as written: Cedar files of a folder, each rule with its annotations, its file and the text it gives as a reason."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

import cedarpy

from flows.adapters.declared import read_text
from flows.adapters.policy_data import DATA_FILES, PolicyData, policy_data
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

T = TypeVar("T")

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

    @property
    def excepts(self) -> bool:
        """Whether its owner may grant dated exceptions to it."""
        return self.effect == "forbid" and self.annotations.get("exceptions") == "yes"

    def reason(self, question: Question) -> Reason:
        """Why this forbid fired on the question."""
        return Reason(
            rule=self.id,
            kind="policy",
            observed=self._filled("observed", question) or "forbidden",
            required=self._filled("required", question) or self.annotations.get("message", "a rule that does not forbid it"),
            source=self.source,
            exception_by=self.annotations.get("owner") if self.excepts else None,
        )

    def _filled(self, annotation: str, question: Question) -> str:
        return PLACEHOLDER.sub(lambda match: PLACEHOLDERS[match[1]](question), self.annotations.get(annotation, ""))

    def problems(self) -> list[Problem]:
        """What a reviewer would miss in this rule: an annotation, or a day in `@expires`."""
        wanted = ANNOTATIONS + (("observed", "required") if self.effect == "forbid" else ())
        found = [
            Problem(f"rule `{self.id}` has no `@{name}`", file=self.file, line=self.line, fix=f'write `@{name}("…")` above it')
            for name in wanted
            if not self.annotations.get(name)
        ]
        expires = self.annotations.get("expires")
        if expires and self._review() is None:
            what = f"rule `{self.id}`: `{expires}` is not a day"
            found.append(Problem(what, file=self.file, line=self.line, expected="a day such as `2028-12-31`"))
        return found

    def overdue(self, on: date) -> list[Problem]:
        """That its review is overdue on that day, if it is."""
        review = self._review()
        if review is None or review >= on:
            return []
        fix = f"have {self.annotations.get('owner', 'its owner')} review it and set a later day"
        return [Problem(f"rule `{self.id}` was due for review on {review}", file=self.file, line=self.line, fix=fix)]

    def _review(self) -> date | None:
        try:
            return date.fromisoformat(self.annotations.get("expires", ""))
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class RuleBook:
    """All rules of a folder, parsed and valid against the schema; the handles are cedarpy's."""

    rules: Mapping[str, Rule]
    policies: cedarpy.PolicySet
    schema: cedarpy.Schema
    hash: str
    order: Mapping[str, int] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    bodies: Mapping[str, Any] = field(default_factory=dict)
    data: PolicyData = field(default_factory=PolicyData)

    def without(self, id_: str) -> cedarpy.PolicySet:
        """All rules but one."""
        return _policy_set({known: body for known, body in self.bodies.items() if known != id_})


def load_rules(folder: Path) -> RuleBook:
    """Read and validate every `*.cedar` of the folder.

    Raises:
        UserError: no folder, no rules, no schema, text that is not Cedar, an id used twice, a rule that does not fit the schema
            strictly, a placeholder that no question fills, or a wrong list of images or exceptions.
    """
    if not folder.is_dir():
        raise UserError("no such folder", file=str(folder), expected="a folder with `*.cedar` and `schema.cedarschema`")
    files = sorted(folder.rglob("*.cedar"))
    if not files:
        raise UserError("no rules here", file=str(folder), expected="one `*.cedar` file at least", fix="without a permit nothing could run")
    listed = [folder / name for name in DATA_FILES if (folder / name).exists()]
    return rules_from(
        {path.relative_to(folder).as_posix(): read_text(path) for path in [*files, folder / SCHEMA_FILE, *listed]}, str(folder)
    )


def rules_from(texts: Mapping[str, str], folder: str = FOLDER) -> RuleBook:
    """As `load_rules`, from the text of every file by its path in the folder; messages name the files as if they lay in `folder`.

    Raises:
        UserError: as `load_rules`.
    """
    texts = {name: _lf(text) for name, text in texts.items()}
    if SCHEMA_FILE not in texts:
        raise UserError("no schema here", file=folder, expected=f"`{SCHEMA_FILE}`")
    files = {name: str(Path(folder, name)) for name in texts}
    problems: list[Problem] = []
    schema = _told(lambda: _schema(files[SCHEMA_FILE], texts[SCHEMA_FILE]), problems)
    rules: dict[str, Rule] = {}
    bodies: dict[str, Any] = {}
    whole = True
    for name in sorted((name for name in texts if name.endswith(".cedar")), key=PurePosixPath):
        found = _told(partial(_rules_of, name, texts[name], files[name]), problems)
        if found is None:
            whole = False
            continue
        if schema is not None:
            problems += _misfits(texts[name], schema, [rule for rule, _ in found])
        for rule, body in found:
            if rule.id in rules:
                first = rules[rule.id]
                problems.append(
                    Problem(f"rule `{rule.id}` twice, first in {first.source}", file=rule.file, line=rule.line, fix="give it another `@id`")
                )
            rules[rule.id], bodies[rule.id] = rule, body
            problems += [*_unknown_placeholders(rule), *_exceptions_unheard(rule, body)]
    listed = {name: (files[name], texts[name]) for name in DATA_FILES if name in texts}
    data = _told(lambda: policy_data(listed, rules if whole else None), problems)
    if problems or schema is None or data is None:
        raise UserError(problems=problems)
    policies = _policy_set(bodies)
    named = sorted((name, sha256_hex(text.encode())) for name, text in texts.items())
    order = {id_: position for position, id_ in enumerate(rules)}
    return RuleBook(rules, policies, schema, content_hash(named), order, texts, bodies, data)


def _policy_set(bodies: Mapping[str, Any]) -> cedarpy.PolicySet:
    return cedarpy.PolicySet.from_json_str(json.dumps({"staticPolicies": dict(bodies), "templates": {}, "templateLinks": []}))


def _told(read: Callable[[], T], problems: list[Problem]) -> T | None:
    """What is read; None, with what is wrong among the problems, if it cannot be."""
    try:
        return read()
    except UserError as error:
        problems += error.problems
        return None


def _lf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _schema(file: str, text: str) -> cedarpy.Schema:
    try:
        return cedarpy.Schema.from_str(text)
    except ValueError as error:
        line = _line(text, str(error), cedarpy.Schema.from_str) if str(error).startswith("error parsing schema") else None
        raise UserError(f"not a Cedar schema: {_one_line(error)}", file=file, line=line, fix="see the Cedar schema grammar") from None


def _rules_of(name: str, text: str, file: str) -> list[tuple[Rule, Any]]:
    try:
        parsed = json.loads(cedarpy.policies_to_json_str(text))
    except ValueError as error:
        line = _line(text, str(error), cedarpy.policies_to_json_str)
        raise UserError(f"not Cedar: {_one_line(error)}", file=file, line=line, fix="see the Cedar policy grammar") from None
    if parsed.get("templates"):
        raise UserError("policy templates are not used here", file=file, fix="write each rule out")
    found = []
    static = sorted(parsed["staticPolicies"].items(), key=lambda item: int(item[0].removeprefix("policy")))
    for position, (_, body) in enumerate(static, 1):
        annotations = {name: str(value or "") for name, value in (body.get("annotations") or {}).items()}
        id_ = annotations.get("id") or f"{PurePosixPath(name).stem}-{position}"
        rule = Rule(id_, body["effect"], f"{FOLDER}/{name}", file, _line_of(id_, text), annotations)
        found.append((rule, body))
    return found


def _line(text: str, told: str, parse: Callable[[str], object]) -> int:
    """The line of the token that cannot stand there, else of the statement that Cedar refuses so: Cedar tells neither.

    No token spans lines: the shortest beginning that is refused alike ends at the token, the shortest end of that begins the statement.
    """
    lines = text.rstrip().split("\n")

    def alike(first: int, last: int) -> bool:
        try:
            parse("\n".join(lines[first:last]))
        except ValueError as error:
            return str(error) == told
        return False

    end = len(lines)
    if not told.endswith("unexpected end of input"):
        end = next((last for last in range(1, end) if alike(0, last)), end)
        if "unexpected token" in told or told.endswith("invalid token"):
            return end
    return next((first + 1 for first in reversed(range(end)) if alike(first, end)), end)


def _line_of(id_: str, text: str) -> int:
    at = text.find(f'@id("{id_}")')
    return 1 if at < 0 else text.count("\n", 0, at) + 1


def _unknown_placeholders(rule: Rule) -> list[Problem]:
    return [
        Problem(
            f"`@{annotation}` of rule `{rule.id}` names `{{{' '.join(name.split())}}}`",
            file=rule.file,
            line=rule.line,
            expected="one of " + ", ".join(f"`{{{known}}}`" for known in PLACEHOLDERS),
            fix="name what the rule looks at",
        )
        for annotation in ("observed", "required")
        for name in PLACEHOLDER.findall(rule.annotations.get(annotation, ""))
        if name not in PLACEHOLDERS
    ]


def _exceptions_unheard(rule: Rule, body: Any) -> list[Problem]:
    """A rule listens to exceptions if it says `@exceptions("yes")`, to those of its own id, and else to none."""
    attribute = {"left": {"Var": "context"}, "attr": "exceptions"}
    text = json.dumps(body["conditions"])
    heard = text.count(json.dumps({".": attribute})[1:-1])
    own = text.count(json.dumps({"contains": {"left": {".": attribute}, "right": {"Value": rule.id}}})[1:-1])
    if heard == own == int(rule.excepts):
        return []
    said = f'`unless {{ … || context.exceptions.contains("{rule.id}") }}`'
    what = f"rule `{rule.id}` {'does not listen to its exceptions' if rule.excepts else 'asks for exceptions that it does not allow'}"
    return [
        Problem(what, file=rule.file, line=rule.line, expected=f'`@exceptions("yes")` together with {said}', fix="write both, or neither")
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
