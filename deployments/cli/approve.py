"""`tradewind approve`: what waits for a person, and a person's word on it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from flows.core.errors import Unavailable, UserError

if TYPE_CHECKING:
    from flows.adapters.settings import Settings
    from flows.services.approving import Waiting


def approve(
    request: Annotated[str | None, typer.Argument(help="What waits, as `--list` names it.")] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; it goes into the ledger.")] = "",
    deny: Annotated[bool, typer.Option("--deny", help="Refuse it, for good.")] = False,
    expires: Annotated[int | None, typer.Option("--expires", metavar="DAYS", help="Days that the approval holds; left out: 7.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show what waits, since when.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="With `--list`: also what has ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Approve or deny a promotion that waits for a person: whoever asked for it, or started its training, may not."""
    from flows.adapters.settings import Settings
    from flows.core.canonical import instant
    from flows.core.governance.approvals import VALID_DAYS
    from flows.services import approving
    from flows.services.identity import who
    from flows.store.database import State

    settings = Settings()
    state, at = State(settings.state_url), datetime.now(UTC).replace(microsecond=0)
    if list_ or request is None:
        if not list_:
            raise UserError("nothing to approve is named", field="REQUEST", fix="`tradewind approve --list` shows what waits")
        _show(approving.waiting(state, at=at, everything=everything), as_json)
        return
    if deny and expires is not None:
        raise UserError("a denial does not end", field="--expires", fix="leave it out")
    identity, days = who(settings), VALID_DAYS if expires is None else expires
    one = approving.decide(state, settings, request, identity=identity, approve=not deny, reason=reason, at=at, days=days)
    if as_json:
        _go_on(settings, one)
        typer.echo(json.dumps(one.to_json(), indent=1, ensure_ascii=False))
        return
    until = "" if deny else f" until {instant(one.until)}"
    typer.echo(f"version {one.version} of `{one.workload}` is {one.standing}{until}; {_go_on(settings, one)}")


def _go_on(settings: Settings, one: Waiting) -> str:
    """Resume the run that waits, if a server is here; the decision stands without it, and the reconciler takes it up."""
    import asyncio

    from deployments.local.supervisor import connected, running
    from flows.adapters import dispatch

    if one.run is not None:
        try:
            with connected(running(settings)):
                if asyncio.run(dispatch.resume(one.run)):
                    return f"its run goes on: {dispatch.ui_url(one.run)}"
        except Unavailable:
            return "no server answers; once one does, the reconciler takes it up"
    return "the reconciler takes it up"


def _show(found: list[Waiting], as_json: bool) -> None:
    from flows.core.canonical import instant
    from flows.services.approving import commands

    if as_json:
        typer.echo(json.dumps([one.to_json() for one in found], indent=1, ensure_ascii=False))
        return
    for one in found:
        state = f"{one.standing}{' and ended' if one.closed else ''}"
        typer.echo(
            f"{one.request}  {state}  version {one.version} of `{one.workload}` since {instant(one.since)}, until {instant(one.until)}"
        )
        for name, address in sorted(one.links.items()):
            typer.echo(f"  {name}: {address}")
        if one.approver is not None:
            typer.echo(f"  {one.approver}: {one.reason}")
        elif one.standing == "waiting" and not one.closed:
            typer.echo("\n".join(f"  {command}" for command in commands(one.request)))
    if not found:
        typer.echo("nothing waits")
