"""Fail closed: what the catalog or the map does not know is a reason against a site."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, time

from flows.core.canonical import instant, plain
from flows.core.placement.decision import Reason
from flows.core.placement.estate import Site
from flows.core.placement.scene import Scene, known_country


def unknowns(scene: Scene, site: Site, era: int) -> tuple[Reason, ...]:
    """Reasons of kind `data` against the site for a run that ends in the era: unknown datasets, countries, and facts that are too old."""
    return (*_datasets(scene, site, era), *_countries(scene, site), *_stale(scene, era))


def _datasets(scene: Scene, site: Site, era: int) -> Iterator[Reason]:
    for use in scene.inputs:
        where = f"catalog: entries.{use.name}"
        if use.home is None:
            yield Reason("unknown-dataset", "data", f"`{use.name}` has no entry", "an entry with a label", where)
        elif scene.label(use.name, era) is None:
            stays = site.id == use.home and all(output.home in (None, use.home) for output in scene.outputs)
            if not stays:
                seen = f"`{use.name}` has no label that is known"
                yield Reason("unknown-dataset", "data", seen, f"a label, or only its home `{use.home}`", where)
    if (clash := scene.clash(era)) is not None:
        yield Reason("residency-clash", "data", clash, "a country where all datasets may be together", "catalog: entries")


def _countries(scene: Scene, site: Site) -> Iterator[Reason]:
    places = [(site, "")]
    for output in scene.outputs:
        if output.home is not None and output.home != site.id:
            places.append((scene.estate.site_by_id[output.home], f" of `{output.home}`"))
    for place, of in places:
        for field, country in (("country", place.country), ("operator_country", place.operator_country)):
            if not known_country(country):
                seen = f"{field}{of} is {country or 'not known'}"
                yield Reason("unknown-country", "data", seen, "an ISO 3166 country", f"estate: sites.{place.id}.{field}")
    for country in scene.request.latency.from_ if scene.request.latency is not None else ():
        if not known_country(country):
            yield Reason("unknown-country", "data", f"users in {country}", "an ISO 3166 country", "request: latency.from")


def _stale(scene: Scene, era: int) -> Iterator[Reason]:
    if scene.catalog.stale_at(scene.at):
        limit = f"within {plain(scene.catalog.max_age_hours)} h of the decision"
        yield Reason("stale-catalog", "data", f"as of {instant(scene.catalog.as_of)}", limit, "catalog: as_of")
    end = datetime.combine(scene.day_of(era), time(), UTC)
    for name, one in dict.fromkeys(pair for use in scene.inputs for pair in scene.catalog.imports_of(use.name, end)):
        if one.stale_at(scene.at):
            seen = f"`{name}` was {f'read at {instant(one.as_of)}' if one.as_of else 'never read'} from `{one.source}`"
            yield Reason("stale-catalog", "data", seen, f"within {plain(one.max_age_hours)} h of the decision", f"bridge: {one.source}")
