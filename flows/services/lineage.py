"""Tell OpenLineage what each step reads and makes: START before the work, COMPLETE once its record is stored, FAIL if neither came.

Lineage is a copy of the record, not a part of it: whatever is wrong with it is logged, and the step goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, ParamSpec

from flows.adapters.lineage import Lineage, columns_of
from flows.adapters.settings import Settings
from flows.core.governance.lineage import Data, EventType, Run, event
from flows.store import outbox
from flows.store.database import State

if TYPE_CHECKING:
    from flows.adapters.storage import DatasetVersion
    from flows.services.context import StepContext, StepResult

log = logging.getLogger("flows.lineage")
P = ParamSpec("P")


@dataclass
class Trace:
    """What one run has made so far."""

    outputs: tuple[DatasetVersion, ...] = ()

    def made(self, result: StepResult) -> StepResult:
        """Note the outputs of a step, and hand its result on."""
        self.outputs = result.outputs
        return result


@dataclass(frozen=True)
class _Teller:
    lineage: Lineage
    run: Run
    about: Mapping[str, Any] = field(default_factory=dict)

    def tell(self, kind: EventType, inputs: Iterable[Data], outputs: Callable[[], Iterable[Data]], error: str | None = None) -> None:
        try:
            made = event(kind, self.run, at=datetime.now(UTC), inputs=tuple(inputs), outputs=tuple(outputs()), error=error, **self.about)
            self.lineage.emit(made)
        except Exception as failure:  # noqa: BLE001  whatever lineage meets, the step goes on
            log.warning("no lineage event `%s` of `%s.%s`: %s", kind, self.run.workload, self.run.step, type(failure).__name__)


@contextmanager
def traced(ctx: StepContext, decision: Mapping[str, Any], run_id: str) -> Iterator[Trace]:
    """Tell of a placed step around its work and its record."""
    run = Run(run_id, ctx.workload.name, ctx.step, _parent(ctx.state, ctx.intent_id))
    teller = _Teller(Lineage(ctx.settings), run, {"decision": decision, "label": ctx.label.to_json(), "intent_id": ctx.intent_id})
    inputs = [Data(ctx.site, ref.dataset, ref.version) for ref in sorted(set(ctx.inputs.values()), key=str)]
    trace = Trace()
    with _told(teller, inputs, lambda: [_described(ctx, version) for version in trace.outputs]):
        yield trace


def in_control(step: str) -> Callable[[Callable[P, dict[str, Any]]], Callable[P, dict[str, Any]]]:
    """As `traced`, for a use case in control, which sees no data: called with `workload`, `intent_id` and, by keyword, `run_id`."""

    def wrap(use_case: Callable[P, dict[str, Any]]) -> Callable[P, dict[str, Any]]:
        names = signature(use_case)

        @wraps(use_case)
        def told(*arguments: P.args, **keywords: P.kwargs) -> dict[str, Any]:
            given = names.bind(*arguments, **keywords).arguments
            settings = given.get("settings") or Settings()
            with closing(State(settings.state_url)) as state:
                run = Run(given["run_id"], given["workload"], step, _parent(state, given["intent_id"]))
            with _told(_Teller(Lineage(settings), run), [], lambda: ()):
                return use_case(*arguments, **keywords)

        return told

    return wrap


@contextmanager
def _told(teller: _Teller, inputs: list[Data], outputs: Callable[[], Iterable[Data]]) -> Iterator[None]:
    teller.tell("START", inputs, lambda: ())
    try:
        yield
    except BaseException as error:
        teller.tell("FAIL", inputs, lambda: (), type(error).__name__)
        raise
    teller.tell("COMPLETE", inputs, outputs)


def send_kept(settings: Settings) -> tuple[int, int]:
    """Send the events that a server did not take when they came; (sent, still kept)."""
    return Lineage(settings).flush()


def _parent(state: State, intent_id: str) -> str | None:
    """The lifecycle's run: the owner of the step's intent."""
    with state.reading() as tx:
        row = outbox.get(tx, intent_id)
        return row.owner if row is not None else None


def _described(ctx: StepContext, version: DatasetVersion) -> Data:
    """The version with its columns; a copy at another site is not opened from here."""
    here = version.site == ctx.site
    columns = columns_of(lambda name: ctx.storage.readable(version.dataset, version.version, name), version.files) if here else ()
    return Data(version.site, version.dataset, version.version, columns)
