"""What does not fit together inside the estate: pools without offers, facts without a source, certificates that ran out."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import permutations, product
from typing import Any, Literal

from flows.adapters.estate import EstateFiles, Unread, fits, listed, matches
from flows.core.errors import Problem
from flows.core.governance.blocs import ISO_COUNTRIES
from flows.core.placement.estate import ANY
from flows.core.placement.names import ARCHITECTURES_ELSEWHERE

CONTROL = "control"
CAPACITY = ("nodes", "cpus", "memory_gib")
ARCHITECTURES = ("arm64", "x86_64")


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
    """All findings of the estate as of that instant; nothing is called missing that a lost row may supply."""
    yield from _sites(files, at)
    yield from _off_peak(files)
    yield from _adequacy(files, at)
    yield from _pools(files)
    yield from _offers(files)
    yield from _facts(files)
    yield from _days(files, at.date())
    yield from _egress(files)
    yield from _latency(files)
    yield from _carbon(files)


def _sites(files: EstateFiles, at: datetime) -> Iterator[Finding]:
    estate = files.estate
    used = {pool.site for pool in estate.pools}
    zones = files.named("carbon", "grid_zone")
    known = listed(sorted(zones - {None}), most=10) or "none"
    if "EEA" not in estate.blocs.blocs and not files.lost["blocs"]:
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
        if site.id not in used and not files.lost_at("pools", site.id):
            yield warning(files.problem("sites", index, f"no pool is at `{site.id}`", fix="add one to pools.yaml, or take the site out"))
        if site.grid_zone not in zones and None not in zones:
            what = f"no carbon figures for the grid of `{site.id}`: the estate's worst are taken"
            yield warning(files.problem("sites", index, what, field="grid_zone", expected=f"one of {known}"))


def _off_peak(files: EstateFiles) -> Iterator[Finding]:
    for index, site in enumerate(files.estate.sites):
        for window in site.off_peak:
            if window.from_ == window.to:
                what = f"a window of `{site.id}` from {window.from_} to {window.to} is the whole day"
                yield warning(files.problem("sites", index, what, field="off_peak", fix='write "00:00" to "24:00" if that is meant'))
            if window.multiplier > 1:
                what = f"off peak, `{site.id}` costs {window.multiplier} times its price"
                yield warning(files.problem("sites", index, what, field="off_peak", expected="1 at most", fix="write 0.6 for 60 %"))


def _adequacy(files: EstateFiles, at: datetime) -> Iterator[Finding]:
    for code, decision in sorted(files.estate.blocs.adequacy.items()):
        if decision.until is not None and decision.until < at.date():
            what = f"the adequacy decision for `{code}` ended on {decision.until}"
            yield warning(files.documents["blocs"].problem(("adequacy", code), what, fix="take it out, or set the day of the new one"))


def _pools(files: EstateFiles) -> Iterator[Finding]:
    estate = files.estate
    for index, pool in enumerate(estate.pools):
        site = estate.site_by_id[pool.site]
        offers = estate.offers_of(pool)
        lost = files.lost_at("offers", pool.site)
        meant = [*offers, *(offer for offer in lost if matches(pool, offer))]
        vague = any(isinstance(offer, Unread) for offer in meant)
        for pattern in pool.offers:
            if not any(fits(offer, [pattern]) for offer in meant):
                here = (*estate.offers_by_site.get(pool.site, ()), *(offer for offer in lost if offer.site == pool.site))
                there = listed(sorted({offer.name for offer in here}), most=20) or "none"
                what = f"`{pattern}` of `{pool.name}` fits no offer of `{pool.site}`"
                yield error(files.problem("pools", index, what, field="offers", expected=f"a pattern of: {there}"))
        for name in sorted(set(pool.certifications or ()) - set(site.certifications)):
            what = f"`{pool.name}` claims `{name}`, which `{site.id}` does not hold"
            yield error(
                files.problem("pools", index, what, field="certifications", fix="a pool narrows its site's certifications, it adds none")
            )
        accelerators = sorted({offer.accelerator for offer in meant if offer.accelerator})
        for name in () if vague else sorted(set(pool.capacity) - {*CAPACITY, *accelerators}):
            close = difflib.get_close_matches(name, [*CAPACITY, *accelerators], n=1)
            fix = f"did you mean `{close[0]}`?" if close else None
            expected = f"one of {', '.join((*CAPACITY, *accelerators))}"
            yield error(files.problem("pools", index, f"`{pool.name}` has no `{name}`", field="capacity", expected=expected, fix=fix))
        if pool.spot and not vague and not any(offer.spot_usd_per_hour for offer in meant):
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
    pools: dict[str, list[Any]] = {site: files.lost_at("pools", site) for site in estate.offers_by_site}
    for pool in estate.pools:
        pools.setdefault(pool.site, []).append(pool)
    spelt: dict[str, int] = {}
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
        if offer.arch is not None:
            spelt.setdefault(offer.arch, index)
        if not any(matches(pool, offer) for pool in pools[offer.site]):
            what = f"no pool rents `{offer.name}` at `{offer.site}`"
            yield warning(files.problem("offers", index, what, fix="add it to a pool's `offers`, or take the row out"))
    for site, indices in hungry.items():
        what = f"no Watts for {listed([f'`{estate.offers[index].name}`' for index in indices])} at `{site}`: the estate's worst are taken"
        yield warning(files.problem("offers", indices[0], what, field="Watts"))
    for name, index in spelt.items():
        low = name.lower()
        meant = ARCHITECTURES_ELSEWHERE.get(low) or next(iter(difflib.get_close_matches(low, ARCHITECTURES, n=1, cutoff=0.75)), name)
        if name != meant:
            fix = f"write `{meant}`: steps that ask for that do not fit `{name}`"
            yield warning(files.problem("offers", index, f"`{name}` is no architecture", field="Arch", fix=fix))


def _facts(files: EstateFiles) -> Iterator[Finding]:
    for kind, rows in (
        ("offers", files.estate.offers),
        ("egress", files.estate.egress),
        ("latency", files.estate.latency),
        ("carbon", files.estate.carbon),
    ):
        seen: set[int | None] = set()
        for index, row in enumerate(rows):
            missing = " and ".join(field for field in ("source", "as_of") if not getattr(row, field))
            if not missing:
                continue
            problem = files.problem(kind, index, f"a fact without {missing}", fix="say where the figure is from, and of which day")
            if problem.line not in seen:
                seen.add(problem.line)
                yield warning(problem)


def _days(files: EstateFiles, today: date) -> Iterator[Finding]:
    for kind in ("offers", "egress", "latency", "carbon", "speeds"):
        told: set[int | None] = set()
        for index, row in enumerate(getattr(files.estate, kind)):
            if row.as_of is not None and (what := _no_past_day(row.as_of, today)):
                problem = files.problem(kind, index, what, field="as_of", expected="the day that the figure is of, such as `2026-12-31`")
                if problem.line not in told:
                    told.add(problem.line)
                    yield warning(problem)


def _no_past_day(text: str, today: date) -> str | None:
    try:
        day = datetime.fromisoformat(text).date()
    except ValueError:
        return f"`{text}` is not a day"
    return f"`{text}` is yet to come" if day > today + timedelta(days=1) else None


def _lost(files: EstateFiles, kind: str, *fields: str) -> set[tuple[str, ...]]:
    """What the lost rows of the kind are for, by these fields; `*` for what is no site, or may be anything."""
    sites = files.named("sites", "id") - {None}

    def meant(row: Any, field: str) -> str:
        cell = getattr(row, field)
        return cell if cell in sites or (field == "country" and cell is not None) else ANY

    return {tuple(meant(row, field) for field in fields) for row in files.lost[kind]}


def _egress(files: EstateFiles) -> Iterator[Finding]:
    estate, lost = files.estate, _lost(files, "egress", "src", "dst")
    data_sites = [site.id for site in estate.sites if site.id != CONTROL]
    for src, dst in permutations(data_sites, 2):
        if estate.egress_between(src, dst) is None and lost.isdisjoint(product((src, ANY), (dst, ANY))):
            file = files.documents["egress"].file
            yield warning(
                Problem(f"no egress price from `{src}` to `{dst}`: no data may go there", file=file, fix="add a row, `*` is allowed")
            )


def _latency(files: EstateFiles) -> Iterator[Finding]:
    estate, lost = files.estate, _lost(files, "latency", "country", "site")
    for index, row in enumerate(estate.latency):
        if row.country not in ISO_COUNTRIES:
            yield error(
                files.problem("latency", index, f"`{row.country}` is no ISO country", field="country", fix="write a code such as `DE`")
            )
        if row.p50_ms is None and row.p99_ms is None:
            what = f"no round-trip time from `{row.country}` to `{row.site}`"
            yield warning(files.problem("latency", index, what, field="p50_ms", fix="write one, or take the row out"))
        elif row.p50_ms is not None and row.p99_ms is not None and row.p99_ms < row.p50_ms:
            what = f"`p99_ms` {row.p99_ms} is less than `p50_ms` {row.p50_ms}"
            yield warning(files.problem("latency", index, what, field="p99_ms", fix="swap them, or measure again"))
    for country in sorted({row.country for row in estate.latency} & ISO_COUNTRIES):
        missing = [
            site.id
            for site in estate.sites
            if site.id != CONTROL
            and (country, site.id) not in estate.latency_by_pair
            and lost.isdisjoint(product((country, ANY), (site.id, ANY)))
        ]
        if missing:
            what = f"no round-trip time from `{country}` to {', '.join(missing)}: a latency target rejects them"
            yield warning(Problem(what, file=files.documents["latency"].file, fix="add a row for each"))


def _carbon(files: EstateFiles) -> Iterator[Finding]:
    """Zones without a site: one warning, since a table may hold the whole world."""
    used = {site.grid_zone for site in files.estate.sites if site.grid_zone is not None}
    first: dict[str, int] = {}
    for index, row in enumerate(files.estate.carbon):
        first.setdefault(row.grid_zone, index)
    vain = sorted(set(first) - used, key=lambda zone: first[zone])
    if vain and not files.lost["sites"]:
        close = difflib.get_close_matches(vain[0], sorted(used - set(first)), n=1)
        fix = f"did you mean `{close[0]}`?" if close else "take them out, or give a site that `grid_zone`"
        told = listed([f"`{zone}`" for zone in vain], most=10)
        yield warning(files.problem("carbon", first[vain[0]], f"figures of zones where no site is: {told}", field="grid_zone", fix=fix))
