"""The demo on real servers and workers, and what must hold of everything it left behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy.orm import Session

from deployments.local import processes
from deployments.local.lock import exclusive
from flows.adapters.settings import PROJECT_ROOT, Settings
from flows.services.declarations import Declarations
from flows.store import aliases, ledger, outbox, replicas, runs
from flows.store.database import State
from tests.integration.scanner import traces

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

PATIENT = re.compile(rb"nafld-patient-\d{6}")
FLIGHT = re.compile(rb"\d{8}T\d{4}-[0-9A-Z]{2}\d+-(EWR|JFK|LGA)")


@dataclass(frozen=True)
class Played:
    """A demo that has ended: its home folder, its report, what it printed."""

    home: Path
    report: dict[str, Any]
    output: str

    def sites_with(self, identifier: re.Pattern[bytes]) -> set[str]:
        """The sites whose folder holds an identifier."""
        return {site.name for site in (self.home / "sites").iterdir() if traces(site, identifier)}


@contextlib.contextmanager
def recorded(home: Path, *, write: bool = False) -> Iterator[Session]:
    """A transaction on the state database, all connections closed afterwards.

    Scanning `state.db` as a plain file takes SQLite's locks from any connection that this process still holds.
    """
    state = State(f"sqlite:///{home / 'state.db'}")
    try:
        with state.transaction() if write else state.reading() as tx:
            yield tx
    finally:
        state.close()


def tradewind(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command as a person starts it, on a home of its own and without the environment of other tests' stacks."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRADEWIND_", "PREFECT_"))}
    return subprocess.run(
        [sys.executable, "-m", "deployments.cli.main", *words],
        cwd=PROJECT_ROOT,
        env={**environment, "TRADEWIND_HOME": str(home), "TRADEWIND_PORT_PREFECT": "0", "TRADEWIND_PORT_MLFLOW": "0", "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """One demo for all tests of this file."""
    home = tmp_path_factory.mktemp("demo") / "home"
    done = tradewind(home, "demo")
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    yield Played(home, json.loads((home / "demo.json").read_text()), done.stdout)


def test_the_report_has_what_it_promises(played: Played) -> None:
    """The keys that a program may read, each filled."""
    expected = {"workloads", "runs", "decisions", "retrains", "transfers", "costs", "links", "seconds", "approvals"}
    assert set(played.report) == expected
    assert all(played.report[key] for key in expected)
    assert set(played.report["runs"][0]) == {"id", "workload", "step", "pool", "site", "pid", "state", "seconds"}


def test_every_data_step_ran_on_a_worker(played: Played) -> None:
    """Each run is a process of its own at the site of its pool, and all completed."""
    site_of = {pool.name: pool.site for pool in Declarations.load(Settings()).estate.pools}
    assert {run["step"] for run in played.report["runs"]} == {
        "ingest", "materialize", "transfer", "train", "evaluate", "promote", "score", "watch"
    }  # fmt: skip
    for run in played.report["runs"]:
        assert (run["state"], run["site"]) == ("completed", site_of[run["pool"]])
    assert len({run["pid"] for run in played.report["runs"]}) == len(played.report["runs"])


def test_one_retrain_wins_and_one_is_refused(played: Played) -> None:
    """Drift started both; the gate let one pass and refused the other with its numbers."""
    found = {each["outcome"]: each for each in played.report["retrains"]}
    assert set(found) == {"promoted", "refused"}
    assert all(each["cause"] == "drift" for each in found.values())
    assert found["promoted"]["metrics"]["challenger_auc"] > found["promoted"]["metrics"]["champion_auc"]
    assert found["refused"]["metrics"]["challenger_auc"] < found["refused"]["metrics"]["champion_auc"]
    assert found["refused"]["reasons"]


def test_the_restricted_model_was_approved_by_somebody_else(played: Played) -> None:
    """The clinic's promotion waited; the demo says that it played the approver; the ledger has the request, the judgement and its use."""
    (found,) = played.report["approvals"]
    assert (found["workload"], found["standing"], found["approver"]) == ("nafld", "approved", "demo-approver")
    assert f"tradewind approve {found['request']}" in played.output and "the demo plays that person" in played.output
    with recorded(played.home) as tx:
        kinds = [row.kind for row in ledger.rows(tx) if row.body.get("request") == found["request"]]
    assert kinds == ["approval-request", "approval", "approval-use"]


