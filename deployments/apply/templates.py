"""Base job templates of the pools: a file per type, filled from the estate, and judged before a server or a cloud is asked.

A template says `${name}` where the estate decides (a site's `region`, `account` and `images`, whatever a pool has under `infrastructure`),
`${name?}` where that may be left out, and `{{ name }}`, as Prefect does, where the chosen offer decides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flows.adapters import signing
from flows.core.errors import Problem, UserError
from flows.core.placement import kubernetes_manifest
from flows.core.placement.job_variables import job_variables, run_tags

if TYPE_CHECKING:
    from flows.adapters.estate import EstateFiles
    from flows.adapters.settings import Settings
    from flows.core.placement.estate import Offer, Pool, Site

PLACEHOLDER = re.compile(r"\$\{([a-z_]+)(\?)?\}")
VARIABLE = re.compile(r"\{\{\s*([^{}\s]+)\s*\}\}")
SITE_FIELDS = {"region": "region", "account": "account", "images": "images"}
"""Placeholders that a site's own fields fill."""
REGION_KEYS = frozenset({"region", "region_name", "awslogs-region", "location"})
"""Keys of a job configuration that say where it runs."""
EXAMPLE = {"tags": run_tags("workload", "train", "intent"), "image": f"sha256:{'0' * 64}"}


@dataclass(frozen=True, slots=True)
class _Left:
    """The value of an optional placeholder that nobody filled: its key is dropped."""


LEFT_OUT = _Left()


def filled(files: EstateFiles, template: Mapping[str, Any], index: int, settings: Settings) -> tuple[dict[str, Any], list[Problem]]:
    """The template of the estate's `index`-th pool with every `${…}` filled, and what is wrong with it."""
    pool = files.estate.pools[index]
    site = files.estate.site_by_id[pool.site]
    if pool.type == "kubernetes":
        template = _of_cluster(template, pool)
    given = given_to(pool, site, settings)
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in pool.infrastructure.items()} | given
    problems = []
    for name in sorted(set(pool.infrastructure) & set(given)):
        what = f"`{name}` of `{pool.name}` is not the pool's to say"
        fix = "take it out: the site, the settings of control, or the pool's other fields say it"
        problems.append(files.problem("pools", index, what, field="infrastructure", fix=fix))
    names = dict(_placeholders(template["job_configuration"]))
    for name in sorted(name for name, needed in names.items() if needed and values.get(name) is None):
        if name in SITE_FIELDS:
            at = files.estate.sites.index(site)
            what = f"`{site.id}` has no `{name}`, which the template of pool `{pool.name}` asks for"
            problems.append(files.problem("sites", at, what, fix=f"add `{name}: …` to the site"))
        else:
            what = f"`{pool.name}` has no `{name}`, which its template asks for"
            problems.append(files.problem("pools", index, what, field="infrastructure", fix=f"add `{name}: …` under `infrastructure`"))
    for name in sorted(set(pool.infrastructure) - set(names)):
        close = get_close_matches(name, names, n=1)
        what = f"the template of `{pool.name}` asks for no `{name}`"
        fix = f"did you mean `{close[0]}`?" if close else "take it out"
        problems.append(files.problem("pools", index, what, field="infrastructure", expected=f"among {', '.join(sorted(names))}", fix=fix))
    for name, value in pool.infrastructure.items():
        if isinstance(value, str) and "://" in value and urlsplit(value).password:
            what = f"`{name}` of `{pool.name}` holds a password"
            problems.append(
                files.problem("pools", index, what, field="infrastructure", fix="put it into a secret store and name that secret")
            )
    body = {"job_configuration": _fill(template["job_configuration"], values), "variables": template["variables"]}
    return body, problems or [*_misfits(files, body, index)]


def _of_cluster(template: Mapping[str, Any], pool: Pool) -> dict[str, Any]:
    """The template with what the scheduler and the nodes of the pool's cluster want."""
    job = template["job_configuration"]
    return {**template, "job_configuration": {**job, "job_manifest": kubernetes_manifest.manifest(job["job_manifest"], pool)}}


