"""How long work takes on spot capacity, and what part of it is billed where.

Expected time with checkpoints under random interruptions: Daly 2006, doi 10.1016/j.future.2004.11.016. The safety net that leaves for
on-demand while the deadline can still be met follows Wu et al., NSDI 2024. All times are seconds, rates are per second.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

MAX_EXPONENT = Decimal(20)
"""Beyond this many interruptions in one checkpoint interval the work does not end."""


@dataclass(frozen=True, slots=True)
class SpotTerms:
    """`rate`: interruptions per second of all nodes together; `restart`, `wait`, `interval` (None: no checkpoint) and `write`: seconds."""

    rate: Decimal
    restart: Decimal
    wait: Decimal
    interval: Decimal | None
    write: Decimal

    def exponent(self, work: Decimal) -> Decimal:
        """Interruptions expected in one interval and its write."""
        return self.rate * ((self.interval if self.interval is not None else work) + self.write)

    def endless(self, work: Decimal) -> bool:
        """Whether the work would hardly ever get from one checkpoint, or one start, to the next."""
        return self.exponent(work) > MAX_EXPONENT or self.rate * self.restart > MAX_EXPONENT

    def on_demand(self, work: Decimal) -> Decimal:
        """Seconds on demand for the work, checkpoints included: H * (1 + d/t)."""
        return work if self.interval is None else work * (self.interval + self.write) / self.interval


@dataclass(frozen=True, slots=True)
class SpotRun:
    """Seconds billed at the spot and the on-demand price, and from start to end."""

    spot: Decimal
    on_demand: Decimal
    wall: Decimal


def latest_start(terms: SpotTerms, work: Decimal) -> Decimal:
    """Seconds before the deadline at which the run must have begun: two starts and the work on demand."""
    return 2 * terms.restart + terms.on_demand(work)


def spot_run(terms: SpotTerms, work: Decimal, until_deadline: Decimal | None) -> SpotRun:
    """The expected run of `work` seconds with `until_deadline` seconds left (None: as long as it takes).

    The work must not be endless on these terms.
    """
    interval = work if terms.interval is None else terms.interval
    steady = terms.on_demand(work)
    if terms.rate == 0:
        billed = wall = steady
    else:
        grown = (terms.rate * terms.restart).exp() * ((terms.rate * (interval + terms.write)).exp() - 1)
        billed = work * grown / (terms.rate * interval)
        wall = billed * (1 + terms.rate * terms.wait)
    if until_deadline is None or terms.restart + wall <= until_deadline:
        return SpotRun(terms.restart + billed, Decimal(0), terms.restart + wall)
    slower = wall - steady
    share = (until_deadline - 2 * terms.restart - steady) / slower if slower > 0 else Decimal(0)
    share = min(max(share, Decimal(0)), Decimal(1))
    left = terms.restart + (1 - share) * steady
    return SpotRun(terms.restart + share * billed, left, max(until_deadline, 2 * terms.restart + steady))
