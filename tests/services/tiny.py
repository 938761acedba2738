"""The real lifecycle, walls and records around steps that do next to nothing: each publishes a file that says who it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flows.adapters.settings import Settings
from flows.core.drift import DriftNumbers, judge_drift
from flows.core.errors import TradewindError, UserError
from flows.core.planning import OUTPUTS
from flows.core.workload import DriftThresholds
from flows.services import running, transferring
from flows.services.context import DatasetRef, StepContext, StepResult
from flows.services.declarations import Declarations
from flows.services.dispatching import Outcome
from flows.services.local_run import acting_as
from flows.services.promotion_runs import newest_done
from flows.services.running import StepOrder, run_step
from flows.store import aliases, ledger, outbox
from flows.store.database import State
from tests.tickets import sent


def publish(ctx: StepContext) -> StepResult:
    """One small file for each kind of dataset that the step makes, the same bytes for the same step and `as_of`."""
    made = []
    for kind in OUTPUTS[ctx.step]:
        with ctx.storage.draft(ctx.dataset(kind)) as draft:
            (draft / "data.txt").write_text(f"{ctx.dataset(kind)} as of {ctx.as_of.isoformat()}")
            made.append(ctx.storage.publish(ctx.dataset(kind), draft, {}))
    numbers: dict[str, Any] = {"model_version": "1"} if ctx.step == "train" else {}
    return StepResult(outputs=tuple(made), numbers=numbers, summary=f"{ctx.step} done")


def drifted(ctx: StepContext) -> StepResult:
    """A watch whose labels say that the champion lost 0.2 of AUC."""
    numbers = DriftNumbers(rows=5000, labelled_rows=5000, auc_reference=0.8, auc_current=0.6)
    return StepResult(numbers={"verdict": judge_drift(numbers, DriftThresholds()).to_json()}, summary="drift")


def mistaken(ctx: StepContext) -> StepResult:
    """A step that finds a mistake of its user."""
    raise UserError("column `dest` is missing", fix="correct the source")


@dataclass
class TinyDispatcher:
    """Runs each step here under its pool's identity; `crash` holds deployments whose next run dies, before or after the work."""

    settings: Settings
    crash: dict[str, str] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    async def run(self, deployment: str, parameters: Mapping[str, Any], *, key: str) -> Outcome:
        """See `flows.services.dispatching.Dispatcher`."""
        step, _, pool = deployment.partition("/")
        self.keys.append(key)
        when = self.crash.pop(step, None)
        if when == "before":
            return Outcome(key, succeeded=False, state="Crashed", message="the process is gone")
        self.ran.append(deployment)
        with acting_as(Declarations.load(self.settings).estate.pool_by_name[pool].site, pool):
            if step == "promote":
                self._promote(parameters)
            else:
                refs = {role: DatasetRef.parse(text) for role, text in parameters["inputs"].items()}
                as_of = datetime.fromisoformat(parameters["as_of"])
                order = StepOrder(step, parameters["workload"], as_of, parameters["intent_id"], parameters["decision_id"], refs, key)
                try:
                    run_step(sent(self.settings, order, pool), settings=self.settings)
                except TradewindError as error:
                    return Outcome(key, succeeded=False, state="Failed", message=str(error))
        if when == "after":
            raise KeyboardInterrupt
        return Outcome(key, succeeded=True, state="Completed")

    def _promote(self, parameters: Mapping[str, Any]) -> None:
        """Every challenger wins, as the state database and the ledger tell it; the model registry is not asked."""
        workload, own = parameters["workload"], parameters["intent_id"]
        result = {"summary": "promoted", "outputs": {}, "numbers": {}, "links": {}, "run_id": own, "pool": "control", "site": "control"}
        with State(self.settings.state_url).transaction() as tx:
            row = outbox.get(tx, own)
            assert row is not None and row.claimed_at is not None
            at = row.claimed_at
            trained = newest_done(tx, workload, "train", row.window)
            assert trained is not None and trained.result is not None
            current = aliases.current(tx, workload, "champion")
            version = str(int(current.version) + 1) if current else "1"
            body = {"workload": workload, "version": version, "dataset": trained.result["outputs"][f"{workload}-model"], "intent": own}
            aliases.begin_move(
                tx, workload, "champion", expected_version=current.version if current else None, new_version=version, intent_id=own, at=at
            )
            aliases.settle(tx, workload, "champion", own, at)
            ledger.append(tx, "promotion", body, principal="test", at=at)
            outbox.finish(tx, own, result, at)


@contextmanager
def tiny_steps(**other: str) -> Iterator[None]:
    """Let every step but `transfer` be `publish`, or what `other` names."""
    before = dict(running.SERVICES)
    running.SERVICES.update({step: f"{__name__}:publish" for step in before if step != "transfer"})
    running.SERVICES.update(other)
    assert running.SERVICES["transfer"].endswith(transferring.transfer.__name__)
    try:
        yield
    finally:
        running.SERVICES.update(before)
