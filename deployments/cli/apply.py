"""`tradewind apply`: what is declared, made real on the Prefect server."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def apply(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 if anything would change.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the difference as JSON.")] = False,
) -> None:
    """Create, update and remove blocks, pools, deployments, automations and schedules until the server has what is declared."""
    from deployments.apply import apply as apply_now
    from flows.adapters.settings import Settings

    diff = apply_now(Settings(), check=check)
    typer.echo(json.dumps(diff.to_json(), indent=1, sort_keys=True) if as_json else str(diff))
    if check and not diff.in_sync:
        raise typer.Exit(1)
