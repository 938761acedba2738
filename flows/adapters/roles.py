"""Who has which role: one declaration, `roles.yaml`, from the closed list that the rules know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from flows.adapters.declared import load_yaml, validate
from flows.core.errors import UserError
from flows.core.fields import Line, Model
from flows.core.placement.model import Principal
from flows.core.placement.request import Role

ROLES_FILE = "roles.yaml"
SERVICES = ("scheduler", "drift-watch", "prefect-ui", "promoter", "reconciler", "worker")
"""What acts without a person: schedules, drift alerts, runs from the open-source UI, promotions by the gate, the reconciler, the
workers."""
OPAQUE = "p-"
"""How ids of principals begin: no name may, or it could be taken for somebody's id."""


class Claims(Model):
    """Which claims of a token name the principal and the groups it is in."""

    name: Line = "sub"
    groups: Line = "groups"


class Roles(Model):
    """Roles by principal, by group and by service; `local` is what the operating system's user has in the embedded profile."""

    claims: Claims = Claims()
    local: tuple[Role, ...] = ()
    principals: Mapping[Line, tuple[Role, ...]] = Field(default_factory=dict)
    groups: Mapping[Line, tuple[Role, ...]] = Field(default_factory=dict)
    services: Mapping[Line, tuple[Role, ...]]

    @model_validator(mode="after")
    def _names_are_told_apart(self) -> Self:
        if missing := [name for name in SERVICES if name not in self.services]:
            raise ValueError(f"`services` leaves out `{'`, `'.join(missing)}`")
        if both := sorted(set(self.services) & set(self.principals)):
            raise ValueError(f"`{'`, `'.join(both)}` is a service and a principal; give one of them another name")
        if opaque := sorted(name for name in (*self.services, *self.principals) if name.startswith(OPAQUE)):
            raise ValueError(f"`{'`, `'.join(opaque)}` begins like an id of a principal, `{OPAQUE}…`; choose another name")
        return self

    def of(self, name: str, groups: Iterable[str] = ()) -> tuple[Role, ...]:
        """The roles of a person: their own and those of their groups; of a name that is not declared, those of its groups alone."""
        given = {*self.principals.get(name, ()), *(role for group in groups for role in self.groups.get(group, ()))}
        return tuple(sorted(given))

    def named(self, name: str) -> tuple[Role, ...]:
        """The roles of a name, be it a service's or a person's: what holds when nobody authenticated any groups."""
        return tuple(sorted(self.services.get(name) or self.of(name)))

    def service(self, name: str) -> Principal:
        """A service with its roles, as policy sees it.

        Raises:
            UserError: there is no such service.
        """
        if name not in self.services:
            raise UserError(
                f"`{name}` is no service", file=ROLES_FILE, field="services", expected=f"one of `{'`, `'.join(sorted(self.services))}`"
            )
        return Principal(user=name, roles=self.services[name])


def load_roles(deployments: Path) -> Roles:
    """The roles that a folder of declarations declares.

    Raises:
        UserError: there is no such file, or it is malformed.
    """
    return validate(Roles, load_yaml(deployments / ROLES_FILE))
