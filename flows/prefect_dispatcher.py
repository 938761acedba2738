"""Dispatch through the Prefect server: one deployment per step and pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.adapters import dispatch
from flows.services.dispatching import Outcome


class PrefectDispatcher:
    """Starts a child run on the pool's worker and waits for its end."""

    async def run(self, deployment: str, parameters: Mapping[str, Any], *, key: str) -> Outcome:
        """See `flows.services.dispatching.Dispatcher`."""
        run_id = await dispatch.start(deployment, parameters, idempotency_key=key, tags=["tradewind", str(parameters["workload"])])
        final = await dispatch.wait(run_id, pool=deployment.rpartition("/")[2])
        return Outcome(run_id, final.succeeded, final.name, final.message, dispatch.ui_url(run_id))
