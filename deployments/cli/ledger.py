"""`tradewind ledger`: check, read and anchor the record of what was decided, moved, promoted and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.cli.costs import Since, parse_since

if TYPE_CHECKING:
    from flows.adapters.settings import Settings

app = typer.Typer(no_args_is_help=True, help="The append-only record of decisions, transfers, promotions and refusals.")

Anchors = Annotated[
    Path | None,
    typer.Option("--anchors", envvar="TRADEWIND_ANCHORS", help="Folder of the anchors; left out: `anchors` under the state's home."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
BODY_WIDTH = 120


@app.command()
def verify(anchors: Anchors = None, as_json: AsJson = False) -> None:
    """Check every row against its hash, its neighbour and the anchors; exit 5 and name the first bad row if one does not hold."""
    from flows.adapters.settings import Settings
    from flows.core.errors import IntegrityError
    from flows.store import ledger
    from flows.store.database import State

    settings = Settings()
    found = ledger.verify(State(settings.state_url), _folder(settings, anchors))
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1))
    elif found.ok:
        typer.echo(f"{found.rows} rows hold; {found.window}")
    else:
        typer.echo(f"row {found.first_bad} is bad: {found.reason}\n{found.window}")
    if not found.ok:
        raise typer.Exit(IntegrityError.exit_code)


@app.command()
def show(
    kind: Annotated[str | None, typer.Option("--kind", help="Only rows of this kind, such as `transfer` or `promotion`.")] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many rows, the newest.")] = 50,
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
def anchor(anchors: Anchors = None) -> None:
    """Write the newest row's hash outside the database: what is anchored can no longer be rewritten unseen."""
    from flows.adapters.settings import Settings
    from flows.store import ledger
    from flows.store.database import State

    settings = Settings()
    folder = _folder(settings, anchors)
    newest = ledger.anchor(State(settings.state_url), folder)
    typer.echo(f"row {newest[0]} is anchored in `{folder}`" if newest else "the ledger is empty: nothing to anchor")


def _folder(settings: Settings, anchors: Path | None) -> Path:
    return anchors if anchors is not None else settings.anchors
