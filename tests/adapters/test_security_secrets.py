"""Secrets where none may be: in files, in what a real Prefect server and a real Kubernetes API hold, and in logs."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets as random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.adapters.security import secrets
from flows.adapters.security.secrets import Text, search
from flows.adapters.settings import PROJECT_ROOT
from flows.core.errors import Unavailable
from tests.adapters.test_grants_kubernetes import kubeconfig  # noqa: F401  the cluster of the tests of grants

AWS_KEY = "AKIA" + "".join(random.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") for _ in range(16))
PASSWORD = random.token_urlsafe(12)


def kinds(body: Any, **more: Any) -> list[str]:
    return [leak.kind for leak in search([Text("here", None, body, **more)])]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (f"url: postgresql://ada:{PASSWORD}@db/state", "basic auth credentials"),
        (f"note: {AWS_KEY}", "aws access key"),
        (f"note: {AWS_KEY}  # pragma: allowlist secret", "aws access key"),
        ("-----BEGIN RSA PRIVATE KEY-----", "private key"),
        ("x: ghp_" + "a1B2" * 9, "github token"),
        (f"password: {PASSWORD}", "a value under `password`"),
        (f'{{"clientSecret": "{PASSWORD}"}}', "a value under `clientSecret`"),
        (f"DB_PASSWORD={PASSWORD}", "a value under `DB_PASSWORD`"),
    ],
    ids=["address", "aws", "aws with a comment", "key file", "github", "yaml", "json", "environment"],  # the values differ in each process
)
def test_a_secret_in_a_line_is_found(line: str, kind: str) -> None:
    """By its form or by its name; a comment does not excuse it."""
    assert kind in kinds(line)


@pytest.mark.parametrize(
    "line",
    [
        'password: "{{ prefect.blocks.secret.state-password }}"',
        "password: ${DB_PASSWORD}",
        "password: null",
        "connection: service=tradewind-state",
        "max_tokens: 50",
        "# password: see the store",
        "evidence: " + "0123456789abcdef" * 4,
    ],
)
def test_what_only_looks_like_a_secret_is_none(line: str) -> None:
    """Templates that a block fills in, references, hashes, comments."""
    assert kinds(line) == []


def test_names_of_environments_and_schemas_count() -> None:
    """Plain, as a list of name and value, and as the default of a variable; never the value is told."""
    body = {
        "env": {"API_TOKEN": PASSWORD, "REGION": "x"},
        "list": [{"name": "DB_PASSWORD", "value": PASSWORD}],
        "variables": {"properties": {"password": {"type": "string", "title": "Password", "default": PASSWORD}}},
    }
    found = search([Text("work pool `p`", "p", body)])
    assert [str(leak) for leak in found] == [
        "work pool `p`: `env.API_TOKEN`: a value in the clear",
        "work pool `p`: `list.0.DB_PASSWORD`: a value in the clear",
        "work pool `p`: `variables.properties.password.default`: a value in the clear",
    ]
    assert PASSWORD not in repr(found)


def test_prose_is_searched_for_forms_only() -> None:
    """`token: refreshed` in a log is no secret; a key is."""
    assert kinds("token: refreshed", loose=True) == []
    assert kinds(f"using {AWS_KEY}", loose=True) == ["aws access key"]


def test_the_shipped_declarations_hold_none(tmp_path: Path) -> None:
    """And one that is planted beside them is found, with file and line."""
    shipped = PROJECT_ROOT / "deployments"
    assert search(secrets.declarations(shipped)) == []
    (tmp_path / "workloads").mkdir()
    (tmp_path / "workloads" / "shops.yaml").write_text(f"name: shops\npassword: {PASSWORD}\n")
    (leak,) = search(secrets.declarations(tmp_path))
    assert str(leak) == f"{tmp_path.name}/workloads/shops.yaml:2: a value under `password`"


@pytest.fixture(scope="module")
def prefect() -> Iterator[str]:
    """A real Prefect server on a database of its own; its API."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield str(PREFECT_API_URL.value())


