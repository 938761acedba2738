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
        declarations.require_control(action, "nafld", who, at=AT)
    else:
        with pytest.raises(PolicyDenied, match=f"`ada` may not {action} `nafld`: default-deny"):
            declarations.require_control(action, "nafld", who, at=AT)


def test_an_unknown_workload_is_told_with_those_there_are() -> None:
    """A typing error names what could have been meant."""
    with pytest.raises(UserError, match="flight_delay"):
        Declarations.load(Settings()).workload("flight_dalay")
