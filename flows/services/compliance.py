"""The evidence for each control: the rules and tests that are declared for it, and the rows that the ledger holds of a period."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flows.adapters.cedar_rules import RuleBook, load_rules
from flows.adapters.declared import load_yaml, validate
from flows.core.canonical import instant
from flows.core.errors import UserError
from flows.core.governance.controls import Controls, Evidence, Report, answer
from flows.core.governance.ledger_kinds import KINDS
from flows.services import checkpointing
from flows.store import evidence

if TYPE_CHECKING:
    from flows.adapters.settings import Settings
    from flows.store.database import State

CONTROLS_FILE = "controls.yaml"
NEWEST = 3


def load_controls(deployments: Path) -> tuple[Controls, RuleBook]:
    """The declared controls, and the rules that they name.

    Raises:
        UserError: the file is missing or malformed, an id comes twice, it names a rule or a kind that is not there, or leaves one out.
    """
    declared = load_yaml(deployments / CONTROLS_FILE)
    found, book = validate(Controls, declared), load_rules(deployments / "policies")
    problems, seen = [], set()
    for number, control in enumerate(found.controls):
        if control.id in seen:
            problems.append(
                declared.problem(("controls", number, "id"), f"`{control.id}` is there twice", fix="give each an id of its own")
            )
        seen.add(control.id)
    for field, known, what in (("rules", set(book.rules), "rule"), ("ledger", set(KINDS), "ledger kind")):
        named = [
            (("controls", number, field, place), name)
            for number, control in enumerate(found.controls)
            for place, name in enumerate(getattr(control, field))
        ]
        left = [(("unmapped", field, name), name) for name in getattr(found.unmapped, field)]
        problems += [
            declared.problem(path, f"no {what} `{name}`", fix="correct the name") for path, name in named + left if name not in known
        ]
        mapped, listed = {name for _, name in named}, {name for _, name in left}
        problems += [
            declared.problem(path, f"{what} `{name}` stands for a control and is listed as unmapped", fix="take it off one of the two")
            for path, name in left
            if name in mapped
        ]
        missing = sorted(known - mapped - listed)
        if missing:
            problems.append(
                declared.problem(
                    ("unmapped",), f"{what} `{'`, `'.join(missing)}` stands for no control", fix="map it, or list it here with the reason"
                )
            )
    if problems:
        raise UserError(problems=problems)
    return found, book


def report(state: State, settings: Settings, *, since: datetime | None, until: datetime | None, at: datetime) -> Report:
    """Every declared control with its evidence of the period [since, until), gaps included.

    Raises:
        UserError: the declaration is wrong, or the period ends before it begins.
    """
    until = until or at
    if since is not None and since >= until:
        raise UserError("the period ends before it begins", field="--since", expected=f"an instant before {instant(until)}")
    controls, book = load_controls(settings.deployments)
    day = until.date()
    overdue = {name: _due(rule.annotations["expires"]) for name, rule in book.rules.items() if rule.overdue(day)}
    chain = checkpointing.verify(state, settings)
    with state.reading() as tx:
        found = {
            kind: Evidence(
                rows,
                tuple(
                    (row.seq, instant(row.at), row.principal, row.hash)
                    for row in evidence.newest(tx, kind, since=since, until=until, limit=NEWEST)
                ),
            )
            for kind, rows in evidence.counts(tx, since=since, until=until).items()
        }
    told = chain.fault or f"{chain.rows} rows hold; {chain.window}"
    messages = {name: rule.annotations.get("message", "") for name, rule in book.rules.items()}
    answers = tuple(answer(control, found, overdue, messages) for control in controls.controls)
    return Report(at, since, until, told, chain.ok, answers, controls.unmapped)


def _due(text: str) -> date:
    return date.fromisoformat(text)
