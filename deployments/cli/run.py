"""`tradewind run`, `backfill` and `demo`: start the loop for one moment, for a range, or for show."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployments.cli.place import instant_of
from flows.core.errors import Unavailable, UserError

if TYPE_CHECKING:
    from flows.adapters.settings import Settings
    from flows.services.identity import Identity

STEPS = ("ingest", "materialize", "train", "evaluate", "promote", "score", "watch")
MOST_CLOCKS = 1000
"""A range is a slip of the pen if it has more."""
Day = Annotated[
    str | None, typer.Option("--as-of", metavar="ISO8601", help="The data clock; left out: now, or the end of the workload's data.")
]


def run(
    workload: Annotated[str, typer.Argument(help="Name of the workload.")],
    as_of: Day = None,
    local: Annotated[
        bool,
        typer.Option("--local", help="In this process, without a server, in a state of its own; always retrains, urgently, and again."),
    ] = False,
    sample: Annotated[int | None, typer.Option("--sample", min=1, help="With --local: at most so many examples.")] = None,
    retrain: Annotated[bool, typer.Option("--retrain", help="Train a challenger even though there is a champion.")] = False,
    step: Annotated[str | None, typer.Option("--step", help=f"Run one step again, alone: {', '.join(STEPS)}.")] = None,
    urgent: Annotated[bool, typer.Option("--urgent", help="The first free slot, not the cheapest one.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Once more, though an earlier run has done it or was refused.")] = False,
) -> None:
    """Run a workload's loop up to one moment of its data and wait for its end."""
    from flows.adapters.settings import Settings
    from flows.services.declarations import Declarations

    if sample and not local:
        raise UserError("`--sample` goes with `--local`", fix="add `--local`, or leave `--sample` out")
    if step is not None and step not in STEPS:
        raise UserError(f"no step `{step}`", field="--step", expected=f"one of {', '.join(STEPS)}")
    settings = Settings()
    declarations = Declarations.load(settings)
    identity = _permitted(settings, workload)
    moment = _moment(as_of, "--as-of") or declarations.default_as_of(workload)
    parameters = {
        "workload": workload,
        "as_of": moment.isoformat(),
        "retrain": retrain,
        "urgent": urgent,
        "steps": [step] if step else [],
        "again": again,
    }
    if local:
        _run_here(settings, parameters, sample, identity)
    else:
        _run_there(settings, [parameters], identity)


def backfill(
    workload: Annotated[str, typer.Argument(help="Name of the workload.")],
    start: Annotated[str, typer.Option("--from", metavar="ISO8601", help="The first data clock.")],
    end: Annotated[str, typer.Option("--to", metavar="ISO8601", help="No data clock after this; itself one if `--every` comes out at it.")],
    every: Annotated[int, typer.Option("--every", min=1, help=f"Days from one to the next; {MOST_CLOCKS:,} clocks at most.")] = 30,
    retrain: Annotated[bool, typer.Option("--retrain", help="Train a challenger at each.")] = False,
) -> None:
    """Run a workload's loop for each moment of a range, one after the other; what is done already is not done again."""
    from flows.adapters.settings import Settings

    first, last = _moment(start, "--from"), _moment(end, "--to")
    assert first is not None and last is not None
    if first > last:
        raise UserError("it lies after `--to`", field="--from", expected=f"an instant up to {end}")
    if (runs := (last - first).days // every + 1) > MOST_CLOCKS:
        what, fix = f"{runs:,} clocks from `{start}` to `{end}`", "narrow `--from` and `--to`, or raise `--every`"
        raise UserError(what, field="--every", expected=f"{MOST_CLOCKS:,} at most", fix=fix)
    settings = Settings()
    identity = _permitted(settings, workload)
    clocks = [first + timedelta(days=every * number) for number in range(runs)]
    _run_there(settings, [{"workload": workload, "as_of": clock.isoformat(), "retrain": retrain} for clock in clocks], identity)


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the services running afterwards.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Stop the services and remove all embedded state first.")] = False,
) -> None:
    """Show the whole loop on real data: both workloads, drift, retrains, refusals, costs. Goes on where an earlier demo stopped."""
    from rich.console import Console

    from deployments.local import demo as playing
    from flows.adapters.settings import Settings

    settings = Settings()
    if fresh:
        _remove_state(settings)
    playing.run(settings, Console(), keep=keep)


def _remove_state(settings: Settings) -> None:
    import shutil

    from deployments.local.supervisor import down

    if settings.home.exists():
        down(settings, typer.echo, what="tradewind demo --fresh")
        shutil.rmtree(settings.home)


