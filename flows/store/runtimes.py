"""How long completed runs took, and on which offer their decision put them."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import exists, select
from sqlalchemy.orm import Session, aliased

from flows.store.models import DecisionRow, RunRow

COMPLETED = "completed"
NEWEST = 200
"""Older runs are not looked at: what a step takes follows its code and its data."""


def by_offer(tx: Session, workload: str, step: str, *, newest: int = NEWEST) -> dict[str, list[float]]:
    """Seconds of the step's newest completed runs, by the offer that their decision chose.

    Runs on spot are left out: those that nothing interrupted are the short ones. So are later tries of an intent, which may have gone on
    from a checkpoint.
    """
    other = aliased(RunRow)
    earlier = exists().where(other.intent_id == RunRow.intent_id, other.id != RunRow.id, other.started_at <= RunRow.started_at)
    query = (
        select(RunRow.started_at, RunRow.finished_at, DecisionRow.body)
        .join(DecisionRow, DecisionRow.id == RunRow.decision_id)
        .where(RunRow.workload == workload, RunRow.step == step, RunRow.state == COMPLETED, RunRow.finished_at.is_not(None), ~earlier)
        .order_by(RunRow.started_at.desc(), RunRow.id)
        .limit(newest)
    )
    found: dict[str, list[float]] = {}
    for started, finished, body in tx.execute(query).tuples():
        chosen = body.get("chosen")
        if finished is not None and isinstance(chosen, Mapping) and not chosen["spot"]:
            found.setdefault(chosen["offer"], []).append((finished - started).total_seconds())
    return found
