"""Dispatch through the Prefect server: one deployment per step and pool."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flows.adapters import dispatch
from flows.adapters.settings import Settings
from flows.core.governance.tickets import PARAMETER
from flows.core.planning import PLACED_STEPS, SITE_STEPS
from flows.services import asking, sweeping, ticketing
from flows.services.dispatching import Outcome
from flows.store.database import State


class PrefectDispatcher:
    """Starts a child run on the pool's worker, a placed step with control's ticket, and waits until it ends.

    A lifecycle that waits for a person is not waited for.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()

    async def run(self, deployment: str, parameters: Mapping[str, Any], *, key: str) -> Outcome:
        """See `flows.services.dispatching.Dispatcher`."""
        step, _, pool = deployment.rpartition("/")
        state, variables = State(self._settings.state_url), {}
        if step in (*PLACED_STEPS, *SITE_STEPS):
            variables = await asyncio.to_thread(asking.of_run, state, self._settings, deployment, parameters, key=key)
        if step in PLACED_STEPS:
            ticket = await asyncio.to_thread(ticketing.issue, state, self._settings, deployment, parameters, key=key, at=datetime.now(UTC))
            parameters = {**parameters, PARAMETER: ticket}
        tags = ["tradewind", str(parameters["workload"])]
        run_id = await dispatch.start(deployment, parameters, idempotency_key=key, tags=tags, job_variables=variables)
        # a lifecycle suspends itself to wait for a person; a step that somebody suspends in the UI is waited for, as it goes on in its try
        start = await asyncio.to_thread(asking.start_seconds, self._settings, pool)
        patience = dispatch.Patience(start=start, silent=None if start is None else self._settings.silent_seconds)
        final = await dispatch.wait(run_id, pool=pool, patience=patience, until_suspended=step == "lifecycle")
        if final.given_up:
            await asyncio.to_thread(sweeping.end_jobs_of, self._settings, pool, run_id)
        return Outcome(run_id, final.succeeded, final.name, final.message, dispatch.ui_url(run_id), final.evidence)
