"""`tradewind sweep`: end the jobs that outlived their runs, and the runs whose jobs are gone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flows.services.sweeping import Swept

DryRun = Annotated[bool, typer.Option("--dry-run", help="End nothing; say what would be ended.")]
Pools = Annotated[list[str] | None, typer.Option("--pool", help="Look only at this pool; may be given more than once.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def sweep(dry_run: DryRun = False, pool: Pools = None, as_json: AsJson = False) -> None:
    """End the jobs in clouds that outlived their runs, and the runs whose jobs are gone; exit 6 if a pool could not be looked at.

    The reconciler does the same by the clock. Runs of pools of type `process`, as all are in the embedded
    profile, are no jobs: their host ends its own.
    """
    import asyncio
    from datetime import UTC, datetime

    from flows.adapters.clouds import CLOUDS
    from flows.adapters.pool_runs import PoolRuns
    from flows.adapters.settings import Settings
    from flows.core.errors import Unavailable, UserError
    from flows.services import sweeping
    from flows.services.declarations import Declarations
    from flows.services.identity import permit, who
    from flows.store.database import State

    settings, at = Settings(), datetime.now(UTC)
    declarations = Declarations.load(settings)
    known = sorted(each.name for each in declarations.estate.pools if each.type in CLOUDS)
    for name in pool or ():
        if name not in known:
            raise UserError(f"`{name}` is no pool whose runs are jobs in a cloud", expected=f"one of `{'`, `'.join(known)}`")
    if settings.profile != "cloud":
        raise UserError("the embedded profile has no jobs in clouds to sweep", field="TRADEWIND_PROFILE", expected="`cloud`")
    if not dry_run:
        permit(declarations, who(settings), "site", workload="sweep", at=at)
    found = asyncio.run(sweeping.sweep(State(settings.state_url), settings, PoolRuns(), at=at, dry_run=dry_run, pools=tuple(pool or ())))
    typer.echo(json.dumps(found.to_json(), indent=1, ensure_ascii=False) if as_json else "\n".join(_told(found)))
    if found.unlooked:
        raise typer.Exit(Unavailable.exit_code)


def _told(found: Swept) -> list[str]:
    ends = "would be ended" if found.dry_run else "ended"
    lines = [f"looked at {len(found.looked)} pools"]
    lines += [f"job {row.job} of {row.pool} (run {row.run}) {ends}: {row.why}" for row in found.jobs]
    lines += [f"run {row.run} on {row.pool} {ends}: {row.why}" for row in found.runs]
    lines += [f"not looked at: {name}: {why}" for name, why in found.unlooked.items()]
    return lines if len(lines) > 1 else [*lines, "nothing was left behind"]
