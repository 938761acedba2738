"""`tradewind review`: who has access to what, what is wrong with it, and what people decided of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.core.errors import Unavailable, UserError

if TYPE_CHECKING:
    from flows.adapters.settings import Settings
    from flows.core.governance.review_page import ReviewLine
    from flows.services.reviewing import ReviewSummary
    from flows.store.database import State

app = typer.Typer(no_args_is_help=True, help="Who has access to what: collect, judge, attest. Nothing is ever revoked from here.")

Review = Annotated[str, typer.Argument(help="Id of a review, or `latest`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def run(as_json: AsJson = False) -> None:
    """Read every declared source now and store what was found; exit 6 if one could not be read: then the review is incomplete."""
    from datetime import UTC, datetime

    from flows.services import reviewing
    from flows.services.identity import who

    state, settings = _open()
    found = reviewing.review(state, settings, principal=who(settings).name, at=datetime.now(UTC))
    unread = reviewing.told(state, found.id, at=datetime.now(UTC)).unread
    if as_json:
        typer.echo(json.dumps(found.to_json() | {"unread": unread}, indent=1, ensure_ascii=False))
    else:
        typer.echo(_summary(found))
        for name, why in unread.items():
            typer.echo(f"  not read: {name}: {why}")
    if unread:
        raise typer.Exit(Unavailable.exit_code)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """The newest reviews: what is open, what is overdue, what could not be read."""
    from datetime import UTC, datetime

    from flows.services import reviewing

    state, _ = _open()
    found = reviewing.overview(state, at=datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps([one.to_json() for one in found], indent=1, ensure_ascii=False))
        return
    for one in found:
        typer.echo(_summary(one))
    if not found:
        typer.echo("no review yet: `tradewind review run` makes one")


@app.command()
def show(
    review: Review = "latest",
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the whole review as a page.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write it as a sheet to fill in.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print what waits for a decision, the worst first; with `--html` or `--csv` write the whole review there."""
    from datetime import UTC, datetime

    from flows.core.governance.review_page import findings_line, page, sheet, worst_first
    from flows.services import reviewing

    state, _ = _open()
    told = reviewing.told(state, review, at=datetime.now(UTC))
    for path, text in ((html, page), (csv, sheet)):
        if path is not None:
            _write(path, text(told))
    if as_json:
        head = {"review": told.id, "at": told.at.isoformat(), "due_at": told.due_at.isoformat(), "state": told.state}
        body = {"sources": dict(told.sources), "unread": told.unread, "grants": [line.to_json() for line in told.lines]}
        typer.echo(json.dumps(head | body, indent=1, ensure_ascii=False))
        return
    waiting = [line for line in told.lines if line.standing.state == "open"]
    typer.echo(f"review {told.id}: {told.state}; {len(waiting)} of {len(told.lines)} grants wait for a decision")
    typer.echo(findings_line(told))
    for name, why in told.unread.items():
        typer.echo(f"not read: {name}: {why}")
    for line in sorted(waiting, key=worst_first) if html is None and csv is None else ():
        typer.echo("\n".join(_told(line)))


@app.command()
def attest(
    review: Review,
    grant: Annotated[str | None, typer.Option("--grant", metavar="ID", help="The grant, as `review show` names it.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="It is still needed.")] = False,
    revoke: Annotated[bool, typer.Option("--revoke", help="It is to be taken away; the command for it is printed.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; it goes into the ledger, so name no person.")] = "",
    until: Annotated[str | None, typer.Option("--until", metavar="DATE", help="The last UTC day of a keep; left out: the longest.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="A filled-in sheet instead: all of it or nothing.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say of a grant that it is kept or to be revoked, and why. Not of your own."""
    from datetime import UTC, date, datetime

    from flows.adapters.declared import read_text
    from flows.services import reviewing
    from flows.services.identity import who
    from flows.store.reviews import Attested

    state, settings = _open()
    identity, now = who(settings), datetime.now(UTC)
    if csv is not None:
        if grant or keep or revoke or reason or until:
            raise UserError("`--csv` holds all decisions", fix="leave the other options out")
        lines = reviewing.attest_sheet(state, settings, identity, review, read_text(csv), file=str(csv), at=now)
    else:
        if grant is None or keep == revoke:
            raise UserError("nothing to attest", expected="`--grant ID` and one of `--keep`, `--revoke`; or `--csv FILE`")
        if until is not None and revoke:
            raise UserError("a grant that is to be revoked has no last day", field="--until", fix="leave it out")
        try:
            day = None if until is None else date.fromisoformat(until)
        except ValueError:
            raise UserError(f"`{until}` is no day", field="--until", expected="a day such as `2027-01-31`") from None
        wanted = Attested(grant, "keep" if keep else "revoke", reason, day)
        lines = reviewing.attest(state, settings, identity, review, [wanted], at=now)
    if as_json:
        typer.echo(json.dumps([line.to_json() for line in lines], indent=1, ensure_ascii=False))
        return
    for line in lines:
        by = line.standing.by
        last = f" until {by.until}" if by is not None and by.until is not None else ""
        typer.echo(f"{line.id}: {line.standing.state}{last}")
        if line.standing.state == "revoke":
            typer.echo(f"  {line.grant.command(line.name)}")


def _open() -> tuple[State, Settings]:
    from flows.adapters.settings import Settings
    from flows.store.database import State

    settings = Settings()
    return State(settings.state_url), settings


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot be written: {(error.strerror or str(error)).lower()}", file=str(path)) from None
    typer.echo(f"wrote {path}", err=True)


def _summary(one: ReviewSummary) -> str:
    unread = f"; not read: {', '.join(one.unread)}" if one.unread else ""
    return f"{one.id:<13} {one.state:<10} {one.open} of {one.grants} grants open, due {one.due_at:%Y-%m-%d}{unread}"


def _told(line: ReviewLine) -> list[str]:
    grant = line.grant
    more = f" and {len(grant.permissions) - 3} more" if len(grant.permissions) > 3 else ""
    lines = [
        f"{line.id}  {grant.source}  {line.name}: {', '.join(grant.permissions[:3])}{more} on {', '.join(grant.scopes[:3])} ({grant.via})"
    ]
    return lines + [f"    {one.kind}: {one.why}" for one in line.judged.findings] + [f"    {line.standing.because}"]
