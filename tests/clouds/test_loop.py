"""The whole loop of both workloads, from ingest to the retrain that drift starts, placed over AWS, Kubernetes and Google Cloud.

What stands in for what: see `tests/clouds/cloud_stack.py`. Sites keep their data in buckets of moto's S3 and of fake-gcs-server. The test's
copy of `deployments/` sends training away from the data's home and scoring of flights to Vertex AI, so that every kind of pool is used.
The flights drift by themselves; the clinic's patients do not, so the test opens the intent that a drift verdict would, and emits its event.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

from flows.core.events import DRIFT_DETECTED, workload_resource
from flows.services import approving
from flows.store import aliases, ledger, outbox, replicas, reservations, runs
from flows.store.database import State
from tests.clouds.cloud_stack import CloudStack, cloud_stack, wait
from tests.emulators import postgres
from tests.integration.scanner import traces

for name in ("prefect_aws", "prefect_gcp", "prefect_kubernetes", "moto"):
    pytest.importorskip(name, reason="Prefect's workers for the clouds are not installed: `make setup-clouds`")

pytestmark = [pytest.mark.clouds, pytest.mark.timeout(1200)]

FLIGHTS, CLINIC = "flight_delay", "nafld"
SPRING, SUMMER = "2013-03-15", "2013-08-15"
ECS, SAGEMAKER, KUBERNETES = "aws-eu-central-1-ecs", "aws-eu-central-1-sagemaker", "onprem-fra-k8s"
CLOUD_RUN, VERTEX = "gcp-us-central1-cloudrun", "gcp-us-central1-vertex"
POOLS = ("control", ECS, SAGEMAKER, KUBERNETES, CLOUD_RUN, VERTEX)
PERMITTED = {"onprem-fra", "aws-eu-central-1"}
"""Where policy lets the patients' data rest."""
PATIENT = re.compile(rb"nafld-patient-\d{6}")
FLIGHT = re.compile(rb"\d{8}T\d{4}-[0-9A-Z]{2}\d+-(EWR|JFK|LGA)")
LOOP_SECONDS = 600.0


def steer(deployments: Path) -> None:
    """Narrow where steps may run, as a workload's owner may."""
    wanted = {FLIGHTS: {"train": [ECS, SAGEMAKER], "score": [VERTEX]}, CLINIC: {"train": [SAGEMAKER]}}
    yaml = YAML()
    for workload, steps in wanted.items():
        path = deployments / "workloads" / f"{workload}.yaml"
        body = yaml.load(path.read_text())
        for step, pools in steps.items():
            body["steps"].setdefault(step, {})["restrict"] = {"pools": pools}
        with path.open("w") as file:
            yaml.dump(body, file)


@dataclass(frozen=True)
class Played:
    """The stack after the loop."""

    stack: CloudStack
    state: State
    scanned: Path
    """A folder for each site with what its bucket holds, and `control` with all that control wrote."""

    def pools_of(self, workload: str) -> dict[str, list[str]]:
        """Where each step's runs completed, in their order."""
        found: dict[str, list[str]] = {}
        with self.state.reading() as tx:
            for row in reversed(runs.recent(tx, workload=workload, limit=1000)):
                assert row.state == "completed", f"{row.step} on {row.pool}: {row.error}"
                found.setdefault(row.step, []).append(row.pool)
        return found

    def sites_with(self, identifier: re.Pattern[bytes]) -> set[str]:
        """The sites whose buckets hold an identifier."""
        return {site.name for site in self.scanned.iterdir() if traces(site, identifier)}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """Both workloads at once, as in a company."""
    folder = tmp_path_factory.mktemp("loop")
    with cloud_stack(folder, pools=POOLS, edit=steer, sites=True) as stack:
        state = State(stack.database)
        try:
            with ThreadPoolExecutor(2) as both:
                for one in (both.submit(_flights, stack, state), both.submit(_clinic, stack, state)):
                    one.result()
            yield Played(stack, state, _scanned(stack, folder / "scanned"))
        finally:
            state.close()


def _flights(stack: CloudStack, state: State) -> None:
    _run(stack, state, FLIGHTS, SPRING)
    now = datetime.now(UTC)
    with state.transaction() as tx:
        full = dict(stack.estate.pool_by_name[ECS].capacity)
        reservations.add(tx, ECS, full, now, now + timedelta(days=2), "another-team/train/loop/capacity")
    _run(stack, state, FLIGHTS, SUMMER)
    _ended(stack, state, f"{FLIGHTS}/lifecycle/{SUMMER}/drift")


