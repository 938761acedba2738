"""When a request may start, and what the clock does to a span: off-peak prices and the grid's carbon."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal

from flows.core.placement.estate import WEEKDAYS, OffPeak
from flows.core.placement.zones import zone

HOUR = timedelta(hours=1)
QUARTER = timedelta(minutes=15)
DEFAULT_SPAN = timedelta(hours=24)
"""How far ahead slots go without a deadline."""


def ceil_seconds(seconds: Decimal) -> int:
    """Whole seconds, rounded up."""
    return int(seconds.to_integral_value(rounding=ROUND_CEILING))


def seconds_between(start: datetime, end: datetime) -> Decimal:
    """Exact seconds from start to end."""
    span = end - start
    return Decimal(span.days * 86_400 + span.seconds) + Decimal(span.microseconds) / 1_000_000


def slots(at: datetime, earliest: datetime | None, deadline: datetime | None, *, only_first: bool) -> tuple[datetime, ...]:
    """`t0 = max(at, earliest)`, then each full UTC hour before the deadline (none given: 24 hours ahead)."""
    first = at if earliest is None else max(at, earliest)
    if only_first:
        return (first,)
    end = first + DEFAULT_SPAN if deadline is None else deadline
    found = [first]
    slot = first.replace(minute=0, second=0, microsecond=0) + HOUR
    while slot < end:
        found.append(slot)
        slot += HOUR
    return tuple(found)


class Tariff:
    """A factor that changes only at the borders of equal UTC blocks, summed exactly over spans.

    `factor` gives the value of the block that starts at an instant. Sums are kept from `origin` on, so a span costs two look-ups.
    """

    __slots__ = ("_block", "_factor", "_kept", "_origin", "_sums", "_values")

    def __init__(self, origin: datetime, block: timedelta, factor: Callable[[datetime], Decimal]) -> None:
        seconds = int(block.total_seconds())
        self._origin = datetime.fromtimestamp(int(origin.timestamp()) // seconds * seconds, UTC)
        self._block = seconds
        self._factor = factor
        self._sums: list[Decimal] = [Decimal(0)]
        self._values: list[Decimal] = []
        self._kept: dict[datetime, Decimal] = {}

    def _until(self, moment: datetime) -> Decimal:
        if (kept := self._kept.get(moment)) is not None:
            return kept
        whole, rest = divmod(seconds_between(self._origin, moment), self._block)
        index = int(whole)
        while len(self._values) <= index:
            value = self._factor(self._origin + timedelta(seconds=self._block * len(self._values)))
            self._values.append(value)
            self._sums.append(self._sums[-1] + value * self._block)
        self._kept[moment] = self._sums[index] + self._values[index] * rest
        return self._kept[moment]

    def over(self, start: datetime, end: datetime) -> Decimal:
        """The integral of the factor over [start, end), in factor seconds."""
        return self._until(end) - self._until(start)


def off_peak_factor(windows: Sequence[OffPeak], timezone: str) -> Callable[[datetime], Decimal]:
    """The price factor of the UTC quarter-hour that starts at an instant, tested in the site's zone; the lowest window wins."""
    local = zone(timezone)
    spans = [(frozenset(window.days), _minutes(window.from_), _minutes(window.to), window.multiplier) for window in windows]

    def factor(moment: datetime) -> Decimal:
        there = moment.astimezone(local)
        minute = there.hour * 60 + there.minute
        today, yesterday = WEEKDAYS[there.weekday()], WEEKDAYS[there.weekday() - 1]
        found = [
            multiplier
            for days, start, end, multiplier in spans
            if (today in days and start <= minute < (end if start < end else 1440)) or (start >= end and yesterday in days and minute < end)
        ]
        return min(found, default=Decimal(1))

    return factor


def _minutes(clock: str) -> int:
    hours, _, minutes = clock.partition(":")
    return int(hours) * 60 + int(minutes)


class Usage:
    """What is taken of one resource over time, from reservations."""

    __slots__ = ("_levels", "_times")

    def __init__(self, taken: Sequence[tuple[datetime, datetime, Decimal]]) -> None:
        changes: dict[datetime, Decimal] = {}
        for start, end, amount in taken:
            changes[start] = changes.get(start, Decimal(0)) + amount
            changes[end] = changes.get(end, Decimal(0)) - amount
        self._times = sorted(changes)
        self._levels = [Decimal(0)]
        for moment in self._times:
            self._levels.append(self._levels[-1] + changes[moment])

    def peak(self, start: datetime, end: datetime) -> Decimal:
        """The most that is taken at any instant of [start, end)."""
        first = bisect_right(self._times, start)
        last = max(bisect_left(self._times, end), first)
        return max(self._levels[first : last + 1])
