"""What moving and keeping data costs at a site: egress, transfer time, staged and kept storage."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from flows.core.placement.estate import Estate, Site
from flows.core.placement.scene import Input, Scene
from flows.core.placement.slots import ceil_seconds

HOURS_PER_MONTH = Decimal(730)


@dataclass(frozen=True, slots=True)
class Leg:
    """One movement between two sites: USD, seconds, and the source it comes from."""

    usd: Decimal
    seconds: Decimal
    src: str


@dataclass(frozen=True, slots=True)
class Haul:
    """All movements that a run at one site needs; `unknown` lists the (src, dst) pairs without a price."""

    egress_usd: Decimal
    transfer_seconds: int
    staged_gb: Decimal
    kept_usd: Decimal
    unknown: tuple[tuple[str, str], ...]


def leg(estate: Estate, gb: Decimal, src: str, dst: str) -> Leg | None:
    """The movement of `gb` from one site to another, free within a site; None if the pair has no price."""
    if src == dst:
        return Leg(Decimal(0), Decimal(0), src)
    row = estate.egress_between(src, dst)
    if row is None:
        return None
    seconds = Decimal(0) if row.gbit_per_s is None else gb * 8 / row.gbit_per_s
    return Leg(gb * row.usd_per_gb, seconds, src)


def cheapest(estate: Estate, use: Input, dst: str) -> Leg | None:
    """The cheapest movement of an input to the site, from its home or a replica; then the fastest, then by name."""
    legs = [found for src in use.sources if (found := leg(estate, use.size_gb, src, dst)) is not None]
    return min(legs, key=lambda found: (found.src != dst, found.usd, found.seconds, found.src), default=None)


def haul(scene: Scene, site: Site) -> Haul:
    """Everything that moves to and from the site for the request."""
    egress = seconds = staged = kept = Decimal(0)
    unknown: set[tuple[str, str]] = set()
    for use in scene.inputs:
        found = cheapest(scene.estate, use, site.id)
        if found is None:
            unknown |= {(src, site.id) for src in use.sources}
            continue
        egress += found.usd
        seconds += found.seconds
        if found.src != site.id:
            staged += use.size_gb
    for output in scene.outputs:
        home = scene.estate.site_by_id[output.home or site.id]
        kept += output.size_gb * home.storage_usd_per_gb_month * output.keep_days * 24 / HOURS_PER_MONTH
        moved = leg(scene.estate, output.size_gb, site.id, home.id)
        if moved is None:
            unknown.add((site.id, home.id))
        else:
            egress += moved.usd
    return Haul(egress, ceil_seconds(seconds), staged, kept, tuple(sorted(unknown)))
