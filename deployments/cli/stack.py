"""`tradewind up`, `down`, `status`, `doctor`: the embedded stack."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deployments.local.doctor import Finding
    from deployments.local.status import StackStatus

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Ports = Annotated[
    list[str] | None,
    typer.Option(
        "--port", metavar="NAME=NUMBER", help="Fix a port: `prefect=4200` or `mlflow=5000`; a number alone is Prefect's; 0 is any free one."
    ),
]


def up(port: Ports = None, as_json: AsJson = False) -> None:
    """Start the embedded stack: Prefect's server, MLflow's server, a guarded worker for every pool. What runs already stays."""
    from deployments.local import supervisor
    from flows.adapters.settings import Settings

    stack = supervisor.up(Settings(), _tell, fixed=_ports(port or ()))
    if as_json:
        body = {"prefect": stack.prefect_url, "mlflow": stack.mlflow_url, "home": str(stack.settings.home), "started": list(stack.started)}
        typer.echo(json.dumps(body, indent=1))
        return
    if not stack.started:
        typer.echo("the stack runs already")
    typer.echo(f"Prefect  {stack.prefect_url}\nMLflow   {stack.mlflow_url}\nstate    {stack.settings.home}")


def down() -> None:
    """Stop the embedded stack and everything that it started, also after a crash."""
    from deployments.local import supervisor
    from flows.adapters.settings import Settings

    stopped = supervisor.down(Settings(), _tell)
    typer.echo(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")


def status(as_json: AsJson = False) -> None:
    """Show the stack's services and pools; exit 1 unless all are ready."""
    from deployments.local.security import lost
    from deployments.local.status import status as look
    from flows.adapters.settings import Settings

    found, not_eligible = look(Settings()), lost(Settings())
    if as_json:
        typer.echo(json.dumps({**found.to_json(), "not_eligible": not_eligible}, indent=1))
    else:
        _print_status(found)
        for site, checks in not_eligible.items():
            typer.echo(f"not eligible: {site}: {', '.join(f'{check} {why}' for check, why in checks.items())}")
    if not found.ready:
        raise typer.Exit(1)


def doctor(
    security: Annotated[bool, typer.Option("--security", help="Prove each site's encryption, access and secrets instead.")] = False,
    record: Annotated[bool, typer.Option("--record", help="With --security: let what was found count from now on.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look for whatever could keep the stack from working, and say how to put it right; exit 1 if there is anything."""
    from flows.adapters.settings import Settings
    from flows.core.errors import UserError

    if security:
        _doctor_security(record, as_json)
        return
    if record:
        raise UserError("`--record` goes with `--security` only", field="--record", fix="add `--security`")
    from deployments.local.doctor import examine

    findings = examine(Settings())
    if as_json:
        typer.echo(json.dumps([finding.to_json() for finding in findings], indent=1))
    else:
        _print_findings(findings)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def _doctor_security(record: bool, as_json: bool) -> None:
    from deployments.local import security
    from flows.adapters.settings import Settings

    settings = Settings()
    owed, findings = security.demanded(settings), security.examine(settings)
    recorded = security.record(settings, findings) if record else None
    if as_json:
        rows = [{**one.to_json(), "demanded": one.check in owed.get(one.site, {})} for one in findings]
        typer.echo(json.dumps({"findings": rows, "recorded": recorded}, indent=1, ensure_ascii=False))
    else:
        typer.echo("\n".join(security.told(findings, owed)))
    if security.missing(findings, owed):
        raise typer.Exit(1)


def _ports(texts: Sequence[str]) -> dict[str, int]:
    """Read `NAME=NUMBER` options.

    Raises:
        UserError: one has another form.
    """
    from flows.core.errors import UserError

    fixed: dict[str, int] = {}
    for text in texts:
        name, separator, number = text.rpartition("=")
        if not number.isdecimal():
            raise UserError(f"`{text}` is no port", field="--port", expected="`NAME=NUMBER`, such as `prefect=4200`")
        fixed[name if separator else "prefect"] = int(number)
    return fixed


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _print_status(found: StackStatus) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    services = Table("service", "state", "pid", "port", "memory", "up for", "address", box=None, header_style="bold")
    for one in found.services:
        services.add_row(
            one.name,
            one.condition,
            str(one.pid or ""),
            str(one.port or ""),
            f"{one.memory_mb:.0f} MB" if one.memory_mb is not None else "",
            _span(one.uptime_seconds),
            one.url or "",
        )
    console.print(services)
    if not found.pools:
        return
    pools = Table("pool", "state", "worker", "last heartbeat", box=None, header_style="bold")
    for pool in found.pools:
        worker = {True: "online", False: "offline", None: "none"}[pool.worker_online]
        pools.add_row(pool.name, pool.status.lower().replace("_", " "), worker, (pool.last_heartbeat or "")[:19])
    console.print()
    console.print(pools)
    console.print(f"\n{found.memory_mb:.0f} MB in all; state in {found.home}", highlight=False)


def _print_findings(findings: Sequence[Finding]) -> None:
    for finding in findings:
        typer.echo(f"{finding.word:7}  {finding.check}: {finding.found}")
        if finding.fix:
            typer.echo(f"         fix: {finding.fix}")
    problems = sum(not finding.ok for finding in findings)
    unseen = sum(not finding.known for finding in findings)
    well = f"no problem, but {unseen} could not be looked at" if unseen else "all is well"
    typer.echo(f"{problems} problem{'s' if problems != 1 else ''}" if problems else well)


def _span(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{rest} s"
