"""One promotion as a run in control: from the recorded evaluation to the outcome on record."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from flows.adapters.settings import CONTROL, Settings, identity
from flows.core.errors import GuardRefused, UserError
from flows.core.planning import intent_id as id_of
from flows.core.planning import window_of
from flows.services import approving, checkpointing, lineage, promoting
from flows.services.context import DatasetRef
from flows.services.declarations import Declarations
from flows.services.signed import require_model
from flows.store import ledger, outbox, runs
from flows.store.database import State
from flows.store.models import IntentRow
from flows.workloads import registry

PROMOTER = "promoter"
"""Who promotes: the system, since the gate and not a person lets a challenger pass."""


@lineage.in_control("promote")
def run(workload: str, as_of: datetime, intent_id: str, cause: str, *, run_id: str, settings: Settings | None = None) -> dict[str, Any]:
    """Judge the challenger by the evaluation of the same window and cause; move the alias, record the refusal, or wait for a person.

    A promotion that waits leaves its intent open; the result then has `approval`: the request and the page of what must be judged.

    Raises:
        GuardRefused: this is not control, or the intent is another one.
        PolicyDenied: policy does not let the system promote this model.
        UserError: there is no evaluation to judge by.
        IntegrityError: control did not sign this model, or what is recorded of its files changed since.
    """
    settings = settings or Settings()
    site, pool = identity()
    if site != CONTROL:
        raise GuardRefused(f"`promote` was started at `{site}`", expected="site `control`", fix="use the deployment `promote/control`")
    state = State(settings.state_url)
    began = datetime.now(UTC)
    _require_own(state, intent_id, id_of(workload, "promote", window_of(as_of), cause), workload, began)
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
            version, verdict, links, parties = _evaluation(tx, workload, as_of, cause, intent_id)
            require_model(tx, settings, DatasetRef.parse(str(verdict["challenger"])))
        # policy is asked within the transaction of the move, with whatever a person said
        declarations = Declarations.load(settings)
        approval = approving.approval_of(declarations, declarations.roles.service(PROMOTER), started_by=parties, links=links)
        outcome = promoting.promote(
            state, settings, registry.load(workload), intent_id, version, verdict, datetime.now(UTC), PROMOTER, approval
        )
    except BaseException as error:
        with state.transaction() as tx:
            outbox.fail(tx, intent_id, str(error) or type(error).__name__, datetime.now(UTC))
            runs.finish(tx, run_id, "failed", datetime.now(UTC), error=str(error))
        raise
    numbers = {"outcome": outcome.outcome, "version": outcome.version, "previous": outcome.previous, "evaluation": verdict["numbers"]}
    kept: dict[str, Any] = {
        "outputs": {},
        "numbers": numbers,
        "links": {},
        "summary": outcome.summary,
        "run_id": run_id,
        "pool": pool,
        "site": site,
    }
    now = datetime.now(UTC)
    with state.transaction() as tx:
        if outcome.request is None:
            outbox.finish(tx, intent_id, kept, now)
        else:
            outbox.postpone(tx, intent_id, now, now)
        runs.finish(tx, run_id, "completed", now)
    checkpointing.vouch(state, settings, at=now)
    if outcome.request is not None:
        with state.reading() as tx:
            kept["approval"] = approving.to_judge(tx, intent_id, now)
    return kept


def _require_own(state: State, intent_id: str, expected: str, workload: str, at: datetime) -> None:
    """Refuse a run that names another intent than the one of its workload, window and cause: it would end that one in its place."""
    if intent_id == expected:
        return
    error = GuardRefused(f"`{intent_id}` is not the promotion asked for", expected=f"`{expected}`", fix="start the workload's `lifecycle`")
    with state.transaction() as tx:
        body = {"step": "promote", "workload": workload, "pool": CONTROL, "intent": intent_id, "why": str(error)}
        ledger.append(tx, "guard-refusal", body, principal="worker", at=at)
    raise error


def _evaluation(
    tx: Session, workload: str, as_of: datetime, cause: str, intent: str
) -> tuple[str, dict[str, Any], dict[str, str], frozenset[str]]:
    """The challenger's version, its verdict, the links to reports on both, and the opaque ids of whoever asked for any of it."""
    window = window_of(as_of)
    found, links, intents = {}, dict[str, str](), [intent]
    for step in ("train", "evaluate"):
        row = outbox.get(tx, id_of(workload, step, window, cause)) or newest_done(tx, workload, step, window)
        if row is None or row.state != outbox.DONE or row.result is None:
            raise UserError(
                f"`{step}` of `{workload}` as of {window} is not done", fix="run the lifecycle; it promotes after it has evaluated"
            )
        found[step] = row.result["numbers"]
        links |= {f"{step}: {name}": address for name, address in (row.result.get("links") or {}).items()}
        intents.append(row.id)
    own = outbox.get(tx, intent)
    asked = {own.payload["requested_by"]} if own is not None and "requested_by" in own.payload else set()
    parties = approving.starters(tx, intents) | asked
    return str(found["train"]["model_version"]), dict(found["evaluate"]["verdict"]), links, frozenset(parties)


def newest_done(tx: Session, workload: str, step: str, window: str) -> IntentRow | None:
    """The finished intent of a step for one window that ended last, whatever caused it."""
    query = select(IntentRow).where(
        IntentRow.workload == workload, IntentRow.step == step, IntentRow.window == window, IntentRow.state == outbox.DONE
    )
    return tx.scalars(query.order_by(IntentRow.finished_at.desc()).limit(1)).first()
