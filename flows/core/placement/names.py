"""Names in a request and in conditions that the estate does not have: each with where it stands, what could, and what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from flows.core.governance.proofs import CHECKS
from flows.core.placement.estate import Estate, Pool
from flows.core.placement.request import Conditions, Request
from flows.core.placement.scene import SHARED

FEW = 12
"""More names than this are not listed."""
ARCHITECTURES_ELSEWHERE = {"amd64": "x86_64", "x86-64": "x86_64", "x64": "x86_64", "aarch64": "arm64"}
"""What others call an architecture; `amd64` looks like `arm64` and is not it."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A name by its path of fields, keys and indices; in a list of names the name itself, since models sort them."""

    path: tuple[str | int, ...]
    name: str
    what: str
    known: Collection[str]

    @property
    def expected(self) -> str | None:
        """What could stand there, if that is not much."""
        return f"one of {', '.join(f'`{name}`' for name in sorted(self.known))}" if 0 < len(self.known) <= FEW else None

    @property
    def fix(self) -> str:
        """What was probably meant, in whatever case it is written."""
        folded, written = {name.casefold(): name for name in self.known}, self.name.casefold()
        close = difflib.get_close_matches(ARCHITECTURES_ELSEWHERE.get(written, written), folded, n=1)
        return f"did you mean `{folded[close[0]]}`?" if close else "correct it, or take it out"


def unknown_in_request(request: Request, estate: Estate) -> Iterator[Unknown]:
    """Names that narrow to nothing or ask for what is nowhere."""
    narrowed, needed = request.restrict, request.resources
    offers = {offer.name for offer in estate.offers}
    architectures = {offer.arch for offer in estate.offers if offer.arch is not None}
    accelerators = {offer.accelerator for offer in estate.offers if offer.accelerator is not None}
    yield from _absent("cloud", narrowed.clouds, {site.cloud for site in estate.sites}, "restrict", "clouds")
    yield from _absent("site", narrowed.sites, estate.site_by_id, "restrict", "sites")
    yield from _absent("pool", narrowed.pools, estate.pool_by_name, "restrict", "pools")
    unmatched = [name for name in narrowed.offers if not any(fnmatchcase(offer, name) for offer in offers)]
    yield from _absent("offer", unmatched, offers, "restrict", "offers")
    if needed.arch is not None and needed.arch not in architectures:
        yield _unknown("architecture", needed.arch, architectures, "resources", "arch")
    yield from _absent("accelerator", needed.accelerators, accelerators, "resources", "accelerators")


def unknown_in_conditions(conditions: Conditions, estate: Estate) -> Iterator[Unknown]:
    """Names that close, take or delay nothing."""
    sites, pools, offers = estate.site_by_id, estate.pool_by_name, {offer.name for offer in estate.offers}
    yield from _absent("site", conditions.cordoned, sites, "cordoned")
    yield from _absent("pool", conditions.queue_hours, pools, "queue_hours")
    for index, taken in enumerate(conditions.reservations):
        if taken.pool in pools:
            pool = pools[taken.pool]
            yield from _not_had(pool, taken.use, {*_has(pool, estate), *pool.capacity}, "reservations", index, "use")
        else:
            yield _unknown("pool", taken.pool, pools, "reservations", index, "pool")
    yield from _absent("pool", conditions.cooling, pools, "cooling")
    for dataset, found in conditions.replicas.items():
        yield from _absent("site", found, sites, "replicas", dataset)
    for index, row in enumerate(conditions.runtimes):
        if row.offer is not None and row.offer not in offers:
            yield _unknown("offer", row.offer, offers, "runtimes", index, "offer")
    yield from _absent("site", conditions.unproven, sites, "unproven")
    for site, lost in conditions.unproven.items():
        if not lost:
            yield Unknown(("unproven", site), "", f"no check of `{site}` is named, so nothing is kept away", CHECKS)
        for check in lost:
            if check not in CHECKS:
                yield Unknown(("unproven", site, check), check, f"no check `{check}`", CHECKS)


def unknown_capacities(estate: Estate) -> Iterator[Unknown]:
    """Capacities that no offer of their pool takes any of."""
    for pool in estate.pools:
        yield from _not_had(pool, pool.capacity, _has(pool, estate), "pools", pool.name, "capacity")


def _has(pool: Pool, estate: Estate) -> set[str]:
    return {*SHARED, *(offer.accelerator for offer in estate.offers_of(pool) if offer.accelerator is not None)}


def _not_had(pool: Pool, names: Iterable[str], known: Collection[str], *path: str | int) -> Iterator[Unknown]:
    return (Unknown((*path, name), name, f"pool `{pool.name}` has no `{name}`", known) for name in names if name not in known)


def _absent(kind: str, names: Iterable[str], known: Collection[str], *path: str) -> Iterator[Unknown]:
    return (Unknown((*path, name), name, f"no {kind} `{name}` in this estate", known) for name in names if name not in known)


def _unknown(kind: str, name: str, known: Collection[str], *path: str | int) -> Unknown:
    return Unknown(path, name, f"no {kind} `{name}` in this estate", known)
