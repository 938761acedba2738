"""Control asks policy too: who may promote or roll back is a rule, not a habit."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import pytest

from flows.adapters.settings import Settings
from flows.core.errors import PolicyDenied, UserError
from flows.core.placement.model import Principal
from flows.services.declarations import Declarations

AT = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.mark.parametrize("action", ["promote", "rollback"])
@pytest.mark.parametrize(("roles", "allowed"), [(("operator",), True), (("ml-engineer",), True), (("viewer",), False), ((), False)])
def test_only_some_roles_move_the_champion(action: Literal["promote", "rollback"], roles: tuple[str, ...], allowed: bool) -> None:
    """An operator and an ml-engineer may; whoever only looks may not, and is told which rule."""
    declarations = Declarations.load(Settings())
    who = Principal.model_validate({"user": "ada", "roles": roles})
    if allowed:
        declarations.require_control(action, "flight_delay", who, at=AT)
    else:
        with pytest.raises(PolicyDenied, match=f"`ada` may not {action} `flight_delay`: default-deny"):
            declarations.require_control(action, "flight_delay", who, at=AT)


def test_a_restricted_model_is_not_promoted_by_a_role_alone() -> None:
    """It takes an approval on record, whoever asks; bringing an earlier champion back does not."""
    declarations = Declarations.load(Settings())
    who = Principal.model_validate({"user": "ada", "roles": ("ml-engineer",)})
    with pytest.raises(PolicyDenied, match="needs-approval"):
        declarations.require_control("promote", "nafld", who, at=AT)
    declarations.require_control("rollback", "nafld", who, at=AT)


def test_an_unknown_workload_is_told_with_those_there_are() -> None:
    """A typing error names what could have been meant."""
    with pytest.raises(UserError, match="flight_delay"):
        Declarations.load(Settings()).workload("flight_dalay")
