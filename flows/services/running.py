"""Run one step where it was placed: who am I, was I sent, may the data be here; then the work; then its record, in one transaction."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flows.adapters.settings import Settings, identity
from flows.adapters.storage import site_storage
from flows.core.canonical import instant
from flows.core.errors import GuardRefused, PolicyDenied, Unavailable, UserError
from flows.core.governance.proofs import unproven_for
from flows.core.placement.filters import cordoned_for
from flows.core.placement.model import Request
from flows.core.planning import OUTPUTS
from flows.services import lineage, proving, recording, ticketing
from flows.services.context import DatasetRef, StepContext, StepResult
from flows.services.declarations import Declarations
from flows.services.discretion import discreet
from flows.services.own_credentials import narrowed
from flows.store import decisions, ledger, outbox, runs, sites
from flows.store.database import State

if TYPE_CHECKING:
    from flows.core.governance.labels import Label
    from flows.core.workload import Workload

log = logging.getLogger("flows.running")

SERVICES: dict[str, str] = {
    "ingest": "flows.services.ingesting:ingest",
    "materialize": "flows.services.materializing:materialize",
    "transfer": "flows.services.transferring:transfer",
    "train": "flows.services.training:train",
    "evaluate": "flows.services.evaluating:evaluate",
    "score": "flows.services.scoring:score",
    "watch": "flows.services.watching:watch",
}
"""The use case behind each placed step, imported when it runs: each brings its own heavy library."""


@dataclass(frozen=True)
class StepOrder:
    """What a dispatch asks of a worker: one step, its data clock, its intent, the decision that sent it, its inputs by role."""

    step: str
    workload: str
    as_of: datetime
    intent_id: str
    decision_id: str
    inputs: Mapping[str, DatasetRef]
    run_id: str
    ticket: object = None

    @property
    def parameters(self) -> dict[str, Any]:
        """What was sent along, as control wrote it before it signed."""
        return {
            "workload": self.workload,
            "as_of": instant(self.as_of),
            "intent_id": self.intent_id,
            "decision_id": self.decision_id,
            "inputs": {role: str(ref) for role, ref in self.inputs.items()},
        }


def run_step(
    order: StepOrder, *, settings: Settings | None = None, workload: Workload | None = None, ticketed: bool = True
) -> dict[str, Any]:
    """Run the step at this process's own site and return what the intent records of it.

    `ticketed` is False only where no dispatch was: the whole loop in one process.

    Raises:
        GuardRefused: control did not send this run, or this is not the pool, step or data that the decision chose.
        PolicyDenied: policy no longer allows the data at this site.
        Unavailable: the site lost a proof of its security, or was cordoned, since the decision; a cordon lets a run that had begun go on.
        TradewindError: what the step itself found wrong.
    """
    settings = settings or Settings()
    site, pool = identity()
    state = State(settings.state_url)
    started = now()
    with state.transaction() as tx:
        begun = runs.get(tx, order.run_id)
        resumed = begun is not None and (begun.state, begun.pool) == (runs.RUNNING, pool)
        runs.start(
            tx,
            id=order.run_id,
            workload=order.workload,
            step=order.step,
            pool=pool,
            site=site,
            pid=os.getpid(),
            at=started,
            intent_id=order.intent_id,
            decision_id=order.decision_id,
        )
    with _recorded(state, order, pool):
        declarations = Declarations.load(settings)
        ticket = None
        if ticketed:
            ticket = ticketing.admit(
                state,
                settings,
                order.ticket,
                deployment=f"{order.step}/{pool}",
                parameters=order.parameters,
                run_id=order.run_id,
                at=now(),
            )
        decision, label = _admit(state, settings, declarations, order, site, pool, resumed=resumed)
        datasets = {ref.dataset for ref in order.inputs.values()}
        with narrowed(state, settings, decision, inputs=datasets, run_id=order.run_id, at=now()):
            context = StepContext(
                settings=settings,
                workload=workload or _workload(order.workload),
                step=order.step,
                site=site,
                pool=pool,
                storage=site_storage(site, settings),
                state=state,
                as_of=order.as_of,
                intent_id=order.intent_id,
                decision_id=order.decision_id,
                inputs=order.inputs,
                label=label,
                manifests=ticket.manifests if ticket else None,
            )
            with lineage.traced(context, decision, order.run_id) as trace:
                with discreet(context):
                    result = trace.made(_service(order.step)(context))
                return recording.record(context, decision, result, run_id=order.run_id, started=started, finished=now())


def _admit(
    state: State, settings: Settings, declarations: Declarations, order: StepOrder, site: str, pool: str, *, resumed: bool
) -> tuple[Mapping[str, Any], Label]:
    """The decision that sent this run and the label of all it touches, after every wall was asked."""
    with state.reading() as tx:
        closed = {} if resumed else sites.closed(tx)
        lost = proving.unproven(tx, settings, declarations, now())
        decision = decisions.get(tx, order.decision_id)
        request = decisions.document(tx, decision["inputs"]["request"]) if decision else None
    if decision is None or request is None:
        raise GuardRefused(
            f"no decision `{order.decision_id}` is on record", fix="start the workload's `lifecycle`; it decides, then dispatches"
        )
    chosen = decision["chosen"] or {}
    expected = {"pool": chosen.get("pool"), "site": chosen.get("site"), "step": request["step"], "workload": request["workload"]}
    found = {"pool": pool, "site": site, "step": order.step, "workload": order.workload}
    if expected != found or request.get("intent_id") != order.intent_id:
        raise GuardRefused(
            f"decision `{order.decision_id[:12]}` sent another run: {_difference(expected, found) or 'its intent is another'}",
            fix="start the workload's `lifecycle`; a dispatch cannot be edited or replayed elsewhere",
        )
    undecided = sorted({ref.dataset for ref in order.inputs.values()} - set(decision["datasets"]))
    if undecided:
        raise GuardRefused(
            f"the decision does not cover `{'`, `'.join(undecided)}`", expected=f"only `{'`, `'.join(decision['datasets'])}`"
        )
    wanted = Request.model_validate(request)
    declarations.require(wanted, pool, at=now())
    for name, check, why in unproven_for(wanted, site, lost):
        raise Unavailable(
            f"site `{name}` has no proof of {check}, which {why}: nothing starts or comes to rest there",
            fix="see `tradewind doctor --security`; once it is put right, `--record` counts it at once",
        )
    for name in cordoned_for(wanted, site, closed):
        raise Unavailable(
            f"site `{name}` is {closed[name].state}: nothing new starts or comes to rest there",
            fix=f"the lifecycle places the step again; `tradewind site uncordon {name}` opens the site",
        )
    made = [f"{order.workload}-{kind}" for kind in OUTPUTS.get(order.step, ())]
    return decision, declarations.label([*decision["datasets"], *made], at=now())


def _difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} `{expected[key]}`, here `{found[key]}`" for key in expected if expected[key] != found[key])


@contextmanager
def _recorded(state: State, order: StepOrder, pool: str) -> Iterator[None]:
    """Write down how a run failed before the error goes on its way; a wall that held goes into the ledger too."""
    try:
        yield
    except BaseException as error:
        message = str(error) or type(error).__name__
        at = now()
        with state.transaction() as tx:
            runs.finish(tx, order.run_id, "failed", at, error=message)
            if isinstance(error, PolicyDenied):
                outbox.refuse(tx, order.intent_id, message, at)
            elif not isinstance(error, GuardRefused):
                outbox.fail(tx, order.intent_id, message, at, final=isinstance(error, UserError))
            if isinstance(error, (GuardRefused, PolicyDenied)):
                # a forged run must not end the intent it names: whoever was really sent still fulfils it
                body = {"step": order.step, "workload": order.workload, "pool": pool, "intent": order.intent_id, "why": message}
                ledger.append(tx, "guard-refusal", body, principal="worker", at=at)
        raise


def _service(step: str) -> Callable[[StepContext], StepResult]:
    module, _, name = SERVICES[step].partition(":")
    service: Callable[[StepContext], StepResult] = getattr(importlib.import_module(module), name)
    return service


def _workload(name: str) -> Workload:
    from flows.workloads import registry

    return registry.load(name)


def now() -> datetime:
    """The wall clock of a worker, UTC."""
    return datetime.now(UTC)
