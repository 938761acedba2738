"""What AWS and Google make of the policies that this project writes, read from their references and written anew, only as far as needed.

AWS: "IAM JSON policy elements" (`*` and `?` are the only patterns, `${…}` a variable; what no statement allows is denied). Google:
"Downscoping with Credential Access Boundaries". Anything else in a policy than what is known here fails the test that asks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

ROLES: Mapping[str, frozenset[str]] = {
    "inRole:roles/storage.objectViewer": frozenset({"get", "list"}),
    "inRole:roles/storage.objectCreator": frozenset({"create"}),
    "inRole:roles/storage.objectUser": frozenset({"get", "list", "create", "delete", "update"}),
}
BUCKETS = "//storage.googleapis.com/projects/_/buckets/"
ATOM = re.compile(
    r"(?P<what>resource\.name|api\.getAttribute\('storage\.googleapis\.com/objectListPrefix', ''\))\.startsWith\('(?P<prefix>[^'\\]*)'\)\Z"
)


def aws_allows(document: Mapping[str, Any], action: str, resource: str, *, prefix: str | None = None) -> bool:
    """Whether a policy allows an action on a resource; `prefix` is what a listing asks for."""
    assert set(document) == {"Version", "Statement"} and document["Version"] == "2012-10-17"
    return any(_statement(one, action, resource, prefix) for one in document["Statement"])


def _statement(statement: Mapping[str, Any], action: str, resource: str, prefix: str | None) -> bool:
    assert set(statement) <= {"Effect", "Action", "Resource", "Condition"} and statement["Effect"] == "Allow"
    condition = statement.get("Condition")
    if condition is not None:
        assert set(condition) == {"StringLike"} and set(condition["StringLike"]) == {"s3:prefix"}
        if prefix is None or not any(_like(one, prefix) for one in _many(condition["StringLike"]["s3:prefix"])):
            return False
    return action in _many(statement["Action"]) and any(_like(one, resource) for one in _many(statement["Resource"]))


def _many(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def _like(pattern: str, text: str) -> bool:
    assert "${" not in pattern, "a variable"
    parts = (".*" if part == "*" else "." if part == "?" else re.escape(part) for part in re.split(r"([*?])", pattern))
    return re.fullmatch("".join(parts), text, re.DOTALL) is not None


def google_allows(rules: Sequence[Mapping[str, Any]], permission: str, bucket: str, name: str) -> bool:
    """Whether a boundary allows a permission on an object of that name; for `list`, on a listing that asks for that prefix."""
    return any(_rule(one, permission, bucket, name) for one in rules)


def _rule(rule: Mapping[str, Any], permission: str, bucket: str, name: str) -> bool:
    (role,) = rule["availablePermissions"]
    if rule["availableResource"] != BUCKETS + bucket or permission not in ROLES[role]:
        return False
    values = {"resource.name": f"projects/_/buckets/{bucket}" + ("" if permission == "list" else f"/objects/{name}")}
    listed = name if permission == "list" else ""
    for text in rule["availabilityCondition"]["expression"].split(" || "):
        atom = ATOM.match(text)
        assert atom is not None, text
        if values.get(atom["what"], listed).startswith(atom["prefix"]):
            return True
    return False
