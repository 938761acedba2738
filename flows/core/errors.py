"""What can go wrong, and how it is told.

::

    TradewindError                 exit 1
    ├── UserError                  exit 2   a file, value or name that a person can put right
    ├── Infeasible                 exit 3   no place may run the request
    ├── PolicyDenied               exit 4   policy forbids it; the reasons say which rule
    ├── GuardRefused               exit 4   a wall held: another site's path, a forged identity, an edited dispatch
    ├── IntegrityError             exit 5   bytes or rows that are not what was recorded
    └── Unavailable                exit 6   a server, port, disk or worker that is not there; trying again may help

One message style: lower case, the user's words in backticks, what, where, expected, fix.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: what, where, what was expected, how to fix it.

    ``file`` is a path as the user knows it, ``line`` counts from 1, ``field`` is a dotted path such as ``sites[2].country``.
    """

    what: str
    file: str | None = None
    line: int | None = None
    field: str | None = None
    expected: str | None = None
    fix: str | None = None

    def __str__(self) -> str:
        place = self.file or ""
        if self.line is not None:
            place += f":{self.line}"
        where = ": ".join(part for part in (place, f"`{self.field}`" if self.field else "") if part)
        text = f"{where}: {self.what}" if where else self.what
        if self.expected:
            text += f"; expected {self.expected}"
        if self.fix:
            text += f"\n  fix: {self.fix}"
        return text


class TradewindError(Exception):
    """The base of every error that Tradewind raises on purpose."""

    exit_code = 1

    def __init__(self, what: str = "", *, problems: Iterable[Problem] = (), **where: str | int | None) -> None:
        found = tuple(problems)
        self.problems: tuple[Problem, ...] = found or (Problem(what, **where),)  # type: ignore[arg-type]
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UserError(TradewindError):
    """A wrong file, value or name: carries every problem found in one pass."""

    exit_code = 2


class Infeasible(TradewindError):
    """No candidate meets every filter; the decision holds all reasons."""

    exit_code = 3


class PolicyDenied(TradewindError):
    """Policy does not allow it: anything but Allow without diagnostics."""

    exit_code = 4


class GuardRefused(TradewindError):
    """A wall held: what was asked is never allowed, whoever asks."""

    exit_code = 4


class IntegrityError(TradewindError):
    """Recorded and found content differ: a checksum, a row count, a ledger row."""

    exit_code = 5


class Unavailable(TradewindError):
    """Something outside did not answer."""

    exit_code = 6
