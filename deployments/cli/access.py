"""`tradewind access`: what the roles and service accounts of a site's runs need, and no more."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.core.errors import UserError

if TYPE_CHECKING:
    from flows.core.governance.session_policies import Reach
    from flows.core.placement.model import Estate

app = typer.Typer(no_args_is_help=True, help="What the roles and service accounts of a site's runs need, and no more.")


@app.callback()
def _group() -> None:
    """Keep `policy` a word of its own."""


@app.command()
def policy(
    site: Annotated[str, typer.Argument(help="A site of the estate, with its bucket in `TRADEWIND_SITES`.")],
    workload: Annotated[str | None, typer.Argument(help="Of this workload alone, for a role of its own; left out: of all.")] = None,
    to: Annotated[list[str] | None, typer.Option("--to", metavar="SITE", help="A site of the same cloud that transfers go to.")] = None,
) -> None:
    """Print, as JSON, the policy that goes on each role of the site: AWS with its trust, Google with IAM conditions, else S3's language.

    With it, where the site has an `access_role`, what that needs and which runs of other clouds may take it on.
    """
    from flows.adapters.settings import Settings
    from flows.adapters.step_credentials import root_of
    from flows.core.governance import role_policies
    from flows.core.governance.session_policies import policy_document
    from flows.services.declarations import Declarations

    settings = Settings()
    declarations = Declarations.declared(settings)
    if workload is not None:
        declarations.workload(workload)
    names = [workload] if workload is not None else sorted(declarations.workloads)
    for name in (site, *(to or ())):
        if name not in declarations.estate.site_by_id:
            raise UserError(f"no site `{name}`", expected=", ".join(f"`{one.id}`" for one in declarations.estate.sites))
    destinations = [root_of(one, settings) for one in to or ()]
    reaches = role_policies.reaches_of(names, root_of(site, settings), destinations, scans=workload is None)
    found: list[dict[str, Any]] = []
    for role, types in _roles(declarations.estate, site).items():
        if settings.sites[site].url.startswith("gs://"):
            found.append({"service_account": role, "buckets": role_policies.google_bindings(role, reaches)})
        elif role.startswith("arn:"):
            found.append(role_policies.aws_role(role, reaches, types))
    root = root_of(site, settings)
    found += _access(declarations.estate, site, reaches, role_policies.arriving(names, root))
    if not found:
        found.append({"policy": policy_document(reaches)})
    typer.echo(json.dumps({"site": site, "workloads": names, "roles": found}, indent=2))


def _access(estate: Estate, site: str, own: list[Reach], brought: list[Reach]) -> list[dict[str, Any]]:
    """The role of runs that no role of the site's cloud starts: the site's own, if it has such, reach as much as any, others bring data."""
    from flows.core.governance import role_policies

    declared = estate.site_by_id[site]
    if declared.access_role is None:
        return []
    if "@" in declared.access_role:
        standing = [str(pool.infrastructure["role"]) for pool in estate.pools if pool.type in role_policies.STANDING]
        return [role_policies.google_access(declared.access_role, declared.access_provider, brought, standing)]
    known = [pool for pool in estate.pools if pool.web_identity is not None]
    reaches = own if any(pool.site == site for pool in known) else brought
    return [role_policies.access_role(declared.access_role, reaches, known)]


def _roles(estate: Estate, site: str) -> dict[str, list[str]]:
    """The roles of a site's pools, and the types of the pools that stand on each."""
    found: dict[str, list[str]] = {}
    for pool in estate.pools:
        if pool.site == site and (role := pool.infrastructure.get("role")):
            found.setdefault(str(role), []).append(pool.type)
    return found
