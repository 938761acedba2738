"""Prove the security of each site, keep what was proved, and say which sites have lost a proof that they owe.

The checks read configuration, make handshakes and search texts; they change nothing and open no data.
"""

from __future__ import annotations

import logging
import os
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from flows.adapters.security import aws, gcp, kubernetes, secrets, transit
from flows.adapters.security.declared import SECURITY_FILE
from flows.core.canonical import instant
from flows.core.errors import TradewindError, UserError
from flows.core.governance import proofs as rules
from flows.core.governance.proofs import Check, Finding, SiteSecurity, Wrong, attested, judged, proof_of
from flows.services.declarations import Declarations
from flows.store import ledger, proofs

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from flows.adapters.settings import Settings
    from flows.core.governance.proofs import Security
    from flows.store.database import State

log = logging.getLogger("flows.govern")

BUCKETS = {"aws": aws.bucket, "gcp": gcp.bucket}
MOST_TOLD = 5
"""Places of secrets that a finding names."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a check of all sites came to: how many findings there are of each outcome, and the sites that are not eligible now."""

    proved: int
    failed: int
    unchecked: int
    lost: rules.Unproven

    def to_json(self) -> dict[str, object]:
        """The summary for programs."""
        lost = {site: dict(checks) for site, checks in self.lost.items()}
        return {"proved": self.proved, "failed": self.failed, "unchecked": self.unchecked, "not_eligible": lost}


def unproven(tx: Session, settings: Settings, declarations: Declarations, at: datetime) -> dict[str, dict[str, str]]:
    """Each site that lacks a proof that it owes in this profile: check to why.

    Raises:
        UserError: nothing is declared in the cloud profile, where that would demand nothing of any site.
    """
    security = _declared(settings, declarations)
    if security is None:
        return {}
    return rules.unproven(rules.owed(security, settings.profile, declarations.estate), proofs.all_(tx), at)


def demanded(settings: Settings, declarations: Declarations) -> dict[str, dict[Check, bool]]:
    """The proofs that each site owes in this profile, each with whether it counts as lost until it was made.

    Raises:
        UserError: as `unproven`.
    """
    security = _declared(settings, declarations)
    return {} if security is None else rules.owed(security, settings.profile, declarations.estate)


def prove(settings: Settings, *, at: datetime, prefect_url: str | None = None) -> tuple[Finding, ...]:
    """Make every check of every site where something may be placed: one finding each.

    `prefect_url` is the orchestrator's API; left out: `PREFECT_API_URL`.

    Raises:
        UserError: a declaration is wrong or missing.
    """
    declarations = Declarations.load(settings)
    security = declarations.security
    if security is None:
        raise UserError("no such file", file=str(settings.deployments / SECURITY_FILE), fix="declare which proofs are demanded")
    url = prefect_url or os.environ.get("PREFECT_API_URL")
    embedded = settings.profile == "embedded"
    pools: dict[str, set[str]] = {}
    for pool in declarations.estate.pools:
        if pool.offers:
            pools.setdefault(pool.site, set()).add(pool.name)
    services = [one for one in (url, settings.tracking_url, settings.state_url) if one]
    shared = tuple(transit.service(one, embedded=embedded) for one in services)
    searched = _search(settings, security, url, at)
    found: list[Finding] = []
    for site in (one.id for one in declarations.estate.sites if one.id in pools):
        told = security.of(site)
        found += _at_rest(told, embedded=embedded)
        lines = shared if embedded else (*shared, *transit.endpoints(told.endpoints))
        found.append(transit.transit(site, lines))
        found.append(_secrets(told, pools[site], *searched, cluster=not embedded))
    return tuple(attested(one, security.of(one.site).attested, at) for one in found)