def given_to(pool: Pool, site: Site, settings: Settings) -> dict[str, Any]:
    """What control, the site and the cluster say in a pool's template, such as control's public keys: `infrastructure` may not."""
    sites = {name: one.public for name, one in settings.sites.items()}
    plain = {"mlflow_url": settings.mlflow_url, "lineage_url": settings.lineage_url, "sites": json.dumps(sites) if sites else None}
    return {
        **plain,
        "public_keys": signing.keyring(settings).text,
        **kubernetes_manifest.values(pool),
        **{name: getattr(site, field) for name, field in SITE_FIELDS.items()},
        "site": site.id,
        "pool": pool.name,
    }


def _placeholders(value: Any) -> Iterator[tuple[str, bool]]:
    """Each name, and whether it must be filled; the second wins if it is both."""
    found = sorted({(name, not optional) for text in _texts(value) for name, optional in PLACEHOLDER.findall(text)})
    yield from found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (key, *_texts(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _fill(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        if any(values.get(name) is None for name, _ in PLACEHOLDER.findall(value)):
            return LEFT_OUT
        whole = PLACEHOLDER.fullmatch(value)
        return values[whole[1]] if whole else PLACEHOLDER.sub(lambda match: str(values[match[1]]), value)
    if isinstance(value, Mapping):
        inner = {key: _fill(one, values) for key, one in value.items()}
        # a group around a left-out secret or key would be half a group
        if LEFT_OUT in inner.values() and set(inner) == {"secret", "version"}:
            return LEFT_OUT
        return {key: one for key, one in inner.items() if one is not LEFT_OUT}
    if isinstance(value, list):
        return [one for one in (_fill(one, values) for one in value) if one is not LEFT_OUT]
    return value


def _misfits(files: EstateFiles, body: Mapping[str, Any], index: int) -> Iterator[Problem]:
    """Variables that do not exist, a region that is not the site's, offers that the variables cannot express."""
    from jsonschema.exceptions import SchemaError  # type: ignore[import-untyped]
    from jsonschema.validators import Draft202012Validator  # type: ignore[import-untyped]

    pool = files.estate.pools[index]
    file = f"templates/{pool.template or pool.type}.json"
    schema = body["variables"]
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        yield Problem(f"no JSON schema: {error.message}", file, field="variables")
        return
    declared = schema.get("properties", {})
    used = {name.partition(".")[0] for text in _texts(body["job_configuration"]) for name in VARIABLE.findall(text)}
    for name in sorted(used - set(declared)):
        close = get_close_matches(name, declared, n=1)
        fix = f"did you mean `{close[0]}`?" if close else "declare it under `variables`, or take it out"
        expected = f"one of {', '.join(sorted(declared)) or 'none'}"
        yield Problem(f"`{{{{ {name} }}}}` is no variable of the template", file, field="job_configuration", expected=expected, fix=fix)
    region = files.estate.site_by_id[pool.site].region
    for key, found in _regions(body["job_configuration"]):
        if found != region:
            what = f"the template of `{pool.name}` runs in `{found}`"
            yield Problem(what, file, field=key, expected=f"`{region}`, the region of `{pool.site}`", fix="write `${region}`")
    yield from _unasked(files, Draft202012Validator(schema), index)


def _regions(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in REGION_KEYS and isinstance(inner, str) and not VARIABLE.search(inner):
                yield key, inner
            yield from _regions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _regions(inner)


def _unasked(files: EstateFiles, validator: Any, index: int) -> Iterator[Problem]:
    """Offers of the pool whose job variables the template would refuse."""
    pool = files.estate.pools[index]
    for offer in files.estate.offers_of(pool):
        for spot in ways(pool, offer):
            try:
                asked = job_variables(pool.type, offer, spot=spot, nodes=1, **EXAMPLE)  # type: ignore[arg-type]
            except UserError as error:
                yield files.problem("pools", index, error.problems[0].what, field="offers", expected=error.problems[0].expected)
                continue
            for wrong in validator.iter_errors(asked):
                what = f"the template refuses `{offer.name}`: {wrong.message}"
                yield files.problem("pools", index, what, field="template", fix="give the pool the template of such offers")


def ways(pool: Pool, offer: Offer) -> tuple[bool, ...]:
    """Whether the offer is rented on demand (False), as spot (True), or both."""
    return (False, True) if pool.spot and offer.spot_usd_per_hour is not None else (False,)
