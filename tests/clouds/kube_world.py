"""A cluster, a Prefect server and the shipped on-prem pool, for tests of the unmodified Kubernetes worker.

The worker has the service account of `infra/kubernetes` and no other right; runs are the pool's own template.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from ruamel.yaml import YAML

from deployments.local import commands
from flows.adapters.settings import PROJECT_ROOT
from tests.emulators import kube

NAMESPACE, POOL, WORKER = "tradewind", "onprem-fra-k8s", "tradewind-worker"
USER = f"system:serviceaccount:{NAMESPACE}:{WORKER}"
INFRA = PROJECT_ROOT / "infra" / "kubernetes"
IMAGE, BROKEN, ABSENT = (f"sha256:{digit * 64}" for digit in "0ef")
"""Digests of an image with Prefect in it, of one whose program does not start, and of one that no registry has."""
ASKED = {
    "cpu": "1", "memory": "512Mi", "arch": "amd64", "purchase": "on-demand", "image": IMAGE,
    "workload": "nafld", "step": "train", "intent": "0a1b2c", "deadline_seconds": 600,
}  # fmt: skip
FLOW = '''"""What runs do."""
import os, signal, time
from prefect import flow

@flow
def probe(how: str = "well") -> str:
    if how == "badly":
        raise ValueError("no such column `bmi`")
    if how == "greedily":
        os.kill(os.getppid(), signal.SIGKILL)  # as the kernel ends all of a container that asks for too much
    if how in ("greedily", "hungrily"):
        os.kill(os.getpid(), signal.SIGKILL)  # as it ends the largest process, where it does so
    if how == "slowly":
        time.sleep(120)
    return how
'''
START_SECONDS = 90
TRIES = 20


@dataclass(slots=True)
class World:
    """What the tests hold on to."""

    folder: Path
    cluster: kube.Cluster
    url: str
    deployment: str = ""
    started: dict[str, str] = field(default_factory=dict)
    leave: Callable[[], None] = lambda: None
    """Ends the worker before the world does."""

    def start(self, name: str, *, how: str = "well", **asked: Any) -> str:
        """A run of the pool; its id."""
        body = {
            "name": name, "idempotency_key": name, "parameters": {"how": how}, "job_variables": {**ASKED, **asked},
            "state": {"type": "SCHEDULED"},
        }  # fmt: skip
        self.started[name] = self.post(f"/deployments/{self.deployment}/create_flow_run", body)["id"]
        return self.started[name]

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The server's answer; asked again while its SQLite is busy, as Prefect's own client does."""
        return self._asked("POST", path, json=dict(body))

    def _asked(self, method: str, path: str, **more: Any) -> Any:
        for left in reversed(range(TRIES)):
            try:
                answer = httpx.request(method, f"{self.url}{path}", timeout=30, **more)
            except httpx.ReadTimeout:
                if left:
                    continue
                raise
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(1)
        return answer.raise_for_status().json()

    def state(self, run: str) -> dict[str, Any]:
        """Where the run stands."""
        found: dict[str, Any] = self._asked("GET", f"/flow_runs/{run}")["state"]
        return found

    def ended(self, run: str, seconds: float = 150) -> dict[str, Any]:
        """The state that the run ended in."""
        final = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
        wait(lambda: self.state(run)["type"] in final, seconds, lambda: f"{self.state(run)}\n{self.jobs(run)}")
        return self.state(run)

    def said(self, run: str) -> str:
        """All that the run's log says."""
        rows = self.post("/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
        return "\n".join(row["message"] for row in rows)

    def jobs(self, run: str) -> list[dict[str, Any]]:
        """The run's jobs in the cluster."""
        return self._of(run, "jobs")

    def delete_job(self, run: str) -> None:
        """As somebody else would, without waiting."""
        answer = self.cluster.kubectl("delete", "job", self.job(run)["metadata"]["name"], "-n", NAMESPACE, "--wait=false")
        assert answer.returncode == 0, answer.stderr

    def pods(self, run: str) -> list[dict[str, Any]]:
        """The run's pods in the cluster."""
        return self._of(run, "pods")

    def _of(self, run: str, kind: str) -> list[dict[str, Any]]:
        answer = self.cluster.kubectl("get", kind, "-n", NAMESPACE, "-l", f"prefect.io/flow-run-id={run}", "-o", "json")
        found: list[dict[str, Any]] = json.loads(answer.stdout)["items"]
        return found

    def job(self, run: str, seconds: float = 60) -> dict[str, Any]:
        """The run's job, once it is there."""
        wait(lambda: bool(self.jobs(run)), seconds, lambda: f"{self.state(run)}")
        return self.jobs(run)[0]

    @contextmanager
    def worker(self, account: Path, **more: str) -> Iterator[Path]:
        """An unmodified worker of the pool with that account's rights; the file that it writes to."""
        path = self.folder / f"worker-{time.monotonic_ns()}.log"
        environment = clean_environment(self.folder / "worker") | {
            "KUBECONFIG": str(account),
            "PREFECT_API_URL": self.url,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_WORKER_CANCELLATION_POLL_SECONDS": "2",
            "PREFECT_WORKER_ENABLE_CANCELLATION": "true",
            "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES": NAMESPACE,
            **more,
        }
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "kubernetes", "--name", path.stem]
        with path.open("wb") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
            try:
                wait(lambda: self._online(path.stem), START_SECONDS, path.read_text)
                yield path
            finally:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()

    def _online(self, name: str) -> bool:
        rows = self.post(f"/work_pools/{POOL}/workers/filter", {})
        return any(row["name"] == name and row["status"] == "ONLINE" for row in rows)


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """All of it but the worker."""
    with kube.cluster(folder, controllers=kube.CONTROLLERS) as cluster, _server(folder) as url:
        made = World(folder, cluster, url)
        prepare(cluster)
        asyncio.run(_declare(made))
        with node(cluster, folder):
            yield made