def test_a_full_pool_changed_the_place(played: Played) -> None:
    """The flights were trained at two pools, and the last decision names the capacity that the first one lacked."""
    trained = [each for each in played.report["decisions"] if (each["workload"], each["step"]) == ("flight_delay", "train")]
    first, last = trained[0], trained[-1]
    assert last["chosen"]["pool"] != first["chosen"]["pool"]
    assert any(row["pool"] == first["chosen"]["pool"] and row["rules"] == ["capacity"] for row in last["rejected"])


def test_no_byte_of_the_patients_is_outside_the_permitted_sites(played: Played) -> None:
    """Nor in logs, databases, the model registry or the report; the scanner does find them at home."""
    workload = next(each for each in played.report["workloads"] if each["name"] == "nafld")
    permitted = set(workload["permitted_sites"])
    assert {"onprem-fra", "aws-eu-central-1"} == permitted
    with recorded(played.home) as tx:
        rows = [row for name, rows in replicas.by_dataset(tx).items() if name.startswith("nafld-") for row in rows]
        # what MLflow and Great Expectations write beside the data (requirements, styles) is the same for every workload
        checksums = {checksum for row in rows for name, checksum in row.files.items() if name.endswith((".parquet", ".pkl"))}
    forbidden = [path for path in played.home.iterdir() if path.name != "sites" and path.is_dir()]
    forbidden += [site for site in (played.home / "sites").iterdir() if site.name not in permitted]
    assert [found for folder in forbidden for found in traces(folder, PATIENT, checksums)] == []
    assert [path for path in played.home.iterdir() if path.is_file() and PATIENT.search(path.read_bytes())] == []
    assert PATIENT.search(played.output.encode()) is None
    assert "onprem-fra" in played.sites_with(PATIENT)


def test_the_scanner_finds_the_flights_where_they_were_transferred(played: Played) -> None:
    """The same scan, on data that may travel: at home and at each destination of its features."""
    went = {each["destination"] for each in played.report["transfers"] if each["dataset"] == "flight_delay-features"}
    assert went
    assert {"gcp-us-central1", *went} <= played.sites_with(FLIGHT)


def test_the_ledger_verifies(played: Played) -> None:
    """The chain is whole, up to and past its last anchor."""
    state = State(f"sqlite:///{played.home / 'state.db'}")
    found = ledger.verify(state, played.home / "anchors")
    state.close()
    assert found.ok


def test_nothing_is_left_running(played: Played) -> None:
    """All services and runs of the demo have ended."""
    left: list[psutil.Process] = processes.strays(played.home, [])
    assert left == []


def test_a_second_demo_finds_everything_done(played: Played) -> None:
    """No step runs twice; the summary is the same."""
    again = tradewind(played.home, "demo")
    assert again.returncode == 0, again.stderr
    report = json.loads((played.home / "demo.json").read_text())
    assert report["runs"] == played.report["runs"]
    assert report["retrains"] == played.report["retrains"]


@pytest.fixture(scope="module")
def reopened(played: Played) -> Iterator[Path]:
    """The demo's services once more, as `tradewind up` brings them back; all it did is still there."""
    done = tradewind(played.home, "up")
    assert done.returncode == 0, done.stderr
    yield played.home
    assert tradewind(played.home, "down").returncode == 0


def test_a_lost_event_still_leads_to_one_retrain(reopened: Path) -> None:
    """An intent whose event never came is found by the scheduled reconciler, placed, trained once, and judged."""
    day = "2013-03-15"
    intent = outbox.Intent.of(
        "flight_delay",
        "lifecycle",
        day,
        "drift",
        due_at=datetime.now(UTC) - timedelta(minutes=5),
        payload={"as_of": f"{day}T00:00:00Z"},
    )
    with recorded(reopened, write=True) as tx:
        outbox.ensure(tx, intent)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        with recorded(reopened) as tx:
            row = outbox.get(tx, intent.id)
            assert row is not None and row.state != "failed", row and row.error
            if row.state == "done":
                break
        time.sleep(1)
    with recorded(reopened) as tx:
        row = outbox.get(tx, intent.id)
        assert row is not None and row.state == "done"
        trained = runs.recent(tx, intent_id=f"flight_delay/train/{day}/drift")
        assert [run.state for run in trained] == ["completed"]


