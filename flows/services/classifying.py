"""What ingest does to columns before anything is written: drop, pseudonymise, and stop where one holds more than was declared."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flows.adapters.workload_declarations import ColumnSteps
from flows.core.errors import Problem, UserError
from flows.core.governance import columns
from flows.core.governance.labels import Classification
from flows.services.declarations import Declarations
from flows.store import ledger

if TYPE_CHECKING:
    import pandas as pd

    from flows.adapters.settings import Settings
    from flows.core.workload import Table
    from flows.services.context import StepContext


@dataclass(frozen=True)
class ColumnRules:
    """What is declared of the columns of one dataset: what ingest does to them, their classes, and the class of all others."""

    dataset: str
    otherwise: Classification
    steps: ColumnSteps = field(default_factory=ColumnSteps)
    declared: Mapping[str, Classification] = field(default_factory=dict)
    key: bytes | None = field(default=None, repr=False)


def rules_of(ctx: StepContext) -> ColumnRules:
    """The rules of the workload's raw data: steps from its declaration, classes from the catalog, the key from the environment.

    Raises:
        UserError: columns are to be pseudonymised and there is no key, or a table that the workload does not have is named.
    """
    declarations = Declarations.load(ctx.settings)
    dataset = ctx.dataset("raw")
    declared = declarations.workloads.get(ctx.workload.name)
    steps = ColumnSteps() if declared is None else declared.step("ingest").columns
    entry = declarations.catalog.entry(dataset)
    classes = {} if entry is None else entry.columns
    otherwise = declarations.label([dataset], at=datetime.now(UTC)).classification
    _known_tables([*steps.drop, *steps.pseudonymise, *classes], ctx.workload.tables, ctx.workload.name)
    key = columns.checked_key(dataset, os.environ.get(columns.key_variable(dataset))) if steps.pseudonymise else None
    return ColumnRules(dataset, otherwise, steps, classes, key)


def key_elsewhere(workload: str, settings: Settings) -> tuple[str, str] | None:
    """(environment variable, secret) of the pseudonym key that the workload's ingest needs and the environment lacks; else None."""
    declared = Declarations.load(settings).workloads.get(workload)
    if declared is None or not declared.step("ingest").columns.pseudonymise:
        return None
    variable = columns.key_variable(f"{workload}-raw")
    return None if variable in os.environ else (variable, columns.key_block(f"{workload}-raw"))


def transformed(rules: ColumnRules, table: Table, frame: pd.DataFrame) -> pd.DataFrame:
    """The source's frame without dropped columns and with pseudonyms for the ones that ask for them, in the order it came.

    Raises:
        UserError: the source has no such column, or the table still declares a dropped one or a pseudonym that is no text.
    """
    from flows.adapters.personal_data import pseudonymised

    dropped, replaced = _columns_of(rules.steps.drop, table), _columns_of(rules.steps.pseudonymise, table)
    problems = [
        Problem(f"`{name}` is declared under `steps.ingest.columns`, and the source has no such column", field=f"{table.name}.{name}")
        for name in sorted({*dropped, *replaced} - {str(column) for column in frame.columns})
    ]
    problems += [
        Problem("the column is dropped and declared", field=f"{table.name}.{name}", fix="take it out of the workload's table, or keep it")
        for name in dropped
        if name in table.columns
    ]
    problems += [
        Problem(f"pseudonyms are text, the table declares `{table.columns[name]}`", field=f"{table.name}.{name}", expected="`string`")
        for name in replaced
        if table.columns.get(name, "string") != "string"
    ]
    if problems:
        raise UserError(problems=problems)
    left = frame.drop(columns=dropped)
    for name in replaced:
        assert rules.key is not None, "rules that pseudonymise hold a key"
        left[name] = pseudonymised(left[name], rules.key)
    return left


def judge(ctx: StepContext, rules: ColumnRules, tables: Iterable[tuple[Table, pd.DataFrame]]) -> list[columns.Finding]:
    """What the detector finds in the rows; a column that holds more than declared stops, recorded without any value.

    Pseudonyms are not looked at: their class is the declared one.

    Raises:
        UserError: every column that needs a higher class than declared.
    """
    from flows.adapters.personal_data import evidence

    findings: list[columns.Finding] = []
    for table, frame in tables:
        looked_at = frame.drop(columns=[name for name in _columns_of(rules.steps.pseudonymise, table) if name in frame.columns])
        for each in evidence(table.name, looked_at):
            findings += columns.classify(each)
    surplus = columns.too_sensitive(findings, rules.declared, rules.otherwise)
    if not surplus:
        return findings
    body = {
        "passed": False,
        "workload": ctx.workload.name,
        "dataset": rules.dataset,
        "intent": ctx.intent_id,
        "decision": ctx.decision_id,
        "site": ctx.site,
        "columns": [{**finding.to_json(), "declared": declared.value} for finding, declared in surplus],
    }
    with ctx.state.transaction() as tx:
        ledger.append(tx, "classification", body, principal="worker", at=datetime.now(UTC))
    raise UserError(problems=columns.as_problems(surplus, rules.dataset))


def facts_of(rules: ColumnRules, tables: Iterable[Table], findings: Iterable[columns.Finding]) -> dict[str, Any]:
    """What the catalog shows of a landed version's columns: names and types, what was done to them, what was found in them."""
    return {
        "schema": {table.name: dict(table.columns) for table in tables},
        "dropped": sorted(rules.steps.drop),
        "pseudonymised": sorted(rules.steps.pseudonymise),
        "personal_data": [finding.to_json() for finding in findings],
    }


def _columns_of(paths: Iterable[str], table: Table) -> list[str]:
    return sorted(path.split(".", 1)[1] for path in paths if path.split(".", 1)[0] == table.name)


def _known_tables(paths: Iterable[str], tables: Iterable[Table], workload: str) -> None:
    known = {table.name for table in tables}
    if unknown := sorted(path for path in paths if path.split(".", 1)[0] not in known):
        told = ", ".join(f"`{name}`" for name in sorted(known))
        raise UserError(f"`{workload}` has no table of the column `{unknown[0]}`", expected=f"`table.column` of one of {told}")
