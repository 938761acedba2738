"""Declared objects, observed objects and the difference between them: pure, without Prefect.

A resource says in `fields` what apply holds to its declaration, and in `initial` what it sets once: a schedule or an automation
that an operator switched on or off stays as it is until its own declaration changes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flows.core.canonical import content_hash
from flows.core.errors import Problem, UserError

Kind = Literal["block", "pool", "deployment", "automation"]
Action = Literal["create", "update", "remove"]

KINDS: tuple[Kind, ...] = ("block", "pool", "deployment", "automation")
"""In the order they are made; they are removed in the reverse order."""

TAG = "tradewind"
"""The tag of every deployment and automation that apply owns."""

VERSION = "version"
"""The field that holds a resource's `digest` where the server has a place for it."""

MAX_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Resource:
    """One object as it is declared; names of `secret` fields are shown, their values never."""

    kind: Kind
    name: str
    fields: Mapping[str, Any]
    initial: Mapping[str, Any] = field(default_factory=dict)
    secret: frozenset[str] = frozenset()

    def digest(self) -> str:
        """Short hashes `<fields>.<initial>` of the declaration without its own `version`."""
        fields = {name: value for name, value in self.fields.items() if name != VERSION}
        return f"{content_hash(fields)[:12]}.{content_hash(dict(self.initial))[:8]}"

    def versioned(self) -> Resource:
        """The same resource with its `digest` among its fields."""
        return Resource(self.kind, self.name, {**self.fields, VERSION: self.digest()}, self.initial, self.secret)


@dataclass(frozen=True, slots=True)
class Observed:
    """One object as the server has it; only what is `ours` may be removed."""

    kind: Kind
    name: str
    id: str
    ours: bool
    fields: Mapping[str, Any]
    initial: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field that differs."""

    field: str
    old: Any
    new: Any
    secret: bool = False

    def __str__(self) -> str:
        if self.secret:
            return f"{self.field}: (secret) changed"
        old, new = _shown(self.old), _shown(self.new)
        if max(len(old), len(new)) > MAX_SHOWN:
            return f"{self.field}: changed"
        return f"{self.field}: {old} -> {new}"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that apply does: create has no `observed`, remove no `resource`."""

    action: Action
    kind: Kind
    name: str
    fields: tuple[FieldChange, ...] = ()
    resource: Resource | None = None
    observed: Observed | None = None

    def __str__(self) -> str:
        sign = {"create": "+", "update": "~", "remove": "-"}[self.action]
        return "\n".join([f"{sign} {self.kind} {self.name}", *(f"    {change}" for change in self.fields)])

    def to_json(self) -> dict[str, Any]:
        """The change for programs; values of secret fields left out."""
        fields = [
            {"field": change.field} if change.secret else {"field": change.field, "old": change.old, "new": change.new}
            for change in self.fields
        ]
        return {"action": self.action, "kind": self.kind, "name": self.name, "fields": fields}


@dataclass(frozen=True, slots=True)
class Diff:
    """What would change, in the order it is done, and how many objects are as declared."""

    changes: tuple[Change, ...] = ()
    unchanged: int = 0

    @property
    def in_sync(self) -> bool:
        """Whether the server has exactly what is declared."""
        return not self.changes

    def summary(self) -> str:
        """`74 to create, 1 to update, 0 to remove, 3 unchanged`."""
        counts = {action: sum(change.action == action for change in self.changes) for action in ("create", "update", "remove")}
        return ", ".join([*(f"{count} to {action}" for action, count in counts.items()), f"{self.unchanged} unchanged"])

    def __str__(self) -> str:
        return "\n".join([*map(str, self.changes), self.summary()])

    def to_json(self) -> dict[str, Any]:
        """The difference for programs."""
        return {"in_sync": self.in_sync, "unchanged": self.unchanged, "changes": [change.to_json() for change in self.changes]}


def recorded(change: Change) -> dict[str, Any]:
    """The change as the ledger keeps it: the declaration's digest before and after, never a value; none where there are secrets."""
    before = change.observed.fields.get(VERSION) if change.observed else None
    after = change.resource.digest() if change.resource and not change.resource.secret else None
    fields = [field.field for field in change.fields]
    return {"action": change.action, "kind": change.kind, "name": change.name, "fields": fields, "from": before, "to": after}


def redeclared(resource: Resource, observed: Observed) -> bool:
    """Whether the declaration of the `initial` values changed since the last apply."""
    if VERSION not in resource.fields:
        return False
    recorded = str(observed.fields.get(VERSION) or "")
    return recorded.partition(".")[2] != str(resource.fields[VERSION]).partition(".")[2]


def difference(desired: Sequence[Resource], observed: Iterable[Observed], *, keep: frozenset[tuple[Kind, str]] = frozenset()) -> Diff:
    """What to create, update and remove so that `observed` becomes `desired`.

    Objects named in `keep` are someone else's to write: apply neither makes nor removes them. Of several objects with one name
    the first stays and the others, where they are ours, are removed.
    """
    there: dict[tuple[Kind, str], list[Observed]] = defaultdict(list)
    for one in observed:
        there[one.kind, one.name].append(one)
    makes: list[Change] = []
    removes: list[Change] = []
    unchanged = 0
    for resource in desired:
        ones = there.pop((resource.kind, resource.name), [])
        removes += [_removal(double) for double in ones[1:] if double.ours]
        if not ones:
            makes.append(Change("create", resource.kind, resource.name, resource=resource))
        elif fields := _field_changes(resource, ones[0]):
            makes.append(Change("update", resource.kind, resource.name, fields, resource, ones[0]))
        else:
            unchanged += 1
    removes += [_removal(one) for key, ones in there.items() if key not in keep for one in ones if one.ours]
    makes.sort(key=lambda change: (KINDS.index(change.kind), change.name))
    removes.sort(key=lambda change: (-KINDS.index(change.kind), change.name))
    return Diff((*makes, *removes), unchanged)


def refuse_impossible(diff: Diff) -> None:
    """Refuse changes that the server cannot make, before any is made.

    Raises:
        UserError: a pool exists with another type.
    """
    problems = [
        Problem(
            f"pool `{change.name}` exists with type `{type_.old}`",
            expected=f"type `{type_.new}`, which the profile asks for",
            fix="use the server of the other profile, or delete the pool there; its type cannot be changed",
        )
        for change in diff.changes
        for type_ in change.fields
        if change.kind == "pool" and type_.field == "type"
    ]
    if problems:
        raise UserError(problems=problems)


def _removal(observed: Observed) -> Change:
    return Change("remove", observed.kind, observed.name, observed=observed)


def _field_changes(resource: Resource, observed: Observed) -> tuple[FieldChange, ...]:
    pairs = [(name, observed.fields.get(name), value) for name, value in resource.fields.items()]
    if redeclared(resource, observed):
        pairs += [(name, observed.initial.get(name), value) for name, value in resource.initial.items()]
    return tuple(FieldChange(name, old, new, name in resource.secret) for name, old, new in pairs if old != new)


def _shown(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
