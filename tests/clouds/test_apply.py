"""The cloud profile's declarations on a real Prefect server: taken as they are, stable, and closed to what a run must not choose."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from deployments.apply.applying import apply_resources, wanted
from deployments.apply.options import ApplyOptions
from flows.adapters.estate import load_estate
from flows.adapters.settings import PROJECT_ROOT, Settings
from flows.core.placement.job_variables import job_variables, run_tags

pytestmark = [pytest.mark.clouds, pytest.mark.timeout(180)]

START_SECONDS = 90
POOL = "aws-eu-central-1-ecs"
PARAMETERS = {"workload": "nafld", "as_of": "2013-07-01T00:00:00Z", "intent_id": "i", "decision_id": "d", "inputs": {}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API of a Prefect server of this module's own, holding the shipped declarations of the cloud profile."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_LOGGING_LEVEL": "WARNING"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | quiet
    with (home / "server.log").open("wb") as log:
        command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-ui"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}/api"
        deadline = time.monotonic() + START_SECONDS
        while not _healthy(url):
            assert time.monotonic() < deadline, (home / "server.log").read_text()[-2000:]
            time.sleep(0.3)
        asyncio.run(apply_resources(url, *_wanted(str(home))))
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).is_success
    except httpx.TransportError:
        return False


def _wanted(home: str) -> tuple[Any, ...]:
    quiet = ApplyOptions(reconcile_active=False, govern_active=False)
    return wanted(Settings(profile="cloud", home=home), quiet, "flows")[:1]


def test_the_second_apply_finds_nothing_to_do(server: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The server keeps each template as it was sent."""
    home = str(tmp_path_factory.getbasetemp())
    resources = [one for one in _wanted(home)[0] if one.kind != "block"]
    keep = frozenset((one.kind, one.name) for one in _wanted(home)[0] if one.kind == "block")
    assert asyncio.run(apply_resources(server, resources, keep=keep, check=True)).in_sync
    types = {pool["name"]: pool["type"] for pool in httpx.post(f"{server}/work_pools/filter", json={}).json()}
    assert types[POOL] == "ecs"
    assert types["control"] == "process"


def start(server: str, variables: dict[str, Any]) -> httpx.Response:
    """A run of a deployment, as control starts one."""
    deployment = httpx.get(f"{server}/deployments/name/train/{POOL}").raise_for_status().json()["id"]
    return httpx.post(f"{server}/deployments/{deployment}/create_flow_run", json={"parameters": PARAMETERS, "job_variables": variables})


def asked() -> dict[str, Any]:
    """The job variables of one of the pool's offers."""
    estate = load_estate(PROJECT_ROOT / "deployments" / "estate")
    offer = estate.offers_of(estate.pool_by_name[POOL])[0]
    return job_variables("ecs", offer, spot=True, nodes=1, tags=run_tags("nafld", "train", "i"), image="sha256:" + "0a" * 32)


def test_the_server_takes_what_was_decided(server: str) -> None:
    """Every variable is one that the template has."""
    assert start(server, asked()).status_code == 201


@pytest.mark.parametrize(
    "extra",
    [
        {"env": {"TRADEWIND_SITE": "onprem-fra"}},
        {"env.TRADEWIND_SITE": "onprem-fra"},
        {"command": "sh"},
        {"task_role_arn": "arn:aws:iam::1:role/r"},
    ],
    ids=["env", "dotted env", "command", "role"],
)
def test_the_server_refuses_what_a_run_must_not_choose(server: str, extra: dict[str, Any]) -> None:
    """Before any worker sees it."""
    answer = start(server, {**asked(), **extra})
    assert answer.status_code == 422
    assert next(iter(extra)) in answer.text


def test_the_server_refuses_a_run_that_nobody_sized(server: str) -> None:
    """A run without its offer would get a default of the cloud's."""
    assert start(server, {name: value for name, value in asked().items() if name != "cpu"}).status_code == 422
