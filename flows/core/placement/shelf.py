"""Which offers of a pool can matter to a decision, found in whole columns before any of them is priced.

Offers that fail the same rules of fit, narrowing and capacity and run for as long are alike: at every slot the same filters reject them,
whatever their price. Among them one that costs at least as much in every respect, and ranks behind where it costs the same, is neither
chosen nor the nearest miss: it is only counted. Comparisons are of ranks among exact values; floats tell clear gaps, and decide nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flows.core.placement.filters import taken_by

if TYPE_CHECKING:
    from flows.core.placement.estate import Estate, Offer, Pool
    from flows.core.placement.scene import Scene

Codes = NDArray[np.int64]
Flags = NDArray[np.bool_]
GAP = 1e-5
"""USD between two totals that are not equal in six places, however they are rounded."""
ZERO = Decimal(0)


class Column:
    """Values as ranks among the distinct ones; a missing value ranks below all."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.levels: list[Any] = sorted({value for value in values if value is not None})
        place = {value: rank for rank, value in enumerate(self.levels)}
        self.codes: Codes = np.array([-1 if value is None else place[value] for value in values], dtype=np.int64)

    def least(self, wanted: Any) -> Flags:
        """Where the value is known and at least the wanted one."""
        found: Flags = self.codes >= bisect_left(self.levels, wanted)
        return found

    def equal(self, wanted: Any) -> Flags:
        """Where the value is the wanted one."""
        rank = bisect_left(self.levels, wanted)
        found: Flags = self.codes == (rank if self.levels[rank : rank + 1] == [wanted] else -2)
        return found


class Shelf:
    """The offers of one pool that have a price, cheapest first, and what sets them apart in columns."""

    def __init__(self, estate: Estate, pool: Pool) -> None:
        priced = [offer for offer in estate.offers_of(pool) if offer.usd_per_hour is not None]
        self.offers = sorted(priced, key=lambda offer: (offer.usd_per_hour or ZERO, offer.spot_usd_per_hour or ZERO, offer.name))
        self.name, self.arch, self.accelerator = (self._column(field) for field in ("name", "arch", "accelerator"))
        self.cpus, self.memory_gib = self._column("cpus"), self._column("memory_gib")
        self.count = Column([offer.accelerator_count or ZERO for offer in self.offers])
        self.watts = Column([(estate.worst_watts or ZERO) if offer.watts is None else offer.watts for offer in self.offers])
        self.rate = self._column("spot_interruptions_per_hour")
        self.price, self.spot = self._column("usd_per_hour"), self._column("spot_usd_per_hour")
        self.usd = np.array([float(offer.usd_per_hour or ZERO) for offer in self.offers])
        self.spot_usd = np.array([float(offer.spot_usd_per_hour or ZERO) for offer in self.offers])
        self.least_factor = float(min(Decimal(1), *(window.multiplier for window in estate.site_by_id[pool.site].off_peak), Decimal(1)))

    def _column(self, field: str) -> Column:
        return Column([getattr(offer, field) for offer in self.offers])


def contenders(scene: Scene, pool: Pool) -> list[tuple[Offer, int]]:
    """The offers of the pool that can matter, and how many each stands for, itself among them; empty if all have to be looked at.

    That is so under a budget, on a pool that cools down or is reserved in part: they may reject one offer and not another that is alike.
    Whoever asks sees to it that no dated fact ends while the offers run.
    """
    conditions, shelf = scene.conditions, scene.estate.shelf_of(pool)
    reserved = any(row.pool == pool.name for row in conditions.reservations)
    if not shelf.offers or scene.budget_usd is not None or pool.name in conditions.cooling or reserved:
        return []
    spots = not scene.serves and scene.request.interruptible and pool.spot
    kinds = np.zeros(len(shelf.offers), dtype=np.int64)
    for part, size in _parts(scene, pool, shelf, spots=spots):
        kinds = kinds * size + part
    runtimes = [scene.runtime_on(offer) for offer in (shelf.offers if scene.runtimes_differ else shelf.offers[:1])]
    if scene.runtimes_differ:
        spans = Column([None if known is None else (known.p50_hours, known.p90_hours) for known in runtimes])
        kinds = np.unique(kinds, return_inverse=True)[1] * (len(spans.levels) + 1) + spans.codes + 1
    hours = float(min(known.p50_hours for known in (*runtimes, *scene.runtimes.values()) if known is not None))
    worth = hours * scene.request.resources.nodes * shelf.least_factor
    found: list[tuple[Offer, int]] = []
    left = np.arange(len(shelf.offers))
    while left.size:
        _, first, kind = np.unique(kinds[left], return_index=True, return_inverse=True)
        beaten = _beaten(shelf, left, left[first][kind], worth, spots=spots, carbon=bool(scene.request.objective.usd_per_kg_co2))
        counts = np.bincount(kind, weights=beaten)
        found.extend((shelf.offers[row], 1 + int(count)) for row, count in zip(left[first], counts, strict=True))
        beaten[first] = True
        left = left[~beaten]
    return found


def _parts(scene: Scene, pool: Pool, shelf: Shelf, *, spots: bool) -> Iterator[tuple[Flags | Codes, int]]:
    """What tells offers apart that are not alike, as numbers below a size."""
    needed, wanted = scene.request.resources, scene.request.restrict.offers
    if needed.cpus:
        yield shelf.cpus.least(needed.cpus), 2
    if needed.memory_gib:
        yield shelf.memory_gib.least(needed.memory_gib), 2
    if needed.arch is not None:
        yield shelf.arch.equal(needed.arch), 2
    if needed.accelerators:
        enough = [shelf.accelerator.equal(name) & shelf.count.least(count) for name, count in needed.accelerators.items()]
        yield np.logical_or.reduce(enough), 2
    if wanted:
        yield np.array([any(fnmatchcase(offer.name, name) for name in wanted) for offer in shelf.offers], dtype=np.bool_), 2
    if pool.capacity:
        taken = [taken_by(offer, needed.nodes) for offer in shelf.offers]
        yield np.array([any(takes.get(name, ZERO) > limit for name, limit in pool.capacity.items()) for takes in taken], dtype=np.bool_), 2
    if spots:
        yield shelf.spot.codes >= 0, 2
        yield shelf.rate.codes + 1, len(shelf.rate.levels) + 1


def _beaten(shelf: Shelf, rows: Codes, by: Codes, worth: float, *, spots: bool, carbon: bool) -> Flags:
    """Which rows cost at least as much as the other row in every respect, and rank behind it."""
    clear = _clear(shelf.usd, rows, by, worth)
    beaten = shelf.price.codes[rows] >= shelf.price.codes[by]
    if spots:
        clear &= _clear(shelf.spot_usd, rows, by, worth) | (shelf.spot.codes[rows] < 0)
        beaten &= shelf.spot.codes[rows] >= shelf.spot.codes[by]
    if carbon:
        beaten &= shelf.watts.codes[rows] >= shelf.watts.codes[by]
    return beaten & (clear | (shelf.name.codes[rows] > shelf.name.codes[by]))


def _clear(usd: NDArray[np.float64], rows: Codes, by: Codes, worth: float) -> Flags:
    """Where a price is above the other one by so much that no total can be equal."""
    gap = usd[rows] - usd[by]
    return (gap > usd[rows] * 1e-9) & (gap * worth > GAP)
