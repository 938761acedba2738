"""`tradewind apply`: what is declared, made real on the Prefect server."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated

import typer


def apply(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 if anything would change.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the difference as JSON.")] = False,
) -> None:
    """Create, update and remove blocks, pools, deployments, automations and schedules until the server has what is declared."""
    from deployments.apply import apply as apply_now
    from deployments.local.records import MLFLOW, read_records
    from flows.adapters.settings import Settings
    from flows.services.declarations import Declarations
    from flows.services.identity import permit, who

    settings = Settings()
    registry = read_records(settings.home).services.get(MLFLOW)
    if settings.profile == "embedded" and settings.mlflow_url is None and registry is not None:
        settings = Settings(**{**settings.model_dump(), "mlflow_url": registry.url})
    if not check:
        permit(Declarations.load(settings), who(settings), "apply", workload="", at=datetime.now(UTC))
    diff = apply_now(settings, check=check)
    typer.echo(json.dumps(diff.to_json(), indent=1, sort_keys=True) if as_json else str(diff))
    if check and not diff.in_sync:
        raise typer.Exit(1)