def record(state: State, settings: Settings, findings: Sequence[Finding], *, principal: str, at: datetime) -> Summary:
    """Keep what was found, with a ledger row for each site, in one transaction: from its end on decisions and workers go by it.

    Raises:
        UserError: as `unproven`.
    """
    declarations = Declarations.load(settings)
    security = _declared(settings, declarations)
    if security is None:
        raise UserError("no such file", file=str(settings.deployments / SECURITY_FILE), fix="declare which proofs are demanded")
    at = at.replace(microsecond=0)  # as the clock of decisions is: what was proved in this second counts in it
    with state.transaction() as tx:
        for site in sorted({one.site for one in findings}):
            told = {}
            for one in (each for each in findings if each.site == site):
                proof = proof_of(one, security.holds, at)
                stands = proofs.put(tx, proof)
                told[one.check] = {
                    "outcome": one.outcome,
                    "evidence": one.evidence,
                    "valid_until": instant(proof.valid_until),
                    "counts": stands,
                }
            ledger.append(tx, "security-proof", {"site": site, "checks": told}, principal=principal, at=at)
        lost = unproven(tx, settings, declarations, at)
    count = {outcome: sum(one.outcome == outcome for one in findings) for outcome in ("proved", "failed", "unchecked")}
    return Summary(**count, lost=lost)


def govern(state: State, settings: Settings, *, at: datetime) -> Summary | None:
    """The scheduled check: prove and record; None if nothing is declared.

    Raises:
        UserError: a declaration is wrong, or missing in the cloud profile.
    """
    if _declared(settings, Declarations.load(settings)) is None:
        return None
    found = prove(settings, at=at)
    for one in found:
        if one.outcome != "proved":
            log.warning("%s of %s %s: %s", one.check, one.site, one.outcome, one.observed)
    return record(state, settings, found, principal="scheduler", at=at)


def _declared(settings: Settings, declarations: Declarations) -> Security | None:
    if declarations.security is None and settings.profile == "cloud":
        raise UserError("no such file", file=str(settings.deployments / SECURITY_FILE), fix="declare which proofs are demanded")
    return declarations.security


def _at_rest(told: SiteSecurity, *, embedded: bool) -> Iterator[Finding]:
    if told.bucket is not None and not embedded:
        yield from BUCKETS[told.bucket.provider](told.site, told.bucket)
        return
    where = "a folder of this machine" if embedded else "no bucket"
    fix = f"have a person look, and write it under `attested` of the site in `{SECURITY_FILE}`"
    seen = f"{where}: not provable here"
    yield Finding(
        told.site, "encryption-at-rest", "unchecked", f"{seen}, the volume's state does not show to its users", "an encrypted volume", fix
    )
    yield Finding(
        told.site, "no-public-access", "unchecked", f"{seen}, who reaches the volume does not show", "a volume that is not shared", fix
    )


def _search(settings: Settings, security: Security, url: str | None, at: datetime) -> tuple[list[secrets.Leak], str]:
    """What the search of all that sites share has found, and why part of it could not be made, if so."""
    texts, missing = list(secrets.declarations(settings.deployments)), ""
    try:
        if url is None:
            missing = "no Prefect server is named"
        else:
            texts += secrets.orchestrator(url, since=at - security.holds, headers=_credentials())
    except TradewindError as error:
        missing = str(error.problems[0].what)
    return secrets.search(texts), missing


def _credentials() -> dict[str, str]:
    """How this process authenticates to the orchestrator, from its environment."""
    if key := os.environ.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    if pair := os.environ.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
    return {}


def _secrets(told: SiteSecurity, pools: set[str], leaks: Sequence[secrets.Leak], missing: str, *, cluster: bool) -> Finding:
    """The secrets of a site's pools, and those that belong to no single one."""
    mine = [leak for leak in leaks if leak.pool is None or leak.pool in pools]
    if told.namespace is not None and cluster:
        try:
            mine += secrets.search(kubernetes.held(told.namespace, told.context, sorted(pools)[0]))
        except TradewindError as error:
            missing = missing or str(error.problems[0].what)
    facts = {"leaks": sorted(str(leak) for leak in mine), "missing": missing}
    expected = "secrets in blocks or a secret store only"
    if mine:
        more = f" and {len(mine) - MOST_TOLD} more" if len(mine) > MOST_TOLD else ""
        seen = "; ".join(str(leak) for leak in mine[:MOST_TOLD]) + more
        fix = "move each into a block, take it away there, and replace it: it is known now"
        return judged(told.site, "secrets", [Wrong(seen, expected, fix)], "", facts)
    if missing:
        fix = "see that the server runs, and that this command may read it"
        return Finding(told.site, "secrets", "unchecked", f"not all was searched: {missing}", expected, fix, facts)
    return judged(told.site, "secrets", [], "none in declarations, job variables, parameters, variables, runs and logs", facts)
