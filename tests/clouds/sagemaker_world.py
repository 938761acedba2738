"""A Prefect server, the shipped SageMaker pool and AWS as far as it is emulated, for tests of our worker as users start it.

A training job's container is a process here, with the environment that SageMaker would give it and nothing else; images are names.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from flows.workers.sagemaker_jobs import job_name
from tests.clouds.kube_world import clean_environment, wait
from tests.emulators.sagemaker import Job, SageMaker

POOL, REGION = "aws-eu-central-1-sagemaker", "eu-central-1"
ROLE = "arn:aws:iam::111122223333:role/tradewind-eu-central-1-run"
IMAGE, ABSENT = (f"sha256:{digit * 64}" for digit in "0f")
ASKED = {
    "instance_type": "ml.m5.xlarge", "instance_count": 1, "spot": False, "image": IMAGE,
    "workload": "nafld", "step": "train", "intent": "0a1b2c",
}  # fmt: skip
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": REGION}
WORKER_KEY = "worker"
HEARTBEAT = 2
FLOW = '''"""What runs do."""
import json, os, pathlib, signal, sys, time
from prefect import flow, get_run_logger

@flow
def probe(how: str = "well") -> str:
    log = get_run_logger()
    root = pathlib.Path(os.environ["TRADEWIND_SAGEMAKER_ROOT"])
    if how == "talking":
        for number in range(1, 31):
            log.info("logged %02d", number)
            print(f"printed {number:02d}", flush=True)
    if how == "badly":
        raise ValueError("no such column `bmi`")
    if how == "three":
        os._exit(3)
    if how == "greedily":
        # as the kernel ends a container that asks for too much: all of it at once
        (root / "here").touch()
        while not (root / "go").exists():
            time.sleep(0.1)
        os.killpg(int((root / "first.pid").read_text()), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "telling":
        secret = os.environ["TRADEWIND_DATABASE_URL"]
        names = {name: os.environ.get(name) for name in ("SM_HOSTS", "SM_CURRENT_HOST", "TRADEWIND_SITE", "TRADEWIND_POOL")}
        (root / "told.json").write_text(json.dumps({"secret": secret, **names}))
    if how == "slowly":
        (root / "here").touch()
        time.sleep(600)
    if how == "until told":
        (root / "here").touch()
        while not (root / "go").exists():
            time.sleep(0.1)
    if how == "by and by":
        done = root / "checkpoints" / "epoch"
        for epoch in range(int(done.read_text()) + 1 if done.exists() else 1, 4):
            log.info("epoch %d", epoch)
            if epoch == 2 and not (root / "here").exists():
                (root / "here").touch()
                time.sleep(600)
            done.write_text(str(epoch))
    return how
'''


@dataclass(slots=True)
class World:
    """What the tests hold on to."""

    folder: Path
    url: str
    aws: SageMaker
    deployment: str = ""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, how: str = "well", **asked: Any) -> str:
        """A run of the pool; its id."""
        body = {"parameters": {"how": how}, "job_variables": {**ASKED, **asked}, "state": {"type": "SCHEDULED"}}
        found: str = self.post(f"/deployments/{self.deployment}/create_flow_run", body)["id"]
        return found

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The server's answer; its SQLite is locked at times."""
        for _ in range(40):
            answer = httpx.post(f"{self.url}{path}", json=body, timeout=150)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(0.5)
        return answer.raise_for_status().json()

    def run(self, run: str) -> dict[str, Any]:
        """The run as the server has it."""
        found: dict[str, Any] = httpx.get(f"{self.url}/flow_runs/{run}", timeout=150).raise_for_status().json()
        return found

    def state(self, run: str) -> dict[str, Any]:
        """Where the run stands."""
        found: dict[str, Any] = self.run(run)["state"]
        return found

    def ended(self, run: str, seconds: float = 150) -> tuple[str, str]:
        """Type and message of the state that the run ended in."""
        final = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
        wait(lambda: self.state(run)["type"] in final, seconds, lambda: f"{self.state(run)}\n{self.jobs(run)}\n{self.workers_said()}")
        state = self.state(run)
        return state["type"], state["message"] or ""

    def said(self, run: str) -> list[str]:
        """The lines of the run's log, in their order."""
        rows = self.post("/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200, "sort": "TIMESTAMP_ASC"})
        return [row["message"] for row in rows]

    def jobs(self, run: str) -> dict[str, Job]:
        """The run's training jobs by name."""
        return {name: job for name, job in self.aws.jobs.items() if name.startswith(self.name(run))}

    def job(self, run: str, seconds: float = 150) -> Job:
        """The run's first job, once it is there."""
        wait(lambda: self.name(run) in self.aws.jobs, seconds, lambda: f"{self.state(run)}\n{self.workers_said()}")
        return self.aws.jobs[self.name(run)]

    def name(self, run: str) -> str:
        """The name of the run's first job."""
        return job_name(POOL, run)

    def client(self, service: str) -> Any:
        """AWS's client, for somebody else than the worker."""
        import boto3

        session = boto3.session.Session("testing", "testing", region_name=REGION)
        return session.client(service, endpoint_url=self.aws.url)

    def set_state(self, run: str, type_: str) -> None:
        """As a person does by a button."""
        self.post(f"/flow_runs/{run}/set_state", {"state": {"type": type_}})

    def inside(self, run: str, host: int = 1) -> Path:
        """The folder that a host of the run's job sees as `/opt/ml`."""
        return self.job(run).folder / f"algo-{host}"

    def busy(self, run: str) -> None:
        """Wait until the flow is in the middle of its work."""
        wait(lambda: (self.inside(run) / "here").exists(), 150, lambda: f"{self.state(run)}\n{self.workers_said()}")

    def worker(self, name: str, **more: str) -> subprocess.Popen[bytes]:
        """Our worker, as users start it."""
        environment = clean_environment(self.folder / "worker") | KEYS | {
            "AWS_ACCESS_KEY_ID": WORKER_KEY,
            "AWS_ENDPOINT_URL": self.aws.url,
            "PREFECT_API_URL": self.url,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_WORKER_HEARTBEAT_SECONDS": str(HEARTBEAT),
            "PREFECT_WORKER_CANCELLATION_POLL_SECONDS": "2",
            "PYTHONPATH": str(_declared(self.folder)),
            **more,
        }  # fmt: skip
        start = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "sagemaker"]
        command = [*start, "--name", name, "--limit", "6"]
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.processes.append(process)
        wait(lambda: self._online(name), 90, lambda: self.worker_said(name))
        return process

    def worker_said(self, name: str) -> str:
        """All that a worker printed."""
        return (self.folder / f"{name}.log").read_text()

    def workers_said(self) -> str:
        """The last words of all workers."""
        return "\n".join(path.read_text()[-3000:] for path in self.folder.glob("*worker.log"))

    def _online(self, name: str) -> bool:
        rows = self.post(f"/work_pools/{POOL}/workers/filter", {})
        return any(row["name"] == name and row["status"] == "ONLINE" for row in rows)


