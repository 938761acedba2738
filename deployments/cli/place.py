"""`tradewind place` and `tradewind explain`: where a request may run, where it should, and why nowhere else."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.core.errors import Problem, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from flows.adapters.declared import Declared
    from flows.adapters.policy import CedarPolicy
    from flows.core.governance.labels import Catalog
    from flows.core.placement import Decision, Request
    from flows.core.placement.joint import JointDecision
    from flows.core.placement.whatif import Excepted

NOTHING_FEASIBLE = 3
PAGE_WIDTH = 160
"""Columns of a table that goes to a file or a pipe."""


def place(
    request: Annotated[Path, typer.Argument(metavar="REQUEST.yaml", help="What wants a place, or `-`; each YAML document is one request.")],
    estate: Annotated[Path | None, typer.Option(help="Folder of the estate; left out: the declared one.")] = None,
    policies: Annotated[Path | None, typer.Option(help="Folder of Cedar rules; left out: the declared one.")] = None,
    catalog: Annotated[Path | None, typer.Option(help="Catalog file or folder; left out: the declared one, taken as current.")] = None,
    conditions: Annotated[Path | None, typer.Option(help="The moment it is decided in; left out: idle and unlimited.")] = None,
    at: Annotated[str | None, typer.Option(metavar="ISO8601", help="The instant of the decision, with an offset; left out: now.")] = None,
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if", metavar="PATH=VALUE", help="Decide as if: `budget_usd=40`, or a change that a decision printed; repeatable."
        ),
    ] = None,
    joint: Annotated[
        bool, typer.Option("--joint", help="Place the documents together: one that reads what another writes gets it from there.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of RFC 8785 JSON per decision.")] = False,
) -> None:
    """Decide where each request may run, where it should run and when. Needs no server. Exit 0 placed, 3 nothing feasible, 2 bad input."""
    from deployments.cli import catalog_bridge, place_joint
    from flows.adapters.catalog import load_catalog
    from flows.adapters.estate import load_estate
    from flows.adapters.policy import CedarPolicy
    from flows.adapters.requests import located, read_conditions, read_requests, unknown_name
    from flows.adapters.settings import Settings
    from flows.core.governance.imports import imports_told
    from flows.core.placement import Conditions, whatif
    from flows.core.placement import place as decide
    from flows.core.placement.names import unknown_in_request

    declared = Settings().deployments
    moment = instant_of(at)
    requests = read_requests(Path("/dev/stdin") if str(request) == "-" else request)
    infrastructure = load_estate(estate or declared / "estate")
    rules = CedarPolicy.load(policies or declared / "policies", infrastructure.blocs)
    labels = load_catalog(catalog) if catalog else catalog_bridge.seen(load_catalog(declared / "catalog", as_of=moment), Settings())
    frozen, unknown = read_conditions(conditions, infrastructure) if conditions else (Conditions(), [])
    if wanted := [change for text in what_if or () for change in whatif.changes(text)]:
        first = whatif.Given(requests[0][0], infrastructure, labels, frozen)
        unknown += whatif.unknown_names(first, whatif.apply(wanted, first))
    if unknown:
        raise UserError(problems=unknown)
    for one, document in requests:
        if doubt := unknown_workload(one, document, labels, declared / "workloads"):
            typer.echo(f"warning: {doubt}", err=True)
        for name in unknown_in_request(one, infrastructure):
            typer.echo(f"warning: {unknown_name(name, document)}", err=True)
    if joint:
        if what_if:
            raise UserError("`--what-if` changes one request, not steps that are placed together", field="--what-if", fix="leave out one")
        known = frozen
        for one, _ in requests:
            known = with_default_runtime(known, one, declared / "workloads")
        together = place_joint.decide(requests, infrastructure, rules, labels, known, moment)
        read = {use.name for one, _ in requests for use in one.datasets} | {
            name for one, _ in requests for name in labels.datasets_of(one.workload, one.step)
        }
        imported = imports_told(labels, read, moment, infrastructure.blocs)
        if as_json:
            _print_json(together, imported)
        else:
            place_joint.show(together.to_json(), screen_of(None))
            show_imports(imported)
        if together.usd_total is None:
            raise typer.Exit(NOTHING_FEASIBLE)
        return
    decisions = []
    told = []
    for one, document in requests:
        given = whatif.apply(wanted, whatif.Given(one, infrastructure, labels, frozen))
        known = with_default_runtime(given.conditions, given.request, declared / "workloads")
        excepted = with_exceptions(rules, given.exceptions)
        try:
            decisions.append(decide(given.request, given.estate, excepted, given.catalog, known, moment))
        except UserError as error:
            raise located(error, document) from None
        told.append(imports_told(given.catalog, decisions[-1].datasets, moment, given.estate.blocs))
    if as_json:
        for decision, imported in zip(decisions, told, strict=True):
            _print_json(decision, imported)
    else:
        for change in wanted:
            typer.echo(f"what if {change}")
        for decision, imported in zip(decisions, told, strict=True):
            show(decision.to_json())
            show_imports(imported)
    if any(decision.chosen is None for decision in decisions):
        raise typer.Exit(NOTHING_FEASIBLE)


def explain(
    decision: Annotated[
        str, typer.Argument(metavar="DECISION", help="The id of a stored decision, or of a lifecycle's joint plan, or its beginning.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="The stored decision as one line of JSON.")] = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write it as a page that needs nothing else.")] = None,
) -> None:
    """Show a stored decision: chosen, runners-up, and every rejection with all its reasons; or a plan, beside step by step."""
    from deployments.cli import place_joint
    from flows.adapters.settings import Settings
    from flows.core.canonical import canonical_json
    from flows.core.placement.joint_explain import joint_page
    from flows.services.signed import signer_of
    from flows.store import decisions, plans
    from flows.store.database import State

    if not decision.strip():
        raise UserError("no decision is named", field="DECISION", expected="the `decision_id` of a run's decision, or its beginning")
    settings = Settings()
    with State(settings.state_url).reading() as tx:
        planned = plans.find(tx, decision, limit=2)
        found = [*decisions.find(tx, decision, limit=2), *planned]
        if len(found) != 1:
            what = f"no decision `{decision}` is stored" if not found else f"several decisions begin with `{decision}`"
            raise UserError(what, expected="the `decision_id` of a run's decision", fix="copy it from the run's page")
        stored = (plans.get(tx, found[0]) if planned else decisions.get(tx, found[0])) or {}
        signer = None if planned else signer_of(tx, settings, stored)
    if html is not None:
        from deployments.cli.costs import write_whole
        from flows.core.placement.page import decision_page

        write_whole(html, joint_page(stored) if planned else decision_page(stored), field="--html")
    if as_json:
        typer.echo(canonical_json(stored).decode())
    elif html is not None:
        typer.echo(f"written: {html}")
    elif planned:
        place_joint.show(stored, screen_of(None))
    else:
        show(stored)
        typer.echo(f"signed by {signer}" if signer else "not signed")


def _print_json(decision: Decision | JointDecision, imported: Sequence[dict[str, Any]]) -> None:
    """The decision as it is; only where another catalog spoke of its datasets, with that beside it as `imported`."""
    from flows.core.canonical import canonical_json

    typer.echo((canonical_json({**decision.to_json(), "imported": list(imported)}) if imported else decision.to_bytes()).decode())


def show_imports(imported: Sequence[dict[str, Any]]) -> None:
    """Print what other catalogs said of the datasets, when, and whose label holds."""
    from rich.text import Text

    from flows.core.governance.imports import told_in_words

    if not imported:
        return
    screen = screen_of(None)
    screen.print(Text("from other catalogs (the stricter label holds)"))
    for row, line in zip(imported, told_in_words(imported), strict=True):
        screen.print(Text(f"  {line}", style="yellow" if row["stale"] or row["clash"] else ""))


def instant_of(text: str | None, field: str = "--at") -> datetime:
    """The instant that the user wrote, in UTC; now, in whole seconds, if nothing was written.

    Raises:
        UserError: not ISO 8601, or without an offset.
    """
    if text is None:
        return datetime.now(UTC).replace(microsecond=0)
    from pydantic import TypeAdapter, ValidationError

    from flows.core.fields import Instant

    try:
        moment: datetime = TypeAdapter(Instant).validate_python(text)
    except ValidationError as error:
        what = re.split(" such as |; write ", error.errors()[0]["msg"].removeprefix("Value error, "))[0]
        raise UserError(what, field=field, expected="an instant such as `2026-01-05T08:00:00Z`") from None
    return moment


def with_default_runtime(conditions: Any, request: Any, workloads: Path) -> Any:
    """The conditions with the workload's own runtime, if neither the request nor the conditions have one and it is declared."""
    from flows.adapters.workload_declarations import load_declaration
    from flows.core.placement.request import RuntimeEstimate

    wanted = (request.workload, request.step)
    known = any((row.workload, row.step) == wanted for row in conditions.runtimes)
    if request.runtime is not None or known or not (workloads / f"{request.workload}.yaml").exists():
        return conditions
    runtime = load_declaration(workloads, request.workload).step(request.step).runtime
    if runtime is None:
        return conditions
    default = RuntimeEstimate(workload=request.workload, step=request.step, p50_hours=runtime.p50_hours, p90_hours=runtime.p90_hours)
    return conditions.model_copy(update={"runtimes": (*conditions.runtimes, default)})


