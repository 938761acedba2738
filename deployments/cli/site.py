"""`tradewind site`: close a site to anything new, empty it, open it again, and see how each one stands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flows.services.cordoning import SiteView
    from flows.store.sites import SiteState

app = typer.Typer(no_args_is_help=True, help="Close a site to anything new, empty it, open it again.")

Site = Annotated[str, typer.Argument(help="A site of the estate.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it goes into the ledger and is shown to whoever asks.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def cordon(site: Site, reason: Reason, as_json: AsJson = False) -> None:
    """Let nothing new start or come to rest at a site; what runs there goes on, and data may leave."""
    _change(site, "cordoned", reason, as_json)


@app.command()
def drain(site: Site, reason: Reason, as_json: AsJson = False) -> None:
    """Cordon a site that is to be empty, and say which runs are still there."""
    _change(site, "draining", reason, as_json)


@app.command()
def uncordon(site: Site, reason: Reason = "", as_json: AsJson = False) -> None:
    """Open a site again, and let its pools that cool down after a failed run be used at once."""
    _change(site, "open", reason, as_json)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Every site with its state, its runs, its pools that cool down after a failed run, and the proofs of security that it lost."""
    from datetime import UTC, datetime

    from flows.adapters.settings import Settings
    from flows.core.canonical import instant
    from flows.services import cordoning
    from flows.store.database import State

    settings = Settings()
    views = cordoning.overview(State(settings.state_url), settings, at=datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps([view.to_json() for view in views], indent=1, ensure_ascii=False))
        return
    width = max(len(view.site) for view in views)
    for view in views:
        since = f"since {instant(view.since)} by {view.by}" if view.since and view.state != "open" else ""
        cooling = ", ".join(f"{pool} cools down until {instant(until)}" for pool, until in view.cooling.items())
        lost = ", ".join(f"not eligible: {check} {why}" for check, why in view.unproven.items())
        told = "; ".join(part for part in (since, view.reason if since else "", cooling, lost) if part)
        typer.echo(f"{view.site:<{width}}  {view.state:<8}  {_count(len(view.runs), 'run'):>7}  {told}".rstrip())


def _change(site: str, wanted: SiteState, reason: str, as_json: bool) -> None:
    from datetime import UTC, datetime

    from flows.adapters.settings import Settings
    from flows.services import cordoning
    from flows.services.declarations import Declarations
    from flows.services.identity import permit, who
    from flows.store.database import State

    settings, at = Settings(), datetime.now(UTC).replace(microsecond=0)
    identity = who(settings)
    permit(Declarations.load(settings), identity, "site", workload=site, at=at)
    before, view = cordoning.change(
        State(settings.state_url),
        settings,
        site,
        wanted,
        reason=reason,
        principal=identity.name,
        at=at,
    )
    if as_json:
        typer.echo(json.dumps({"before": before or wanted, **view.to_json()}, indent=1, ensure_ascii=False))
        return
    typer.echo(f"`{site}` is {wanted}" + (f"; it was {before}" if before not in (None, wanted) else ""))
    if wanted == "draining":
        typer.echo("\n".join(_still_there(view)))


def _still_there(view: SiteView) -> list[str]:
    from flows.core.canonical import instant

    lines = [f"still there: {_count(len(view.runs), 'run')}"]
    lines += [f"  {run.step} of {run.workload} on {run.pool} since {instant(run.started_at)}: {run.run}" for run in view.runs]
    waiting = sorted(set(view.reserved) - {run.intent for run in view.runs})
    if waiting:
        lines.append(f"placed there but not begun: {_count(len(waiting), 'step')}, placed again when their time comes")
        lines += [f"  {intent}" for intent in waiting]
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
