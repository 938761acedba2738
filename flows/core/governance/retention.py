"""Which versions are past their retention, and which of them must stay all the same. Pure: no clock, no disk, no database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flows.core.canonical import instant


@dataclass(frozen=True, slots=True)
class Resting:
    """One version at one site: its size, when it was recorded there."""

    dataset: str
    version: str
    site: str
    bytes: int
    recorded_at: datetime

    @property
    def name(self) -> str:
        """`dataset@version`."""
        return f"{self.dataset}@{self.version}"


@dataclass(frozen=True, slots=True)
class Expired:
    """A version past its retention, since when, and why it is kept all the same; None: it goes."""

    resting: Resting
    since: datetime
    kept_because: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What is removed as one: a version at a site."""
        return self.resting.name, self.resting.site

    def to_json(self) -> dict[str, Any]:
        """The finding for a record: names and sizes."""
        found = {"version": self.resting.name, "site": self.resting.site, "bytes": self.resting.bytes, "since": instant(self.since)}
        return found | ({"kept_because": self.kept_because} if self.kept_because else {})


def expired(resting: Iterable[Resting], days: Mapping[str, int | None], needed: Mapping[str, str], *, at: datetime) -> tuple[Expired, ...]:
    """Every version whose days are over, in order of dataset, version and site; those that are needed say why they are kept.

    A copy is as old as the first record of its version anywhere: moving data does not make it younger. A version without days stays.

    Args:
        resting: all versions on record.
        days: how many days each dataset may be kept, from when a version was recorded; None or absent: without end.
        needed: `dataset@version` to the reason why it may not go.
        at: now, aware.
    """
    found, rows = list[Expired](), list(resting)
    first: dict[str, datetime] = {}
    for row in rows:
        first[row.name] = min(row.recorded_at, first.get(row.name, row.recorded_at))
    for row in sorted(rows, key=lambda row: (row.dataset, row.version, row.site)):
        limit = days.get(row.dataset)
        if limit is not None and at >= (since := first[row.name] + timedelta(days=limit)):
            found.append(Expired(row, since, needed.get(row.name)))
    return tuple(found)


def removable(
    found: Iterable[Expired], listed: Mapping[tuple[str, str], datetime], *, at: datetime, notice: timedelta
) -> tuple[Expired, ...]:
    """Those of the findings that may go now: nothing needs them, and a listing named them at least `notice` ago."""
    return tuple(
        one
        for one in found
        if one.kept_because is None and one.key in listed and one.since <= listed[one.key] and listed[one.key] + notice <= at
    )
