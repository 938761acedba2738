"""Declared runtimes on hardware of another speed: a rule that promises less than it was told.

The estate may declare relative speeds, each with its source. Work on hardware that is slower than what was declared for takes longer in
proportion, at the median and in the tail. Work on faster hardware is shorter at the median only: the 90th percentile, which deadlines and
budgets are held to, stays as declared, since no throughput figure says how much of a run's tail is reading, writing and waiting (Amdahl
1967, doi 10.1145/1465482.1465560). More accelerators of one kind count as one: that a step scales over them is for its declaration to say.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING

from flows.core.canonical import plain
from flows.core.fields import MAX_HOURS
from flows.core.placement.request import Runtime

if TYPE_CHECKING:
    from flows.core.placement.estate import Speed

ONE = Decimal(1)
HOUR_PLACES = Decimal("0.000001")
"""A runtime's hours are rounded up to these places: 3.6 milliseconds."""


def scaled(declared: Runtime, speed: Speed | None) -> Runtime:
    """The declared runtime on hardware of that speed; as it is where none is declared."""
    if speed is None or speed.relative == ONE:
        return declared
    tail = max(declared.p90_hours / speed.relative, declared.p90_hours)
    return Runtime(p50_hours=_hours(declared.p50_hours / speed.relative), p90_hours=_hours(tail))


def scaled_by(speed: Speed | None) -> str:
    """How a decision says it; nothing where nothing is scaled."""
    if speed is None or speed.relative == ONE:
        return ""
    only = ", p50 only" if speed.relative > ONE else ""
    return f", scaled by `{speed.hardware}` at {plain(speed.relative)} times the speed{only} ({speed.source})"


def _hours(hours: Decimal) -> Decimal:
    return min(hours.quantize(HOUR_PLACES, rounding=ROUND_CEILING), MAX_HOURS)
