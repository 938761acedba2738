"""`tradewind report`: what an auditor takes along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from deployments.cli.costs import Since, parse_period, write_whole

app = typer.Typer(no_args_is_help=True, help="Evidence for auditors.")


@app.callback()
def _group() -> None:
    """A group, although it has one command yet."""


@app.command()
def compliance(
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Write compliance.html, .csv and .json there.")] = None,
    since: Since = None,
    until: Annotated[str | None, typer.Option("--until", help="Only what is stored before this instant; left out: now.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Print what stands behind each control too.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if a control has a gap.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Map each control to its rules, tests and ledger rows of a period; controls without evidence are shown as gaps.

    Exit 5 if the ledger does not hold; with `--strict` 1 if a control has a gap. What people answer outside is told, and is no gap.
    """
    from datetime import UTC, datetime

    from flows.adapters.settings import Settings
    from flows.core.errors import IntegrityError, UserError
    from flows.core.governance.controls import report_page, report_sheet, report_text
    from flows.services.compliance import report
    from flows.store.database import State

    settings, (start, end) = Settings(), parse_period(since, until)
    made = report(State(settings.state_url), settings, since=start, until=end, at=datetime.now(UTC))
    told = json.dumps(made.to_json(), indent=1, ensure_ascii=False)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"`{out}` cannot be made: {(error.strerror or '').lower()}", field="--out") from error
        for name, text in (
            ("html", report_page(made)),
            ("txt", report_text(made, full=True) + "\n"),
            ("csv", report_sheet(made)),
            ("json", told + "\n"),
        ):
            write_whole(out / f"compliance.{name}", text)
    if as_json:
        typer.echo(told)
    else:
        typer.echo(report_text(made, full=full))
        if out is not None:
            typer.echo(f"written to {out}")
    if not made.chain_ok:
        raise typer.Exit(IntegrityError.exit_code)
    if strict and made.gaps:
        raise typer.Exit(1)
