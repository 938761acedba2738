"""What a finished step leaves behind, in one transaction: replicas, verdicts, intents, costs, ledger rows, its own intent done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from flows.core.canonical import instant
from flows.core.drift import DriftVerdict
from flows.core.retraining import CAUSE, STEP, plan_retrain
from flows.services.context import StepContext, StepResult
from flows.store import costs, ledger, outbox, replicas, reservations, runs, transfers, verdicts
from flows.store.models import IntentRow

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def record(
    ctx: StepContext, decision: Mapping[str, Any], result: StepResult, *, run_id: str, started: datetime, finished: datetime
) -> dict[str, Any]:
    """Write the step's record and return what its intent keeps: outputs, numbers, links, summary, and the retrain it asked for."""
    kept: dict[str, Any] = {
        "outputs": {version.dataset: f"{version.dataset}@{version.version}" for version in result.outputs},
        "numbers": dict(result.numbers),
        "links": dict(result.links),
        "summary": result.summary,
        "run_id": run_id,
        "pool": ctx.pool,
        "site": ctx.site,
    }
    with ctx.state.transaction() as tx:
        for version in result.outputs:
            facts = {"as_of": instant(ctx.as_of), **version.facts}
            replicas.add(
                tx,
                dataset=version.dataset,
                version=version.version,
                site=version.site,
                bytes=version.bytes,
                files=version.files,
                facts=facts,
                intent_id=ctx.intent_id,
                at=finished,
            )
        _costs(tx, ctx, decision, (finished - started).total_seconds(), finished)
        if ctx.step == "transfer":
            _transfer(tx, ctx, decision, result, run_id, finished)
        if "verdict" in result.numbers:
            kept["verdict_id"] = _verdict(tx, ctx, result.numbers["verdict"], finished)
            kept["retrain_intent"] = _retrain(tx, ctx, result.numbers["verdict"], finished) if ctx.step == "watch" else None
        if "classification" in result.numbers:
            judged = {**result.numbers["classification"], "intent": ctx.intent_id, "decision": ctx.decision_id, "site": ctx.site}
            ledger.append(tx, "classification", {"passed": True, **judged}, principal="worker", at=finished)
        body = {key: kept[key] for key in ("outputs", "summary", "run_id", "pool", "site")}
        ledger.append(
            tx, f"step-{ctx.step}", {**body, "intent": ctx.intent_id, "decision": ctx.decision_id}, principal="worker", at=finished
        )
        reservations.release(tx, ctx.intent_id)
        outbox.finish(tx, ctx.intent_id, kept, finished)
        runs.finish(tx, run_id, "completed", finished)
    return kept


def _costs(tx: Session, ctx: StepContext, decision: Mapping[str, Any], seconds: float, at: datetime) -> None:
    """The run's own seconds at the offer's list price; egress as decided, since the bytes moved were the ones it priced."""
    chosen = decision["chosen"]
    costs.add(
        tx,
        run_id=ctx.intent_id,
        decision_id=decision["decision_id"],
        workload=ctx.workload.name,
        step=ctx.step,
        pool=ctx.pool,
        site=ctx.site,
        usd_compute=chosen["usd_per_hour"] * seconds / 3600,
        usd_egress=chosen["usd"]["egress"],
        usd_storage=chosen["usd"]["storage"],
        seconds=seconds,
        kg_co2=chosen["kg_co2"],
        kind="settled",
        at=at,
    )


def _transfer(tx: Session, ctx: StepContext, decision: Mapping[str, Any], result: StepResult, run_id: str, at: datetime) -> None:
    (moved,) = result.outputs
    row = {
        "dataset": moved.dataset,
        "version": moved.version,
        "source": ctx.site,
        "destination": moved.site,
        "bytes": moved.bytes,
        "seconds": result.numbers["copy_seconds"],
        "usd": decision["chosen"]["usd"]["egress"],
        "run_id": run_id,
        "intent_id": ctx.intent_id,
    }
    transfers.add(tx, **row, cause=ctx.intent_id.rsplit("/", 1)[-1], at=at)
    ledger.append(tx, "transfer", {**row, "files": moved.files, "decision": ctx.decision_id}, principal="worker", at=at)


def _verdict(tx: Session, ctx: StepContext, verdict: Mapping[str, Any], at: datetime) -> str:
    kind: verdicts.Kind = "drift" if ctx.step == "watch" else "evaluation"
    verdict_id = f"{ctx.intent_id}#{kind}"
    verdicts.add(
        tx,
        id=verdict_id,
        kind=kind,
        workload=ctx.workload.name,
        as_of=ctx.as_of,
        passed=bool(verdict["passed"]),
        body=verdict,
        intent_id=ctx.intent_id,
        at=at,
    )
    return verdict_id


def _retrain(tx: Session, ctx: StepContext, verdict: Mapping[str, Any], at: datetime) -> str | None:
    """Open the retrain's intent beside the verdict that asks for it, so that neither is ever there without the other."""
    found = DriftVerdict.from_json(verdict)
    plan = plan_retrain(
        ctx.workload.name,
        found,
        as_of=ctx.as_of,
        last_retrain=_last_retrain(tx, ctx.workload.name),
        verdict_id=f"{ctx.intent_id}#drift",
    )
    if plan.intent is None:
        ctx.log.info("no retrain: %s", plan.reason)
        if found.needs_retrain:
            body = {"workload": ctx.workload.name, "verdict": f"{ctx.intent_id}#drift", "reason": plan.reason}
            ledger.append(tx, "retrain-refusal", body, principal="worker", at=at)
        return None
    outbox.ensure(tx, outbox.Intent(**asdict(plan.intent), due_at=at))
    ledger.append(tx, "retrain-trigger", {"intent": plan.intent.id, "reason": plan.reason}, principal="worker", at=at)
    return plan.intent.id


def _last_retrain(tx: Session, workload: str) -> datetime | None:
    """The data day of the newest retrain that drift asked for."""
    query = select(IntentRow.window).where(IntentRow.workload == workload, IntentRow.step == STEP, IntentRow.cause == CAUSE)
    windows = [datetime.fromisoformat(window).replace(tzinfo=UTC) for window in tx.scalars(query)]
    return max(windows, default=None)
