"""Which version of which dataset rests at which site."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from flows.core.errors import IntegrityError
from flows.store.database import insert_new
from flows.store.models import ReplicaRow


def add(
    tx: Session,
    *,
    dataset: str,
    version: str,
    site: str,
    bytes: int,
    files: Mapping[str, str],
    facts: Mapping[str, Any],
    intent_id: str | None,
    at: datetime,
) -> ReplicaRow:
    """Record that a version rests at a site; a replica that is recorded already stays as it is.

    Args:
        tx: an open write transaction.
        dataset: catalog name.
        version: named by content.
        site: where it rests.
        bytes: total size.
        files: relative path to sha256.
        facts: the producer's; ``as_of``, if there, is an instant or its text.
        intent_id: what made it.
        at: when, aware.

    Raises:
        IntegrityError: this version is recorded with other bytes, here or elsewhere.
        ValueError: ``as_of`` is no instant.
    """
    for other in tx.scalars(select(ReplicaRow).where(ReplicaRow.dataset == dataset, ReplicaRow.version == version)):
        if other.bytes != bytes or other.files != files:
            raise IntegrityError(
                f"`{dataset}@{version}` has other bytes at `{other.site}` than at `{site}`", expected="one content for one version"
            )
    values = {"dataset": dataset, "version": version, "site": site, "bytes": bytes, "files": files, "facts": facts}
    insert_new(tx, ReplicaRow, values | {"as_of": as_instant(facts.get("as_of")), "intent_id": intent_id, "at": at})
    return tx.get_one(ReplicaRow, (dataset, version, site))


def sites(tx: Session, dataset: str, version: str) -> list[str]:
    """Where a version rests, in order of name."""
    return list(
        tx.scalars(select(ReplicaRow.site).where(ReplicaRow.dataset == dataset, ReplicaRow.version == version).order_by(ReplicaRow.site))
    )


def get(tx: Session, dataset: str, version: str, site: str) -> ReplicaRow | None:
    """One replica, None if the version does not rest there."""
    return tx.get(ReplicaRow, (dataset, version, site))


def latest(tx: Session, dataset: str, *, as_of: datetime | None = None, site: str | None = None) -> ReplicaRow | None:
    """The newest replica of a dataset: by its fact ``as_of``, then by when it was recorded; None if there is none.

    With ``as_of`` only replicas whose own ``as_of`` is known and not after it count: nothing of the future is seen.
    """
    query = select(ReplicaRow).where(ReplicaRow.dataset == dataset)
    if as_of is not None:
        query = query.where(ReplicaRow.as_of <= as_of)
    if site is not None:
        query = query.where(ReplicaRow.site == site)
    order = (ReplicaRow.as_of.is_(None), ReplicaRow.as_of.desc(), ReplicaRow.at.desc(), ReplicaRow.version, ReplicaRow.site)
    return tx.scalars(query.order_by(*order).limit(1)).first()


def by_dataset(tx: Session) -> dict[str, list[ReplicaRow]]:
    """All replicas by the name of their dataset, the newest first."""
    found: dict[str, list[ReplicaRow]] = {}
    for row in tx.scalars(select(ReplicaRow).order_by(ReplicaRow.dataset, ReplicaRow.at.desc(), ReplicaRow.version, ReplicaRow.site)):
        found.setdefault(row.dataset, []).append(row)
    return found


def remove(tx: Session, *, dataset: str, version: str, site: str) -> bool:
    """Forget a replica, because it no longer rests there; whether there was one."""
    row = tx.get(ReplicaRow, (dataset, version, site))
    if row is None:
        return False
    tx.execute(delete(ReplicaRow).where(ReplicaRow.dataset == dataset, ReplicaRow.version == version, ReplicaRow.site == site))
    return True


def as_instant(value: object) -> datetime | None:
    """An instant from a datetime or its ISO 8601 text; a date is its first instant in UTC.

    Raises:
        ValueError: the value is neither, or a time has no time zone.
    """
    if value is None:
        return None
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    if moment.tzinfo is None and isinstance(value, str) and len(value) == len("2026-01-05"):
        return moment.replace(tzinfo=UTC)
    if moment.tzinfo is None:
        raise ValueError("an instant needs a time zone")
    return moment.astimezone(UTC)
