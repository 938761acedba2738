"""`tradewind rollback`: bring an earlier champion back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer


def rollback(
    workload: Annotated[str, typer.Argument(help="Name of the workload.")],
    to: Annotated[str, typer.Option("--to", metavar="VERSION", help="A model version that was champion before.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it goes into the ledger.")],
) -> None:
    """Make an earlier champion champion again, at once; recorded in the ledger with its reason."""
    from deployments.local.supervisor import connected, running
    from flows.adapters.settings import Settings
    from flows.services import checkpointing, promoting
    from flows.services.declarations import Declarations
    from flows.services.identity import who
    from flows.store.database import State

    stack = running(Settings())
    settings, at = stack.settings, datetime.now(UTC)
    with connected(stack):
        identity = who(settings)
        Declarations.load(settings).require_control("rollback", workload, identity.principal, at=at)
        state = State(settings.state_url)
        outcome = promoting.rollback(
            state,
            settings,
            workload,
            to,
            intent_id=f"{workload}/promote/{at:%Y-%m-%dT%H:%M:%SZ}/rollback",
            reason=reason,
            at=at,
            principal=identity.name,
        )
        checkpointing.vouch(state, settings, at=at)
    typer.echo(outcome.summary)