def _permitted(settings: Settings, workload: str) -> Identity:
    """Who runs this command, if the rules let them start the workload.

    Raises:
        PolicyDenied: they do not.
        UserError: there is no such workload, or nobody is authenticated.
    """
    from flows.services.declarations import Declarations
    from flows.services.identity import permit, who

    declarations = Declarations.load(settings)
    environment = declarations.workload(workload).environment
    identity = who(settings)
    permit(declarations, identity, "run", workload=workload, environment=environment, step="lifecycle", at=datetime.now(UTC))
    return identity


def _run_there(settings: Settings, orders: list[dict[str, Any]], identity: Identity) -> None:
    """Start each lifecycle on the running stack, for this principal, and wait for it."""
    from deployments.local.supervisor import connected, running
    from flows.adapters.dispatch import SUSPENDED
    from flows.core.canonical import instant
    from flows.prefect_dispatcher import PrefectDispatcher
    from flows.services import requesting
    from flows.store.database import State

    async def each() -> None:
        for number, parameters in enumerate(orders, 1):
            typer.echo(f"[{number}/{len(orders)}] lifecycle of {parameters['workload']} as of {parameters['as_of']}")
            key = f"cli {parameters['workload']} {parameters['as_of']} {datetime.now(UTC):%Y%m%d%H%M%S%f}"
            asked = requesting.wanted(**{"cause": "manual", **parameters, "as_of": instant(datetime.fromisoformat(parameters["as_of"]))})
            request = requesting.request(State(settings.state_url), identity, asked, at=datetime.now(UTC))
            sent = {**parameters, "request_id": request}
            outcome = await PrefectDispatcher(settings).run(f"lifecycle/{parameters['workload']}", sent, key=key)
            if outcome.state == SUSPENDED:
                typer.echo(f"  it waits for a person, see `tradewind approve --list`; {outcome.url}")
                continue
            if not outcome.succeeded:
                raise Unavailable(
                    f"the lifecycle ended {outcome.state}: {outcome.message}", fix=f"see {outcome.url}; the same command goes on from there"
                )
            typer.echo(f"  {_ended(settings, parameters)}; {outcome.url}")

    stack = running(settings)
    settings = stack.settings
    with connected(stack):
        asyncio.run(each())


def _ended(settings: Settings, parameters: dict[str, Any]) -> str:
    """How the moment's lifecycle stands: a run that found it done or refused completes too, and people must see which it was."""
    from flows.core.planning import window_of
    from flows.store import outbox
    from flows.store.database import State

    window = window_of(datetime.fromisoformat(parameters["as_of"]))
    with State(settings.state_url).reading() as tx:
        rows = [row for row in outbox.recent(tx, workload=parameters["workload"], limit=1000) if row.step == "lifecycle"]
        newest = max((row for row in rows if row.window == window), key=lambda row: row.claimed_at or row.due_at, default=None)
        if newest is None:
            return "nothing to do"
        told = newest.error or (newest.result or {}).get("message") or ""
        return f"{newest.state}{': ' + told if told else ''}"


def _run_here(settings: Settings, parameters: dict[str, Any], sample: int | None, identity: Identity) -> None:
    """The loop in this process, in `local/<workload>` under the home folder; errors are raised as they are."""
    import logging

    from pydantic import SecretStr

    from flows.adapters import signing
    from flows.adapters.settings import Settings
    from flows.services import lifecycle
    from flows.services.local_run import LocalDispatcher
    from flows.store.database import State

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("flows").setLevel(logging.INFO)
    workload = parameters["workload"]
    home = settings.home / "local" / workload
    (home / "mlflow").mkdir(parents=True, exist_ok=True)
    # what this process signs, only this home's own keys verify
    key = signing.new_key()
    signing.enroll(home / "anchors", signing.signer(key).public_key, at=datetime.now(UTC))
    own = Settings(home=home, deployments=settings.deployments, database_url=None, mlflow_url=None, signing_key=SecretStr(key), token=None)
    State(own.state_url).migrate()
    order = lifecycle.LifecycleOrder(
        workload=workload,
        as_of=datetime.fromisoformat(parameters["as_of"]),
        cause="manual",
        owner="local",
        principal=identity.name,
        roles=identity.roles,
        retrain=True,
        urgent=True,
        steps=tuple(parameters["steps"]),
        tag=f"local-{datetime.now(UTC):%Y%m%dT%H%M%S}",
    )
    report = asyncio.run(lifecycle.run(order, settings=own, dispatcher=LocalDispatcher(own, sample)))
    for step, result in report.steps.items():
        typer.echo(f"{step:12} {result['site']:18} {result['summary']}")
    typer.echo(f"{report.state} {report.message}".strip())


def _moment(text: str | None, field: str) -> datetime | None:
    """The instant; a day alone is its first instant in UTC."""
    if text is None:
        return None
    return instant_of(f"{text}T00:00:00Z" if len(text) == len("2013-01-01") else text, field)
