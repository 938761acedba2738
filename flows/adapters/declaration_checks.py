"""Everything in the declarations that does not fit together, found in one pass: estate, catalog, workloads and policy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from flows.adapters import estate_checks
from flows.adapters.catalog import CatalogFiles, read_catalog
from flows.adapters.cedar_rules import SCHEMA_FILE
from flows.adapters.declared import Declared
from flows.adapters.estate import BLOCS, KINDS, EstateFiles, Unread, examine, fits, listed
from flows.adapters.estate_checks import CONTROL, Finding, error, warning
from flows.adapters.estate_import import ASSUMED
from flows.adapters.policy import CedarPolicy
from flows.adapters.policy_cases import CASES_FILE
from flows.adapters.policy_data import DATA_FILES
from flows.adapters.workload_declarations import WorkloadDeclaration, names, read_declaration
from flows.core.errors import Problem, UserError
from flows.core.governance.blocs import Blocs
from flows.core.governance.labels import Label
from flows.core.placement.estate import LEVELS, Site
from flows.core.placement.policy import PoolFacts, Question
from flows.core.placement.request import Principal

T = TypeVar("T")

DECLARED = (".csv", ".yaml", ".yml", ".cedar", ".cedarschema")
"""Endings of files that people write as declarations."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the declarations lie; an estate can be looked at without a catalog, without workloads and without the pools' templates."""

    estate: Path
    policies: Path
    catalog: Path | None
    workloads: Path | None
    templates: Path | None = None


def check(folders: Folders, at: datetime) -> list[Finding]:
    """All findings as of that instant; an empty list means that everything fits."""
    found: list[Finding] = []
    estate, problems = _collect(found, lambda: examine(folders.estate)) or (None, [])
    found += [error(problem) for problem in problems]
    labels, workloads = folders.catalog, folders.workloads
    catalog = None if labels is None else _collect(found, lambda: read_catalog(labels))
    files_of, declared = None, []
    if workloads is not None:
        files_of = _collect(found, lambda: names(workloads))
        declared = [one for name in files_of or () if (one := _workload(found, workloads, name))]
    blocs = Blocs() if estate is None else estate.estate.blocs
    policy = _collect(found, lambda: CedarPolicy.load(folders.policies, blocs))
    found += _strays(folders)
    if estate is not None:
        found += estate_checks.findings(estate, at)
        found += _templates(estate, folders.templates)
        for declaration, document in declared:
            found += _declaration(declaration, document, estate)
        if policy is not None:
            found += _certifications(estate, policy)
    if catalog is not None:
        found += _uses(catalog, declared, files_of)
    if catalog is not None and estate is not None:
        found += _entries(catalog, estate, policy, at)
    if policy is not None and estate is not None and catalog is not None and files_of is not None:
        pools = estate.named("pools", "name")
        datasets = {entry.name for entry in catalog.catalog.entries}
        found += [] if None in pools else [warning(problem) for problem in policy.data.unknown(pools, datasets, files_of)]
    return found


def _collect(found: list[Finding], load: Callable[[], T]) -> T | None:
    try:
        return load()
    except UserError as wrong:
        found += [Finding("error", problem) for problem in wrong.problems]
    except OSError as wrong:
        found.append(error(Problem(f"cannot be read: {(wrong.strerror or str(wrong)).lower()}", file=wrong.filename)))
    return None


def _workload(found: list[Finding], folder: Path, name: str) -> tuple[WorkloadDeclaration, Declared] | None:
    return _collect(found, lambda: read_declaration(folder, name))


def _strays(folders: Folders) -> Iterator[Finding]:
    """Files beside the declarations that look like one and that nothing reads."""
    estate = (*(kind.file for kind in KINDS.values()), BLOCS)
    policies = (SCHEMA_FILE, CASES_FILE, *DATA_FILES)
    for folder, names_read, pattern in (
        (folders.estate, estate, None),
        (folders.policies, policies, "*.cedar"),
        (folders.catalog, (), "*.yaml"),
        (folders.workloads, (), "*.yaml"),
    ):
        for path in sorted(folder.iterdir()) if folder is not None and folder.is_dir() else ():
            if path.suffix.lower() not in DECLARED or path.is_dir():
                continue
            if path.name not in names_read and not (pattern and fnmatchcase(path.name, pattern)):
                expected = ", ".join(f"`{name}`" for name in (*names_read, *([pattern] if pattern else [])))
                close = difflib.get_close_matches(path.name.lower(), names_read or [f"{path.stem}.yaml"], n=1, cutoff=0.75)
                fix = f"did you mean `{close[0]}`?" if close else "rename it, or keep it elsewhere"
                yield warning(Problem("nothing reads this file", file=str(path), expected=expected, fix=fix))
            elif path.name in (CASES_FILE, *DATA_FILES) and path.is_symlink() and not path.exists():
                yield error(Problem("a link that leads to no file", file=str(path), fix="let it point at one, or take it out"))


