"""Plan the due steps of a lifecycle together: the sites that cost least, what they hand to each other counted, before each is placed.

A plan is a preference. `placing` decides again at each dispatch, narrowed to the planned site, and leaves the plan, with the reason in the
ledger, where nothing there may run the step any more. It binds no step unless it is better than step by step, and holds for a day, while
estate, policies and catalog stay as they are, no site or pool closes or opens, and the steps done since ran where it put them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from flows.adapters.policy import CedarPolicy
from flows.core.canonical import canonical_json, content_hash
from flows.core.errors import UserError
from flows.core.governance.labels import Catalog
from flows.core.placement import Conditions, Request
from flows.core.placement.estate import Estate
from flows.core.placement.hashing import content_form, decision_id, engine
from flows.core.placement.joint import Edge, JointDecision, joint_documents, place_jointly
from flows.core.planning import DATASET_OF_ROLE, INPUTS, OUTPUTS, PLACED_STEPS
from flows.services import placing, proving
from flows.services.context import DatasetRef
from flows.services.declarations import Declarations
from flows.services.replaying import restored
from flows.store import decisions, ledger, plans
from flows.store import sites as site_states

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from flows.adapters.settings import Settings
    from flows.store.database import State
    from flows.store.models_governance import PlanRow

log = logging.getLogger("flows.lifecycle")

HOLDS = timedelta(hours=24)
"""After a day the hours of prices and the capacity are others: the plan is made anew."""


@dataclass(frozen=True)
class Due:
    """The placed steps of a lifecycle that are still due, in order, with their intents and the inputs that there are.

    `done` maps each step that is done to the site it ran at.
    """

    workload: str
    lifecycle: str
    principal: str
    intents: Mapping[str, str]
    inputs: Mapping[str, Mapping[str, DatasetRef]]
    done: Mapping[str, str] = field(default_factory=dict)
    urgent: bool = False
    roles: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Plan:
    """Which site each step should go to; none if the plan is no better than step by step."""

    id: str
    sites: Mapping[str, str]

    def of(self, step: str) -> placing.Planned | None:
        """What it says of a step."""
        return placing.Planned(self.id, self.sites[step]) if step in self.sites else None

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Plan:
        """The plan of a joint decision's JSON."""
        each = body["step_by_step"]
        pays = body["usd_total"] is not None and (each is None or body["usd_total"] < each["usd_total"])
        return cls(body["decision_id"], _sites(body) if pays else {})


def plan_for(state: State, settings: Settings, due: Due, *, at: datetime) -> Plan | None:
    """The lifecycle's last plan if it still holds, else a new one, stored with its inputs and its ledger row; None for a single step.

    A plan only saves money: what cannot be planned, because a declaration is wrong, is left to the step that finds it.
    """
    if not due.intents:
        return None
    with state.reading() as tx:
        before = plans.latest(tx, due.lifecycle)
        if before is not None and _holds(tx, before, due, settings, at):
            return Plan.read(before.body)
    if len(due.intents) < 2:
        return None
    try:
        return Plan.read(_make(state, settings, due, at.replace(microsecond=0)))
    except UserError as error:
        log.warning("the steps are not planned together: %s", error)
        return None


def _make(state: State, settings: Settings, due: Due, at: datetime) -> dict[str, Any]:
    """Look in one transaction, decide outside of any, store in another: a plan reserves nothing, so nobody need wait for it."""
    declarations = Declarations.load(settings)
    edges = edges_of(due.workload, list(due.intents))
    handed = {(edge.to, edge.dataset) for edge in edges}
    steps: dict[str, Request] = {}
    estimates: list[Any] = []
    there = {step: {role: ref for role, ref in due.inputs[step].items() if (step, ref.dataset) not in handed} for step in due.intents}
    with state.transaction() as tx:
        sizes = {step: placing.sizes_of(tx, due.inputs[step]) for step in due.intents}
        rests = placing.rests_at(tx, [ref for inputs in there.values() for ref in inputs.values()])
        for step, intent in due.intents.items():
            order = placing.PlaceOrder(due.workload, step, intent, there[step], due.principal, urgent=due.urgent, roles=due.roles)
            steps[step], measured = placing.measured(tx, placing.request_for(tx, declarations, order, rests, at))
            estimates += measured
        unproven = proving.unproven(tx, settings, declarations, at)
        conditions = placing.conditions_of(tx, rests, tuple(due.intents.values()), estimates, at, unproven=unproven)
    # until the step before has made it, what is handed over is as large as its last version
    sized = [edge.model_copy(update={"size_gb": sizes[edge.to].get(edge.dataset)}) for edge in edges]
    decision = place_jointly(steps, sized, declarations.estate, declarations.policy, declarations.catalog, conditions, at)
    body = decision.to_json()
    documents = joint_documents(steps, sized, declarations.estate, declarations.catalog, conditions)
    with state.transaction() as tx:
        stored = {**documents, "policies": declarations.policy.document}
        plans.save(tx, body, stored, intent_id=due.lifecycle, workload=due.workload, at=at)
        ledger.append(tx, "plan", _told(decision, due), principal=due.principal, at=at)
    log.info("plan %s: %s", decision.decision_id[:12], decision.summary)
    return body


