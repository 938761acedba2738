"""The cloud profile on one machine: the shipped estate on a real Prefect server, and unmodified workers that talk to emulated clouds.

Real: Prefect's server, MLflow's server, PostgreSQL, Prefect's workers, the clouds' client libraries, the Kubernetes API server, and
fake-gcs-server. Emulated: AWS (moto, whose tasks and jobs really run), Cloud Run and Vertex AI (`tests/emulators/gcp.py`),
the nodes of the cluster, the issuer of people's tokens. A container is a local process with the image's environment, what its cloud
adds, and nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from ruamel.yaml import YAML

from deployments.local import commands
from flows.adapters import signing
from flows.adapters.estate import load_estate
from flows.adapters.settings import CONTROL, PROJECT_ROOT, Settings
from flows.core.placement.estate import Pool
from flows.core.placement.job_variables import job_variables, run_tags
from flows.core.placement.model import Estate
from tests.emulators import kube, postgres
from tests.emulators.aws import Aws, aws
from tests.emulators.containers import Image, programs
from tests.emulators.gcp import Gcp, gcp
from tests.emulators.gcs import Gcs, gcs
from tests.emulators.oidc import Issuer, issuer

IMAGE = f"sha256:{'0' * 64}"
"""Digest of the released image."""
SECRET = "tradewind-database"
PROJECT = "tradewind-example"
START_SECONDS = 180.0
GRACE_SECONDS = 20.0
FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
POLLS = {
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "10",
    "PREFECT_WORKER_CANCELLATION_POLL_SECONDS": "2",
    "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES": "tradewind",
}
GROUPS = ("platform", "ml-engineering", "data-science")
"""Of the person who operates the stack."""


@dataclass
class CloudStack:
    """What the tests hold on to."""

    folder: Path
    deployments: Path
    estate: Estate
    database: str
    issuer: Issuer
    image: Image
    api: str = ""
    mlflow_url: str = ""
    aws: Aws | None = None
    gcp: Gcp | None = None
    gcs: Gcs | None = None
    cluster: kube.Cluster | None = None
    key: str = field(default_factory=signing.new_key)
    more: dict[str, str] = field(default_factory=dict)
    """Variables of control, beside its own: where sites keep their data."""
    workers: dict[Path, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """Where control keeps what is in no database: the ledger's anchors, the public keys."""
        return self.folder / "control"

    @property
    def settings(self) -> Settings:
        """Control's settings, for tests that look at its state."""
        return Settings(
            profile="cloud", home=self.home, deployments=self.deployments, database_url=self.database, mlflow_url=self.mlflow_url
        )

    @property
    def environment(self) -> dict[str, str]:
        """Of a program in control: a worker, the `tradewind` command."""
        foreign = ("PREFECT_", "KUBE", "TRADEWIND_", "MLFLOW_", "_MLFLOW_", "AWS_", "GOOGLE_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign) and not name.lower().endswith("_proxy")}
        return {
            **kept,
            **commands.QUIET,
            **self.issuer.environment,
            **self.more,
            "PYTHONPATH": str(PROJECT_ROOT),
            "PREFECT_HOME": str(self.home / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
            "PREFECT_LOGGING_EXTRA_LOGGERS": "flows",
            "TRADEWIND_PROFILE": "cloud",
            "TRADEWIND_HOME": str(self.home),
            "TRADEWIND_DEPLOYMENTS": str(self.deployments),
            "TRADEWIND_DATABASE_URL": self.database,
            "TRADEWIND_MLFLOW_URL": self.mlflow_url,
            "TRADEWIND_IMAGE": IMAGE,
            "TRADEWIND_RECONCILE_ACTIVE": "false",  # or it would start work behind a test's back
            "TRADEWIND_GOVERN_ACTIVE": "false",
        }

    def tradewind(
        self, *words: str, person: str = "ada", groups: Sequence[str] = GROUPS, seconds: float = 300, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """The command, as that person starts it."""
        environment = {**self.environment, "TRADEWIND_TOKEN": self.issuer.token(person, *groups), "COLUMNS": "160", **more}
        return subprocess.run(
            [str(programs() / "python"), "-m", "deployments.cli.main", *words],
            cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip

    @contextmanager
    def worker(self, pool: str, *, ready: bool = True, **more: str) -> Iterator[Path]:
        """An unmodified worker of one pool with its cloud's credentials; the file that it writes to. Control's is the guarded one.

        Unless `ready`, it is only started: ask `online` later.
        """
        path = self.folder / f"worker-{pool}-{time.monotonic_ns()}.log"
        home = self.folder / f"home-{pool}"
        environment = {**self.environment, **self._credentials(self.estate.pool_by_name[pool]), "PREFECT_HOME": str(home), **POLLS}
        if pool == CONTROL:
            command = [str(programs() / "python"), "-P", "-m", "flows.workers.host"]
            environment |= {**commands.RUNS, "TRADEWIND_SIGNING_KEY": self.key}
        else:
            for control in ("TRADEWIND_DATABASE_URL", "TRADEWIND_HOME", "TRADEWIND_IMAGE"):
                environment.pop(control)
            environment["PYTHONPATH"] = f"{PROJECT_ROOT}:{_collection(self.folder)}"
            command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", path.stem]
        with path.open("wb") as log:
            process = subprocess.Popen(command, cwd=self.folder, env={**environment, **more}, stdout=log, stderr=log)
        self.workers[path] = process
        try:
            if ready:
                self.online(pool, path)
            yield path
        finally:
            del self.workers[path]
            _end(process)

    def online(self, pool: str, path: Path) -> None:
        """Wait until Prefect has heard of the worker that writes to this file."""
        name = f"{pool}-host" if pool == CONTROL else path.stem

        def heard() -> bool:
            assert self.workers[path].poll() is None, f"the worker of {pool} ended:\n{path.read_text()[-3000:]}"
            rows = self.post(f"/work_pools/{pool}/workers/filter", {})
            return any(row["name"] == name and row["status"] == "ONLINE" for row in rows)

        wait(heard, START_SECONDS, path.read_text)

    def _credentials(self, pool: Pool) -> dict[str, str]:
        site = self.estate.site_by_id[pool.site]
        if site.cloud == "aws" and self.aws is not None:
            return self.aws.environment_of(str(site.region))
        if site.cloud == "gcp" and self.gcp is not None:
            return self.gcp.environment
        if self.cluster is not None and pool.type == "kubernetes":
            return {"KUBECONFIG": str(self.cluster.account("tradewind", "tradewind-worker"))}
        return {}

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Prefect's answer."""
        return httpx.post(f"{self.api}{path}", json=dict(body), timeout=30).raise_for_status().json()

    def get(self, path: str) -> Any:
        """Prefect's answer."""
        return httpx.get(f"{self.api}{path}", timeout=30).raise_for_status().json()

    def deploy_probe(self, pool: str) -> str:
        """A deployment of `tests.emulators.probe` to the pool; its id."""
        flow = self.post("/flows/", {"name": "probe"})["id"]
        body = {"name": pool, "flow_id": flow, "work_pool_name": pool, "entrypoint": "tests.emulators.probe.probe", "path": "."}
        return str(self.post("/deployments/", body)["id"])

    def asked(self, pool: str, *, spot: bool = False) -> dict[str, Any]:
        """The job variables of the pool's cheapest offer."""
        declared = self.estate.pool_by_name[pool]
        offer = min(self.estate.offers_of(declared), key=lambda one: (one.usd_per_hour is None, one.usd_per_hour, one.name))
        return job_variables(declared.type, offer, spot=spot, nodes=1, tags=run_tags("nafld", "train", "i"), image=IMAGE)

    def start(self, deployment: str, pool: str, *, how: str = "well", **more: Any) -> str:
        """A run of the probe; its id."""
        body = {"parameters": {"how": how}, "job_variables": {**self.asked(pool), **more}, "state": {"type": "SCHEDULED"}}
        return str(self.post(f"/deployments/{deployment}/create_flow_run", body)["id"])

    def state(self, run: str) -> dict[str, Any]:
        """Where the run stands."""
        found: dict[str, Any] = self.get(f"/flow_runs/{run}")["state"]
        return found

    def ended(self, run: str, seconds: float = 150) -> dict[str, Any]:
        """The state that the run ended in."""
        wait(lambda: self.state(run)["type"] in FINAL, seconds, lambda: f"{self.state(run)}\n{self.said(run)}")
        return self.state(run)

    def said(self, run: str) -> str:
        """All that the run's log says."""
        rows = self.post("/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200, "sort": "TIMESTAMP_ASC"})
        return "\n".join(row["message"] for row in rows)


@contextmanager
def cloud_stack(
    folder: Path, *, pools: Sequence[str], edit: Callable[[Path], None] | None = None, sites: bool = False
) -> Iterator[CloudStack]:
    """All of it, declared and with a worker for each of `pools`, which may name `control`; everything is stopped at the end.

    Args:
        folder: an empty one, for all that is written.
        pools: those that get a worker, and so the clouds that are started.
        edit: changes the test's own copy of `deployments/` before anything reads it.
        sites: whether sites keep their data in buckets.
    """
    with ExitStack() as stack:
        deployments = folder / "deployments"
        shutil.copytree(PROJECT_ROOT / "deployments", deployments, ignore=shutil.ignore_patterns("__pycache__", "*.py"))
        database = stack.enter_context(_database(folder))
        _declare_database(deployments, database)
        _accept_unproved(deployments)
        if edit is not None:
            edit(deployments)
        image = Image({"TRADEWIND_DEPLOYMENTS": str(deployments), **commands.QUIET})
        made = CloudStack(folder, deployments, load_estate(deployments / "estate"), database, stack.enter_context(issuer()), image)
        _start_clouds(stack, made, pools, sites=sites)
        made.home.mkdir(parents=True)
        from datetime import UTC, datetime

        signing.enroll(made.home / "anchors", signing.signer(made.key).public_key, at=datetime.now(UTC))
        _start_servers(stack, made)
        applied = made.tradewind("apply")
        assert applied.returncode == 0, f"{applied.stdout[-3000:]}\n{applied.stderr[-3000:]}"
        started = {pool: stack.enter_context(made.worker(pool, ready=False)) for pool in pools}
        for pool, path in started.items():
            made.online(pool, path)
        yield made


@contextmanager
def _database(folder: Path) -> Iterator[str]:
    if postgres.missing():
        yield f"sqlite:///{folder / 'state.db'}"
        return
    with postgres.server() as socket:
        yield f"postgresql://{postgres.USER}@/postgres?host={socket}"


def _declare_database(deployments: Path, url: str) -> None:
    """Vertex AI has no secrets: its pools name the database, which knows them by their identity."""
    path = deployments / "estate" / "pools.yaml"
    yaml = YAML()
    rows = yaml.load(path.read_text())
    for row in rows:
        if row["type"] == "vertex-ai":
            row["infrastructure"]["database_url"] = url
    with path.open("w") as file:
        yaml.dump(rows, file)


def _accept_unproved(deployments: Path) -> None:
    """No security is proved of emulated clouds, which have no TLS and no keys: only a check that failed keeps anything away."""
    path = deployments / "security.yaml"
    yaml = YAML()
    body = yaml.load(path.read_text())
    for demand in body["demands"]:
        demand["unless_proved"] = "accept"
    with path.open("w") as file:
        yaml.dump(body, file)


def _start_clouds(stack: ExitStack, made: CloudStack, pools: Sequence[str], *, sites: bool) -> None:
    """The clouds of those pools, with what the estate says that they hold."""
    declared = [made.estate.pool_by_name[name] for name in pools]
    clouds = {made.estate.site_by_id[pool.site].cloud for pool in declared}
    # every container finds the emulators where the cloud's own stores would be
    found: dict[str, str] = {}
    if sites:
        made.gcs = stack.enter_context(gcs(made.folder / "gcs"))
        found |= made.gcs.environment
    if "aws" in clouds or sites:
        (account,) = {site.account for site in made.estate.sites if site.cloud == "aws"}
        image = Image({**made.image.environment, **found})
        made.aws = stack.enter_context(aws(made.folder / "aws", image, account=str(account)))
        _furnish_aws(made, made.aws)
    if sites and made.aws is not None:
        _buckets(made, made.aws)
        found |= {"AWS_ENDPOINT_URL": made.aws.url, "AWS_REGION": "eu-central-1"}
        for site in made.estate.sites:
            if site.access_role is not None and site.access_role.startswith("arn:"):
                made.aws.role(site.access_role)
    image = Image({**made.image.environment, **found})
    if "gcp" in clouds:
        made.gcp = stack.enter_context(gcp(made.folder / "gcp", image, project=PROJECT, secrets={SECRET: made.database}))
    if any(pool.type == "kubernetes" for pool in declared):
        made.cluster = stack.enter_context(_cluster(made, image))


def _furnish_aws(made: CloudStack, found: Aws) -> None:
    """Roles, clusters, subnets and the secret of every site, as the estate names them."""
    regions = set()
    for pool in made.estate.pools:
        site = made.estate.site_by_id[pool.site]
        if site.cloud != "aws":
            continue
        region = str(site.region)
        for name in ("role", "execution_role"):
            if name in pool.infrastructure:
                found.role(str(pool.infrastructure[name]))
        if pool.type == "ecs":
            found.cluster(str(pool.infrastructure["cluster"]), region)
        if region not in regions:
            regions.add(region)
            for subnet in pool.infrastructure["subnets"]:  # type: ignore[union-attr]
                found.subnet(str(subnet), region)
            found.keep_secret(region, SECRET, made.database)


def _buckets(made: CloudStack, found: Aws) -> None:
    """A bucket for each site that holds data; the on-prem cluster's speaks S3 at an address of its own."""
    connections: dict[str, dict[str, str]] = {}
    for site in made.estate.sites:
        if site.id == CONTROL:
            continue
        name = f"tradewind-{site.id}"
        if site.cloud == "gcp":
            assert made.gcs is not None
            made.gcs.bucket(name)
            connections[site.id] = {"url": f"gs://{name}"}
        else:
            found.bucket(name, str(site.region) if site.cloud == "aws" else "eu-central-1")
            connections[site.id] = {"url": f"s3://{name}", **({} if site.cloud == "aws" else {"endpoint": found.url})}
    made.more["TRADEWIND_SITES"] = json.dumps(connections)


@contextmanager
def _cluster(made: CloudStack, image: Image) -> Iterator[kube.Cluster]:
    from tests.clouds.kube_world import INFRA, NAMESPACE, node

    folder = made.folder / "cluster"
    folder.mkdir()
    with kube.cluster(folder, controllers=kube.CONTROLLERS) as cluster:
        applied = cluster.kubectl("apply", "-k", str(INFRA))
        assert applied.returncode == 0, applied.stderr
        secret = f"--from-literal=TRADEWIND_DATABASE_URL={made.database}"
        applied = cluster.kubectl("create", "secret", "generic", SECRET, "-n", NAMESPACE, secret)
        assert applied.returncode == 0, applied.stderr
        variables = image.variables(folder)
        for own in ("HOME", "TMPDIR", "PREFECT_HOME", "TRADEWIND_HOME"):
            variables.pop(own)
        with node(cluster, folder, programs=variables.pop("PATH"), variables=variables):
            yield cluster


def _start_servers(stack: ExitStack, made: CloudStack) -> None:
    """Prefect's and MLflow's servers, and the state database's tables."""
    from flows.store.database import State

    prefect, mlflow = kube.ports(2)
    made.api, made.mlflow_url = f"http://127.0.0.1:{prefect}/api", f"http://127.0.0.1:{mlflow}"
    base = {name: value for name, value in made.environment.items() if not name.startswith(("TRADEWIND_", "PREFECT_API"))}
    python = str(programs() / "python")
    for name, command, extra in (
        ("prefect", ["-m", "deployments.local.prefect_server", "--port", str(prefect)], commands.SERVER),
        ("mlflow", ["-m", "deployments.local.mlflow_server", "--database", str(made.folder / "mlflow.db"), "--port", str(mlflow)], {}),
    ):
        with (made.folder / f"{name}.log").open("wb") as log:
            environment = {**base, "PREFECT_HOME": str(made.folder / "server"), **extra}
            process = subprocess.Popen([python, "-P", *command], cwd=made.folder, env=environment, stdout=log, stderr=log)
        stack.callback(_end, process)
    state = State(made.database)
    state.migrate()
    state.close()
    wait(lambda: _answers(f"{made.api}/health"), START_SECONDS, (made.folder / "prefect.log").read_text)
    wait(lambda: _answers(f"{made.mlflow_url}/health"), START_SECONDS, (made.folder / "mlflow.log").read_text)


def _collection(folder: Path) -> Path:
    """The project's entry point for Prefect, as an installation of this version has it."""
    made = folder / "installed"
    information = made / "tradewind_collection-0.dist-info"
    information.mkdir(parents=True, exist_ok=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: tradewind-collection\nVersion: 0\n")
    (information / "entry_points.txt").write_text("[prefect.collections]\ntradewind = flows.workers.sagemaker\n")
    return made


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.TransportError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Workers survive SIGTERM at times."""
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait(until: Callable[[], bool], seconds: float, told: Callable[[], str]) -> None:
    """Until it is so; `told` says what there is instead."""
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, told()[-4000:]
        time.sleep(0.3)
