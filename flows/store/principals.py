"""Opaque ids for people and services: names rest in this one table, where they can be erased."""

from __future__ import annotations

import secrets

from sqlalchemy import select
from sqlalchemy.orm import Session

from flows.store.database import insert_new, locked
from flows.store.models import PrincipalRow

PREFIX = "p-"
_ID_LENGTH = len(PREFIX) + 16


def id_for(tx: Session, name: str) -> str:
    """The opaque id of a name, made at its first use; an id that is known already stays as it is.

    The id is random, not a hash: nobody can find the name by hashing a list of names.
    """
    if name.startswith(PREFIX) and len(name) == _ID_LENGTH and tx.get(PrincipalRow, name) is not None:
        return name
    found = select(PrincipalRow.id).where(PrincipalRow.name == name)
    known = tx.scalar(found)
    if known is None:
        insert_new(tx, PrincipalRow, {"id": PREFIX + secrets.token_hex(8), "name": name})
        known = tx.scalars(found).one()
    return known


def name_of(tx: Session, id: str) -> str | None:
    """The name behind an id; None if it was erased or never known."""
    return tx.scalar(select(PrincipalRow.name).where(PrincipalRow.id == id))


def erase(tx: Session, name: str) -> str | None:
    """Forget a name for good; its id, which rows of the ledger hold, is returned and stays. None if the name is not known."""
    known = tx.scalar(select(PrincipalRow.id).where(PrincipalRow.name == name))
    row = locked(tx, PrincipalRow, known) if known is not None else None
    if row is None:
        return None
    row.name = None
    tx.flush()
    return row.id
