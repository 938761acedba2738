"""The proofs of security as `tradewind doctor --security` and `tradewind status` tell them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flows.core.errors import TradewindError, Unavailable, UserError

if TYPE_CHECKING:
    from flows.adapters.settings import Settings
    from flows.core.governance.proofs import Check, Finding

WORDS = {"proved": "proved ", "failed": "FAILED ", "unchecked": "UNKNOWN"}


def examine(settings: Settings) -> tuple[Finding, ...]:
    """Every check of every site, made now; nothing is recorded.

    Raises:
        UserError: a declaration is wrong or missing.
    """
    from flows.services import proving

    return proving.prove(settings, at=_now(), prefect_url=_prefect(settings))


def record(settings: Settings, findings: Sequence[Finding]) -> dict[str, Any]:
    """Let what was found count from now on, as the authenticated person who looked.

    Raises:
        PolicyDenied: this person may not say how a site stands.
        Unavailable: the state database does not answer.
    """
    from flows.services import proving
    from flows.services.declarations import Declarations
    from flows.services.identity import permit, who
    from flows.store.database import State

    identity, at = who(settings), _now()
    declarations = Declarations.load(settings)
    for site in sorted({one.site for one in findings}):
        permit(declarations, identity, "site", workload=site, at=at)
    return proving.record(State(settings.state_url), settings, findings, principal=identity.name, at=at).to_json()


def demanded(settings: Settings) -> dict[str, dict[Check, bool]]:
    """The proofs that each site owes in this profile."""
    from flows.services import proving
    from flows.services.declarations import Declarations

    return proving.demanded(settings, Declarations.load(settings))


def lost(settings: Settings) -> dict[str, dict[str, str]]:
    """The sites that are not eligible by what is on record; none while there is no state database that could say so."""
    from flows.services import proving
    from flows.services.declarations import Declarations
    from flows.store.database import State

    if settings.database_url is None and not (settings.home / "state.db").exists():
        return {}
    try:
        with State(settings.state_url).reading() as tx:
            return proving.unproven(tx, settings, Declarations.load(settings), _now())
    except TradewindError:
        return {}  # `tradewind doctor` tells what is wrong with the declarations or the database


def told(findings: Sequence[Finding], owed: dict[str, dict[Check, bool]]) -> Iterator[str]:
    """Lines for people: each finding, and whether anything is kept away by it."""
    for one in findings:
        counts = one.check in owed.get(one.site, {})
        yield f"{WORDS[one.outcome]}  {one.site}: {one.check}{'' if counts else ' (not demanded)'}: {one.observed}"
        if one.outcome != "proved" and one.expected:
            yield f"         expected {one.expected}"
        if one.outcome != "proved" and one.fix:
            yield f"         fix: {one.fix}"
    lacking = missing(findings, owed)
    yield f"{len(lacking)} demanded proof{'s' if len(lacking) != 1 else ''} missing" if lacking else "all that is demanded is proved"


def missing(findings: Sequence[Finding], owed: dict[str, dict[Check, bool]]) -> list[Finding]:
    """The findings that keep their site from being eligible, once they are recorded."""
    return [
        one
        for one in findings
        if one.check in owed.get(one.site, {}) and (one.outcome == "failed" or (one.outcome == "unchecked" and owed[one.site][one.check]))
    ]


def _prefect(settings: Settings) -> str | None:
    from deployments.apply.server import api_url

    try:
        return api_url(settings)
    except (Unavailable, UserError):
        return None  # the findings say that no server was searched


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