async def _plant() -> None:
    """A pool, a deployment, a run, a variable and a log line, each with something of its own to hide."""
    from prefect import flow, get_client
    from prefect.client.schemas.actions import LogCreate, WorkPoolCreate
    from prefect.variables import Variable

    @flow(name="leaky")
    def leaky(note: str = "") -> None:
        """Nothing."""

    async with get_client() as client:
        template = {"job_configuration": {"env": {"API_TOKEN": PASSWORD}}, "variables": {"type": "object", "properties": {}}}
        await client.create_work_pool(WorkPoolCreate(name="fra-k8s", type="process", base_job_template=template))
        flow_id = await client.create_flow(leaky)
        job = {"env": {"DB_PASSWORD": PASSWORD, "SAFE_PASSWORD": "{{ prefect.blocks.secret.x }}"}}
        deployment = await client.create_deployment(
            flow_id, "train", work_pool_name="fra-k8s", job_variables=job, parameters={"note": AWS_KEY}
        )
        run = await client.create_flow_run_from_deployment(deployment, name="tail", parameters={"note": f"postgresql://u:{PASSWORD}@h/d"})
        now = datetime.now(UTC)
        await client.create_logs(
            [
                LogCreate(name="x", level=logging.INFO, message=f"with {AWS_KEY}", timestamp=now, flow_run_id=run.id),
                LogCreate(name="x", level=logging.INFO, message="token: refreshed", timestamp=now, flow_run_id=run.id),
            ]
        )
    await Variable.aset("note", f"https://u:{PASSWORD}@h/")


def test_what_a_prefect_server_holds_in_the_clear_is_searched(prefect: str) -> None:
    """Templates, job variables, parameters, variables, runs and logs, each with its pool; blocks are where secrets belong."""
    asyncio.run(_plant())
    found = search(secrets.orchestrator(prefect, since=datetime.now(UTC) - timedelta(hours=1), headers={}))
    told = {
        (leak.where.replace(leak.where.split("`")[1], "…") if leak.where.startswith("log") else leak.where, leak.pool) for leak in found
    }
    assert told == {
        ("work pool `fra-k8s`: `job_configuration.env.API_TOKEN`", "fra-k8s"),
        ("deployment `train`: `job_variables.env.DB_PASSWORD`", "fra-k8s"),
        ("deployment `train`: `parameters.note`", "fra-k8s"),
        ("run `tail`: `parameters.note`", "fra-k8s"),
        ("Prefect variable: `note`", None),
        ("log of run `…`", "fra-k8s"),
    }
    later = datetime.now(UTC) + timedelta(hours=1)
    assert not [leak for leak in search(secrets.orchestrator(prefect, since=later, headers={})) if leak.where.startswith("log")]
    assert PASSWORD not in repr(found) and AWS_KEY not in repr(found)


def test_a_server_that_is_not_there_is_told() -> None:
    """Nothing is taken for searched."""
    with pytest.raises(Unavailable, match="the Prefect server could not be read"):
        list(secrets.orchestrator("http://127.0.0.1:9/api", since=datetime.now(UTC), headers={}))


@pytest.fixture
def cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cluster that the tests of grants use."""
    pytest.importorskip("kubernetes", reason="the Kubernetes client is not installed")
    if not os.environ.get("KUBEBUILDER_ASSETS"):
        pytest.skip("KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd")
    path: Path = request.getfixturevalue("kubeconfig")
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


def test_what_a_namespace_holds_in_the_clear_is_searched(cluster: Path) -> None:
    """Config maps and the environment of deployments and jobs; a reference to a Secret is how it should be."""
    from kubernetes import client, config

    from flows.adapters.security import kubernetes

    config.load_kube_config(str(cluster))
    core, apps, batch = client.CoreV1Api(), client.AppsV1Api(), client.BatchV1Api()
    core.create_namespace({"metadata": {"name": "tradewind"}})
    core.create_namespaced_config_map("tradewind", {"metadata": {"name": "site"}, "data": {"note": AWS_KEY, "region": "fra"}})
    reference = {"name": "SAFE_TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    container = {"name": "c", "image": "i", "env": [{"name": "DB_PASSWORD", "value": PASSWORD}, reference]}
    pod = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container], "restartPolicy": "Never"}}
    batch.create_namespaced_job("tradewind", {"metadata": {"name": "train"}, "spec": {"template": pod}})
    pod = {**pod, "spec": {"containers": [container]}}
    apps.create_namespaced_deployment(
        "tradewind", {"metadata": {"name": "worker"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": pod}}
    )
    found = search(kubernetes.held("tradewind", None, "onprem-fra-k8s"))
    assert [str(leak) for leak in found] == [
        "config map `tradewind/site`: `note`: aws access key",
        "deployment `tradewind/worker`: `DB_PASSWORD`: a value in the clear",
        "job `tradewind/train`: `DB_PASSWORD`: a value in the clear",
    ]
    assert {leak.pool for leak in found} == {"onprem-fra-k8s"}
