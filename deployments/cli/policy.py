"""`tradewind policy`: the rules against their table of cases."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flows.adapters.policy_cases import Outcome, Report

app = typer.Typer(help="The rules that say where data may go and who may ask.", no_args_is_help=True)


@app.callback()
def policy() -> None:
    """The rules that say where data may go and who may ask."""


@app.command("test")
def check(
    policies: Annotated[Path | None, typer.Option(help="Folder of the rules; left out: deployments/policies.")] = None,
    estate: Annotated[Path | None, typer.Option(help="Folder whose blocs.yaml names the blocs; left out: deployments/estate.")] = None,
    at: Annotated[datetime | None, typer.Option(help="Day of the review dates, UTC; left out: today.", formats=["%Y-%m-%d"])] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcomes as JSON.")] = False,
) -> None:
    """Ask every case of cases.yaml; exit 1 if one comes out otherwise, or if a rule has no allow or no deny case."""
    from flows.adapters.estate import load_blocs
    from flows.adapters.policy import CedarPolicy
    from flows.adapters.policy_cases import read_cases, run_cases
    from flows.adapters.settings import Settings

    declared = Settings().deployments
    folder = policies or declared / "policies"
    rules = CedarPolicy.load(folder, load_blocs(estate or declared / "estate"))
    table, document = read_cases(folder)
    report = run_cases(rules, table, document, (at or datetime.now(UTC)).replace(tzinfo=UTC))
    typer.echo(json.dumps(_json(report), indent=1) if as_json else _text(report))
    if not report.passed:
        raise typer.Exit(1)


def _said(outcome: Outcome) -> str:
    ruling = outcome.ruling
    decided = ", ".join(ruling.errors or ruling.rules) or "no permit"
    return f"{'allow' if ruling.allowed else 'deny'} ({decided})"


def _text(report: Report) -> str:
    width = max((len(outcome.case.rule) for outcome in report.outcomes), default=0)
    lines = []
    for outcome in report.outcomes:
        mark = "ok  " if outcome.passed else "FAIL"
        line = f"{mark} {outcome.case.rule:<{width}}  {outcome.case.expect:<5}  {outcome.case.name}"
        if not outcome.passed:
            line += f"\n       line {outcome.line}: expected {outcome.case.expect}, got {_said(outcome)}"
        lines.append(line)
    lines += [str(problem) for problem in report.problems]
    failed = sum(not outcome.passed for outcome in report.outcomes)
    rules = len({outcome.case.rule for outcome in report.outcomes})
    lines.append(f"{len(report.outcomes)} cases of {rules} rules: {failed} failed, {len(report.problems)} other problems")
    return "\n".join(lines)


def _json(report: Report) -> dict[str, object]:
    outcomes = [
        {
            "rule": outcome.case.rule,
            "name": outcome.case.name,
            "line": outcome.line,
            "expect": outcome.case.expect,
            "got": "allow" if outcome.ruling.allowed else "deny",
            "rules": list(outcome.ruling.rules),
            "errors": list(outcome.ruling.errors),
            "passed": outcome.passed,
        }
        for outcome in report.outcomes
    ]
    return {"passed": report.passed, "cases": outcomes, "problems": [str(problem) for problem in report.problems]}