def _clinic(stack: CloudStack, state: State) -> None:
    _run(stack, state, CLINIC, SPRING)
    (waiting,) = [one for one in approving.waiting(state, at=datetime.now(UTC)) if one.workload == CLINIC]
    done = stack.tradewind("approve", waiting.request, "--reason", "the evaluation is sound", person="grace", groups=["model-approvers"])
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    _ended(stack, state, f"{CLINIC}/lifecycle/{SPRING}/manual")
    own, as_of = f"{CLINIC}/lifecycle/{SPRING}/drift", f"{SPRING}T00:00:00Z"
    with state.transaction() as tx:
        outbox.ensure(tx, outbox.Intent.of(CLINIC, "lifecycle", SPRING, "drift", due_at=datetime.now(UTC), payload={"as_of": as_of}))
    event = {
        "occurred": datetime.now(UTC).isoformat(),
        "event": DRIFT_DETECTED,
        "resource": dict(workload_resource(CLINIC)),
        "payload": {"workload": CLINIC, "as_of": as_of, "intent_id": own},
        "id": "00000000-0000-4000-8000-000000000001",
    }
    httpx.post(f"{stack.api}/events", json=[event], timeout=30).raise_for_status()
    _ended(stack, state, own)


def _run(stack: CloudStack, state: State, workload: str, day: str) -> None:
    done = stack.tradewind("run", workload, "--as-of", day, "--urgent", seconds=LOOP_SECONDS)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}\n{_failures(stack, state)}"


def _ended(stack: CloudStack, state: State, intent: str) -> None:
    """Wait until the lifecycle that nobody here started is done."""

    def standing() -> str:
        with state.reading() as tx:
            row = outbox.get(tx, intent)
            return "absent" if row is None else f"{row.state} {row.error or ''}"

    wait(lambda: standing().split()[0] in ("done", "refused", "failed"), LOOP_SECONDS, lambda: f"{standing()} {_failures(stack, state)}")
    assert standing().split()[0] == "done", f"{standing()}\n{_failures(stack, state)}"


def _failures(stack: CloudStack, state: State) -> str:
    """What the runs that did not complete say, for whoever reads a failed test."""
    with state.reading() as tx:
        told = [f"{row.workload} {row.step} on {row.pool}: {row.state} {row.error or ''}" for row in runs.recent(tx, limit=20)]
    wanted = {"flow_runs": {"state": {"type": {"any_": ["FAILED", "CRASHED", "PENDING", "RUNNING"]}}}, "limit": 10}
    for run in stack.post("/flow_runs/filter", wanted):
        told.append(f"{run['name']}: {run['state']['name']} {run['state']['message']}\n{stack.said(run['id'])[-1500:]}")
    return "\n".join(told)


def _scanned(stack: CloudStack, folder: Path) -> Path:
    """Copies of everything that rests anywhere: each site's bucket, and what control and the clouds' logs hold."""
    for site, connection in json.loads(stack.more["TRADEWIND_SITES"]).items():
        scheme, _, bucket = connection["url"].partition("://")
        objects = stack.gcs.objects(bucket) if scheme == "gs" else stack.aws.objects(bucket, "eu-central-1")  # type: ignore[union-attr]
        (folder / site).mkdir(parents=True)
        for number, (name, body) in enumerate(objects):
            (folder / site / f"{number}-{name.rpartition('/')[2]}").write_bytes(body)
    control = folder / "control"
    control.mkdir()
    for region in ("eu-central-1", "us-east-1"):
        (control / f"cloudwatch-{region}.log").write_text(stack.aws.logged(region))  # type: ignore[union-attr]
    (control / "google.log").write_text(stack.gcp.logged())  # type: ignore[union-attr]
    for path in (*stack.folder.glob("*.log"), *stack.folder.glob("*.db"), *(stack.folder / "server").glob("*.db*")):
        (control / path.name).write_bytes(path.read_bytes())
    programs = postgres.programs()
    if stack.database.startswith("postgresql") and programs is not None:
        socket = stack.database.partition("host=")[2]
        dump = subprocess.run([programs / "pg_dump", "-h", socket, "-U", postgres.USER, "postgres"], capture_output=True, check=True)
        (control / "state.sql").write_bytes(dump.stdout)
    return folder


