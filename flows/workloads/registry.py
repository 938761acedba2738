"""Workloads by name: each is a package `flows/workloads/<name>/` that exposes `WORKLOAD`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from pathlib import Path

from flows.core.errors import UserError
from flows.core.workload import Workload

FOLDER = Path(__file__).resolve().parent


def names() -> list[str]:
    """The names of all workloads, sorted."""
    return sorted(path.parent.name for path in FOLDER.glob("*/__init__.py"))


def load(name: str) -> Workload:
    """The workload of that name.

    Raises:
        UserError: there is none, or its package does not expose a `WORKLOAD` of that name.
    """
    known = names()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        raise UserError(
            f"there is no workload `{name}`",
            expected=f"one of {', '.join(f'`{each}`' for each in known)}",
            fix=f"did you mean `{close[0]}`?" if close else "`tradewind new NAME` writes a new one",
        )
    module = importlib.import_module(f"flows.workloads.{name}")
    workload = getattr(module, "WORKLOAD", None)
    where = f"flows/workloads/{name}/__init__.py"
    if workload is None:
        raise UserError(
            "it exposes no `WORKLOAD`", file=where, expected="`WORKLOAD = <YourClass>()`", fix="see flows/workloads/flight_delay"
        )
    if not isinstance(workload, Workload):
        lacking = sorted(
            each for each in (*Workload.__annotations__, "read", "feature_tables", "examples", "estimator") if not hasattr(workload, each)
        )
        raise UserError(
            f"`WORKLOAD` lacks {', '.join(f'`{each}`' for each in lacking)}", file=where, expected="all of flows.core.workload.Workload"
        )
    if workload.name != name:
        raise UserError(f"`WORKLOAD.name` is `{workload.name}`", file=where, expected=f"`{name}`, the name of its folder")
    return workload
