"""Who is behind a lifecycle: the person who asked for it, the service that did, or whoever knows the server's shared password."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from flows.core.canonical import content_hash
from flows.core.errors import GuardRefused, PolicyDenied
from flows.services.declarations import Declarations
from flows.services.identity import Identity, permit
from flows.store import dispatches, ledger, outbox
from flows.store.database import State

if TYPE_CHECKING:
    from flows.adapters.settings import Settings
    from flows.services.lifecycle import LifecycleOrder

UI = "prefect-ui"
LIFE = timedelta(hours=1)
"""How long a request may wait until its lifecycle begins."""
_BY_CAUSE = {"schedule": "scheduler", "drift": "drift-watch", "erasure": "scheduler"}


def request(state: State, identity: Identity, wanted: Mapping[str, Any], *, at: datetime) -> str:
    """Write down that this principal asks for a lifecycle with exactly this; returns the id to pass on, good for one run."""
    with state.transaction() as tx:
        return dispatches.ask(tx, identity.name, identity.roles, content_hash(dict(wanted)), at=at, expires_at=at + LIFE)


def wanted(
    workload: str,
    as_of: str | None,
    cause: str,
    *,
    retrain: bool = False,
    urgent: bool = False,
    steps: list[str] | None = None,
    again: bool = False,
) -> dict[str, Any]:
    """What a request is bound to: the parameters of the lifecycle, as both sides write them."""
    return {
        "workload": workload,
        "as_of": as_of,
        "cause": cause,
        "retrain": retrain,
        "urgent": urgent,
        "steps": steps or [],
        "again": again,
    }


def known(
    order: LifecycleOrder, parameters: Mapping[str, Any], *, settings: Settings, request_id: str | None, scheduled: bool, at: datetime
) -> LifecycleOrder:
    """The order with the principal that it acts for, whom the rules permit to start it.

    A request that was made for exactly these parameters names a person. A stored intent that is gone on with, with exactly what is
    stored, keeps the principal it was opened with. What the server's scheduler made is the scheduler's. Everything else came through
    the open-source server, where one password is everybody's.

    Raises:
        GuardRefused: the intent is not a lifecycle of this workload.
        PolicyDenied: the rules do not let that principal start it; in the ledger too.
    """
    state, declarations = State(settings.state_url), Declarations.load(settings)
    found = _known(state, declarations, order, parameters, request_id, scheduled, at)
    try:
        permit(
            declarations,
            found,
            "run",
            workload=order.workload,
            environment=declarations.workload(order.workload).environment,
            step="lifecycle",
            at=at,
        )
    except PolicyDenied as error:
        body = {"step": "lifecycle", "workload": order.workload, "why": str(error)}
        with state.transaction() as tx:
            ledger.append(tx, "guard-refusal", body, principal=found.name, at=at)
        raise
    return replace(order, principal=found.name, roles=found.roles)


def _known(
    state: State,
    declarations: Declarations,
    order: LifecycleOrder,
    parameters: Mapping[str, Any],
    request_id: str | None,
    scheduled: bool,
    at: datetime,
) -> Identity:
    if request_id is not None:
        with state.transaction() as tx:
            asker = dispatches.answer(tx, request_id, content_hash(dict(parameters)), run_id=order.owner, at=at)
        return _service(declarations, UI) if asker is None else Identity(asker.principal, asker.roles, "service")
    if order.intent is not None:
        with state.reading() as tx:
            row = outbox.get(tx, order.intent)
            stored = None if row is None else (row.workload, row.step, row.cause.partition("-")[0])
            payload = {} if row is None else dict(row.payload)
        if stored is None or stored[:2] != (order.workload, "lifecycle"):
            raise GuardRefused(f"`{order.intent}` is no stored lifecycle of `{order.workload}`", fix="leave `intent_id` out")
        if stored[2] == order.cause and all(payload.get(name, value) == value for name, value in order.payload.items()):
            if by := payload.get("by"):
                return Identity(by["principal"], tuple(by["roles"]), "service")
            return _service(declarations, _BY_CAUSE.get(order.cause, UI))
    return _service(declarations, "scheduler" if scheduled and order.cause == "schedule" else UI)


def _service(declarations: Declarations, name: str) -> Identity:
    return Identity(name, declarations.roles.service(name).roles, "service")
