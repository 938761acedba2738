"""Scheduled in control: starts what an event missed, frees what a crash held, mends aliases, anchors the ledger, ends orphaned jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from prefect import flow

from flows.adapters import dispatch
from flows.adapters.pool_runs import PoolRuns
from flows.adapters.settings import Settings
from flows.core.errors import UserError
from flows.services import approving, reconciling, sweeping
from flows.store.database import State


@flow(name="reconcile", flow_run_name="reconcile")
async def reconcile() -> dict[str, Any]:
    """Bring what happened in line with what must happen. Runs by itself; may be run at any time."""

    settings = Settings()

    async def start(deployment: str, parameters: Mapping[str, Any], key: str) -> str:
        waits = approving.run_that_waits(settings, str(parameters["intent_id"]))
        if waits is not None and await dispatch.resume(waits):
            return waits
        return await dispatch.start(deployment, parameters, idempotency_key=key, tags=["tradewind", "reconciled"])

    async def is_over(run_id: str) -> bool:
        try:
            return (await dispatch.state(run_id)).final
        except UserError:
            return True

    done = asdict(await reconciling.reconcile(settings, start=start, is_over=is_over))
    if sweeping.is_due(settings, datetime.now(UTC)):
        swept = await sweeping.sweep(State(settings.state_url), settings, PoolRuns(), at=datetime.now(UTC))
        done["swept"] = swept.to_json()
    return done
