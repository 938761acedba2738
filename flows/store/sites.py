"""Which sites take nothing new, and which pools cool down because a run failed there: what placement must leave out.

::

    open --cordon--> cordoned --drain--> draining
     ^------------------uncordon------------|       (each may follow any other)
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from flows.store import principals, reservations
from flows.store.database import insert_new, locked
from flows.store.models import CoolDownRow, SiteStateRow

SiteState = Literal["open", "cordoned", "draining"]
OPEN: SiteState = "open"
TAKEN_BACK = "spot: "
"""How the error of a cool-down begins that says nothing against the pool but that its spare capacity ran out."""


def change(tx: Session, site: str, state: SiteState, *, reason: str, principal: str, at: datetime) -> SiteState | None:
    """Let a site be open, cordoned or draining from now on: no decision that is made later sees what was before.

    Args:
        tx: an open write transaction.
        site: the site.
        state: what it is to be.
        reason: why, for whoever asks later; may be empty.
        principal: who says so, by name or opaque id; only the opaque id is stored.
        at: when, aware.

    Returns:
        What it was before; None if it was just so, for the same reason, and nothing has changed.
    """
    reservations.hold(tx)  # whoever decides at this moment ends first, and whoever decides next sees the change
    before = get(tx, site)
    was: SiteState = before.state if before is not None else OPEN  # type: ignore[assignment]
    if was == state and (before.reason if before is not None else "") == reason:
        return None
    values = {"state": state, "reason": reason, "principal": principals.id_for(tx, principal), "at": at}
    if not insert_new(tx, SiteStateRow, {"site": site, **values}):
        row = locked(tx, SiteStateRow, site)
        for name, value in values.items():
            setattr(row, name, value)
        tx.flush()
    return was


def get(tx: Session, site: str) -> SiteStateRow | None:
    """The last change of a site; None if it was always open."""
    return tx.get(SiteStateRow, site, populate_existing=True)


def closed(tx: Session) -> dict[str, SiteStateRow]:
    """The cordoned and draining sites by name: they get nothing new."""
    query = select(SiteStateRow).where(SiteStateRow.state != OPEN).order_by(SiteStateRow.site)
    return {row.site: row for row in tx.scalars(query)}


def cool(tx: Session, pool: str, intent_id: str, *, until: datetime, error: str, at: datetime) -> None:
    """Let a pool cool down until an instant, since an intent's run failed there; a second failure of the intent there counts anew."""
    reservations.hold(tx)
    values = {"until_at": until, "error": error, "at": at}
    if not insert_new(tx, CoolDownRow, {"pool": pool, "intent_id": intent_id, **values}):
        row = locked(tx, CoolDownRow, (pool, intent_id))
        for name, value in values.items():
            setattr(row, name, value)
        tx.flush()


def cooling(tx: Session, at: datetime) -> dict[str, datetime]:
    """The pools that cool down at an instant, and until when; one whose spot capacity was taken back does so for its own intent alone."""
    everybody = (CoolDownRow.until_at > at, CoolDownRow.error.not_like(f"{TAKEN_BACK}%"))
    query = select(CoolDownRow.pool, func.max(CoolDownRow.until_at)).where(*everybody).group_by(CoolDownRow.pool)
    return dict(list(tx.execute(query.order_by(CoolDownRow.pool)).tuples()))


def failed_for(tx: Session, intent_id: str, at: datetime) -> list[str]:
    """The pools that cool down because of this very intent's runs."""
    query = select(CoolDownRow.pool).where(CoolDownRow.intent_id == intent_id, CoolDownRow.until_at > at)
    return list(tx.scalars(query.order_by(CoolDownRow.pool)))


def end_cooling(tx: Session, pools: Iterable[str]) -> None:
    """Let pools be used again at once, because a person says that they work."""
    tx.execute(delete(CoolDownRow).where(CoolDownRow.pool.in_(list(pools))))
