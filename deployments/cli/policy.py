"""`tradewind policy`: the rules against their table of cases."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.core.errors import UserError

if TYPE_CHECKING:
    from flows.adapters.policy import CedarPolicy
    from flows.adapters.policy_cases import Outcome, Report
    from flows.adapters.policy_proof import Proof
    from flows.core.errors import Problem

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
    """Ask every case of cases.yaml, then again without each rule and each attribute; exit 1 if anything comes out otherwise.

    Every rule needs an allow and a deny case, and a case that fails without it. Overdue reviews, ended exceptions and rules that decide
    no case are warnings.
    """
    from flows.adapters.estate import load_blocs
    from flows.adapters.policy import CedarPolicy
    from flows.adapters.policy_cases import read_cases, run_cases
    from flows.adapters.policy_proof import prove
    from flows.adapters.settings import Settings

    declared = Settings().deployments
    folder = policies or declared / "policies"
    if estate is not None and not estate.is_dir():
        raise UserError("no such folder", file=str(estate), expected="a folder with `blocs.yaml`")
    rules = CedarPolicy.load(folder, load_blocs(estate or declared / "estate"))
    table, document = read_cases(folder)
    moment = (at or datetime.now(UTC)).replace(tzinfo=UTC)
    report = run_cases(rules, table, document, moment)
    proof = prove(rules, table, report, moment)
    found = Found(
        report, proof, (*report.problems, *proof.problems), (*report.warnings, *proof.warnings, *_undeclared(rules, estate, declared))
    )
    typer.echo(json.dumps(_json(found), indent=1) if as_json else _text(found))
    if not found.passed:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Found:
    """All that the command has to tell."""

    report: Report
    proof: Proof
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]

    @property
    def passed(self) -> bool:
        """Whether every case came out as expected and nothing else is wrong."""
        return not self.problems and self.report.passed


def _undeclared(rules: CedarPolicy, estate: Path | None, declared: Path) -> list[Problem]:
    """Names in exceptions that neither the estate, the catalog nor a workload has."""
    if not rules.data.exceptions:
        return []
    from flows.adapters.catalog import load_catalog
    from flows.adapters.estate import load_estate

    pools = load_estate(estate or declared / "estate").pool_by_name
    datasets = [entry.name for entry in load_catalog(declared / "catalog").entries]
    return rules.data.unknown(pools, datasets, [path.stem for path in (declared / "workloads").glob("*.yaml")])


def _said(outcome: Outcome) -> str:
    ruling = outcome.ruling
    decided = ", ".join(ruling.errors or ruling.rules) or "no permit"
    return f"{'allow' if ruling.allowed else 'deny'} ({decided})"


def _text(found: Found) -> str:
    outcomes, rows = found.report.outcomes, found.proof.rules
    width = max((len(name) for name in (*(outcome.case.rule for outcome in outcomes), *(row.rule for row in rows))), default=0)
    known, lines = {row.rule for row in rows}, []
    for outcome in outcomes:
        mark = "ok  " if outcome.passed else "FAIL"
        line = f"{mark} {outcome.case.rule:<{width}}  {outcome.case.expect:<5}  {outcome.case.name}"
        if not outcome.passed:
            expected = f"expected {outcome.case.expect}, got {_said(outcome)}"
            line += f"\n       line {outcome.line}: {expected if outcome.case.rule in known else f'no rule `{outcome.case.rule}`'}"
        lines.append(line)
    lines += ["", f"     {'coverage':<{width}}  allow  deny  decides  fail without it"]
    lines += [f"     {row.rule:<{width}}  {row.allow:>5}  {row.deny:>4}  {row.decided:>7}  {row.noticed:>15}" for row in rows]
    lost = found.proof.attributes
    refused, asked = sum(row.refused for row in lost), sum(row.asked for row in lost)
    lines += ["", f"{len(lost)} attributes taken out of every allowed case, one at a time: {refused} of {asked} questions refused"]
    lines += [f"warning: {problem}" for problem in found.warnings]
    lines += [str(problem) for problem in found.problems]
    failed = sum(not outcome.passed for outcome in outcomes)
    rules = len({outcome.case.rule for outcome in outcomes})
    told = f"{failed} failed, {len(found.problems)} other problems, {len(found.warnings)} warnings"
    return "\n".join([*lines, f"{len(outcomes)} cases of {rules} rules: {told}"])


def _json(found: Found) -> dict[str, object]:
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
        for outcome in found.report.outcomes
    ]
    return {
        "passed": found.passed,
        "cases": outcomes,
        "rules": [asdict(row) for row in found.proof.rules],
        "attributes": [asdict(row) for row in found.proof.attributes],
        "warnings": [str(problem) for problem in found.warnings],
        "problems": [str(problem) for problem in found.problems],
    }
