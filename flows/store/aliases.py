"""Which model version an alias names. A move is begun, made in the model registry, then settled: a kill in between is seen and mended.

::

    settled (old) --begin_move--> moving (new) --settle--> settled (new)
                                      |--------abandon---> settled (old)
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.orm import Session

from flows.core.errors import IntegrityError
from flows.store.database import insert_new, locked
from flows.store.models import AliasMoveRow, AliasRow

SETTLED, MOVING = "settled", "moving"


class StaleAlias(IntegrityError):
    """The alias is not where the caller saw it: another move came first."""


def begin_move(
    tx: Session, workload: str, alias: str, *, expected_version: str | None, new_version: str, intent_id: str, at: datetime
) -> AliasRow:
    """Hold the alias's row and mark it as moving to a new version; the same intent's move again changes nothing.

    Args:
        tx: an open write transaction; others who move this alias wait until it ends.
        workload: whose model.
        alias: ``champion`` or ``challenger``.
        expected_version: what the alias must name now; None: nothing yet.
        new_version: what it will name.
        intent_id: what asked for the move.
        at: when, aware.

    Raises:
        StaleAlias: it names another version, or another intent's move is under way.
    """
    move = {"workload": workload, "alias": alias, "version": new_version, "previous": expected_version, "intent_id": intent_id}
    if expected_version is None and insert_new(tx, AliasRow, {**move, "state": MOVING, "at": at}):
        insert_new(tx, AliasMoveRow, {**move, "begun_at": at})
        return _held(tx, workload, alias)
    row = _held(tx, workload, alias, expected_version)
    if (row.intent_id, row.version) == (intent_id, new_version):
        return row
    if row.state == MOVING:
        raise StaleAlias(f"`{alias}` of `{workload}` is being moved to `{row.version}` by `{row.intent_id}`", fix="settle that move first")
    if row.version != expected_version:
        raise StaleAlias(
            f"`{alias}` of `{workload}` names version `{row.version}`",
            expected=f"`{expected_version}`" if expected_version else "no version yet",
        )
    row.version, row.previous, row.state, row.intent_id, row.at = new_version, expected_version, MOVING, intent_id, at
    tx.flush()
    insert_new(tx, AliasMoveRow, {**move, "begun_at": at})
    return row


def settle(tx: Session, workload: str, alias: str, intent_id: str, at: datetime) -> AliasRow:
    """Record that the registry's alias has followed; settled already by the same intent changes nothing.

    Raises:
        StaleAlias: the alias was last moved by another intent.
    """
    row = _moved_by(tx, workload, alias, intent_id)
    if row.state == MOVING:
        row.state, row.at = SETTLED, at
        tx.flush()
        tx.execute(update(AliasMoveRow).where(*_move_of(row)).values(settled_at=at))
    return row


def abandon(tx: Session, workload: str, alias: str, intent_id: str, at: datetime) -> AliasRow | None:
    """Give up a move that is under way: the alias names what it named before; None if that was nothing.

    Raises:
        StaleAlias: the alias was last moved by another intent, or the move is settled.
    """
    row = _moved_by(tx, workload, alias, intent_id)
    if row.state != MOVING:
        raise StaleAlias(f"the move of `{alias}` of `{workload}` is settled", fix="move it back under a new intent")
    tx.execute(delete(AliasMoveRow).where(*_move_of(row)))
    before = history(tx, workload, alias)
    if row.previous is None or not before:
        tx.delete(row)
        tx.flush()
        return None
    row.version, row.previous, row.intent_id, row.state, row.at = before[0].version, before[0].previous, before[0].intent_id, SETTLED, at
    tx.flush()
    return row


def current(tx: Session, workload: str, alias: str) -> AliasRow | None:
    """What an alias names, None if nothing; while its state is ``moving``, ``previous`` is what still serves."""
    return tx.get(AliasRow, (workload, alias), populate_existing=True)


def moving(tx: Session) -> list[AliasRow]:
    """Moves that were begun and not settled, the oldest first: after a crash these want mending."""
    return list(tx.scalars(select(AliasRow).where(AliasRow.state == MOVING).order_by(AliasRow.at, AliasRow.workload, AliasRow.alias)))


def history(tx: Session, workload: str, alias: str) -> list[AliasMoveRow]:
    """All moves of an alias, the newest first."""
    query = select(AliasMoveRow).where(AliasMoveRow.workload == workload, AliasMoveRow.alias == alias)
    return list(tx.scalars(query.order_by(AliasMoveRow.number.desc()).execution_options(populate_existing=True)))


def _held(tx: Session, workload: str, alias: str, expected: str | None = None) -> AliasRow:
    tx.flush()
    row = locked(tx, AliasRow, (workload, alias))
    if row is None:
        raise StaleAlias(f"`{alias}` of `{workload}` names no version", expected=f"`{expected}`" if expected else "one")
    return row


def _moved_by(tx: Session, workload: str, alias: str, intent_id: str) -> AliasRow:
    row = _held(tx, workload, alias)
    if row.intent_id != intent_id:
        raise StaleAlias(f"`{alias}` of `{workload}` was last moved by `{row.intent_id}`", expected=f"`{intent_id}`")
    return row


def _move_of(row: AliasRow) -> tuple[ColumnElement[bool], ...]:
    columns = (AliasMoveRow.workload == row.workload, AliasMoveRow.alias == row.alias)
    return (*columns, AliasMoveRow.intent_id == row.intent_id, AliasMoveRow.version == row.version)
