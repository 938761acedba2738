"""Retention: list what is past its days, and remove, at each site, what the ledger has listed for long enough and nothing needs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from flows.core.canonical import content_hash, instant
from flows.core.errors import TradewindError
from flows.core.governance.retention import Expired, Resting, expired, removable
from flows.core.planning import INPUTS
from flows.services import site_tasks
from flows.services.declarations import Declarations
from flows.services.erasing import serving_models
from flows.services.identity import permit
from flows.store import ledger, outbox, principals, replicas
from flows.store.models import IntentRow
from flows.store.models_governance import ApprovalRequestRow

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from flows.adapters.settings import Settings
    from flows.services.dispatching import Dispatcher
    from flows.services.identity import Identity
    from flows.store.database import State

log = logging.getLogger("flows.retaining")

KIND, STEP, CAUSE = "retention", "retention", "retention"
CLOCK = "scheduler"
LONG_AGO = datetime.min.replace(tzinfo=UTC)
STALE_AFTER = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class Listed:
    """What is past its retention now, and what of it may go at once: nothing needs it, and its notice in the ledger is over."""

    found: tuple[Expired, ...]
    removable: tuple[Expired, ...]

    @property
    def kept(self) -> tuple[Expired, ...]:
        """Past its days and needed."""
        return tuple(one for one in self.found if one.kept_because is not None)

    def to_json(self) -> dict[str, Any]:
        """The listing as a JSON value."""
        may = {one.key for one in self.removable}
        due = [{**one.to_json(), "removable": one.key in may} for one in self.found if one.kept_because is None]
        return {"due": due, "kept": [one.to_json() for one in self.kept]}


def look(state: State, settings: Settings, *, principal: str, at: datetime) -> Listed:
    """The dry run: what is past its retention and why some of it stays; what no earlier one listed is in the ledger from now on.

    Raises:
        UserError: a declaration is wrong.
    """
    declarations = Declarations.load(settings)
    with state.reading() as tx:
        resting = replicas.by_dataset(tx)
        rows = [Resting(row.dataset, row.version, row.site, row.bytes, row.at) for each in resting.values() for row in each]
        needed: dict[str, str] = {}
        for workload in declarations.workloads:
            if any(name.startswith(f"{workload}-") for name in resting):
                needed |= needed_by(tx, settings, workload)
    days = {entry.name: entry.retention_days for entry in declarations.catalog.entries}
    found = expired(rows, days, needed, at=at)
    with state.transaction() as tx:
        listed = _listed(tx)
        if new := [one for one in found if one.kept_because is None and one.since > listed.get(one.key, LONG_AGO)]:
            body = {"applied": False, "due": [one.to_json() for one in new], "kept": [one.to_json() for one in found if one.kept_because]}
            ledger.append(tx, KIND, body, principal=principal, at=at)
            listed |= dict.fromkeys((one.key for one in new), at)
    notice = timedelta(hours=settings.retention_notice_hours)
    return Listed(found, removable(found, listed, at=at, notice=notice))


def needed_by(tx: Session, settings: Settings, workload: str) -> dict[str, str]:
    """Versions of a workload that may not go, whatever their age, each with the reason.

    The models that serve or want to; what these learnt from, which drift and audits compare with; what a person is to judge; and the
    newest inputs of every intent that is open.
    """
    found: dict[str, str] = {}
    models = {f"{row.dataset}@{row.version}": row for row in replicas.by_dataset(tx).get(f"{workload}-model", ())}
    for name in sorted(serving_models(tx, settings, workload)):
        found[name] = "it is the champion or the challenger"
        if name in models and (features := models[name].facts.get("features")):
            found[str(features)] = f"`{name}`, which serves or wants to, learnt from it: drift is told from it"
    waiting = select(ApprovalRequestRow).where(ApprovalRequestRow.workload == workload, ApprovalRequestRow.closed_at.is_(None))
    for request in tx.scalars(waiting):
        found.setdefault(request.dataset, f"request `{request.id}` waits for a person's word on it")
    open_ = select(IntentRow).where(IntentRow.workload == workload, IntentRow.state.in_((outbox.OPEN, outbox.RUNNING)))
    for intent in tx.scalars(open_.where(IntentRow.step.in_(("lifecycle", "promote", "transfer", *INPUTS)))):
        reason = f"intent `{intent.id}` is {intent.state} and may need it"
        if intent.step == "transfer":  # its cause names what it moves: `dataset@version>site`
            found.setdefault(intent.cause.partition(">")[0].rpartition(" ")[2], reason)
        as_of = replicas.as_instant(intent.payload.get("as_of"))
        for kind in ("raw", "features", "model", "predictions"):
            row = replicas.latest(tx, f"{workload}-{kind}", as_of=as_of) or replicas.latest(tx, f"{workload}-{kind}")
            if row is not None:
                found.setdefault(f"{row.dataset}@{row.version}", reason)
    return found


def _listed(tx: Session) -> dict[tuple[str, str], datetime]:
    """When each version at a site was last listed; one that went and was made again is listed anew, as its days begin anew."""
    rows = [row for row in ledger.rows(tx, kind=KIND) if not row.body["applied"]]
    return {(one["version"], one["site"]): row.at for row in rows for one in row.body["due"]}


def order(state: State, settings: Settings, identity: Identity, listed: Listed, *, at: datetime) -> str | None:
    """Ask for what a listing names to be removed without further notice; the intent's id, None if nothing is due.

    Raises:
        PolicyDenied: the rules do not let this principal erase.
    """
    declarations = Declarations.load(settings)
    due = [one for one in listed.found if one.kept_because is None]
    for workload in sorted({_workload(declarations, one.resting.dataset) for one in due}):
        environment = declarations.workload(workload).environment if workload in declarations.workloads else "prod"
        permit(declarations, identity, "erase", workload=workload, environment=environment, step="govern", at=at)
    return _open(state, due, principal=identity.name, at=at) if due else None


async def carry_out(state: State, settings: Settings, dispatcher: Dispatcher, *, owner: str, at: datetime) -> dict[str, str]:
    """List, order what has been listed for long enough, and remove what is ordered; what became of each order.

    A version that is needed by then stays, whatever was ordered.
    """
    listed = look(state, settings, principal=CLOCK, at=at)
    if listed.removable:
        _open(state, listed.removable, principal=CLOCK, at=at)
    with state.reading() as tx:
        query = select(IntentRow).where(IntentRow.step == STEP, IntentRow.state != outbox.DONE).order_by(IntentRow.due_at, IntentRow.id)
        todo = [row.id for row in tx.scalars(query)]
    return {intent: await _tried(state, settings, dispatcher, intent, owner) for intent in todo}


def _open(state: State, due: Sequence[Expired], *, principal: str, at: datetime) -> str:
    payload = {"due": [{"version": one.resting.name, "site": one.resting.site, "bytes": one.resting.bytes} for one in due]}
    with state.transaction() as tx:
        for row in tx.scalars(select(IntentRow).where(IntentRow.step == STEP, IntentRow.state != outbox.DONE)):
            if row.payload["due"] == payload["due"]:
                return row.id
        window = f"{instant(at)}.{content_hash(payload)[:8]}"
        wanted = outbox.Intent.of("governance", STEP, window, CAUSE, due_at=at, payload={**payload, "by": principals.id_for(tx, principal)})
        return outbox.ensure(tx, wanted).id


async def _tried(state: State, settings: Settings, dispatcher: Dispatcher, intent: str, owner: str) -> str:
    with state.transaction() as tx:
        row = outbox.get(tx, intent)
        assert row is not None
        if row.state == outbox.FAILED:
            outbox.reopen(tx, intent)
        if not outbox.claim(tx, intent, owner=owner, at=_now(), stale_after=STALE_AFTER):
            return "another run has it"
        due, by, window = [dict(one) for one in row.payload["due"]], row.payload["by"], f"{row.window}-{row.attempt}"
    try:
        removed = await _removed(state, settings, dispatcher, due, window, owner)
    except TradewindError as error:
        log.warning("`%s` is not done: %s", intent, error)
        with state.transaction() as tx:
            outbox.fail(tx, intent, str(error), _now())
        return f"failed: {error}"
    result = {"removed": removed, "kept": [one for one in due if one not in removed]}
    with state.transaction() as tx:
        outbox.finish(tx, intent, result, _now())
        body = {"applied": True, "removed": removed, "versions": len(removed), "bytes": sum(one["bytes"] for one in removed)}
        ledger.append(tx, KIND, body, principal=by, at=_now())
    return f"{len(removed)} versions removed"


async def _removed(
    state: State, settings: Settings, dispatcher: Dispatcher, due: Sequence[Mapping[str, Any]], window: str, owner: str
) -> list[dict[str, Any]]:
    """Remove what is due and not needed now, a run at each site; the registry forgets models that rest nowhere any more."""
    from flows.adapters.models import Models

    declarations, gone = Declarations.load(settings), list[dict[str, Any]]()
    by_workload: dict[str, list[Mapping[str, Any]]] = {}
    for one in due:
        by_workload.setdefault(_workload(declarations, one["version"].partition("@")[0]), []).append(one)
    for workload, wanted in sorted(by_workload.items()):
        with state.reading() as tx:
            needed = needed_by(tx, settings, workload)
        going = [one for one in wanted if one["version"] not in needed]
        models = sorted({one["version"] for one in going if one["version"].startswith(f"{workload}-model@")})
        registry = Models(settings.tracking_url, workload) if models else None
        folders: dict[str, list[str]] = {}
        for name in models:
            site, found = registry.artifacts(name) if registry else ("", [])
            if any((one["version"], one["site"]) == (name, site) for one in going):
                folders.setdefault(site, []).extend(found)
        tasks: dict[str, dict[str, Any]] = {}
        for one in going:
            task = tasks.setdefault(one["site"], {"do": "remove", "versions": [], "artifacts": folders.get(one["site"], [])})
            task["versions"].append(one["version"])
        await site_tasks.at_sites(state, settings, dispatcher, declarations.estate, workload, window, tasks, owner=owner)
        with state.reading() as tx:
            left = {f"{row.dataset}@{row.version}" for row in replicas.by_dataset(tx).get(f"{workload}-model", ())}
        for name in models:
            if registry is not None and name not in left:
                registry.forget(name)
        gone += [dict(one) for one in going]
    return gone


def _workload(declarations: Declarations, dataset: str) -> str:
    """The workload that a dataset is of: the longest declared name it begins with, else what stands before its last dash."""
    named = [name for name in declarations.workloads if dataset.startswith(f"{name}-")]
    return max(named, key=len, default=dataset.rpartition("-")[0] or dataset)


def _now() -> datetime:
    return datetime.now(UTC)