def unknown_workload(request: Request, document: Declared, labels: Catalog, workloads: Path) -> Problem | None:
    """What is wrong with a request that no label holds back because its workload is declared nowhere and it names no dataset."""
    known = sorted({*labels.workloads, *(path.stem for path in workloads.glob("*.yaml"))})
    if request.datasets or request.workload in known:
        return None
    what = f"neither the catalog nor a declaration knows `{request.workload}`, and no dataset is named: placed as if it read nothing"
    expected = f"one of {', '.join(f'`{name}`' for name in known)}" if known else "a workload; none is declared"
    return document.problem(("workload",), what, expected=expected, fix="check the spelling, or name its `datasets`")


def with_exceptions(rules: CedarPolicy, exceptions: Sequence[Excepted]) -> CedarPolicy:
    """The rules as if their owners had granted these exceptions.

    Raises:
        UserError: a rule that is not there or allows none, or another owner than its own.
    """
    from pydantic import ValidationError

    from flows.adapters.policy_data import Granted
    from flows.core.placement.whatif import OPTION

    if not exceptions:
        return rules
    granted = []
    for one in exceptions:
        try:
            granted.append(
                Granted(rule=one.rule, workload=one.workload, pools=one.pools, owner=one.owner, reason="what if", until=one.until)
            )
        except ValidationError as error:
            wrong = error.errors()[0]
            raise UserError(f"`{one.rule}` cannot be excepted: {wrong['loc'][0]}: {wrong['msg'].lower()}", field=OPTION) from None
    try:
        return rules.excepting(granted)
    except UserError as error:  # its places are of a file that nobody has written
        raise UserError(problems=[Problem(one.what, field=OPTION, expected=one.expected, fix=one.fix) for one in error.problems]) from None


def show(decision: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a decision as tables."""
    from rich.text import Text

    from flows.core.placement import explain as told

    screen = screen_of(console)
    screen.print(Text(decision["summary"], style="bold"))
    screen.print(Text(f"decision {decision['decision_id']} at {decision['at']}", style="dim"))
    if rows := told.terminal_rows(decision):
        print_table(screen, None, told.TERMINAL_COLUMNS, rows)
    if rows := told.rejection_rows(decision):
        print_table(screen, "not possible", told.REJECTION_COLUMNS, rows)
    if decision["chosen"] is not None and not any(line.startswith("runtime on `") for line in decision["warnings"]):
        screen.print(Text("runtime: as declared", style="dim"))
    for warning in decision["warnings"]:
        screen.print(Text(f"warning: {warning}", style="yellow"))


def screen_of(console: Console | None) -> Console:
    """The console, else a terminal; a file or a pipe gets whole tables."""
    from rich.console import Console as Terminal

    screen = console or Terminal()
    if console is None and not screen.is_terminal and "COLUMNS" not in os.environ:
        screen = Terminal(width=PAGE_WIDTH)
    return screen


def print_table(screen: Console, title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print texts as a table."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("", "pool", "start", "done by (p90)", "total USD"))
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    screen.print(table)
