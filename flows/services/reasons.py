"""What goes into the ledger by a person's word says why."""

from __future__ import annotations

from flows.core.errors import UserError
from flows.core.governance.approvals import reason_given


def require_reason(reason: str, what: str) -> None:
    """See that something goes into the ledger with a reason that says anything.

    Args:
        reason: What `--reason` was given.
        what: What needs it, as the message begins: `a rollback`.

    Raises:
        UserError: it has no reason, or one that is too short.
    """
    if not reason_given(reason):
        told = f"`{reason}` is too short" if reason.strip() else f"{what} needs its reason"
        raise UserError(told, field="--reason", expected="a few words that an auditor understands")