def test_every_step_ran_where_it_was_placed(played: Played) -> None:
    """On Cloud Run, Vertex AI, ECS, SageMaker and Kubernetes, as containers of the unmodified workers; promotion in control."""
    flights, clinic = played.pools_of(FLIGHTS), played.pools_of(CLINIC)
    assert flights["train"] == [ECS, SAGEMAKER]
    assert set(flights["score"]) == {VERTEX}
    assert {pool for step in ("ingest", "materialize", "evaluate", "watch") for pool in flights[step]} <= {CLOUD_RUN, VERTEX}
    assert set(clinic["train"]) == {SAGEMAKER}
    assert {pool for step in ("ingest", "materialize", "evaluate", "score", "watch") for pool in clinic[step]} == {KUBERNETES}
    assert set(flights["promote"]) == set(clinic["promote"]) == {"control"}


def test_a_worker_looks_after_every_pool(played: Played) -> None:
    """All pools that the loop used are ready, of the types that the estate declares."""
    found = {row["name"]: (row["type"], row["status"]) for row in played.stack.post("/work_pools/filter", {})}
    for pool in POOLS:
        assert found[pool] == (played.stack.estate.pool_by_name[pool].type, "READY")


def test_drift_led_to_a_better_champion(played: Played) -> None:
    """Summer's verdict started the retrain by its event; the challenger, trained on another cloud service than the first, won."""
    with played.state.reading() as tx:
        promoted = outbox.get(tx, f"{FLIGHTS}/promote/{SUMMER}/drift")
        champion = aliases.current(tx, FLIGHTS, "champion")
    assert promoted is not None
    assert promoted.result is not None
    assert promoted.result["numbers"]["outcome"] == "promoted"
    assert champion is not None
    assert champion.version == promoted.result["numbers"]["version"]


def test_the_clinics_model_was_approved_by_another_person(played: Played) -> None:
    """With a token of the approvers' group; the retrain that the event started was judged too."""
    with played.state.reading() as tx:
        kinds = [row.kind for row in ledger.rows(tx) if row.kind.startswith("approval")]
        again = outbox.get(tx, f"{CLINIC}/promote/{SPRING}/drift")
    assert kinds[:3] == ["approval-request", "approval", "approval-use"]
    assert again is not None
    assert again.state == "done"


def test_no_byte_of_the_patients_is_outside_the_permitted_sites(played: Played) -> None:
    """In no bucket, no log of a cloud or a worker, no database of Prefect, MLflow or the state; the scan finds them at home."""
    with played.state.reading() as tx:
        rows = [row for name, rows in replicas.by_dataset(tx).items() if name.startswith(f"{CLINIC}-") for row in rows]
    assert {row.site for row in rows} <= PERMITTED
    checksums = {checksum for row in rows for name, checksum in row.files.items() if name.endswith((".parquet", ".pkl"))}
    forbidden = [site for site in played.scanned.iterdir() if site.name not in PERMITTED]
    assert {"control", "gcp-us-central1", "aws-us-east-1"} <= {site.name for site in forbidden}
    assert [found for folder in forbidden for found in traces(folder, PATIENT, checksums)] == []
    assert "onprem-fra" in played.sites_with(PATIENT)


def test_the_scan_finds_the_flights_where_they_were_brought(played: Played) -> None:
    """The same scan, on data that may travel: in Google's bucket at home and in Amazon's, where the model was trained."""
    assert {"gcp-us-central1", "aws-eu-central-1"} <= played.sites_with(FLIGHT)


def test_the_ledger_verifies(played: Played) -> None:
    """The chain is whole, from one cloud to the other."""
    done = played.stack.tradewind("ledger", "verify")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_nothing_is_left_in_the_clouds(played: Played) -> None:
    """No task, job, execution or pod goes on once its run has ended."""
    stack: Any = played.stack

    def left() -> list[str]:
        jobs = [name for name, job in stack.aws.jobs.items() if job.status in ("InProgress", "Stopping")]
        pods = stack.cluster.kubectl("get", "pods", "-n", "tradewind", "--field-selector=status.phase=Running", "-o", "name").stdout.split()
        return [*stack.aws.agent.tasks, *jobs, *stack.gcp.seen()["running"], *pods]

    wait(lambda: not left(), 30, lambda: str(left()))