def kill(process: subprocess.Popen[bytes]) -> None:
    """As a machine that loses its power."""
    process.send_signal(signal.SIGKILL)
    process.wait(10)


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """All of it but the workers; their processes end with it."""
    programs = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    plain = {"PATH": programs, "HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_HOME": str(folder / "runs")}
    aws = SageMaker(folder / "jobs", {**plain, **KEYS})
    aws.start()
    aws.environment["AWS_ENDPOINT_URL"] = aws.url
    aws.images = {f"111122223333.dkr.ecr.{REGION}.amazonaws.com/tradewind@{IMAGE}"}
    aws.roles = {ROLE}
    with _server(folder) as url:
        made = World(folder, url, aws)
        try:
            asyncio.run(_declare(made))
            yield made
        finally:
            for process in made.processes:
                process.kill()
                process.wait(10)
            aws.stop()


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """A Prefect server that soon notices a worker's silence."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, path = f"http://127.0.0.1:{port}/api", folder / "server.log"
    environment = clean_environment(folder / "server") | {"PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "2"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-ui"]
    with path.open("wb") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        try:
            wait(lambda: _healthy(url), 90, path.read_text)
            yield url
        finally:
            process.terminate()


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).is_success
    except httpx.TransportError:
        return False


def _declared(folder: Path) -> Path:
    """The project's entry point for Prefect, as an installation of this version has it."""
    made = folder / "installed"
    information = made / "tradewind_collection-0.dist-info"
    information.mkdir(parents=True, exist_ok=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: tradewind-collection\nVersion: 0\n")
    (information / "entry_points.txt").write_text("[prefect.collections]\ntradewind = flows.workers.sagemaker\n")
    return made


async def _declare(made: World) -> None:
    """The shipped pool as apply declares it, looked at twice a second, and a deployment of a flow that the image holds."""
    from deployments.apply.declared import load
    from deployments.apply.options import ApplyOptions
    from flows.adapters.settings import Settings

    made.client("secretsmanager").create_secret(Name="tradewind-database", SecretString="sqlite://")
    pools = {pool.name: pool for pool in load(Settings(profile="cloud"), ApplyOptions()).pools}
    template = json.loads(json.dumps(dict(pools[POOL].template)))
    template["job_configuration"]["poll_seconds"] = 0.5
    code = made.folder / "code"  # a folder of its own: each run copies it
    code.mkdir()
    (code / "probe.py").write_text(FLOW)
    async with httpx.AsyncClient(base_url=made.url, timeout=150) as api:
        body: dict[str, Any] = {"name": POOL, "type": "sagemaker", "base_job_template": template}
        (await api.post("/work_pools/", json=body)).raise_for_status()
        flow = (await api.post("/flows/", json={"name": "probe"})).raise_for_status().json()["id"]
        body = {"name": POOL, "flow_id": flow, "work_pool_name": POOL, "entrypoint": "probe.py:probe", "path": str(code)}
        made.deployment = (await api.post("/deployments/", json=body)).raise_for_status().json()["id"]
