"""Apply: declared objects, observed objects, their difference, and the difference made true."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from deployments.apply import declared, server
from deployments.apply.block_values import blocks, names_of_sites
from deployments.apply.desired import CONTROL, STEPS, desired
from deployments.apply.model import Diff, Kind, Resource, difference, recorded, refuse_impossible
from deployments.apply.observed import observe
from deployments.apply.options import ApplyOptions
from deployments.apply.signatures import flow_specs
from deployments.apply.writing import write
from flows.services import declared_record
from flows.services.identity import who
from flows.store.database import State

if TYPE_CHECKING:
    from flows.adapters.settings import Settings

AT_ONCE_IN_CLOUD = 8


async def apply_all(
    settings: Settings,
    *,
    check: bool = False,
    url: str | None = None,
    options: ApplyOptions | None = None,
    package: str = "flows",
) -> Diff:
    """Make the Prefect server hold what is declared, or only say what would change (`check`).

    `url` is the server's API, left out: found as `server.api_url` says; `package` is where the flows live. All files are read and
    judged before the first write; nothing is written, and no lock taken, when nothing differs.

    Raises:
        UserError: a declaration is wrong, or no server is named.
        Unavailable: the server does not answer, or another apply holds the lock.
    """
    resources, keep = wanted(settings, options or ApplyOptions.load(), package)
    at_once = 1 if settings.profile == "embedded" else AT_ONCE_IN_CLOUD
    return await apply_resources(url or server.api_url(settings), resources, keep=keep, check=check, at_once=at_once)


async def apply_resources(
    url: str, resources: Sequence[Resource], *, keep: frozenset[tuple[Kind, str]] = frozenset(), check: bool = False, at_once: int = 1
) -> Diff:
    """Make the server at `url` hold these resources and none else of ours, but for the names in `keep`; `at_once` as `write` says."""
    async with server.connect(url) as api:
        diff = difference(resources, await observe(api), keep=keep)
        refuse_impossible(diff)
        if check or diff.in_sync:
            return diff
        async with server.lock(api):
            observed = await observe(api)
            diff = difference(resources, observed, keep=keep)
            refuse_impossible(diff)
            await write(api, diff, observed, at_once=at_once)
    return diff


def apply(settings: Settings, *, check: bool = False, url: str | None = None) -> Diff:
    """`apply_all` for callers that have no event loop; what it changed is in the ledger.

    Raises:
        UserError: also if nobody is known to do it.
        Unavailable: also if the state database does not answer, before anything is changed.
    """
    if check:
        return asyncio.run(apply_all(settings, check=True, url=url))
    principal, state = who(settings).name, State(settings.state_url)
    state.migrate()
    diff = asyncio.run(apply_all(settings, url=url))
    declared_record.applied(state, settings, [recorded(change) for change in diff.changes], principal=principal, at=datetime.now(UTC))
    return diff


def wanted(settings: Settings, options: ApplyOptions, package: str) -> tuple[tuple[Resource, ...], frozenset[tuple[Kind, str]]]:
    """Every resource that is declared, and the names that are left to others."""
    found = declared.load(settings, options)
    sites = sorted({pool.site for pool in found.pools if pool.name != CONTROL})
    resources = (*blocks(settings, options, sites), *desired(found, flow_specs(STEPS, package)))
    return resources, names_of_sites(sites)