def test_the_decision_is_on_the_page_of_the_run(played: Played, reopened: Path) -> None:
    """Chosen, runners-up and every rejection with its reasons are an artifact of the lifecycle's run."""
    server = json.loads((played.home / "run" / "services.json").read_text())["prefect"]["url"]
    wanted = {"artifacts": {"key": {"any_": ["decision-train-nafld"]}}}
    (artifact,) = httpx.post(f"{server}/api/artifacts/filter", json=wanted, timeout=30).raise_for_status().json()
    assert artifact["flow_run_id"]
    for told in ("onprem-fra-k8s", "aws-eu-central-1-ecs", "gcp-europe-west4-vertex", "hipaa-baa", "residency"):
        assert told in artifact["data"]


def test_nothing_is_left_to_apply(reopened: Path) -> None:
    """What `up` declared is what `apply --check` finds, and the doctor has nothing to say."""
    for words in (("apply", "--check"), ("doctor",), ("status",), ("ledger", "verify")):
        done = tradewind(reopened, *words)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_one_step_runs_again_alone(played: Played, reopened: Path) -> None:
    """What is done is done again when a person asks for it, and nothing else is."""
    with recorded(reopened) as tx:
        before = {run.id for run in runs.recent(tx, limit=1000)}
    done = tradewind(played.home, "run", "nafld", "--as-of", "2013-03-15", "--step", "evaluate")
    assert done.returncode == 0, done.stderr
    with recorded(reopened) as tx:
        new = [run for run in runs.recent(tx, limit=1000) if run.id not in before]
    assert [(run.step, run.state) for run in new] == [("evaluate", "completed")]


def test_a_backfill_does_only_what_is_missing(played: Played, reopened: Path) -> None:
    """Moments of the range that are done are passed over."""
    with recorded(reopened) as tx:
        before = len(runs.recent(tx, limit=1000))
    done = tradewind(played.home, "backfill", "flight_delay", "--from", "2013-03-15", "--to", "2013-08-15", "--every", "153")
    assert done.returncode == 0, done.stderr
    assert "[2/2]" in done.stdout
    with recorded(reopened) as tx:
        assert len(runs.recent(tx, limit=1000)) == before


def test_two_demos_at_once_get_one_clear_message(played: Played) -> None:
    """The second one names the first, and changes nothing."""
    with exclusive(played.home, "tradewind demo", name="demo"):
        second = tradewind(played.home, "demo")
    assert second.returncode == 6
    assert "`tradewind demo` (process" in second.stderr and "is at work" in second.stderr
    assert "Traceback" not in second.stderr


def test_rollback_brings_an_earlier_champion_back(played: Played, reopened: Path) -> None:
    """The version before is champion again in the state and in MLflow's alias, with its reason in the ledger; an unknown one is refused."""
    with recorded(reopened) as tx:
        current = aliases.current(tx, "flight_delay", "champion")
    assert current is not None and current.previous is not None
    done = tradewind(played.home, "rollback", "flight_delay", "--to", current.previous, "--reason", "complaints")
    assert done.returncode == 0, done.stderr
    with recorded(reopened) as tx:
        now = aliases.current(tx, "flight_delay", "champion")
        assert now is not None and now.version == current.previous
        assert [row.body["why"] for row in ledger.rows(tx, kind="rollback")] == ["complaints"]
    unknown = tradewind(played.home, "rollback", "flight_delay", "--to", "99", "--reason", "complaints")
    assert unknown.returncode == 2
    assert "99" in unknown.stderr and "Traceback" not in unknown.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_stops_what_it_started(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C or a kill while the first runs are under way leaves no process behind, and no traceback."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRADEWIND_", "PREFECT_"))}
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "deployments.cli.main", "demo"],
        cwd=PROJECT_ROOT,
        env={**environment, "TRADEWIND_HOME": str(tmp_path), "TRADEWIND_PORT_PREFECT": "0", "TRADEWIND_PORT_MLFLOW": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # a shell that runs the tests in the background has told them to ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "ingest on" in line:
            break
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in output
    assert processes.strays(tmp_path, []) == []
