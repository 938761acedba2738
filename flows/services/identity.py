"""Who acts, with which roles, and whether the rules permit it: asked by every command that changes something.

In the cloud profile the principal is that of a verified OIDC token. In the embedded profile, without a token, it is the user of the
operating system, or the name that `TRADEWIND_PRINCIPAL` claims, with no more roles than the declaration gives to that name.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from flows.adapters.roles import OPAQUE, ROLES_FILE, Roles, load_roles
from flows.core.errors import GuardRefused, UserError
from flows.core.governance.labels import PUBLIC, Label
from flows.core.placement.model import Principal

if TYPE_CHECKING:
    from flows.adapters.settings import Settings
    from flows.core.placement.policy import Action
    from flows.services.declarations import Declarations


@dataclass(frozen=True, slots=True)
class Identity:
    """One principal: its name, its roles, and how it is known: as a local user, by a token, or as a service of the system itself."""

    name: str
    roles: tuple[str, ...]
    how: Literal["local", "oidc", "service"]

    @property
    def principal(self) -> Principal:
        """As policy sees it."""
        return Principal.model_validate({"user": self.name, "roles": self.roles})


def who(settings: Settings) -> Identity:
    """The authenticated principal of this command.

    Raises:
        UserError: there is no token where one is required, or the name is not one that a person may have.
        GuardRefused: the token does not hold.
        Unavailable: the issuer does not answer.
    """
    roles = load_roles(settings.deployments)
    if settings.token is not None:
        return _of_token(settings, roles)
    if settings.profile == "cloud":
        raise UserError(
            "this profile asks for a token", field="TRADEWIND_TOKEN", expected="an OIDC token", fix="sign in at the issuer and set it"
        )
    user = _user()
    name = _person(settings.principal or user, roles)
    own = roles.of(name)
    return Identity(name, own if name in roles.principals or name != user else tuple(sorted(roles.local)), "local")


def service(settings: Settings, name: str) -> Identity:
    """A principal of the system itself, such as `scheduler`.

    Raises:
        UserError: the declaration names no such service.
    """
    return Identity(name, load_roles(settings.deployments).service(name).roles, "service")


def permit(
    declarations: Declarations,
    identity: Identity,
    action: Action,
    *,
    workload: str,
    label: Label | None = None,
    environment: str = "dev",
    step: str = "",
    at: datetime,
) -> None:
    """Ask the rules whether this principal may do it, in control; no label: nothing of a dataset is touched.

    Raises:
        PolicyDenied: with every rule that forbids it, or that none permits it.
    """
    declarations.ask_control(
        action, identity.principal, workload=workload, label=label or PUBLIC, environment=environment, step=step, at=at
    )


def _of_token(settings: Settings, roles: Roles) -> Identity:
    from flows.adapters import oidc

    if not settings.oidc_issuer or not settings.oidc_audience:
        raise UserError("a token is set, and nothing says whose", expected="TRADEWIND_OIDC_ISSUER and TRADEWIND_OIDC_AUDIENCE")
    assert settings.token is not None
    claims = oidc.verified(
        settings.token.get_secret_value(), issuer=settings.oidc_issuer, audience=settings.oidc_audience, jwks_url=settings.oidc_jwks_url
    )
    name = claims.get(roles.claims.name)
    if not isinstance(name, str) or not name.strip():
        raise GuardRefused(
            f"the token names nobody: no claim `{roles.claims.name}`", field="TRADEWIND_TOKEN", fix=f"correct `claims.name` in {ROLES_FILE}"
        )
    listed = claims.get(roles.claims.groups)
    groups = listed if isinstance(listed, list) else [listed]
    return Identity(_person(name, roles), roles.of(name, [group for group in groups if isinstance(group, str)]), "oidc")


def _person(name: str, roles: Roles) -> str:
    if name in roles.services or name.startswith(OPAQUE):
        raise UserError(
            f"`{name}` is the name of no person", expected=f"a name outside `services` of {ROLES_FILE}, not one like `{OPAQUE}…`"
        )
    return name


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name  # not from the environment, which may claim anything
    except KeyError:  # a container may run as a number without a name
        return "local"
