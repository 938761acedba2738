"""How long work takes on spot capacity, and what part of it is billed where.

Expected time with checkpoints under random interruptions: Daly 2006, doi 10.1016/j.future.2004.11.016. The safety net that leaves for
on-demand while the deadline can still be met follows Wu et al., NSDI 2024. All times are seconds, rates are per second.

Where the closed form is not exact, as `bench/spot.py` measures by simulation: it counts a write after the last piece of work too, and no
interruption of the first start; and near a deadline it takes the mean for the run. That is too cheap where the slack is a few pieces of
work and interruptions are likely, since some runs have to leave for on-demand although the mean run need not.
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

    def piece(self, work: Decimal) -> Decimal:
        """The longest stretch that one interruption undoes: a checkpoint interval and its write, or all of the work."""
        return (work if self.interval is None else min(self.interval, work)) + self.write

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


def unhurried(terms: SpotTerms, work: Decimal) -> Decimal:
    """Seconds to the deadline from which on the expected run never leaves for on-demand. The work must not be endless on these terms."""
    return max(spot_run(terms, work, None).wall, latest_start(terms, work) + terms.piece(work))


def spot_run(terms: SpotTerms, work: Decimal, until_deadline: Decimal | None) -> SpotRun:
    """The expected run of `work` seconds with `until_deadline` seconds left (None: as long as it takes).

    The safety net takes what no checkpoint holds for lost. With less slack than one piece of work takes it is due before anything holds:
    all work is on demand, and what spot did until then is billed on top.

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
    if until_deadline is None:
        return SpotRun(terms.restart + billed, Decimal(0), terms.restart + wall)
    slack = max(until_deadline - latest_start(terms, work), Decimal(0))
    if slack < terms.piece(work):
        share, in_vain = Decimal(0), slack
    elif terms.restart + wall <= until_deadline:
        return SpotRun(terms.restart + billed, Decimal(0), terms.restart + wall)
    else:
        share, in_vain = slack / (wall - steady), Decimal(0)
    left = terms.restart + (1 - share) * steady
    return SpotRun(terms.restart + in_vain + share * billed, left, max(until_deadline, 2 * terms.restart + steady))
