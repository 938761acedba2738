"""`tradewind apply`: what is declared, made real on the Prefect server."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated

import typer


def apply(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 if anything would, or a cloud lacks what is declared.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the difference as JSON.")] = False,
) -> None:
    """Create, update and remove blocks, pools, deployments, automations and schedules until the server has what is declared."""
    from deployments.apply import ApplyOptions
    from deployments.apply import apply as apply_now
    from deployments.apply.cloud_checks import examine
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
    found = examine(settings, ApplyOptions.load()) if check and settings.profile == "cloud" else ()
    if as_json:
        clouds = {"clouds": [one.to_json() for one in found]} if found else {}
        typer.echo(json.dumps({**diff.to_json(), **clouds}, indent=1, sort_keys=True))
    else:
        typer.echo("\n".join([str(diff), *(str(one) for one in found if one.result != "ok")]))
    if check and (not diff.in_sync or any(one.result == "wrong" for one in found)):
        raise typer.Exit(1)