def _templates(files: EstateFiles, folder: Path | None) -> Iterator[Finding]:
    there = sorted(path.stem for path in folder.glob("*.json")) if folder is not None else []
    for index, pool in enumerate(files.estate.pools):
        if there and pool.template is not None and pool.template not in there:
            what = f"`{pool.name}` asks for template `{pool.template}`, which is not there"
            yield error(
                files.problem("pools", index, what, field="template", expected=f"one of {_ticked(there)}", fix=_near(pool.template, there))
            )


def _certifications(files: EstateFiles, policy: CedarPolicy) -> Iterator[Finding]:
    """Certifications that nothing asks for, and needs of adequacy decisions that no site can meet."""
    texts = [text for name, text in policy.document.items() if name.endswith(".cedar")]
    known = {*ASSUMED, *re.findall(r'"([^"]*)"', "".join(texts))}
    needs = {decision.needs for decision in files.estate.blocs.adequacy.values()}
    for index, site in enumerate(files.estate.sites):
        for name in sorted(set(site.certifications) - known - needs):
            what = f"no rule asks for certification `{name}` of `{site.id}`"
            fix = _near(name.lower(), ASSUMED) or "take it out, or write a rule that asks for it"
            yield warning(files.problem("sites", index, what, field="certifications", fix=fix))
    held = {name for site in files.estate.sites for name in site.certifications}
    for code, decision in sorted(files.estate.blocs.adequacy.items()):
        if decision.needs is not None and decision.needs not in known | held:
            what = f"the adequacy decision for `{code}` needs `{decision.needs}`, which no site holds"
            path = ("adequacy", code, "needs")
            yield warning(
                files.documents["blocs"].problem(path, what, fix=_near(decision.needs.lower(), ASSUMED) or "name a certification")
            )


def _near(name: str, known: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"did you mean `{close[0]}`?" if close else None


def _ticked(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _declaration(declaration: WorkloadDeclaration, document: Declared, files: EstateFiles) -> Iterator[Finding]:
    """Names in a workload's declaration that the estate does not have."""
    sites = files.named("sites", "id") - {CONTROL}
    if declaration.home not in sites and None not in sites:
        yield error(document.problem(("home",), f"`{declaration.home}` is no data site", expected=f"one of {', '.join(sorted(sites))}"))
    known = {"sites": sites, "pools": files.named("pools", "name"), "clouds": files.named("sites", "cloud")}
    offers = [*files.estate.offers, *files.lost["offers"]]
    accelerators = {offer.accelerator for offer in offers if offer.accelerator}
    vague = any(isinstance(offer, Unread) for offer in offers)
    steps = [(("steps", name), step) for name, step in declaration.steps.items()]
    for path, step in ((("defaults",), declaration.defaults), *steps):
        for kind, allowed in known.items():
            for name in () if None in allowed else sorted(set(getattr(step.restrict, kind)) - allowed):
                what, expected = f"`{name}` is none of the estate's {kind}", f"one of {listed(sorted(allowed), most=20)}"
                yield error(document.problem((*path, "restrict", kind), what, expected=expected, fix=_near(name, allowed)))
        for pattern in step.restrict.offers:
            if not any(fits(offer, [pattern]) for offer in offers):
                what = f"`{pattern}` fits none of the estate's offers"
                fix = _near(pattern, {offer.name for offer in offers}) or "name an offer, or a pattern such as `m6a.*`"
                yield warning(document.problem((*path, "restrict", "offers"), what, fix=fix))
        for name in () if vague else sorted(set(step.resources.accelerators) - accelerators):
            what, expected = f"no offer of the estate has `{name}`", f"one of {listed(sorted(accelerators), most=20) or 'none'}"
            problem = document.problem((*path, "resources", "accelerators", name), what, expected=expected, fix=_near(name, accelerators))
            yield warning(problem)


def _uses(
    catalog: CatalogFiles, declared: list[tuple[WorkloadDeclaration, Declared]], files_of: tuple[str, ...] | None
) -> Iterator[Finding]:
    """Workloads and datasets that name each other in vain; `files_of`: the workloads that have a file, right or wrong."""
    for workload, steps in catalog.catalog.workloads.items():
        path = ("workloads", workload)
        if files_of is not None and workload not in files_of:
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
    homes = files.named("sites", "id")
    for entry in catalog.catalog.entries:
        site = estate.site_by_id.get(entry.home)
        if site is None and not homes & {entry.home, None}:
            yield error(catalog.problem(entry.name, f"`{entry.home}` is no site", field="home", fix="name a site of sites.yaml"))
        for label in () if files.lost["blocs"] else (entry.label, entry.declassified.to if entry.declassified else None):
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
        if files.lost["blocs"]:
            continue
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
