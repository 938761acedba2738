"""Scheduled in control: the duties of governance that come round by the clock."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.adapters.settings import Settings
from flows.prefect_dispatcher import PrefectDispatcher
from flows.services import erasing, proving, retaining, reviewing
from flows.store.database import State
from flows.subject_secrets import forget


@flow(name="govern", flow_run_name="govern")
async def govern() -> dict[str, Any]:
    """Make the access review that is due, carry out erasures, enforce retention, prove the security of sites.

    Runs by itself each day; may be run at any time.
    """
    settings = Settings()
    state, owner = State(settings.state_url), str(flow_run.get_id() or "local")
    dispatcher = PrefectDispatcher(settings)
    erased = await erasing.carry_out(state, settings, dispatcher, owner=owner)
    for name in erasing.spent(state, at=datetime.now(UTC)):
        await asyncio.to_thread(forget, name)
    retained = await retaining.carry_out(state, settings, dispatcher, owner=owner, at=datetime.now(UTC))
    found = reviewing.govern(state, settings, at=datetime.now(UTC))
    proved = await asyncio.to_thread(proving.govern, state, settings, at=datetime.now(UTC))
    return {
        "security": None if proved is None else proved.to_json(),
        "review": None if found is None else found.to_json(),
        "erasures": erased,
        "retention": retained,
    }
