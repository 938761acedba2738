"""`tradewind erase` and `tradewind retention`: what leaves the project's data for good, looked at first."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.core.errors import Unavailable, UserError

if TYPE_CHECKING:
    from flows.core.governance.retention import Expired
    from flows.services.retaining import Listed

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def erase(
    subject: Annotated[str | None, typer.Argument(help="A person's key, as the source has it.", show_default=False)] = None,
    workload: Annotated[str | None, typer.Option("--workload", help="Only from this one; left out: all that declare a subject.")] = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", help="A column with people's keys, of any table of the workload; left out: as declared.")
    ] = None,
    from_file: Annotated[str | None, typer.Option("--from-file", metavar="FILE", help="Read the key from a file, or `-`.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Erase; left out: only look and say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find a person's data at every site; with --yes erase it, prove it by another look at every byte, and record it without saying who."""
    from deployments.local.supervisor import connected, running
    from flows import subject_secrets
    from flows.adapters.settings import Settings
    from flows.services import erasing
    from flows.services.declarations import Declarations
    from flows.services.identity import who
    from flows.store.database import State

    key = _key(subject, from_file)
    stack = running(Settings())
    settings = stack.settings
    state, declarations = State(settings.state_url), Declarations.load(settings)
    names = [workload] if workload else sorted(name for name, one in declarations.workloads.items() if one.subject)
    if not names:
        raise UserError("no workload declares which of its columns hold keys of people", field="--workload", fix="see docs/erasure.md")
    with connected(stack):
        for name in names:  # before the first request is stored
            erasing.require_columns(state, declarations, name, column or ())
        identity, secret, at = who(settings), subject_secrets.reference_key(), datetime.now(UTC)
        asked = [erasing.ask(state, settings, identity, name, key, key=secret, apply=yes, columns=column or (), at=at) for name in names]
        for one in asked:
            subject_secrets.keep(one.secret, key)
        address = _govern()
        for one in asked:
            if erasing.result_of(state, one) is not None:
                subject_secrets.forget(one.secret)
    _show_erased({one.workload: _result(state, one.intent, address) for one in asked}, yes, as_json)


def _key(subject: str | None, from_file: str | None) -> str:
    if (subject is None) == (from_file is None):
        raise UserError("whom to erase is not told, or twice", expected="SUBJECT, or `--from-file FILE`")
    if subject is not None:
        return subject
    try:
        text = sys.stdin.read() if from_file == "-" else Path(str(from_file)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError("the file cannot be read", file=from_file, expected="text of one line") from None
    return text.removesuffix("\n").removesuffix("\r")


def _govern() -> str:
    """Let control carry out what was asked for, and wait; the address of its run."""
    import asyncio

    from flows.adapters import dispatch

    async def through() -> str:
        run = await dispatch.start(
            "govern/control", {}, idempotency_key=f"cli govern {datetime.now(UTC):%Y%m%d%H%M%S%f}", tags=["tradewind"]
        )
        await dispatch.wait(run, pool="control")
        return dispatch.ui_url(run)

    return asyncio.run(through())


def _result(state: Any, intent: str, address: str) -> dict[str, Any]:
    from flows.store import outbox

    with state.reading() as tx:
        row = outbox.get(tx, intent)
        if row is not None and row.state == outbox.DONE:
            return dict(row.result or {})
        why = (row.error if row is not None else None) or "another run is at it"
    raise Unavailable(f"`{intent}` is not done: {why}", fix=f"it is tried again by the clock, or by the same command; see {address}")


def _show_erased(results: Mapping[str, Mapping[str, Any]], applied: bool, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(results, indent=1, ensure_ascii=False))
        return
    for workload, result in results.items():
        typer.echo("\n".join(told(workload, result)))
    if not applied and any(result["found"] for result in results.values()):
        typer.echo("nothing was changed; the same command with `--yes` erases")


def told(workload: str, result: Mapping[str, Any]) -> Iterator[str]:
    """What a request found and did, for people: never whom it was about."""
    done, proof = result["applied"], result["proof"]
    yield f"{workload}: request {result['request']}, {'erased' if done and result['found'] else 'looked at'}"
    for site, datasets in sorted(result["found"].items()):
        for name, one in sorted(datasets.items()):
            what = f"{one['files']} files" if name == "files" else f"{one['versions']} versions, {one['rows']} rows"
            yield f"  {site:<20} {'other' if name == 'files' else name:<28} {what}"
    if not result["found"]:
        yield "  the subject is nowhere in the data of this workload"
    for site, names in sorted(result["elsewhere"].items()):
        yield f"  {site:<20} also in {', '.join(names)}, which are not of this workload: left as they are"
    for name in result["models"]["waiting"]:
        yield f"  {name} learnt from it and serves: {'it goes' if done else 'it would go'} once a retrain has replaced it"
    if result["models"]["retrain"]:
        yield f"  retrain: {result['models']['retrain']}"
    if done and result["found"]:
        yield f"  {len(result['rewritten'])} versions written again, {len(result['removed'])} removed"
    how = "no byte of the key is left" if done else "looked"
    yield f"  {how}: {proof['files']:,} files, {proof['bytes']:,} bytes at {proof['sites']} sites, scan {proof['sha256'][:16]}"


def retention(
    apply: Annotated[bool, typer.Option("--apply", help="Remove it now; left out: list it, and why some of it stays.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what is past its retention; the clock removes it once it has been listed for `TRADEWIND_RETENTION_NOTICE_HOURS`."""
    from flows.adapters.settings import Settings
    from flows.services import retaining
    from flows.services.identity import who
    from flows.store.database import State

    settings = Settings()
    state, identity, at = State(settings.state_url), who(settings), datetime.now(UTC)
    if not apply:
        listed = retaining.look(state, settings, principal=identity.name, at=at)
        typer.echo(json.dumps(listed.to_json(), indent=1) if as_json else "\n".join(listing(listed)))
        return
    from deployments.local.supervisor import connected, running

    stack = running(settings)
    with connected(stack):
        listed = retaining.look(state, stack.settings, principal=identity.name, at=at)
        intent = retaining.order(state, stack.settings, identity, listed, at=at)
        if intent is None:
            typer.echo(json.dumps({"removed": [], "kept": []}) if as_json else "nothing is past its retention that may go")
            return
        result = _result(state, intent, _govern())
    size = sum(one["bytes"] for one in result["removed"])
    shown = f"{len(result['removed'])} versions removed, {size:,} bytes; {len(result['kept'])} kept, as they are needed by now"
    typer.echo(json.dumps(result, indent=1) if as_json else shown)


def listing(listed: Listed) -> Iterator[str]:
    """What is past its retention, for people."""
    may = {one.key for one in listed.removable}
    for one in listed.found:
        yield f"{one.resting.name:<50} {one.resting.site:<20} since {one.since:%Y-%m-%d}  {_fate(one, one.key in may)}"
    if not listed.found:
        yield "nothing is past its retention"


def _fate(one: Expired, removable: bool) -> str:
    if one.kept_because is not None:
        return f"kept because {one.kept_because}"
    return "goes at the next round" if removable else "listed: goes once its notice is over"
