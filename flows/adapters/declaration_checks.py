"""Everything in the declarations that does not fit together, found in one pass: estate, catalog, workloads and policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from flows.adapters import estate_checks
from flows.adapters.catalog import CatalogFiles, read_catalog
from flows.adapters.declared import Declared
from flows.adapters.estate import EstateFiles, load_blocs, read_estate
from flows.adapters.estate_checks import CONTROL, Finding, error, warning
from flows.adapters.policy import CedarPolicy
from flows.adapters.workload_declarations import WorkloadDeclaration, names, read_declaration
from flows.core.errors import UserError
from flows.core.governance.labels import Label
from flows.core.placement.estate import LEVELS, Site
from flows.core.placement.policy import PoolFacts, Question
from flows.core.placement.request import Principal

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the declarations lie; an estate can be looked at without a catalog and without workloads."""

    estate: Path
    policies: Path
    catalog: Path | None
    workloads: Path | None


def check(folders: Folders, at: datetime) -> list[Finding]:
    """All findings as of that instant; an empty list means that everything fits."""
    found: list[Finding] = []
    estate = _collect(found, lambda: read_estate(folders.estate))
    labels, workloads = folders.catalog, folders.workloads
    catalog = None if labels is None else _collect(found, lambda: read_catalog(labels))
    declared = []
    if workloads is not None:
        listed = _collect(found, lambda: names(workloads)) or ()
        declared = [one for name in listed if (one := _workload(found, workloads, name))]
    blocs = _collect([], lambda: load_blocs(folders.estate))
    policy = None if blocs is None else _collect(found, lambda: CedarPolicy.load(folders.policies, blocs))
    if estate is not None:
        found += estate_checks.findings(estate, at)
        for declaration, document in declared:
            found += _declaration(declaration, document, estate)
    if catalog is not None:
        found += _uses(catalog, declared)
    if catalog is not None and estate is not None:
        found += _entries(catalog, estate, policy, at)
    return found


def _collect(found: list[Finding], load: Callable[[], T]) -> T | None:
    try:
        return load()
    except UserError as wrong:
        found += [Finding("error", problem) for problem in wrong.problems]
        return None


def _workload(found: list[Finding], folder: Path, name: str) -> tuple[WorkloadDeclaration, Declared] | None:
    return _collect(found, lambda: read_declaration(folder, name))


def _declaration(declaration: WorkloadDeclaration, document: Declared, files: EstateFiles) -> Iterator[Finding]:
    """Names in a workload's declaration that the estate does not have."""
    estate = files.estate
    sites = sorted(site.id for site in estate.sites if site.id != CONTROL)
    if declaration.home not in sites:
        yield error(document.problem(("home",), f"`{declaration.home}` is no data site", expected=f"one of {', '.join(sites)}"))
    known = {"sites": sites, "pools": sorted(estate.pool_by_name), "clouds": sorted({site.cloud for site in estate.sites})}
    for step in declaration.steps:
        restrict = declaration.step(step).restrict
        for kind, allowed in known.items():
            for name in sorted(set(getattr(restrict, kind)) - set(allowed)):
                path = ("steps", step, "restrict", kind)
                yield error(document.problem(path, f"`{name}` is none of the estate's {kind}", expected=f"one of {', '.join(allowed)}"))


def _uses(catalog: CatalogFiles, declared: list[tuple[WorkloadDeclaration, Declared]]) -> Iterator[Finding]:
    """Workloads and datasets that name each other in vain."""
    known = {declaration.name for declaration, _ in declared}
    for workload, steps in catalog.catalog.workloads.items():
        path = ("workloads", workload)
        if workload not in known:
            yield error(
                catalog.document.problem(path, f"no workload `{workload}` is declared", fix=f"write deployments/workloads/{workload}.yaml")
            )
        for step, datasets in steps.items():
            for name in sorted(datasets):
                if catalog.catalog.entry(name) is None:
                    yield error(catalog.document.problem((*path, step), f"no dataset `{name}`", fix="add an entry with its home and label"))
    for declaration, document in declared:
        if declaration.name not in catalog.catalog.workloads:
            what = f"the catalog says nothing of the datasets of `{declaration.name}`"
            yield error(document.problem(("name",), what, fix="have compliance add it under `workloads` in deployments/catalog"))


def _entries(catalog: CatalogFiles, files: EstateFiles, policy: CedarPolicy | None, at: datetime) -> Iterator[Finding]:
    """Entries without a home or a label, with codes nobody knows, or at a home that policy forbids."""
    estate, blocs = files.estate, files.estate.blocs
    if catalog.catalog.stale_at(at):
        yield error(
            catalog.document.problem(
                ("as_of",), f"the catalog is stale: as of {catalog.catalog.as_of:%Y-%m-%d}", fix="review it and set `as_of`"
            )
        )
    for entry in catalog.catalog.entries:
        site = estate.site_by_id.get(entry.home)
        if site is None:
            yield error(catalog.problem(entry.name, f"`{entry.home}` is no site", field="home", fix="name a site of sites.yaml"))
        for label in (entry.label, entry.declassified.to if entry.declassified else None):
            unknown = sorted(code for code in (label.residency if label else ()) if not blocs.known(code))
            if unknown:
                what = f"residency names neither a country nor a bloc: `{'`, `'.join(unknown)}`"
                yield error(
                    catalog.problem(entry.name, what, field="label", fix="use ISO codes such as `DE`, or declare the bloc in blocs.yaml")
                )
        if entry.declassified is not None and entry.declassified.until < at.date():
            yield warning(
                catalog.problem(entry.name, f"declassified until {entry.declassified.until}: the full label is back", field="declassified")
            )
        try:
            effective = catalog.catalog.label_of(entry.name, at, blocs)
        except UserError as clash:
            yield error(catalog.problem(entry.name, clash.problems[0].what, field="derived_from", fix=clash.problems[0].fix))
            continue
        if effective is None:
            yield error(catalog.problem(entry.name, f"`{entry.name}` has no label, nor has what it is derived from", fix="add `label`"))
        elif site is not None and policy is not None:
            yield from _at_home(entry.name, effective, site, catalog, files, policy, at)


def _at_home(
    name: str, label: Label, site: Site, catalog: CatalogFiles, files: EstateFiles, policy: CedarPolicy, at: datetime
) -> Iterator[Finding]:
    held = frozenset(certification for certification, until in site.certifications.items() if until is None or at.date() <= until)
    country = site.country or ""
    place = PoolFacts(
        name=site.id,
        site=site.id,
        cloud=site.cloud,
        country=country,
        operator_country=site.operator_country or "",
        max_level=LEVELS[site.max_classification],
        certifications=held,
        gdpr_basis=files.estate.blocs.gdpr_basis(country, held, at.date()),
        customer_managed_keys=site.customer_managed_keys,
    )
    operator = Principal(user="check", roles=("operator",))
    question = Question("store", operator, place, label, "ingest", "check", "prod", "", at, country)
    for reason in policy.ask([question])[0].reasons:
        what = f"its home `{site.id}` may not hold `{name}`: {reason.rule}, {reason.observed}"
        yield error(catalog.problem(name, what, field="home", expected=reason.required, fix=f"move it, or see {reason.source}"))
