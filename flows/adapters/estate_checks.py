"""What does not fit together inside the estate: pools without offers, facts without a source, certificates that ran out."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from itertools import permutations
from typing import Literal

from flows.adapters.estate import EstateFiles, matches
from flows.core.errors import Problem
from flows.core.governance.blocs import ISO_COUNTRIES
from flows.core.placement.estate import Pool

CONTROL = "control"
CAPACITY = ("nodes", "cpus", "memory_gib")


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem, and whether it makes the declarations wrong (`error`) or only poorer than they could be (`warning`)."""

    severity: Literal["error", "warning"]
    problem: Problem


def error(problem: Problem) -> Finding:
    """Something that must be put right."""
    return Finding("error", problem)


def warning(problem: Problem) -> Finding:
    """Something that decisions can live with, and will warn about."""
    return Finding("warning", problem)


def findings(files: EstateFiles, at: datetime) -> Iterator[Finding]:
    """All findings of the estate as of that instant."""
    yield from _sites(files, at)
    yield from _pools(files)
    yield from _offers(files)
    yield from _facts(files)
    yield from _egress(files)
    yield from _latency(files)


def _sites(files: EstateFiles, at: datetime) -> Iterator[Finding]:
    estate = files.estate
    used = {pool.site for pool in estate.pools}
    zones = {row.grid_zone for row in estate.carbon}
    if "EEA" not in estate.blocs.blocs:
        yield warning(
            Problem(
                "no bloc `EEA`: no country counts as inside the GDPR", file=files.documents["sites"].file, fix="declare it in blocs.yaml"
            )
        )
    for assumed in estate.assumptions:
        fix = "write what was signed, and take `certifications_assumed` out"
        yield warning(Problem(assumed, file=files.documents["sites"].file, fix=fix))
    for index, site in enumerate(estate.sites):
        for field in ("country", "operator_country"):
            code = getattr(site, field)
            if code not in ISO_COUNTRIES:
                what = (
                    f"`{code}` is no ISO country: nothing may run at `{site.id}`"
                    if code
                    else f"`{site.id}` has no {field}: nothing may run there"
                )
                yield error(files.problem("sites", index, what, field=field, fix="write a code such as `DE`"))
        for name, until in sorted(site.certifications.items()):
            if until is not None and until < at.date():
                what = f"certification `{name}` of `{site.id}` ran out on {until}"
                yield warning(files.problem("sites", index, what, field="certifications", fix="renew it, or take it out"))
        if site.id not in used:
            yield warning(files.problem("sites", index, f"no pool is at `{site.id}`", fix="add one to pools.yaml, or take the site out"))
        if site.grid_zone not in zones:
            what = f"no carbon figures for the grid of `{site.id}`: the estate's worst are taken"
            yield warning(files.problem("sites", index, what, field="grid_zone", expected=f"one of {', '.join(sorted(zones)) or 'none'}"))


def _pools(files: EstateFiles) -> Iterator[Finding]:
    estate = files.estate
    for index, pool in enumerate(estate.pools):
        site = estate.site_by_id[pool.site]
        offers = estate.offers_of(pool)
        for pattern in pool.offers:
            here = estate.offers_by_site.get(pool.site, ())
            if not any(fnmatchcase(offer.name, pattern) for offer in here):
                there = listed([offer.name for offer in here], most=20) or "none"
                what = f"`{pattern}` of `{pool.name}` fits no offer of `{pool.site}`"
                yield error(files.problem("pools", index, what, field="offers", expected=f"a pattern of: {there}"))
        for name in sorted(set(pool.certifications or ()) - set(site.certifications)):
            what = f"`{pool.name}` claims `{name}`, which `{site.id}` does not hold"
            yield error(
                files.problem("pools", index, what, field="certifications", fix="a pool narrows its site's certifications, it adds none")
            )
        accelerators = sorted({offer.accelerator for offer in offers if offer.accelerator})
        for name in sorted(set(pool.capacity) - {*CAPACITY, *accelerators}):
            close = difflib.get_close_matches(name, [*CAPACITY, *accelerators], n=1)
            fix = f"did you mean `{close[0]}`?" if close else None
            expected = f"one of {', '.join((*CAPACITY, *accelerators))}"
            yield error(files.problem("pools", index, f"`{pool.name}` has no `{name}`", field="capacity", expected=expected, fix=fix))
        if pool.spot and not any(offer.spot_usd_per_hour for offer in offers):
            yield warning(files.problem("pools", index, f"`{pool.name}` takes spot, but none of its offers has a spot price", field="spot"))
        unrated = [
            offer.name
            for offer in offers
            if pool.spot
            and offer.spot_usd_per_hour
            and offer.spot_interruptions_per_hour is None
            and pool.spot_interruptions_per_hour is None
        ]
        if unrated:
            what = f"no interruption rate for spot offers of `{pool.name}`: {listed(unrated, most=20)}"
            yield warning(
                files.problem("pools", index, what, fix="add `spot_interruptions_per_hour`, or SpotInterruptionsPerHour to the offers")
            )


