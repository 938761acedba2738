"""Decide where one step goes: declarations and the state's conditions in, a stored decision and its reservation out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from flows.core.canonical import instant
from flows.core.placement import Conditions, Decision, Request, documents, place, runtimes
from flows.core.placement.filters import taken_by
from flows.core.placement.model import DatasetUse, Objective, OutputUse, Principal, Resources, Restrict, Runtime, RuntimeEstimate, Window
from flows.core.planning import OUTPUTS
from flows.services import declared_record, proving, signed
from flows.services.declarations import Declarations
from flows.store import costs, decisions, ledger, principals, replicas, reservations, runs
from flows.store import runtimes as run_times
from flows.store import sites as site_states

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from flows.adapters.settings import Settings
    from flows.core.governance.proofs import Unproven
    from flows.services.context import DatasetRef
    from flows.store.database import State

BYTES_PER_GB = Decimal(10) ** 9
URGENT_USD_PER_HOUR = Decimal(25)
"""What an hour of delay counts for an urgent run: more than any off-peak price saves."""
ASKED, MOMENT = "asked", "moment"
"""Stored beside a decision that was narrowed to a plan's site or away from failed pools: what is decided on where nothing there will do."""
OUT_OF_MEMORY = "memory"
"""State of a run that was ended because it wanted more memory than its offer had."""
MORE_MEMORY = Decimal("1.5")
"""How much more the next try of its intent asks for."""
TRANSFER_RUNTIME = Runtime(p50_hours=Decimal("0.02"), p90_hours=Decimal("0.05"))
TRANSFER_RESOURCES = Resources(cpus=Decimal(1), memory_gib=Decimal(1))


@dataclass(frozen=True, slots=True)
class FailedPlace:
    """Where a run was sent, by which decision, and what became of it: why its step is placed once more."""

    decision_id: str
    pool: str
    error: str
    kind: str = "crash"


@dataclass(frozen=True, slots=True)
class Planned:
    """The site that a joint plan has for a step: a preference, which narrows its request as long as some place there may run it."""

    plan: str
    site: str


@dataclass(frozen=True, slots=True)
class PlaceOrder:
    """What wants a place. A transfer names its destination: its input goes there from a site where it rests.

    `roles` are those that `principal` was authenticated with; None: those that are declared for its name.
    """

    workload: str
    step: str
    intent_id: str
    inputs: Mapping[str, DatasetRef]
    principal: str
    destination: str | None = None
    urgent: bool = False
    failed: FailedPlace | None = None
    planned: Planned | None = None
    roles: tuple[str, ...] | None = None


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
        sites = rests_at(tx, order.inputs.values())
        due = deadline_of(tx, order.intent_id)
        asked, estimates = measured(tx, with_memory_learnt(tx, declarations, request_for(tx, declarations, order, sites, at)))
        moment = conditions_of(tx, sites, (order.intent_id,), estimates, at, unproven=proving.unproven(tx, settings, declarations, at))
        failed = site_states.failed_for(tx, order.intent_id, at)
        request, decision, conditions, dropped = _decide_as_planned(declarations, asked, moment, failed, order, at)
        body = decision.to_json()
        inputs = documents(request, declarations.estate, declarations.catalog, conditions)
        if (request, conditions) != (asked, moment):
            wider = documents(asked, declarations.estate, declarations.catalog, moment)
            inputs |= {ASKED: wider["request"], MOMENT: wider["conditions"]}
        signed.decision(tx, settings, body, at=at)
        decisions.save(tx, body, {**inputs, "policies": declarations.policy.document}, at=at)
        if decision.chosen is not None:
            _reserve(tx, declarations, decision, request, order.intent_id)
            _expect(tx, decision, order, at)
        else:
            reservations.release(tx, order.intent_id)
        late = {"deadline_missed": instant(due)} if due and asked.window.deadline and asked.window.deadline > due else {}
        declared_record.policies_met(tx, declarations, principal=order.principal, at=at)
        ledger.append(tx, "decision", {**_told(body, order), **_plan_told(order, dropped), **late}, principal=order.principal, at=at)
        if order.failed is not None:
            ledger.append(tx, "failover", _moved(body, order, order.failed), principal=order.principal, at=at)
    return body


def rests_at(tx: Session, inputs: Iterable[DatasetRef]) -> dict[str, list[str]]:
    """Where each dataset rests; of two versions of one, champion and challenger, the sites that have both."""
    found: dict[str, list[str]] = {}
    for ref in inputs:
        here = replicas.sites(tx, ref.dataset, ref.version)
        found[ref.dataset] = [site for site in found.get(ref.dataset, here) if site in here]
    return found


def conditions_of(
    tx: Session,
    replicas_of: Mapping[str, list[str]],
    intents: Collection[str],
    estimates: Sequence[RuntimeEstimate],
    at: datetime,
    *,
    unproven: Unproven,
) -> Conditions:
    """The moment as the state has it. What the intents themselves hold, from a decision before this one, is not in their own way."""
    held = [row for row in reservations.active(tx, at) if row.intent_id not in intents]
    return Conditions.model_validate(
        {
            "replicas": replicas_of,
            "reservations": [reservations.to_conditions(row, at) for row in held],
            "cordoned": tuple(site_states.closed(tx)),
            "cooling": site_states.cooling(tx, at),
            "runtimes": estimates,
            "unproven": unproven,
        }
    )


