"""One promotion as a run in control: from the recorded evaluation to the outcome on record."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from flows.adapters.settings import CONTROL, Settings, identity
from flows.core.errors import GuardRefused, UserError
from flows.core.placement.model import Principal
from flows.core.planning import intent_id as id_of
from flows.core.planning import window_of
from flows.services import promoting
from flows.services.declarations import Declarations
from flows.services.placing import SYSTEM_ROLES
from flows.store import outbox, runs
from flows.store.database import State
from flows.store.models import IntentRow
from flows.workloads import registry

PROMOTER = Principal(user="tradewind:promote", roles=SYSTEM_ROLES)
"""Who promotes: the system, since the gate and not a person lets a challenger pass."""


def run(workload: str, as_of: datetime, intent_id: str, cause: str, *, run_id: str, settings: Settings | None = None) -> dict[str, Any]:
    """Judge the challenger by the evaluation of the same window and cause; move the alias or record the refusal.

    Raises:
        GuardRefused: this is not control.
        PolicyDenied: policy does not let the system promote this model.
        UserError: there is no evaluation to judge by.
    """
    settings = settings or Settings()
    site, pool = identity()
    if site != CONTROL:
        raise GuardRefused(f"`promote` was started at `{site}`", expected="site `control`", fix="use the deployment `promote/control`")
    state = State(settings.state_url)
    began = datetime.now(UTC)
    with state.transaction() as tx:
        runs.start(
            tx,
            id=run_id,
            workload=workload,
            step="promote",
            pool=pool,
            site=site,
            pid=os.getpid(),
            at=began,
            intent_id=intent_id,
            decision_id=None,
        )
    try:
        with state.reading() as tx:
            version, verdict = _evaluation(tx, workload, as_of, cause)
        Declarations.load(settings).require_control("promote", workload, PROMOTER, at=datetime.now(UTC))
        outcome = promoting.promote(
            state, settings, registry.load(workload), intent_id, version, verdict, datetime.now(UTC), principal=PROMOTER.user
        )
    except BaseException as error:
        with state.transaction() as tx:
            outbox.fail(tx, intent_id, str(error) or type(error).__name__, datetime.now(UTC))
            runs.finish(tx, run_id, "failed", datetime.now(UTC), error=str(error))
        raise
    numbers = {"outcome": outcome.outcome, "version": outcome.version, "previous": outcome.previous, "evaluation": verdict["numbers"]}
    kept = {"outputs": {}, "numbers": numbers, "links": {}, "summary": outcome.summary, "run_id": run_id, "pool": pool, "site": site}
    with state.transaction() as tx:
        outbox.finish(tx, intent_id, kept, datetime.now(UTC))
        runs.finish(tx, run_id, "completed", datetime.now(UTC))
    return kept


def _evaluation(tx: Session, workload: str, as_of: datetime, cause: str) -> tuple[str, dict[str, Any]]:
    window = window_of(as_of)
    found = {}
    for step in ("train", "evaluate"):
        row = outbox.get(tx, id_of(workload, step, window, cause)) or newest_done(tx, workload, step, window)
        if row is None or row.state != outbox.DONE or row.result is None:
            raise UserError(
                f"`{step}` of `{workload}` as of {window} is not done", fix="run the lifecycle; it promotes after it has evaluated"
            )
        found[step] = row.result["numbers"]
    return str(found["train"]["model_version"]), dict(found["evaluate"]["verdict"])


def newest_done(tx: Session, workload: str, step: str, window: str) -> IntentRow | None:
    """The finished intent of a step for one window that ended last, whatever caused it."""
    query = select(IntentRow).where(
        IntentRow.workload == workload, IntentRow.step == step, IntentRow.window == window, IntentRow.state == outbox.DONE
    )
    return tx.scalars(query.order_by(IntentRow.finished_at.desc()).limit(1)).first()
