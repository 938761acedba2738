"""`tradewind move`: what it would take to move a workload to another site."""

from __future__ import annotations

import json
from typing import Annotated

import typer

REFUSED = 3


def move(
    workload: Annotated[str, typer.Argument(help="A workload.")],
    to: Annotated[str, typer.Option("--to", metavar="SITE", help="The site that its data and its steps would have as home.")],
    check: Annotated[bool, typer.Option("--check", help="Exit 3 if policy does not let every dataset go there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which lines to edit, and of each dataset what policy says, its bytes and the USD of copying it. Nothing is changed."""
    from datetime import UTC, datetime

    from flows.adapters.settings import Settings
    from flows.core.placement.model import Principal
    from flows.services import moving
    from flows.services.declarations import Declarations

    declarations = Declarations.declared(Settings())
    principal = Principal(user="move", roles=declarations.roles.named("scheduler"))
    plan = moving.plan(declarations, workload, to, principal, at=datetime.now(UTC).replace(microsecond=0))
    if as_json:
        typer.echo(json.dumps(plan.to_json(), indent=1, ensure_ascii=False))
    else:
        width = max((len(one.dataset) for one in plan.datasets), default=0)
        for one in plan.datasets:
            verdict = f"{one.usd} USD" if one.usd is not None else "may not move: " + ("; ".join(one.refused) or "no place may send it")
            typer.echo(f"{one.dataset:<{width}}  {one.home} -> {to}  {one.bytes / 1e9:.3f} GB  {verdict}")
        typer.echo(f"{'edit, then `tradewind apply` and run it' if plan.allowed else 'it may not move; these lines name its home'}:")
        for file, line, text in plan.edits:
            typer.echo(f"  deployments/{file}:{line}  {text}")
    if check and not plan.allowed:
        raise typer.Exit(REFUSED)