def prepare(cluster: kube.Cluster) -> None:
    """The namespace as `infra/kubernetes` makes it, with the secret that runs read."""
    applied = cluster.kubectl("apply", "-k", str(INFRA))
    assert applied.returncode == 0, applied.stderr
    secret = cluster.kubectl(
        "create", "secret", "generic", "tradewind-database", "-n", NAMESPACE, "--from-literal=TRADEWIND_DATABASE_URL=sqlite://"
    )
    assert secret.returncode == 0, secret.stderr


def role() -> dict[str, Any]:
    """The worker's role as declared."""
    documents = YAML(typ="safe").load_all((INFRA / "rbac.yaml").read_text())
    found: dict[str, Any] = next(document for document in documents if document["kind"] == "Role")
    return found


def clean_environment(home: Path) -> dict[str, str]:
    """The environment without any other Prefect's or cluster's."""
    home.mkdir(exist_ok=True)
    foreign = ("PREFECT_", "KUBE", "TRADEWIND_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}


def wait(until: Callable[[], bool], seconds: float, told: Callable[[], str]) -> None:
    """Until it is so; `told` says what there is instead."""
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, told()
        time.sleep(0.5)


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    (port,) = kube.ports(1)
    url, path = f"http://127.0.0.1:{port}/api", folder / "server.log"
    command = [sys.executable, "-P", "-m", "deployments.local.prefect_server", "--port", str(port)]
    environment = clean_environment(folder / "server") | commands.SERVER | {"PYTHONPATH": str(PROJECT_ROOT)}
    with path.open("wb") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        try:
            wait(lambda: _healthy(url), START_SECONDS, path.read_text)
            yield url
        finally:
            process.terminate()


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).is_success
    except httpx.TransportError:
        return False


async def _declare(made: World) -> None:
    """The shipped pool as apply declares it, and a deployment of a flow that the image holds."""
    from deployments.apply.declared import load
    from deployments.apply.options import ApplyOptions
    from flows.adapters.settings import Settings

    pools = {pool.name: pool for pool in load(Settings(profile="cloud"), ApplyOptions()).pools}
    code = made.folder / "code"  # a folder of its own: each run copies it
    code.mkdir()
    (code / "probe.py").write_text(FLOW)
    async with httpx.AsyncClient(base_url=made.url, timeout=30) as api:
        body = {"name": POOL, "type": "kubernetes", "base_job_template": dict(pools[POOL].template)}
        (await api.post("/work_pools/", json=body)).raise_for_status()
        flow = (await api.post("/flows/", json={"name": "probe"})).raise_for_status().json()["id"]
        body = {"name": POOL, "flow_id": flow, "work_pool_name": POOL, "entrypoint": "probe.py:probe", "path": str(code)}
        made.deployment = (await api.post("/deployments/", json=body)).raise_for_status().json()["id"]


@contextmanager
def node(cluster: kube.Cluster, folder: Path, *, programs: str = "", variables: Mapping[str, str] | None = None) -> Iterator[None]:
    """The pretended node; `programs` is where its image has them, `variables` the image's environment."""
    (port,) = kube.ports(1)
    certificate, key, pods, broken = (folder / name for name in ("kubelet.crt", "kubelet.key", "pods", "broken"))
    pods.mkdir()
    broken.mkdir()
    (broken / "env").write_text("#!/bin/sh\necho libcuda.so.1: cannot open shared object file\nexit 1\n")
    (broken / "env").chmod(0o755)
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=pretended"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    programs = programs or f"{Path(sys.executable).parent}:/usr/bin:/bin"
    flags = ["--folder", pods, "--port", str(port), "--certificate", certificate, "--key", key]
    images = ["--image", f"{IMAGE}={programs}", "--image", f"{BROKEN}={broken}"]
    given = [word for name, value in (variables or {}).items() for word in ("--variable", f"{name}={value}")]
    command = [sys.executable, "-m", "tests.emulators.kubelet", "--kubeconfig", cluster.kubeconfig, *flags, *images, *given]
    with (folder / "kubelet.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=log, stderr=log)
        try:
            wait(lambda: "pretended" in cluster.kubectl("get", "nodes").stdout, 30, (folder / "kubelet.log").read_text)
            yield
        finally:
            process.terminate()
            process.wait(20)