def edges_of(workload: str, steps: Sequence[str]) -> list[Edge]:
    """What each of the steps, in order, reads of what one before it makes."""
    found: dict[tuple[str, str], Edge] = {}
    for place, step in enumerate(steps):
        for role in INPUTS[step]:
            kind = DATASET_OF_ROLE.get(role, role)
            maker = next((before for before in reversed(steps[:place]) if kind in OUTPUTS[before]), None)
            if maker is not None:
                found[step, kind] = Edge(from_=maker, to=step, dataset=f"{workload}-{kind}")
    return list(found.values())


def plannable(steps: Sequence[str]) -> tuple[str, ...]:
    """Those of the steps that run at a site."""
    return tuple(step for step in dict.fromkeys(steps) if step in PLACED_STEPS and step in INPUTS)


def _holds(tx: Session, row: PlanRow, due: Due, settings: Settings, at: datetime) -> bool:
    declarations = Declarations.load(settings)
    planned, named = _sites(row.body), row.body["inputs"]
    steps = decisions.document(tx, row.documents["steps"])
    moment = decisions.document(tx, row.documents["conditions"])
    now = {
        "engine": engine(declarations.policy.engine),
        "policies": declarations.policy.hash,
        "estate": declarations.estate.hash,
        "catalog": content_hash(content_form(declarations.catalog)),
    }
    return (
        row.at > at - HOLDS
        and set(due.intents) <= set(steps)
        and {kind: named[kind] for kind in now} == now
        and set(moment.get("cordoned", ())) == set(site_states.closed(tx))
        and set(moment.get("cooling", ())) == set(site_states.cooling(tx, at))
        and moment.get("unproven", {}) == proving.unproven(tx, settings, declarations, at)
        and all(planned.get(step, site) == site for step, site in due.done.items())
    )


def _sites(body: Mapping[str, Any]) -> dict[str, str]:
    return {step: chosen["site"] for step, chosen in body["chosen"].items()}


def _told(decision: JointDecision, due: Due) -> dict[str, Any]:
    each = decision.step_by_step
    return {
        "plan": decision.decision_id,
        "intent": due.lifecycle,
        "workload": due.workload,
        "inputs": decision.inputs,
        "sites": {step: chosen.site for step, chosen in decision.chosen.items()},
        "usd_total": decision.usd_total,
        "usd_step_by_step": None if each is None else each.usd_total,
        "binds": decision.pays,
        "summary": decision.summary,
    }


@dataclass(frozen=True, slots=True)
class Remade:
    """A stored plan made again from its inputs (None: they cannot be read). `reproduced`: the same bytes, but for the engine's name."""

    before: Mapping[str, Any]
    after: JointDecision | None
    reproduced: bool


def remake(state: State, since: datetime | None = None, until: datetime | None = None) -> Iterator[Remade]:
    """Every plan stored in [since, until), made again from what is stored alone, the oldest first.

    Raises:
        IntegrityError: a stored input is no longer what was stored.
    """
    with state.reading() as tx:
        for id_ in plans.between(tx, since, until):
            before = plans.get(tx, id_) or {}
            try:
                after = _again(plans.inputs(tx, id_), datetime.fromisoformat(before["at"]))
            except UserError as error:
                log.warning("plan `%s` cannot be made again: %s", id_, error)
                yield Remade(before, None, reproduced=False)
                continue
            inputs = {**after.inputs, "engine": before["inputs"]["engine"]}
            made = {**after.to_json(), "inputs": inputs, "decision_id": decision_id(after.at, inputs)}
            yield Remade(before, after, reproduced=canonical_json(made) == canonical_json(before))


def _again(given: Mapping[str, Any], at: datetime) -> JointDecision:
    estate = restored(Estate, given["estate"])
    return place_jointly(
        {step: restored(Request, request) for step, request in given["steps"].items()},
        [restored(Edge, edge) for edge in given["edges"]],
        estate,
        CedarPolicy.of(given["policies"], estate.blocs),
        restored(Catalog, given["catalog"]),
        restored(Conditions, given["conditions"]),
        at,
    )