def _offers(files: EstateFiles) -> Iterator[Finding]:
    estate = files.estate
    pools: dict[str, list[Pool]] = {}
    for pool in estate.pools:
        pools.setdefault(pool.site, []).append(pool)
    hungry: dict[str, list[int]] = {}
    for index, offer in enumerate(estate.offers):
        if offer.usd_per_hour is None and offer.spot_usd_per_hour is None:
            yield error(files.problem("offers", index, f"`{offer.name}` at `{offer.site}` has no price", field="Price"))
        if offer.usd_per_hour is not None and offer.spot_usd_per_hour is not None and offer.spot_usd_per_hour > offer.usd_per_hour:
            yield warning(
                files.problem("offers", index, f"spot of `{offer.name}` at `{offer.site}` costs more than on demand", field="SpotPrice")
            )
        if offer.watts is None:
            hungry.setdefault(offer.site, []).append(index)
        if not any(matches(pool, offer) for pool in pools.get(offer.site, ())):
            what = f"no pool rents `{offer.name}` at `{offer.site}`"
            yield warning(files.problem("offers", index, what, fix="add it to a pool's `offers`, or take the row out"))
    for site, indices in hungry.items():
        what = f"no Watts for {listed([f'`{estate.offers[index].name}`' for index in indices])} at `{site}`: the estate's worst are taken"
        yield warning(files.problem("offers", indices[0], what, field="Watts"))


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _facts(files: EstateFiles) -> Iterator[Finding]:
    for kind, rows in (
        ("offers", files.estate.offers),
        ("egress", files.estate.egress),
        ("latency", files.estate.latency),
        ("carbon", files.estate.carbon),
    ):
        seen: set[int] = set()
        for index, row in enumerate(rows):
            line = files.documents[kind].mark((index,)).line
            missing = [field for field in ("source", "as_of") if not getattr(row, field)]
            if missing and line not in seen:
                seen.add(line)
                yield warning(
                    files.problem(
                        kind, index, f"a fact without {' and '.join(missing)}", fix="say where the figure is from, and of which day"
                    )
                )


def _egress(files: EstateFiles) -> Iterator[Finding]:
    estate = files.estate
    data_sites = [site.id for site in estate.sites if site.id != CONTROL]
    for src, dst in permutations(data_sites, 2):
        if estate.egress_between(src, dst) is None:
            file = files.documents["egress"].file
            yield warning(
                Problem(f"no egress price from `{src}` to `{dst}`: no data may go there", file=file, fix="add a row, `*` is allowed")
            )


def _latency(files: EstateFiles) -> Iterator[Finding]:
    estate = files.estate
    for country in sorted({row.country for row in estate.latency}):
        missing = [site.id for site in estate.sites if site.id != CONTROL and (country, site.id) not in estate.latency_by_pair]
        if missing:
            what = f"no round-trip time from `{country}` to {', '.join(missing)}: a latency target rejects them"
            yield warning(Problem(what, file=files.documents["latency"].file, fix="add a row for each"))
