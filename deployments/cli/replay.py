"""`tradewind replay`: decide stored decisions again, as they were, or under other rules or another estate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flows.services.replaying import Replayed, Totals

NOT_REPRODUCED = 1


def replay(
    since: Annotated[
        str, typer.Option("--since", metavar="ISO8601", help="Decisions stored from here on: `2026-01-05` or `2026-01-05T08:00:00Z`.")
    ],
    until: Annotated[str | None, typer.Option("--until", metavar="ISO8601", help="Decisions stored before this; left out: all.")] = None,
    policies: Annotated[Path | None, typer.Option(help="Folder of Cedar rules in place of each decision's own.")] = None,
    estate: Annotated[Path | None, typer.Option(help="Folder of the estate in place of each decision's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON.")] = False,
) -> None:
    """Decide stored decisions again from their stored inputs alone, and say what would change in runs and USD.

    Without folders every decision and joint plan must come out byte for byte. Exit 0, or 1 if one does not or cannot be decided again.
    """
    from deployments.cli.costs import parse_period
    from flows.adapters.settings import Settings
    from flows.core.canonical import canonical_json
    from flows.services.planning_jointly import remake
    from flows.services.replaying import Replay, totals
    from flows.store.database import State

    start, end = parse_period(since, until)
    state = State(Settings().state_url)
    rows = list(Replay(state, policies=policies, estate=estate).run(start, end))
    found = totals(rows)
    faithful = policies is None and estate is None
    plans = {plan.before["decision_id"]: plan.reproduced for plan in remake(state, start, end)} if faithful else {}
    if as_json:
        typer.echo(canonical_json({"totals": found.to_json(), "decisions": [row.to_json() for row in rows], "plans": plans}).decode())
    else:
        _show(rows, found, faithful=faithful)
        if plans:
            typer.echo(f"{sum(plans.values())} of {len(plans)} joint plans came out byte for byte")
    if not all(plans.values()) or any(row.after is None or (faithful and not row.reproduced) for row in rows):
        raise typer.Exit(NOT_REPRODUCED)


def _show(rows: Sequence[Replayed], found: Totals, *, faithful: bool) -> None:
    if not rows:
        typer.echo("no decisions are stored in this time")
        return
    for row in rows:
        if row.after is None or row.change != "same" or (faithful and not row.reproduced):
            typer.echo(_line(row, faithful=faithful))
    if faithful:
        typer.echo(f"{found.reproduced} of {found.decisions} decisions came out byte for byte")
        return
    told = ", ".join(f"{count} {change}" for change, count in found.changes.items())
    typer.echo(f"{found.decisions} decisions of {found.runs} runs: {told}")
    typer.echo(_money("total", found.usd_before, found.usd_after) + "; " + _money("cash", found.cash_before, found.cash_after))
    if "lost" in found.changes or "gained" in found.changes:
        typer.echo(f"runs with no place any more: {found.usd_lost:.6f} USD; runs with a place now: {found.usd_gained:.6f} USD")


def _line(row: Replayed, *, faithful: bool) -> str:
    what = f"{row.request.get('workload', '?')}/{row.request.get('step', '?')}"
    change = "other bytes" if faithful and row.change == "same" else row.change
    after = row.problem if row.after is None else f"{_place(row.before)} -> {_place(row.after)}"
    why = "" if row.after is None or row.change != "lost" else f" ({row.after['summary']})"
    return f"{row.before['decision_id'][:12]}  {row.before['at']}  {what}  {change}: {after}{why}"


def _place(decision: Any) -> str:
    chosen = decision["chosen"]
    if chosen is None:
        return "no place"
    spot = " (spot)" if chosen["spot"] else ""
    return f"{chosen['pool']} {chosen['offer']}{spot} {chosen['start']} {chosen['usd']['total']:.6f} USD"


def _money(what: str, before: Any, after: Any) -> str:
    return f"{what} {before:.6f} -> {after:.6f} USD ({after - before:+.6f})"
