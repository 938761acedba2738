"""Against the real server and its workers: runs started by hand for a forbidden site, and a step that says what it read.

Job variables that would change who a run is, and copies of a dispatch at its own pool, are in `test_stack.py`; a whole demo scanned for
patients is in `test_demo.py`; everything that needs no server is under `tests/adversarial`.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deployments.local.supervisor import Stack
from flows.adapters import dispatch
from flows.adapters.settings import PROJECT_ROOT
from flows.store import ledger, runs
from flows.store.database import State
from tests.integration.conftest import Run, start
from tests.integration.scanner import traces_in_use

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

PATIENT = re.compile(rb"nafld-patient-\d{6}")
PLANTED = "planted-patient-000042"


def refused(stack: Stack) -> int:
    """How many guard refusals the ledger holds."""
    with State(stack.settings.state_url).reading() as tx:
        return len(ledger.rows(tx, kind="guard-refusal"))


@pytest.fixture(scope="module")
def dispatched(stack: Stack) -> dict[str, Any]:
    """The parameters of a real ingest of patients at home, as the server shows them to anyone with its password."""
    from prefect.client.orchestration import get_client

    words = ["run", "nafld", "--as-of", "2013-02-01", "--step", "ingest", "--urgent"]
    done = subprocess.run(
        [sys.executable, "-m", "deployments.cli.main", *words], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    with State(stack.settings.state_url).reading() as tx:
        (ran,) = [run for run in runs.recent(tx) if run.step == "ingest" and run.workload == "nafld"]
        assert (ran.site, ran.state) == ("onprem-fra", "completed")
        id = ran.id

    async def read() -> dict[str, Any]:
        async with get_client() as client:
            return dict((await client.read_flow_run(id)).parameters)

    return asyncio.run(read())


def test_no_run_that_somebody_starts_brings_patients_elsewhere(stack: Stack, dispatched: dict[str, Any]) -> None:
    """Its parameters as control signed them or edited, in another step or at another site: refused, ledgered, and no byte has moved.

    The very same parameters did run where and when control sent them; the scan finds the patients there.
    """
    home = stack.settings.site_folder("onprem-fra")
    raw = next(path.name for path in (home / "datasets" / "nafld-raw").iterdir() if (path / "manifest.json").exists())
    moved = {**dispatched, "inputs": {"data": f"nafld-raw@{raw}"}}
    before = refused(stack)
    attacks = [
        ("ingest/aws-us-east-1-ecs", dispatched),
        ("ingest/aws-us-east-1-ecs", {**dispatched, "ticket": None}),
        ("transfer/onprem-fra-k8s", moved),
        ("transfer/aws-us-east-1-ecs", moved),
        ("ingest/onprem-fra-k8s", {**dispatched, "workload": "flight_delay"}),
    ]

    async def scenario() -> list[dispatch.FinalState]:
        ids = [await start(deployment, parameters) for deployment, parameters in attacks]
        return [await dispatch.wait(id, timeout=120, poll_seconds=0.3) for id in ids]

    ended = asyncio.run(scenario())
    assert [each.refused for each in ended] == [True] * len(attacks), [each.message for each in ended]
    assert refused(stack) == before + len(attacks)
    found = traces_in_use(stack.settings.home, PATIENT)
    assert found and [path for path in found if home not in path.parents] == []


@pytest.mark.parametrize("hushed", [True, False], ids=["restricted", "public"])
def test_what_a_step_says_reaches_control_only_if_it_may(stack: Stack, run: Run, tmp_path: Path, hushed: bool) -> None:
    """Log lines, prints, a child process, an error with its cause: in the run's state, the server's logs and database, the worker's output.

    Without discretion the same flow is heard in all of them.
    """
    rows = tmp_path / "rows.txt"
    rows.write_text(f"{PLANTED}-{hushed}")
    final = run("talker", "onprem-fra-k8s", {"rows": str(rows), "hushed": hushed})
    assert not final.succeeded
    found = traces_in_use(stack.settings.home, re.compile(f"{PLANTED}-{hushed}".encode()))
    if hushed:
        assert "`train` of `clinic` failed with ValueError; its message may quote rows and is not shown" in final.message
        assert found == [] and PLANTED not in final.message
    else:
        assert PLANTED in final.message
        kinds = {path.suffix.partition("-")[0] for path in found}
        assert kinds >= {".db", ".log"}, "the server's database and the output of the workers"
