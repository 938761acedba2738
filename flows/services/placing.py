"""Decide where one step goes: declarations and the state's conditions in, a stored decision and its reservation out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from flows.core.placement import Conditions, Decision, Request, documents, place, runtimes
from flows.core.placement.filters import taken_by
from flows.core.placement.model import DatasetUse, Objective, OutputUse, Principal, Resources, Restrict, Runtime, RuntimeEstimate, Window
from flows.core.planning import OUTPUTS
from flows.services.declarations import Declarations
from flows.store import costs, decisions, ledger, principals, replicas, reservations
from flows.store import runtimes as run_times
from flows.store import sites as site_states

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from flows.adapters.settings import Settings
    from flows.services.context import DatasetRef
    from flows.store.database import State

BYTES_PER_GB = Decimal(10) ** 9
SYSTEM_ROLES = ("operator",)
"""The role of runs that no authenticated person stands behind: schedules, drift alerts, the open-source UI."""
URGENT_USD_PER_HOUR = Decimal(25)
"""What an hour of delay counts for an urgent run: more than any off-peak price saves."""
HORIZON = timedelta(days=14)
"""How far ahead reservations are looked at."""
TRANSFER_RUNTIME = Runtime(p50_hours=Decimal("0.02"), p90_hours=Decimal("0.05"))
TRANSFER_RESOURCES = Resources(cpus=Decimal(1), memory_gib=Decimal(1))


@dataclass(frozen=True, slots=True)
class FailedPlace:
    """Where a run was sent, by which decision, and what became of it: why its step is placed once more."""

    decision_id: str
    pool: str
    error: str


@dataclass(frozen=True, slots=True)
class PlaceOrder:
    """What wants a place. A transfer names its destination: its input goes there from a site where it rests."""

    workload: str
    step: str
    intent_id: str
    inputs: Mapping[str, DatasetRef]
    principal: str
    destination: str | None = None
    urgent: bool = False
    failed: FailedPlace | None = None


def place_step(state: State, settings: Settings, order: PlaceOrder, *, at: datetime) -> dict[str, Any]:
    """Decide, and store the decision with all inputs, its reservation, its cost and its ledger row in one transaction.

    Returns:
        The decision as JSON; `chosen` is None if no place may run the step.

    Raises:
        UserError: a declaration is wrong.
    """
    declarations = Declarations.load(settings)
    at = at.replace(microsecond=0)
    with state.transaction() as tx:
        reservations.hold(tx)
        sites = {ref.dataset: replicas.sites(tx, ref.dataset, ref.version) for ref in order.inputs.values()}
        request, estimates = _measured(tx, _request(tx, declarations, order, sites, at))
        # what the intent itself holds, from a decision before this one, is not in its own way
        held = [row for row in reservations.active(tx, at, at + HORIZON) if row.intent_id != order.intent_id]
        conditions = Conditions.model_validate(
            {
                "replicas": sites,
                "reservations": [reservations.to_conditions(row) for row in held],
                "cordoned": tuple(site_states.closed(tx)),
                "cooling": site_states.cooling(tx, at),
                "runtimes": estimates,
            }
        )
        decision, conditions = _decide(declarations, request, conditions, site_states.failed_for(tx, order.intent_id, at), at)
        body = decision.to_json()
        inputs = documents(request, declarations.estate, declarations.catalog, conditions)
        decisions.save(tx, body, {**inputs, "policies": declarations.policy.document}, at=at)
        if decision.chosen is not None:
            _reserve(tx, declarations, decision, request, order.intent_id)
            _expect(tx, decision, order, at)
        else:
            reservations.release(tx, order.intent_id)
        ledger.append(tx, "decision", _told(body, order), principal=order.principal, at=at)
        if order.failed is not None:
            ledger.append(tx, "failover", _moved(body, order, order.failed), principal=order.principal, at=at)
    return body


def _decide(
    declarations: Declarations, request: Request, conditions: Conditions, failed: Sequence[str], at: datetime
) -> tuple[Decision, Conditions]:
    """Place it away from the pools that failed this very intent; only if there is no such place, on one of them once it has cooled down."""
    known = (declarations.estate, declarations.policy, declarations.catalog)
    if failed:
        elsewhere = conditions.model_copy(update={"cooling": {**conditions.cooling, **dict.fromkeys(failed)}})
        decision = place(request, *known, elsewhere, at)
        if decision.chosen is not None:
            return decision, elsewhere
    return place(request, *known, conditions, at), conditions


def _request(tx: Session, declarations: Declarations, order: PlaceOrder, sites: Mapping[str, list[str]], at: datetime) -> Request:
    declared = declarations.workload(order.workload)
    datasets = [DatasetUse(name=name, size_gb=size) for name, size in _sizes(tx, order.inputs).items()]
    common: dict[str, Any] = {
        "workload": order.workload,
        "environment": declared.environment,
        "intent_id": order.intent_id,
        "requested_by": Principal(user=principals.id_for(tx, order.principal), roles=SYSTEM_ROLES),
        "datasets": datasets,
    }
    if order.step == "transfer":
        (dataset,) = sites
        return Request(
            step="transfer",
            outputs=(OutputUse(name=dataset, size_gb=datasets[0].size_gb, home=order.destination, keep_days=Decimal(1)),),
            resources=TRANSFER_RESOURCES,
            runtime=TRANSFER_RUNTIME,
            objective=Objective(usd_per_hour_of_delay=URGENT_USD_PER_HOUR),  # a step waits for it
            restrict=Restrict(sites=(_source(declarations.home_of(dataset), sites[dataset]),)),
            **common,
        )
    step = declared.step(order.step)  # type: ignore[arg-type]
    objective = step.objective
    if order.urgent:
        objective = objective.model_copy(update={"usd_per_hour_of_delay": max(objective.usd_per_hour_of_delay, URGENT_USD_PER_HOUR)})
    return Request(
        step=order.step,
        outputs=tuple(_output(declarations, f"{order.workload}-{kind}", step.keep_days) for kind in OUTPUTS[order.step]),
        resources=step.resources,
        runtime=step.runtime,
        interruptible=step.interruptible,
        checkpoint_minutes=step.checkpoint_minutes,
        checkpoint_write_minutes=step.checkpoint_write_minutes,
        window=Window(deadline=at + timedelta(hours=float(step.window_hours))) if step.window_hours else Window(),
        budget_usd=step.budget_usd,
        objective=objective,
        restrict=step.restrict,
        **common,
    )


def _measured(tx: Session, request: Request) -> tuple[Request, tuple[RuntimeEstimate, ...]]:
    """The request without its declared runtime and the estimates in its stead, once enough runs are recorded.

    A transfer keeps its own: it takes as long as its bytes take.
    """
    if request.step == "transfer":
        return request, ()
    estimates = runtimes.estimates(request.workload, request.step, run_times.by_offer(tx, request.workload, request.step), request.runtime)
    return (request.model_copy(update={"runtime": None}), estimates) if estimates else (request, ())


def _source(home: str, sites: list[str]) -> str:
    """Where a transfer starts: at home if the version rests there, else at the first site that has it."""
    return home if home in sites or not sites else sites[0]


def _output(declarations: Declarations, dataset: str, keep_days: Decimal) -> OutputUse:
    entry = declarations.catalog.entry(dataset)
    return OutputUse(name=dataset, home=declarations.home_of(dataset), size_gb=entry.size_gb if entry else None, keep_days=keep_days)


def _sizes(tx: Session, inputs: Mapping[str, DatasetRef]) -> dict[str, Decimal]:
    """GB of each dataset that is read; two versions of one, champion and challenger, count together."""
    sizes: dict[str, Decimal] = {}
    for ref in set(inputs.values()):
        row = next(
            (row for site in replicas.sites(tx, ref.dataset, ref.version) if (row := replicas.get(tx, ref.dataset, ref.version, site))),
            None,
        )
        sizes[ref.dataset] = sizes.get(ref.dataset, Decimal(0)) + (Decimal(row.bytes) / BYTES_PER_GB if row else Decimal(0))
    return dict(sorted(sizes.items()))


def _reserve(tx: Session, declarations: Declarations, decision: Decision, request: Request, intent_id: str) -> None:
    chosen = decision.chosen
    assert chosen is not None
    offer = next(o for o in declarations.estate.offers_of(declarations.estate.pool_by_name[chosen.pool]) if o.name == chosen.offer)
    reservations.add(tx, chosen.pool, taken_by(offer, request.resources.nodes), chosen.start, chosen.finish_p90, intent_id)


def _expect(tx: Session, decision: Decision, order: PlaceOrder, at: datetime) -> None:
    chosen = decision.chosen
    assert chosen is not None
    costs.add(
        tx,
        run_id=order.intent_id,
        decision_id=decision.decision_id,
        workload=order.workload,
        step=order.step,
        pool=chosen.pool,
        site=chosen.site,
        usd_compute=chosen.usd.compute,
        usd_egress=chosen.usd.egress,
        usd_storage=chosen.usd.storage,
        seconds=(chosen.finish_p50 - chosen.start).total_seconds(),
        kg_co2=chosen.kg_co2,
        kind="decided",
        at=at,
    )


def _told(body: Mapping[str, Any], order: PlaceOrder) -> dict[str, Any]:
    chosen = body["chosen"] or {}
    return {
        "decision": body["decision_id"],
        "intent": order.intent_id,
        "step": order.step,
        "workload": order.workload,
        "inputs": body["inputs"],
        "pool": chosen.get("pool"),
        "summary": body["summary"],
    }


def _moved(body: Mapping[str, Any], order: PlaceOrder, failed: FailedPlace) -> dict[str, Any]:
    chosen = body["chosen"] or {}
    return {
        "intent": order.intent_id,
        "step": order.step,
        "workload": order.workload,
        "why": failed.error,
        "from": {"decision": failed.decision_id, "pool": failed.pool},
        "to": {"decision": body["decision_id"], "pool": chosen.get("pool"), "start": chosen.get("start")},
    }
