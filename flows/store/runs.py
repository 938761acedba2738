"""Runs of steps: where, by which process, with what end."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from flows.core.errors import UserError
from flows.store.database import insert_new, locked
from flows.store.models import RunRow

RUNNING = "running"


def start(
    tx: Session,
    *,
    id: str,
    workload: str,
    step: str,
    pool: str,
    site: str,
    pid: int | None,
    at: datetime,
    intent_id: str | None,
    decision_id: str | None,
) -> RunRow:
    """Record that a run began; a run that begins again (the same id after a crash) runs anew from now on.

    Args:
        tx: an open write transaction.
        id: the run's own, such as Prefect's flow run id.
        workload: whose.
        step: which.
        pool: where.
        site: the pool's site.
        pid: process id on its worker, None if it has none.
        at: when, aware.
        intent_id: what asked for it.
        decision_id: what placed it.
    """
    values = {"workload": workload, "step": step, "pool": pool, "site": site, "pid": pid, "state": RUNNING, "started_at": at}
    values |= {"intent_id": intent_id, "decision_id": decision_id}
    new = insert_new(tx, RunRow, {"id": id, **values})
    row = _row(tx, id)
    if not new:
        for name, value in {**values, "finished_at": None, "error": None}.items():
            setattr(row, name, value)
        tx.flush()
    return row


def finish(tx: Session, id: str, state: str, at: datetime, error: str | None = None) -> None:
    """Record a run's end: a state such as ``completed``, ``failed``, ``refused``, and what went wrong.

    Raises:
        UserError: there is no such run.
    """
    row = _row(tx, id)
    row.state, row.finished_at, row.error = state, at, error
    tx.flush()


def get(tx: Session, id: str) -> RunRow | None:
    """A run, None if there is none of this id."""
    return tx.get(RunRow, id)


def recent(
    tx: Session,
    *,
    workload: str | None = None,
    step: str | None = None,
    state: str | None = None,
    intent_id: str | None = None,
    site: str | None = None,
    since: datetime | None = None,
    limit: int = 50,
) -> list[RunRow]:
    """Runs, the newest first."""
    query = select(RunRow).order_by(RunRow.started_at.desc(), RunRow.id)
    narrowed = ((RunRow.workload, workload), (RunRow.step, step), (RunRow.state, state), (RunRow.intent_id, intent_id), (RunRow.site, site))
    for column, wanted in narrowed:
        if wanted is not None:
            query = query.where(column == wanted)
    if since is not None:
        query = query.where(RunRow.started_at >= since)
    return list(tx.scalars(query.limit(limit)))


def _row(tx: Session, id: str) -> RunRow:
    row = locked(tx, RunRow, id)
    if row is None:
        raise UserError(f"there is no run `{id}`")
    return row
