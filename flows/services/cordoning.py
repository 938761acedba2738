"""Close a site to anything new, empty it, open it again: changes of state that are on record, and what is still there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flows.core.errors import UserError
from flows.services import proving
from flows.services.declarations import Declarations
from flows.services.reasons import require_reason
from flows.store import ledger, principals, reservations, runs, sites
from flows.store.columns import jsonable

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from flows.adapters.settings import Settings
    from flows.core.placement.model import Estate
    from flows.store.database import State

LEDGER_KIND: dict[sites.SiteState, str] = {"open": "site-uncordon", "cordoned": "site-cordon", "draining": "site-drain"}
MOST_RUNS = 1000


@dataclass(frozen=True, slots=True)
class StillThere:
    """A run that goes on at a site."""

    run: str
    intent: str | None
    workload: str
    step: str
    pool: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class SiteView:
    """A site as it stands: its state, since when, why and by whom; the runs that are there; the intents that hold capacity for later.

    `cooling` are its pools that failed a run, and until when nothing starts there. `unproven` are the proofs of security that it owes and
    has lost, each with why: nothing is placed there until it has them.
    """

    site: str
    state: str
    since: datetime | None
    reason: str
    by: str | None
    runs: tuple[StillThere, ...]
    reserved: tuple[str, ...]
    cooling: dict[str, datetime]
    unproven: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The view as a JSON value."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        rows = [{name: getattr(run, name) for name in run.__dataclass_fields__} for run in self.runs]
        return dict(jsonable({**plain, "runs": rows}))


def change(
    state: State, settings: Settings, site: str, wanted: sites.SiteState, *, reason: str, principal: str, at: datetime
) -> tuple[str | None, SiteView]:
    """Cordon, drain or open a site, with its ledger row, in one transaction.

    From its end on no decision puts a run or data there, and no worker there starts a run that it had not begun. Data may leave.
    Opening a site also ends the cool-down of its pools.

    Returns:
        The state before, None if nothing has changed; and the site as it stands now.

    Raises:
        UserError: there is no such site, nothing is ever placed there, or it is closed without a reason.
    """
    estate = Declarations.load(settings).estate
    _require_site(estate, site)
    if wanted != sites.OPEN:
        require_reason(reason, "closing a site")
    with state.transaction() as tx:
        before = sites.change(tx, site, wanted, reason=reason, principal=principal, at=at)
        cooled = sorted(_pools(estate, site) & set(sites.cooling(tx, at))) if wanted == sites.OPEN else []
        sites.end_cooling(tx, cooled)
        view = _view(tx, estate, site, at)
        if before is not None or cooled:
            body: dict[str, Any] = {"site": site, "before": before or wanted, "reason": reason}
            body |= {"still_there": [run.run for run in view.runs]} if wanted == "draining" else {}
            body |= {"cooled": cooled} if cooled else {}
            ledger.append(tx, LEDGER_KIND[wanted], body, principal=principal, at=at)
    return before, view


def overview(state: State, settings: Settings, *, at: datetime) -> list[SiteView]:
    """Every site where something may be placed, in order of name; and those that the estate no longer has but that were closed."""
    declarations = Declarations.load(settings)
    estate = declarations.estate
    with state.reading() as tx:
        names = {pool.site for pool in estate.pools if pool.offers} | set(sites.closed(tx))
        lost = proving.unproven(tx, settings, declarations, at)
        return [replace(_view(tx, estate, name, at), unproven=lost.get(name, {})) for name in sorted(names)]


def _require_site(estate: Estate, site: str) -> None:
    known = sorted({pool.site for pool in estate.pools if pool.offers})
    if site not in known:
        what = f"nothing is ever placed at `{site}`" if site in estate.site_by_id else f"no site `{site}`"
        raise UserError(what, expected=f"one of `{'`, `'.join(known)}`")


def _pools(estate: Estate, site: str) -> set[str]:
    return {pool.name for pool in estate.pools if pool.site == site}


def _view(tx: Session, estate: Estate, site: str, at: datetime) -> SiteView:
    row, pools = sites.get(tx, site), _pools(estate, site)
    there = tuple(_still_there(runs.recent(tx, site=site, state=runs.RUNNING, limit=MOST_RUNS)))
    held = tuple(found.intent_id for found in reservations.active(tx, at) if found.pool in pools)
    return SiteView(
        site=site,
        state=row.state if row is not None else sites.OPEN,
        since=row.at if row is not None else None,
        reason=row.reason if row is not None else "",
        by=(principals.name_of(tx, row.principal) or row.principal) if row is not None else None,
        runs=there,
        reserved=held,
        cooling={pool: until for pool, until in sites.cooling(tx, at).items() if pool in pools},
    )


def _still_there(rows: Iterable[Any]) -> Iterable[StillThere]:
    for row in rows:
        yield StillThere(row.id, row.intent_id, row.workload, row.step, row.pool, row.started_at)
