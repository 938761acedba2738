"""What if a value were another: changes in the words of a decision's relaxations, `path: old -> new`, or shorter `path=value`.

A path starts at the request (`budget_usd`, `window.deadline`), or with `conditions.`, `estate.`, `catalog.` or `policies.`; rows go by
their name or id, as in `estate.pools.onprem-fra-k8s.capacity.A100` or `estate.offers.onprem-fra/gpu.Price`. A value is `null`, `true`,
`false`, `[a, b]`, `{name: 1}`, or text as it stands (numbers and instants are read by the field); quotes keep text that would be something
else. Several changes are joined by `; `.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from flows.core.errors import Problem, UserError
from flows.core.governance.labels import Catalog
from flows.core.placement.estate import Estate, Offer
from flows.core.placement.names import Unknown, unknown_capacities, unknown_in_conditions
from flows.core.placement.request import Conditions, Request

OPTION = "--what-if"
OUTSIDE = ("conditions", "estate", "catalog")
M = TypeVar("M", bound=BaseModel)

_WRITTEN = re.compile(r"(?P<path>[^=\n]+?): (?P<old>.*?) -> (?P<new>.*)", re.DOTALL)
_NEXT = re.compile(rf"; (?=(?:{'|'.join([*Request.model_fields, *OUTSIDE, 'policies'])})[^;]*?: )")
_COST = re.compile(r"\s*\(then [0-9.]+ USD\)$")
_EXCEPTION = re.compile(r"exception for `(?P<pool>[^`]+)` by (?P<owner>.+) until (?P<until>\d{4}-\d{2}-\d{2})")


@dataclass(frozen=True, slots=True)
class Change:
    """A new value of a path; `old`, if it is written, must be what is there."""

    path: str
    new: str
    old: str | None = None

    def __str__(self) -> str:
        return f"{self.path}={self.new}" if self.old is None else f"{self.path}: {self.old} -> {self.new}"


@dataclass(frozen=True, slots=True)
class Excepted:
    """A dated exception that the owner of a rule would grant for runs on a pool; `pools` has the sites too where outputs come to rest."""

    rule: str
    workload: str
    pools: tuple[str, ...]
    owner: str
    until: date


@dataclass(frozen=True, slots=True)
class Given:
    """What one decision is made of, besides the rules; and the exceptions that are to be added to those."""

    request: Request
    estate: Estate
    catalog: Catalog
    conditions: Conditions
    exceptions: tuple[Excepted, ...] = ()


def changes(text: str) -> tuple[Change, ...]:
    """The changes of one text: `path=value`, or what a decision printed.

    Raises:
        UserError: it is neither.
    """
    text = _COST.sub("", text.strip())
    path, equals, new = text.partition("=")
    if equals and ": " not in path and path.strip():
        return (Change(path.strip(), new.strip()),)
    found = [_WRITTEN.fullmatch(part) for part in _NEXT.split(text)]
    if not text or None in found:
        fix = "copy what a decision prints under `would be let in by`"
        raise UserError(f"`{text}` is no change", field=OPTION, expected="`path=value` or `path: old -> new`", fix=fix)
    return tuple(Change(match["path"], match["new"], match["old"]) for match in found if match is not None)


def apply(wanted: Iterable[Change], given: Given) -> Given:
    """The same with every change made, in order.

    Raises:
        UserError: a path or a value that makes no sense, or an old value that is not what is there.
    """
    for change in wanted:
        given = _applied(change, given)
    return given


def unknown_names(before: Given, after: Given) -> list[Problem]:
    """Names that the changes brought into the conditions and capacities and the estate does not have: they would change nothing."""
    old = _unknown(before)
    return [
        Problem(f"`{path}`: {one.what}", field=OPTION, expected=one.expected, fix=one.fix)
        for path, one in _unknown(after).items()
        if path not in old
    ]


def _unknown(given: Given) -> dict[str, Unknown]:
    found = (("conditions", unknown_in_conditions(given.conditions, given.estate)), ("estate", unknown_capacities(given.estate)))
    return {".".join(map(str, (kind, *one.path))): one for kind, names in found for one in names}


def _applied(change: Change, given: Given) -> Given:
    root, _, rest = change.path.partition(".")
    if root == "policies":
        return replace(given, exceptions=(*given.exceptions, _exception(change, rest, given)))
    kind, path = (root, rest) if root in OUTSIDE else ("request", change.path)
    before: BaseModel = getattr(given, kind)
    if change.old is not None and _with(before, path, _value(change.old), change) != before:
        what = f"`{change.path}` is not `{change.old}` here"
        raise UserError(what, field=OPTION, fix=f"write `{change.path}={change.new}` to set it whatever it is")
    made: dict[str, Any] = {kind: _with(before, path, _value(change.new), change)}
    return replace(given, **made)


def _exception(change: Change, rule: str, given: Given) -> Excepted:
    found = _EXCEPTION.fullmatch(change.new)
    if found is None or change.old not in (None, "forbid"):
        expected = "`policies.RULE: forbid -> exception for `POOL` by OWNER until 2026-12-31`"
        raise UserError(f"`{change}` is no change of a rule", field=OPTION, expected=expected, fix="copy it from a decision")
    if found["pool"] not in given.estate.pool_by_name:
        raise UserError(f"no pool `{found['pool']}`", field=OPTION, fix="name a pool of this estate")
    try:
        until = date.fromisoformat(found["until"])
    except ValueError as error:
        raise UserError(f"`{found['until']}` is not a day: {error}", field=OPTION) from None
    homes = {output.home for output in given.request.outputs if output.home is not None}
    return Excepted(rule, given.request.workload, tuple(sorted({found["pool"], *homes})), found["owner"], until)


def _value(text: str) -> Any:
    """Plain values in the grammar of relaxations; numbers stay text, which their field reads exactly."""
    words = {"null": None, "true": True, "false": False}
    if text in words:
        return words[text]
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    if text.startswith("[") and text.endswith("]"):
        return tuple(part.strip() for part in text[1:-1].split(",") if part.strip())
    if text.startswith("{") and text.endswith("}"):
        pairs = [part.rpartition(":") for part in text[1:-1].split(",") if part.strip()]
        if not all(key.strip() for key, _, _ in pairs):
            raise UserError(f"`{text}` is no mapping", field=OPTION, expected="`{name: value}`")
        return {key.strip(): inner.strip() for key, _, inner in pairs}
    return text


def _with(model: M, path: str, new: Any, change: Change) -> M:
    """The model with the value under the path, validated; parts that stay are taken over as they are."""
    names = {field.alias or name: name for name, field in type(model).model_fields.items()}
    key, _, rest = path.partition(".")
    if key not in names:
        expected = "one of " + ", ".join(f"`{name}`" for name in names)
        what = f"there is no `{key}`" if key else "what of it is not named"
        raise UserError(f"`{change.path}`: {what}", field=OPTION, expected=expected)
    shallow = {alias: getattr(model, name) for alias, name in names.items()}
    shallow[key] = _inside(shallow[key], rest, new, change) if rest else new
    try:
        return type(model).model_validate(shallow)
    except ValidationError as error:
        raise UserError(problems=[_problem(dict(found), change) for found in error.errors(include_url=False)]) from None


def _inside(value: Any, path: str, new: Any, change: Change) -> Any:
    """As `_with`, for whatever a field holds: a model, rows by name, a mapping, or nothing yet."""
    if isinstance(value, BaseModel):
        return _with(value, path, new, change)
    if isinstance(value, Mapping):
        key, rest = _longest(value, path)
        return {**value, key: _inside(value[key], rest, new, change)} if rest else {**value, key: new}
    if isinstance(value, tuple):
        rows = {_name(row): row for row in value if isinstance(row, BaseModel)}
        key, rest = _longest(rows, path)
        if rows.get(key) is not None and rest:
            return tuple(_with(row, rest, new, change) if row is rows[key] else row for row in value)
        raise UserError(f"`{change.path}`: there is no `{path}`", field=OPTION, fix="name a row that is declared, and what of it")
    if value is None:
        key, _, rest = path.partition(".")
        return {key: _inside(None, rest, new, change) if rest else new}
    raise UserError(f"`{change.path}`: there is nothing below `{value}`", field=OPTION, fix="shorten the path")


def _name(row: BaseModel) -> str:
    """What a row goes by; two sites may have an offer of one name."""
    own = str(getattr(row, "id", getattr(row, "name", None)))
    return f"{row.site}/{own}" if isinstance(row, Offer) else own


def _longest(known: Mapping[str, Any], path: str) -> tuple[str, str]:
    """The longest key that the path begins with, and the rest; names may have dots. None: the whole path is a new key."""
    begins = [key for key in known if path == key or path.startswith(f"{key}.")]
    key = max(begins, key=len, default=path)
    return key, path[len(key) + 1 :]


def _problem(found: dict[str, Any], change: Change) -> Problem:
    where = ".".join(str(part) for part in found["loc"])
    message = str(found["msg"]).removeprefix("Value error, ")
    return Problem(f"`{change}`: {f'`{where}`: ' if where else ''}{message[:1].lower()}{message[1:]}", field=OPTION)
