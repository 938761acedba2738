"""The project's own roles as grants: who may do what by `roles.yaml`, directly or through a group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flows.adapters.roles import ROLES_FILE, Roles
from flows.core.governance.access import Access, Source
from flows.core.governance.reviews import Grant, PrincipalKind

if TYPE_CHECKING:
    from flows.adapters.settings import Settings

LOCAL = "local"
"""Stands for the user of the operating system in the embedded profile, whose name the declaration does not hold."""


def people(roles: Roles, access: Access, *, embedded: bool) -> dict[str, frozenset[str]]:
    """Each person that is known, with the roles that the declarations give: a name of `principals` or of `people`."""
    groups = {name: told.groups for name, told in access.people.items()}
    found = {name: frozenset(roles.of(name, groups.get(name, ()))) for name in {*roles.principals, *groups}}
    return {**found, LOCAL: frozenset(roles.local)} if embedded else found


def collect(source: Source, roles: Roles, access: Access, settings: Settings) -> list[Grant]:
    """One grant for each role of each principal, service and group, and for each role that a person has through a group."""
    grants = [
        *_each(source, roles.principals, "person", "principals"),
        *_each(source, roles.services, "service", "services"),
        *_each(source, roles.groups, "group", "groups"),
    ]
    if settings.profile == "embedded":
        grants += [_grant(source, LOCAL, "person", role, LOCAL) for role in roles.local]
    for name, told in sorted(access.people.items()):
        for group in told.groups:
            grants += [_grant(source, name, "person", role, f"groups.{group}") for role in roles.groups.get(group, ())]
    return grants


def _each(source: Source, declared: Mapping[str, tuple[str, ...]], kind: PrincipalKind, part: str) -> list[Grant]:
    return [_grant(source, name, kind, role, part) for name, held in sorted(declared.items()) for role in held]


def _grant(source: Source, name: str, kind: PrincipalKind, role: str, part: str) -> Grant:
    where = part if part == LOCAL or part.startswith("groups.") else f"{part}.{{principal}}"
    return Grant(
        source=source.name,
        principal=name,
        kind=kind,
        permissions=(role,),
        scopes=("tradewind",),
        slot=f"{part}/{role}",
        via=part,
        revoke=("edit", f"deployments/{ROLES_FILE}:", "take", role, "out", "of", where),
    )
