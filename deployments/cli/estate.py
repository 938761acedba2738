"""`tradewind estate`: the declared infrastructure."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flows.adapters.estate_checks import Finding

app = typer.Typer(help="The declared infrastructure: sites, pools, offers, prices.", no_args_is_help=True)


@app.callback()
def estate() -> None:
    """The declared infrastructure: sites, pools, offers, prices."""


@app.command("check")
def check(
    folder: Annotated[Path | None, typer.Option("--estate", help="Folder of the estate; left out: deployments/estate.")] = None,
    policies: Annotated[Path | None, typer.Option(help="Folder of the rules; left out: deployments/policies.")] = None,
    catalog: Annotated[Path | None, typer.Option(help="File or folder of the catalog; left out: deployments/catalog.")] = None,
    workloads: Annotated[Path | None, typer.Option(help="Folder of the workloads; left out: deployments/workloads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Find every inconsistency of estate, catalog, workloads and policy in one pass; exit 2 if there is an error."""
    from flows.adapters.declaration_checks import Folders
    from flows.adapters.declaration_checks import check as check_now
    from flows.adapters.settings import Settings

    declared = Settings().deployments
    folders = Folders(
        estate=folder or declared / "estate",
        policies=policies or declared / "policies",
        catalog=catalog or declared / "catalog",
        workloads=workloads or declared / "workloads",
    )
    findings = check_now(folders, datetime.now(UTC))
    typer.echo(json.dumps(_json(findings), indent=1) if as_json else _text(findings))
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(2)


def _counts(findings: Sequence[Finding]) -> tuple[int, int]:
    errors = sum(finding.severity == "error" for finding in findings)
    return errors, len(findings) - errors


def _text(findings: Sequence[Finding]) -> str:
    errors, warnings = _counts(findings)
    lines = [f"{finding.severity}: {finding.problem}" for finding in sorted(findings, key=lambda finding: finding.severity)]
    return "\n".join([*lines, f"{errors} errors, {warnings} warnings" if findings else "everything fits: 0 errors, 0 warnings"])


def _json(findings: Sequence[Finding]) -> dict[str, object]:
    errors, warnings = _counts(findings)
    return {
        "errors": errors,
        "warnings": warnings,
        "findings": [{"severity": finding.severity, **asdict(finding.problem)} for finding in findings],
    }
