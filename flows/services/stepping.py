"""The steps of one lifecycle: place each, bring its data there, dispatch it, record how it ended; what is done stays done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from flows.adapters.settings import CONTROL, Settings
from flows.core.canonical import instant
from flows.core.errors import Infeasible, TradewindError
from flows.core.failures import Failure
from flows.core.planning import DATASET_OF_ROLE, INPUTS, Cause, intent_id, steps_of, window_of
from flows.services import approving, failing, placing, planning_jointly, progress, promoting, proving, signed
from flows.services.context import DatasetRef
from flows.services.declarations import Declarations
from flows.services.dispatching import Dispatcher
from flows.services.promotion_runs import newest_done
from flows.store import approvals, outbox, principals, replicas, reservations, sites
from flows.store.database import State

log = logging.getLogger("flows.lifecycle")

NEEDS_CHAMPION = ("score", "watch")
SOON = timedelta(minutes=2)
"""A slot that begins within this time is waited for; a later one is left to the reconciler."""
STALE_AFTER = timedelta(hours=12)
"""A run that holds an intent this long has lost it; the reconciler sees much sooner that a run is dead."""

OnDecision = Callable[[str, Mapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class LifecycleOrder:
    """What one lifecycle is asked for.

    `intent` is given by whoever opened it (a drift verdict, the reconciler); else it is derived. `steps` runs only these. `tag` sets
    its intents apart from those of an earlier run of the same window and cause: to do again, on purpose, what is done. `roles` are
    those that `principal` was authenticated with; None: those that are declared for its name.
    """

    workload: str
    as_of: datetime
    cause: Cause
    owner: str
    principal: str
    intent: str | None = None
    retrain: bool = False
    urgent: bool = False
    steps: tuple[str, ...] = ()
    tag: str = ""
    roles: tuple[str, ...] | None = None

    @property
    def payload(self) -> dict[str, Any]:
        """What it is asked to do, as its intent keeps it."""
        return {"as_of": instant(self.as_of), "retrain": self.retrain, "urgent": self.urgent, "steps": list(self.steps)}

    @property
    def window(self) -> str:
        """The window of its intents."""
        return window_of(self.as_of)

    @property
    def tagged_cause(self) -> str:
        """The cause as its intents carry it; a given intent carries it already."""
        if self.intent:
            return self.intent.rsplit("/", 1)[-1]
        return f"{self.cause}-{self.tag}" if self.tag else self.cause

    def intent_of(self, step: str, cause: str | None = None) -> str:
        """The id of one of its steps' intents."""
        return intent_id(self.workload, step, self.window, cause or self.tagged_cause)