def _decide_as_planned(
    declarations: Declarations, request: Request, conditions: Conditions, failed: Sequence[str], order: PlaceOrder, at: datetime
) -> tuple[Request, Decision, Conditions, str]:
    """The request, narrowed to the planned site if it may run there, the decision, its conditions, and why the plan was dropped, if so."""
    dropped = ""
    if order.planned is not None:
        own, wanted = request.restrict, order.planned.site
        if failed or order.failed is not None:
            dropped = f"a run failed on `{order.failed.pool if order.failed else failed[0]}`"
        elif own.sites and wanted not in own.sites:
            dropped = "restrict-sites"
        else:
            narrowed = request.model_copy(update={"restrict": own.model_copy(update={"sites": (wanted,)})})
            decision, moment = _decide(declarations, narrowed, conditions, (), at)
            if decision.chosen is not None:
                return narrowed, decision, moment, ""
            reasons = {reason.rule for row in decision.rejected if row.site == wanted for reason in row.reasons}
            dropped = ", ".join(sorted(reasons)) or "no pool there"
    return request, *_decide(declarations, request, conditions, failed, at), dropped


def _plan_told(order: PlaceOrder, dropped: str) -> dict[str, Any]:
    """What became of the plan, for the ledger."""
    if order.planned is None:
        return {}
    return {"plan": order.planned.plan, "planned_site": order.planned.site, "plan_dropped": dropped or None}


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


def request_for(tx: Session, declarations: Declarations, order: PlaceOrder, sites: Mapping[str, list[str]], at: datetime) -> Request:
    """The order as a request: what is declared for its step, and the data it reads by the size that is recorded.

    Raises:
        UserError: there is no such workload, or the catalog lacks one of its datasets.
    """
    declared = declarations.workload(order.workload)
    datasets = [DatasetUse(name=name, size_gb=size) for name, size in sizes_of(tx, order.inputs).items()]
    common: dict[str, Any] = {
        "workload": order.workload,
        "environment": declared.environment,
        "intent_id": order.intent_id,
        "requested_by": _requester(tx, declarations, order),
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
            restrict=Restrict(sites=tuple(sites[dataset] or (declarations.home_of(dataset),))),
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
        window=_window(tx, order.intent_id, step.window_hours, at),
        budget_usd=step.budget_usd,
        objective=objective,
        restrict=step.restrict,
        **common,
    )


def _requester(tx: Session, declarations: Declarations, order: PlaceOrder) -> Principal:
    roles = declarations.roles.named(order.principal) if order.roles is None else order.roles
    return Principal.model_validate({"user": principals.id_for(tx, order.principal), "roles": roles})


def measured(tx: Session, request: Request) -> tuple[Request, tuple[RuntimeEstimate, ...]]:
    """The request without its declared runtime, and the estimates in its stead, once enough runs are recorded.

    A transfer keeps its own: it takes as long as its bytes take.
    """
    if request.step == "transfer":
        return request, ()
    estimates = runtimes.estimates(request.workload, request.step, run_times.by_offer(tx, request.workload, request.step), request.runtime)
    return (request.model_copy(update={"runtime": None}), estimates) if estimates else (request, ())


def with_memory_learnt(tx: Session, declarations: Declarations, request: Request) -> Request:
    """The request with `MORE_MEMORY` times what the largest offer had on which a run of this very intent ran out of memory."""
    had = Decimal(0)
    for run in runs.recent(tx, intent_id=request.intent_id, state=OUT_OF_MEMORY):
        chosen = (decisions.get(tx, run.decision_id or "") or {}).get("chosen") or {}
        pool = declarations.estate.pool_by_name.get(run.pool)
        for offer in declarations.estate.offers_of(pool) if pool is not None else ():
            if offer.name == chosen.get("offer"):
                had = max(had, offer.memory_gib or Decimal(0))
    if not had:
        return request
    wanted = max(request.resources.memory_gib, had * MORE_MEMORY)
    return request.model_copy(update={"resources": request.resources.model_copy(update={"memory_gib": wanted})})


def _window(tx: Session, intent_id: str, hours: Decimal | None, at: datetime) -> Window:
    """From now on. The deadline stays where it was set when an intent that was placed before is placed again.

    Where it leaves less than the time that its place is held for, the step goes on all the same, within that time from now.
    """
    before = deadline_of(tx, intent_id)
    if hours is None or before is None:
        return Window(deadline=at + timedelta(hours=float(hours))) if hours else Window()
    held = reservations.get(tx, intent_id)
    return Window(deadline=before if held is None else max(before, at + (held.until_at - held.from_at)))


def deadline_of(tx: Session, intent_id: str) -> datetime | None:
    """By when an intent that was placed and has not ended is to be done; None if it has no deadline, or is not placed."""
    newest = decisions.newest(tx, intent_id) if reservations.get(tx, intent_id) is not None else None
    window = decisions.input_of(tx, newest, "request").get("window", {}) if newest is not None else {}
    return Window.model_validate(window).deadline


def _output(declarations: Declarations, dataset: str, keep_days: Decimal) -> OutputUse:
    entry = declarations.catalog.entry(dataset)
    return OutputUse(name=dataset, home=declarations.home_of(dataset), size_gb=entry.size_gb if entry else None, keep_days=keep_days)


def sizes_of(tx: Session, inputs: Mapping[str, DatasetRef]) -> dict[str, Decimal]:
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
        "failure": failed.kind,
        "from": {"decision": failed.decision_id, "pool": failed.pool},
        "to": {"decision": body["decision_id"], "pool": chosen.get("pool"), "start": chosen.get("start")},
    }
