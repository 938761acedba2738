"""The list of the ledger's kinds is complete, and every kind on it is one sentence."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.core.governance.ledger_kinds import KINDS

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ("flows", "deployments")
CHOSEN_BY_CALLER = {
    "kind": "flows/services/promoting.py",
    "LEDGER_KIND[wanted]": "flows/services/cordoning.py",
    "f'step-{ctx.step}'": "flows/services/recording.py",
}
"""Kinds that are no constant, and the one file where each is written; their values are looked at by tests of their own below."""


def appends() -> Iterator[tuple[Path, ast.expr]]:
    """Every append to the ledger in the code: the file, and the expression of its kind."""
    for path in sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("ledger.append", "ledger.append_if_changed"):
                yield path.relative_to(ROOT), node.args[1]


def value_of(path: Path, expression: ast.expr) -> str | None:
    """The kind that an expression stands for: a literal, or a constant of its module; None for anything else."""
    if isinstance(expression, ast.Constant):
        return str(expression.value)
    module = importlib.import_module(".".join(path.with_suffix("").parts))
    if isinstance(expression, ast.Name):
        return getattr(module, expression.id, None)
    if isinstance(expression, ast.Attribute) and isinstance(expression.value, ast.Name):
        return getattr(getattr(module, expression.value.id, None), expression.attr, None)
    return None


WRITTEN = list(appends())


@pytest.mark.parametrize(("path", "expression"), WRITTEN, ids=[f"{path}:{expression.lineno}" for path, expression in WRITTEN])
def test_every_kind_that_the_code_writes_is_listed(path: Path, expression: ast.expr) -> None:
    """A literal or constant is on the list; what is neither is known by name."""
    kind = value_of(path, expression)
    if kind is None:
        assert CHOSEN_BY_CALLER.get(ast.unparse(expression)) == path.as_posix()
    else:
        assert kind in KINDS


def test_the_search_finds_appends() -> None:
    """It would not pass over the code."""
    found = {value_of(path, expression) for path, expression in WRITTEN}
    assert {"decision", "transfer", "guard-refusal", "policy-version", "dispatch", "configuration", "signing-key"} <= found


def test_kinds_that_are_chosen_at_run_time_are_listed() -> None:
    """Ends of a move, states of a site, and a kind for each step."""
    from flows.services import cordoning, promoting, running

    chosen = {*promoting._ENDS, *cordoning.LEDGER_KIND.values(), *(f"step-{step}" for step in running.SERVICES)}
    assert chosen <= KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_a_lower_case_noun_with_its_sentence(kind: str) -> None:
    """No capital, no blank, no full stop, something said."""
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind)
    assert len(KINDS[kind]) > 15 and not KINDS[kind].endswith(".")