@dataclass
class Driver:
    """Takes one lifecycle's steps, one after the other: each is placed, its data brought there, its run dispatched and its end recorded."""

    order: LifecycleOrder
    settings: Settings
    state: State
    dispatcher: Dispatcher
    on_decision: OnDecision | None
    resume_at: datetime | None = None
    together: planning_jointly.Plan | None = None
    looked: bool = False

    def plan(self) -> tuple[str, ...]:
        """The steps of this lifecycle, as things stand."""
        if self.order.steps:
            return self.order.steps
        with self.state.reading() as tx:
            features = replicas.latest(tx, f"{self.order.workload}-features", as_of=self.order.as_of)
        fresh = features is not None and features.facts.get("as_of") == instant(self.order.as_of)
        return steps_of(self.order.cause, has_champion=self.has_champion(), has_features=fresh, retrain=self.order.retrain)

    async def look_ahead(self, steps: Sequence[str]) -> None:
        """Plan what is due together; once, and again if a step went elsewhere than planned."""
        if not self.looked:
            due = self._due(steps)
            self.together = await asyncio.to_thread(planning_jointly.plan_for, self.state, self.settings, due, at=_now())
            self.looked = True

    def _due(self, steps: Sequence[str]) -> planning_jointly.Due:
        serves = self.has_champion() or "promote" in steps
        intents = {step: self.order.intent_of(step) for step in planning_jointly.plannable(steps) if serves or step not in NEEDS_CHAMPION}
        done = {step: result["site"] for step, own in intents.items() if (result := self._done(own)) is not None}
        due = {step: own for step, own in intents.items() if step not in done}
        inputs = {step: self._inputs(step) for step in due}
        own = self.order.intent or self.order.intent_of("lifecycle")
        return planning_jointly.Due(self.order.workload, own, self.order.principal, due, inputs, done, self.order.urgent, self.order.roles)

    def has_champion(self) -> bool:
        """Whether a model serves."""
        with self.state.reading() as tx:
            return promoting.champion_dataset(tx, self.order.workload) is not None

    async def step(self, step: str) -> dict[str, Any] | None:
        """Run one step, or find it done; None if its slot is too far away to wait for."""
        own = self.order.intent_of(step)
        if (done := self._done(own)) is not None:
            log.info("`%s` is done already", own)
            await self._sign(step, own, done)
            return done
        if step == "promote":
            parameters = {
                "workload": self.order.workload,
                "as_of": instant(self.order.as_of),
                "intent_id": own,
                "cause": self.order.tagged_cause,
            }
            while isinstance(ended := await self._try(own, "promote", f"promote/{CONTROL}", parameters), Failure):
                pass
            return ended
        try:
            result = await self._placed(step, own, self._inputs(step))
            await self._sign(step, own, result)
            if step == "train":
                await self._bring_home(result)
        except Later as later:
            self.resume_at = later.start
            return None
        return result

    async def _placed(self, step: str, own: str, inputs: Mapping[str, DatasetRef], destination: str | None = None) -> dict[str, Any]:
        """Place a step, bring its data there and run it; if the place fails it, place it again: see `placing.place_step`.

        Raises:
            Infeasible: no place may run it; after a failure, no other one, nor the same one once it has cooled down.
            TradewindError: it failed, for good or `outbox.TRIES` times.
            Later: its slot is too far away to wait for.
        """
        inputs, decision = await self._place_with_progress(step, own, inputs, destination)
        while True:
            chosen = decision["chosen"]
            start = datetime.fromisoformat(chosen["start"])
            if start - _now() > SOON:
                log.info("`%s` waits for its slot at %s on %s", own, chosen["start"], chosen["pool"])
                raise Later(start)
            if destination is None:
                if not await self._bring_progress(inputs, chosen["site"]):
                    inputs = without_progress(inputs)
                    decision = await self._place(step, own, inputs, destination)
                    continue
                for ref in inputs.values():
                    await self._bring(ref, chosen["site"])
            if datetime.fromisoformat(chosen["finish_p90"]) <= _now():  # bringing its data, or a try, took as long as it had the place for
                inputs, decision = await self._place_with_progress(step, own, inputs, destination)
                continue
            ended = await self._try(own, step, f"{step}/{chosen['pool']}", self._parameters(own, decision, inputs), chosen)
            if not isinstance(ended, Failure):
                return ended
            if ended.elsewhere or self._closed(chosen["site"]):
                failed = placing.FailedPlace(decision["decision_id"], chosen["pool"], str(ended), ended.kind)
                inputs, decision = await self._place_with_progress(step, own, inputs, destination, failed)

    async def _place_with_progress(
        self,
        step: str,
        own: str,
        inputs: Mapping[str, DatasetRef],
        destination: str | None,
        failed: placing.FailedPlace | None = None,
    ) -> tuple[Mapping[str, DatasetRef], dict[str, Any]]:
        """Place a step together with the checkpoint that its last try left; without it where no place may have it."""
        plain = without_progress(inputs)
        if step == "train":
            with self.state.reading() as tx:
                row = progress.newest(tx, f"{self.order.workload}-{progress.KIND}", own)
                found = DatasetRef(row.dataset, row.version) if row is not None else None
            if found is not None:
                with_it = {**plain, progress.ROLE: found}
                try:
                    return with_it, await self._place(step, own, with_it, destination, failed)
                except Infeasible:
                    log.warning("`%s` starts anew: no place may run it with its checkpoint `%s`", own, found)
        return plain, await self._place(step, own, plain, destination, failed)

    async def _bring_progress(self, inputs: Mapping[str, DatasetRef], site: str) -> bool:
        """Bring the checkpoint to the site, if there is one; False if its own site no longer gives it away in time."""
        ref = inputs.get(progress.ROLE)
        if ref is None:
            return True
        try:
            await self._bring(ref, site)
        except (TradewindError, Later) as error:
            log.warning("checkpoint `%s` cannot be brought to `%s`, the step starts anew: %s", ref, site, error)
            return False
        return True

    def _closed(self, site: str) -> bool:
        with self.state.reading() as tx:
            if site in sites.closed(tx):
                return True
            return site in proving.unproven(tx, self.settings, Declarations.load(self.settings), _now())

    def _parameters(self, own: str, decision: Mapping[str, Any], inputs: Mapping[str, DatasetRef]) -> dict[str, Any]:
        return {
            "workload": self.order.workload,
            "as_of": instant(self.order.as_of),
            "intent_id": own,
            "decision_id": decision["decision_id"],
            "inputs": {role: str(ref) for role, ref in inputs.items()},
        }

    def _done(self, own: str) -> dict[str, Any] | None:
        with self.state.reading() as tx:
            row = outbox.get(tx, own)
            return dict(row.result or {}) if row is not None and row.state == "done" else None

    def _inputs(self, step: str) -> dict[str, DatasetRef]:
        """The newest version of each input that exists by `as_of`; models by their alias or their training, not by their age."""
        workload, found = self.order.workload, dict[str, DatasetRef]()
        with self.state.reading() as tx:
            for role in INPUTS[step]:
                dataset = f"{workload}-{DATASET_OF_ROLE.get(role, role)}"
                if role == "champion":
                    text = promoting.champion_dataset(tx, workload)
                elif role == "challenger":
                    trained = newest_done(tx, workload, "train", self.order.window)
                    text = trained.result["outputs"][dataset] if trained and trained.result else None
                else:
                    row = replicas.latest(tx, dataset, as_of=self.order.as_of)
                    text = f"{dataset}@{row.version}" if row else None
                if text is not None:
                    found[role] = DatasetRef.parse(text)
        return found

    async def _place(
        self,
        step: str,
        own: str,
        inputs: Mapping[str, DatasetRef],
        destination: str | None = None,
        failed: placing.FailedPlace | None = None,
    ) -> dict[str, Any]:
        planned = None if self.together is None or destination is not None else self.together.of(step)
        decision = await asyncio.to_thread(
            placing.place_step,
            self.state,
            self.settings,
            placing.PlaceOrder(
                self.order.workload,
                step,
                own,
                inputs,
                self.order.principal,
                destination,
                self.order.urgent,
                failed,
                planned,
                self.order.roles,
            ),
            at=_now(),
        )
        if self.on_decision is not None:
            await self.on_decision(step, decision)
        if decision["chosen"] is None:
            raise Infeasible(f"no place may run `{step}` of `{self.order.workload}`: {decision['summary']}")
        chosen = decision["chosen"]
        if planned is not None and chosen["site"] != planned.site:
            log.warning("`%s` leaves plan %s: nothing at `%s` may run it now", own, planned.plan[:12], planned.site)
            self.looked = False
        log.info(
            "`%s` -> %s (%s, %s) at USD %s; %s",
            own,
            chosen["pool"],
            chosen["site"],
            chosen["offer"],
            chosen["usd"]["total"],
            decision["summary"],
        )
        return decision

    async def _bring(self, ref: DatasetRef, site: str) -> None:
        """Make the version rest at the site: a transfer of its own, placed and recorded like any step, unless it is there."""
        with self.state.reading() as tx:
            at = replicas.sites(tx, ref.dataset, ref.version)
        if site in at:
            return
        own = self.order.intent_of("transfer", f"{ref}>{site}")
        if self._done(own) is not None:
            return
        await self._placed("transfer", own, {"data": ref}, destination=site)

    async def _sign(self, step: str, own: str, result: Mapping[str, Any]) -> None:
        """A model is loaded nowhere unless control signed what its training recorded of it."""
        if step == "train":
            ref = DatasetRef.parse(result["outputs"][f"{self.order.workload}-model"])
            await asyncio.to_thread(signed.model, self.state, self.settings, ref, own, at=_now())

    async def _bring_home(self, trained: Mapping[str, Any]) -> None:
        """Models rest at the workload's home, where they are judged, whichever place trained them."""
        ref = DatasetRef.parse(trained["outputs"][f"{self.order.workload}-model"])
        await self._bring(ref, Declarations.load(self.settings).home_of(ref.dataset))

    async def _try(
        self, own: str, step: str, deployment: str, parameters: Mapping[str, Any], chosen: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | Failure:
        """Run it once, where `chosen` says: its result, or how it failed if another try is left.

        Raises:
            TradewindError: it failed, and no try is left or none can help.
        """
        with self.state.transaction() as tx:
            cause, asked = own.rsplit("/", 1)[-1], {"requested_by": principals.id_for(tx, self.order.principal)}
            row = outbox.ensure(tx, outbox.Intent.of(self.order.workload, step, self.order.window, cause, due_at=_now(), payload=asked))
            if row.state == outbox.FAILED:
                # an earlier lifecycle gave up on it; this one was started all the same
                outbox.reopen(tx, own)
            attempt = row.attempt
            outbox.claim(tx, own, owner=self.order.owner, at=_now(), stale_after=STALE_AFTER)
            looks = approvals.looks(tx, own) if step == "promote" else None
        # a promotion that waited runs again without having lost a try: the server must not take it for the run that waited
        key = f"{own}#{attempt}" if looks is None else f"{own}#{attempt} {self.order.owner} {looks}"
        outcome = await self.dispatcher.run(deployment, parameters, key=key)
        with self.state.transaction() as tx:
            ended = outbox.get(tx, own)
            if ended is not None and ended.state == outbox.DONE:
                return dict(ended.result or {})
            open_still = outcome.succeeded and step == "promote" and ended is not None and ended.state == outbox.OPEN
            if open_still and (approval := approving.to_judge(tx, own, _now())) is not None:
                return {"summary": f"`promote` waits for a person: request {approval['request']}", "approval": approval}
            failure = outcome.failure(spot=bool(chosen and chosen.get("spot")))
            failing.record(
                tx,
                self.settings,
                failing.Ended(own, self.order.workload, step, outcome.run_id, parameters.get("decision_id")),
                failure,
                chosen,
                _now(),
            )
            ended = outbox.get(tx, own)
            if ended is None or ended.state != outbox.OPEN:
                reservations.release(tx, own)
            state = ended.state if ended else "gone"
            error = (ended.error if ended else None) or outcome.message
        if state != outbox.OPEN:
            raise TradewindError(
                f"`{step}` on `{deployment}` ended {outcome.state} ({state}): {error}", fix=f"see {outcome.url or outcome.run_id}"
            )
        log.warning("`%s` failed (%s); trying again, attempt %d of %d", own, error, attempt + 2, outbox.TRIES)
        return replace(failure, what=error) if failure.kind == "step" else failure


def without_progress(inputs: Mapping[str, DatasetRef]) -> dict[str, DatasetRef]:
    """The inputs that the step needs."""
    return {role: ref for role, ref in inputs.items() if role != progress.ROLE}


class Later(Exception):
    """A slot that is too far away to wait for."""

    def __init__(self, start: datetime) -> None:
        super().__init__(start)
        self.start = start


def _now() -> datetime:
    return datetime.now(UTC)
