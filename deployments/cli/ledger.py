"""`tradewind ledger`: check, read and anchor the record of what was decided, moved, promoted and refused."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.cli.costs import Since, parse_period, parse_since

if TYPE_CHECKING:
    from flows.adapters.settings import Settings
    from flows.store.ledger import Verification

app = typer.Typer(no_args_is_help=True, help="The append-only record of decisions, transfers, promotions and refusals.")

Anchors = Annotated[
    Path | None,
    typer.Option("--anchors", envvar="TRADEWIND_ANCHORS", help="Folder of the anchors; left out: `anchors` under the state's home."),
]
Key = Annotated[
    str | None,
    typer.Option("--key", help="File (or `-`) of the public keys to trust, in place of those enrolled beside the checkpoints."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
BODY_WIDTH = 120


@app.command()
def verify(anchors: Anchors = None, key: Key = None, as_json: AsJson = False) -> None:
    """Check every row, checkpoint and signature; exit 5 and name the first bad row or line if one does not hold."""
    from flows.adapters.settings import Settings
    from flows.core.errors import IntegrityError
    from flows.services import checkpointing
    from flows.store.database import State

    settings = Settings()
    found = checkpointing.verify(State(settings.state_url), settings, folder=anchors, pinned=_pinned(key))
    if as_json:
        typer.echo(json.dumps(found.to_json() | {"window": found.window}, indent=1))
    else:
        typer.echo("\n".join(_told(found)))
    if not found.ok:
        raise typer.Exit(IntegrityError.exit_code)


def _told(found: Verification) -> Iterator[str]:
    if found.first_bad is not None:
        yield f"row {found.first_bad} is bad: {found.reason}"
        yield found.window
    else:
        yield f"{found.rows} rows hold; {found.window}"
    yield from found.problems
    yield from (f"note: {note}" for note in found.notes)
    if found.last_at is not None:
        age = datetime.now(UTC) - datetime.fromisoformat(found.last_at)
        seconds = max(0, round(age.total_seconds()))
        yield f"{found.signed} signed checkpoints, the last {seconds} s ago ({found.last_at})"
    elif found.rows:
        yield "no checkpoint is signed yet"


def _pinned(source: str | None) -> list[str] | None:
    """The public keys of a file or of standard input: base64, one a line, or lines as they are enrolled."""
    if source is None:
        return None
    from flows.core.errors import UserError

    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"the file of keys `{source}` cannot be read", field="--key", expected="a file, or `-`") from None
    keys = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)["public_key"] if line.lstrip().startswith("{") else line.strip()
            whole = len(base64.b64decode(found, validate=True)) == 32
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise UserError("this line is no public key", file=source, line=number, expected="the base64 of 32 bytes")
        keys.append(found)
    if not keys:
        raise UserError(f"`{source}` holds no public key", field="--key", expected="the base64 of 32 bytes, one key a line")
    return keys


@app.command()
def show(
    kind: Annotated[str | None, typer.Option("--kind", help="Only rows of this kind, such as `transfer` or `promotion`.")] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000_000, help="At most this many rows, the newest.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Print rows in order, the newest last; names are shown until they are erased."""
    from flows.adapters.settings import Settings
    from flows.core.canonical import instant
    from flows.core.errors import IntegrityError
    from flows.store import ledger, principals
    from flows.store.columns import canonical_text
    from flows.store.database import State

    start = parse_since(since)
    with State(Settings().state_url).reading() as tx:
        try:
            rows = ledger.rows(tx, since=start, kind=kind, limit=limit)
        except ValueError as error:  # what SQLAlchemy says of a time that is none
            raise IntegrityError("a stored row cannot be read", fix="see `tradewind ledger verify`") from error
        names = {id: principals.name_of(tx, id) for id in {row.principal for row in rows}}
    if as_json:
        typer.echo(json.dumps([row.to_dict() | {"name": names[row.principal]} for row in rows], indent=1, ensure_ascii=False))
        return
    for row in rows:
        body = canonical_text(row.body)
        shown = body if len(body) <= BODY_WIDTH else body[: BODY_WIDTH - 1] + "…"
        typer.echo(f"{row.seq:>6}  {instant(row.at)}  {row.kind}  {names[row.principal] or row.principal}  {shown}")
    if not rows:
        typer.echo("no such rows")


@app.command()
def export(
    out: Annotated[Path, typer.Option("--out", help="New or empty folder to write.")],
    since: Since = None,
    until: Annotated[str | None, typer.Option("--until", help="Only what is stored before this instant.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="Only rows of this kind.")] = None,
    anchors: Anchors = None,
) -> None:
    """Write rows, checkpoints, public keys and a verifier that runs without this project, for an auditor."""
    from deployments.ledger_verifier import verify_ledger
    from flows.adapters.settings import Settings
    from flows.services import ledger_export
    from flows.store.database import State

    settings, (start, end) = Settings(), parse_period(since, until)
    made = ledger_export.export(
        State(settings.state_url),
        _folder(settings, anchors),
        out,
        Path(verify_ledger.__file__),
        at=datetime.now(UTC),
        since=start,
        until=end,
        kind=kind,
    )
    typer.echo(f"{made.rows} rows ({made.first} to {made.last}) are in `{out}`, its manifest is {made.digest}")
    typer.echo(f"verify it anywhere: python -I {out / Path(verify_ledger.__file__).name}")


@app.command()
def anchor(anchors: Anchors = None) -> None:
    """Write the newest row's hash outside the database, signed if this process holds the control plane's key."""
    from flows.adapters.settings import Settings
    from flows.services import checkpointing
    from flows.store.database import State

    settings = Settings()
    newest = checkpointing.checkpoint(State(settings.state_url), settings, at=datetime.now(UTC), folder=anchors)
    where = f"in `{_folder(settings, anchors)}`{'' if settings.signing_key else ', unsigned'}"
    typer.echo(f"row {newest[0]} is anchored {where}" if newest else "the ledger is empty: nothing to anchor")


def _folder(settings: Settings, anchors: Path | None) -> Path:
    return anchors if anchors is not None else settings.anchors
