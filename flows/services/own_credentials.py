"""A run asks for credentials of its own before it opens anything: for the datasets that its decision covers, at the sites that it names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flows.adapters import step_credentials
from flows.services.transferring import destination_of
from flows.store import decisions, ledger

if TYPE_CHECKING:
    from flows.adapters.settings import Settings
    from flows.store.database import State


@contextmanager
def narrowed(
    state: State, settings: Settings, decision: Mapping[str, Any], *, inputs: Iterable[str], run_id: str, at: datetime
) -> Iterator[None]:
    """Hold the run's own credentials until it ends, and let the ledger say what they reach and until when: never what opens anything.

    Raises:
        Unavailable: nobody gave them: nothing may be opened.
        UserError: a dataset's name, or their number, cannot stand in a policy; the site has no root or no role.
    """
    with state.reading() as tx:
        request = decisions.document(tx, decision["inputs"]["request"]) or {}
    chosen, step, workload = decision["chosen"], request["step"], request["workload"]
    with step_credentials.acquire(
        chosen["site"],
        workload,
        step,
        settings,
        intent=request["intent_id"],
        inputs=inputs,
        destination=destination_of(request) if step == "transfer" else None,
        until=datetime.fromisoformat(chosen["finish_p90"]),
    ) as held:
        _tell(state, held, {"run": run_id, "workload": workload, "step": step, "decision": decision["decision_id"]}, at)
        yield


@contextmanager
def of_task(state: State, settings: Settings, *, site: str, workload: str, step: str, task: str, at: datetime) -> Iterator[None]:
    """The same for a task that control sent to a site, such as an erasure, which no decision placed.

    Raises:
        Unavailable: as `narrowed`.
        UserError: as `narrowed`.
    """
    with step_credentials.acquire(site, workload, step, settings, intent=task) as held:
        _tell(state, held, {"run": task, "workload": workload, "step": step, "decision": None}, at)
        yield


def _tell(state: State, held: step_credentials.Credentials | None, body: dict[str, Any], at: datetime) -> None:
    if held is not None:
        with state.transaction() as tx:
            ledger.append(tx, "credentials", {**body, "given": held.public}, principal="worker", at=at)
