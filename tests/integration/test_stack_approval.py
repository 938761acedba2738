"""A restricted model on the real stack: its run suspends itself, resuming it promotes nothing, `tradewind approve` does."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest

from deployments.local.supervisor import Stack
from flows.adapters import dispatch
from flows.adapters.settings import PROJECT_ROOT
from flows.prefect_dispatcher import PrefectDispatcher
from flows.store import aliases, ledger
from flows.store.database import State

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

PARAMETERS = {"workload": "nafld", "as_of": "2013-03-15T00:00:00Z", "cause": "manual", "urgent": True}


def tradewind(*words: str) -> subprocess.CompletedProcess[str]:
    """The command in the environment of the stack."""
    command = [sys.executable, "-m", "deployments.cli.main", *words]
    return subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120, check=False)


def resumed(run: str) -> dispatch.FinalState:
    """Resume the run as the button in the UI does, and wait until it ends or is suspended again."""

    async def both() -> dispatch.FinalState:
        assert await dispatch.resume(run)
        return await dispatch.wait(run, until_suspended=True, timeout=200)

    return asyncio.run(both())


def test_only_a_persons_record_promotes_a_restricted_model(stack: Stack) -> None:
    """Suspended with a page of what to judge; resumed by hand it is suspended again; approved it goes on to the champion."""
    state = State(stack.settings.state_url)

    def champion() -> str | None:
        with state.reading() as tx:
            row = aliases.current(tx, "nafld", "champion")
        return row.version if row else None

    def kinds() -> list[str]:
        with state.reading() as tx:
            return [row.kind for row in ledger.rows(tx) if row.kind.startswith("approval")]

    waits = asyncio.run(PrefectDispatcher().run("lifecycle/nafld", PARAMETERS, key="approval"))
    assert (waits.state, champion()) == (dispatch.SUSPENDED, None), waits.message
    (one,) = json.loads(tradewind("approve", "--list", "--json").stdout)
    assert (one["workload"], one["standing"], one["run"]) == ("nafld", "waiting", waits.run_id)

    assert resumed(waits.run_id).name == dispatch.SUSPENDED
    assert (champion(), kinds()) == (None, ["approval-request", "approval-absence"])

    done = tradewind("approve", one["request"], "--reason", "the evaluation holds")
    assert done.returncode == 0, done.stderr
    assert asyncio.run(dispatch.wait(waits.run_id, timeout=300)).succeeded
    assert champion() == one["version"]
    assert kinds()[-2:] == ["approval", "approval-use"]
    assert tradewind("approve", "--list").stdout == "nothing waits\n"
