"""Listing and ending the jobs of a pool.

ECS: moto's server (AWS's wire protocol, no containers). SageMaker: `tests/emulators/sagemaker.py` (moto, and jobs that run). Kubernetes: a
real API server. Cloud Run and Vertex AI: a pretend server of their REST on the loopback; the real client, without real credentials.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows.adapters.clouds import Job, jobs_of
from flows.adapters.clouds.cloud_run import Executions
from flows.adapters.clouds.vertex import CustomJobs
from flows.adapters.estate import load_estate
from flows.adapters.settings import PROJECT_ROOT
from flows.core.errors import Unavailable
from flows.core.placement.estate import Pool, Site
from tests.emulators import kube

boto3 = pytest.importorskip("boto3", reason="the AWS client is not installed")
pytest.importorskip("moto.server", reason="moto's server is not installed")

REGION, CLUSTER = "eu-central-1", "tradewind-eu-central-1"
ECS, SAGEMAKER, K8S = "aws-eu-central-1-ecs", "aws-eu-central-1-sagemaker", "onprem-fra-k8s"
CLOUD_RUN, VERTEX = "gcp-europe-west6-cloudrun", "gcp-europe-west4-vertex"
LABELS = {"prefect.io/flow-run-id": "run-1", "prefect.io/work-pool-id": "pool-1"}


def declared(name: str) -> tuple[Pool, Site]:
    estate = load_estate(PROJECT_ROOT / "deployments" / "estate")
    pool = estate.pool_by_name[name]
    return pool, estate.site_by_id[pool.site]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Credentials of AWS that mean nothing."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    return monkeypatch


@pytest.fixture
def ecs(keys: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster on a fresh server, whose tasks do not end by themselves."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    try:
        _post(f"{url}/moto-api/reset")
        _post(
            f"{url}/moto-api/state-manager/set-transition",
            {"model_name": "ecs::task", "transition": {"progression": "manual", "times": 99}},
        )
        keys.setenv("AWS_ENDPOINT_URL", url)
        client = boto3.client("ecs", region_name=REGION)
        client.create_cluster(clusterName=CLUSTER)
        container = {"name": "tradewind", "image": "x", "memory": 128, "cpu": 64}
        client.register_task_definition(
            family="runs",
            requiresCompatibilities=["FARGATE"],
            networkMode="awsvpc",
            cpu="256",
            memory="512",
            containerDefinitions=[container],
        )
        subnet = boto3.client("ec2", region_name=REGION).describe_subnets()["Subnets"][0]["SubnetId"]

        def start(**tags: str) -> str:
            network = {"awsvpcConfiguration": {"subnets": [subnet], "securityGroups": ["sg-1"]}}
            wanted = [{"key": key, "value": value} for key, value in tags.items()]
            made = client.run_task(cluster=CLUSTER, taskDefinition="runs", launchType="FARGATE", networkConfiguration=network, tags=wanted)
            return str(made["tasks"][0]["taskArn"])

        client.start = start
        yield client
    finally:
        server.stop()


def _post(url: str, body: dict[str, Any] | None = None) -> None:
    data = json.dumps(body).encode() if body is not None else None
    headers = {"Content-Type": "application/json"} if data else {}
    urllib.request.urlopen(urllib.request.Request(url, data=data, headers=headers, method="POST"), timeout=10).read()


def test_tasks_of_a_pool_are_found_by_their_tags_and_stopped(ecs: Any) -> None:
    """The tasks of the other pools of the cluster stay; stopping twice is stopping once."""
    mine = ecs.start(**{"tradewind-pool": ECS, **LABELS})
    theirs = ecs.start(**{"tradewind-pool": "another", **LABELS})
    jobs = jobs_of(*declared(ECS))
    (found,) = jobs.list()
    assert (found.id, found.run, found.work_pool) == (mine, "run-1", "pool-1")
    assert found.is_of(f"{CLUSTER}::{mine}") and not found.is_of(f"{CLUSTER}::{theirs}")
    jobs.end(found)
    jobs.end(found)
    assert jobs.list() == []
    assert ecs.describe_tasks(cluster=CLUSTER, tasks=[theirs])["tasks"][0]["lastStatus"] != "STOPPED"


def test_more_tasks_than_one_answer_holds_are_all_found(ecs: Any) -> None:
    """AWS describes at most a hundred at once."""
    made = {ecs.start(**{"tradewind-pool": ECS, **LABELS}) for _ in range(103)}
    assert {job.id for job in jobs_of(*declared(ECS)).list()} == made


def test_a_cloud_that_does_not_answer_is_told_in_time(keys: pytest.MonkeyPatch) -> None:
    """Nobody listens there: the answer is an error in our words, soon."""
    keys.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{kube.ports(1)[0]}")
    began = time.monotonic()
    for name in (ECS, SAGEMAKER):
        with pytest.raises(Unavailable, match="Could not connect"):
            jobs_of(*declared(name)).list()
    assert time.monotonic() - began < 60


def test_training_jobs_of_a_pool_are_found_by_their_tags_and_stopped(keys: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that has ended meanwhile, or that is not there, is as good as stopped."""
    from tests.emulators.sagemaker import SageMaker

    emulator, sleep = SageMaker(tmp_path), [sys.executable, "-c", "import time; time.sleep(60)"]
    emulator.start()
    try:
        keys.setenv("AWS_ENDPOINT_URL", emulator.url)
        client = boto3.client("sagemaker", region_name=REGION)
        for name, pool in (("mine", SAGEMAKER), ("theirs", "another")):
            tags = [{"Key": key, "Value": value} for key, value in {"tradewind-pool": pool, **LABELS}.items()]
            client.create_training_job(
                TrainingJobName=name,
                AlgorithmSpecification={"TrainingImage": "1.dkr.ecr/x", "TrainingInputMode": "File", "ContainerEntrypoint": sleep},
                RoleArn="arn:aws:iam::123456789012:role/runs",
                OutputDataConfig={"S3OutputPath": "s3://out/x"},
                ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 30},
                StoppingCondition={"MaxRuntimeInSeconds": 600},
                Tags=tags,
            )  # fmt: skip
        jobs = jobs_of(*declared(SAGEMAKER))
        (found,) = jobs.list()
        assert (found.id.rpartition("/")[2], found.run, found.work_pool) == ("mine", "run-1", "pool-1") and found.is_of(found.id)
        jobs.end(found)
        jobs.end(found)
        jobs.end(Job(found.id + "x", "", ""))
        assert jobs.list() == []
        assert client.describe_training_job(TrainingJobName="theirs")["TrainingJobStatus"] == "InProgress"
    finally:
        emulator.stop()


def test_jobs_of_a_cluster_are_found_by_their_labels_and_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Complete and failed ones are not counted, nor another pool's; a cluster that is gone is told at once."""
    pytest.importorskip("kubernetes", reason="the Kubernetes client is not installed")
    with kube.cluster(tmp_path) as cluster:
        from kubernetes import client

        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(cluster.kubeconfig))
        with cluster.client() as api:
            core, batch = client.CoreV1Api(api), client.BatchV1Api(api)
            core.create_namespace({"metadata": {"name": "tradewind"}})

            def make(name: str, pool: str) -> Any:
                labels = {"tradewind-pool": pool, **LABELS}
                pod = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}
                body = {"metadata": {"name": name, "labels": labels}, "spec": {"template": pod}}
                return batch.create_namespaced_job("tradewind", body)

            make("mine", K8S)
            make("theirs", "another")
            for name, kind in (("done", "Complete"), ("broken", "Failed")):
                made = make(name, K8S)
                made.status = client.V1JobStatus(conditions=[client.V1JobCondition(type=kind, status="True")])
                batch.replace_namespaced_job_status(name, "tradewind", made)
            jobs = jobs_of(*declared(K8S))
            (found,) = jobs.list()
            assert (found.id, found.run, found.work_pool) == ("tradewind:mine", "run-1", "pool-1") and found.is_of("tradewind:mine")
            jobs.end(found)
            jobs.end(found)
            assert jobs.list() == []
            assert {row.metadata.name for row in batch.list_namespaced_job("tradewind").items} == {"theirs", "done", "broken"}
    began = time.monotonic()
    with pytest.raises(Unavailable, match="cannot list the jobs of namespace `tradewind`"):
        jobs.list()
    assert time.monotonic() - began < 30


def test_a_site_that_has_a_context_is_not_looked_for_in_the_cluster_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control may run in a cluster itself: another site's jobs are not there, and its live runs would seem to have lost theirs."""
    config = pytest.importorskip("kubernetes.config", reason="the Kubernetes client is not installed")
    from kubernetes import client

    from flows.adapters.clouds.kubernetes import connect

    def own_cluster() -> None:
        client.Configuration.set_default(client.Configuration(host="https://own.example"))

    names = ("onprem-fra", "elsewhere")
    kubeconfig = tmp_path / "kubeconfig"
    entries = {
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}.example"}} for name in names],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "nobody"}} for name in names],
        "users": [{"name": "nobody", "user": {}}],
    }
    kubeconfig.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "elsewhere", **entries}))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
    assert [connect(site).configuration.host for site in ("onprem-fra", "another")] == [
        "https://onprem-fra.example",
        "https://elsewhere.example",
    ]
    monkeypatch.setattr(config, "load_incluster_config", own_cluster)
    try:
        assert [connect(site).configuration.host for site in ("onprem-fra", "another")] == [
            "https://onprem-fra.example",
            "https://own.example",
        ]
    finally:
        client.Configuration.set_default(None)


class Google:
    """A pretend server: answers by method and path, two items a page, and keeps what was asked."""

    def __init__(self) -> None:
        self.items: dict[str, list[dict[str, Any]]] = {}
        self.refuses: tuple[int, str] | None = None
        self.asked: list[tuple[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                path, _, query = self.path.partition("?")
                outer.asked.append((self.command, path))
                status, body = outer.reply(self.command, path, query)
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reply(self, method: str, path: str, query: str) -> tuple[int, dict[str, Any]]:
        if self.refuses:
            return self.refuses[0], {"error": {"message": self.refuses[1]}}
        rows = self.items.get(path)
        if method != "GET":
            return 200, {}
        if rows is None:
            return 404, {"error": {"message": "not found"}}
        start = int(query.partition("pageToken=")[2].partition("&")[0] or 0)
        page: dict[str, Any] = {path.rpartition("/")[2]: rows[start : start + 2]}
        return 200, page | ({"nextPageToken": str(start + 2)} if start + 2 < len(rows) else {})


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[Google]:
    import google.auth.credentials

    monkeypatch.setattr("google.auth.default", lambda **_: (google.auth.credentials.AnonymousCredentials(), "p"))
    served = Google()
    yield served
    served.server.shutdown()
    served.server.server_close()


def test_jobs_of_cloud_run_are_found_on_every_page_and_deleted_with_what_executes(google: Google) -> None:
    """Prefect's worker writes its labels with `-` there; an execution that has ended is not cancelled."""
    parent = "/projects/tradewind-example/locations/europe-west6/jobs"
    labels = {"tradewind-pool": CLOUD_RUN, "prefect-io-flow-run-id": "run-1", "prefect-io-work-pool-id": "pool-1"}
    google.items[parent] = [
        {"name": f"{parent[1:]}/other", "labels": {"tradewind-pool": "another"}},
        {"name": f"{parent[1:]}/gone", "labels": labels, "deleteTime": "2026-11-24T10:00:00Z"},
        {"name": f"{parent[1:]}/mine", "labels": labels, "createTime": "2026-11-24T10:00:00.123456789Z"},
    ]
    google.items[f"{parent}/mine/executions"] = [
        {"name": "x/executions/a"},
        {"name": "x/executions/b", "completionTime": "2026-11-24T10:01:00Z"},
    ]
    jobs = Executions(*declared(CLOUD_RUN), root=google.url)
    assert jobs.list() == [Job("mine", "run-1", "pool-1", datetime(2026, 11, 24, 10, 0, 0, 123456, tzinfo=UTC))]
    jobs.end(jobs.list()[0])
    assert [asked for asked in google.asked if asked[0] != "GET"] == [
        ("POST", f"{parent}/mine/executions/a:cancel"),
        ("DELETE", f"{parent}/mine"),
    ]


def test_custom_jobs_of_vertex_are_found_by_label_and_state_and_cancelled(google: Google) -> None:
    """Prefect's worker writes its labels with `_` there; what has ended is not listed."""
    parent = "/projects/tradewind-example/locations/europe-west4/customJobs"
    labels = {"tradewind-pool": VERTEX, "prefect-io_flow-run-id": "run-1", "prefect-io_work-pool-id": "pool-1"}
    google.items[parent] = [
        {"name": f"{parent[1:]}/1", "labels": labels, "state": "JOB_STATE_SUCCEEDED"},
        {"name": f"{parent[1:]}/2", "labels": {**labels, "tradewind-pool": "another"}, "state": "JOB_STATE_RUNNING"},
        {"name": f"{parent[1:]}/3", "labels": labels, "state": "JOB_STATE_RUNNING", "createTime": "2026-11-24T10:00:00Z"},
    ]
    jobs = CustomJobs(*declared(VERTEX), root=google.url)
    (found,) = jobs.list()
    assert (found.id, found.run, found.work_pool) == (f"{parent[1:]}/3", "run-1", "pool-1") and found.is_of(found.id)
    jobs.end(found)
    assert google.asked[-1] == ("POST", f"{parent}/3:cancel")


@pytest.mark.parametrize("status", [403, 429, 503])
def test_a_refusal_of_google_is_told_with_its_words(google: Google, status: int) -> None:
    """And never taken for an empty list, which would lose live runs."""
    google.refuses = (status, "run.jobs.list denied")
    with pytest.raises(Unavailable, match=rf"{status}: run.jobs.list denied"):
        Executions(*declared(CLOUD_RUN), root=google.url).list()


def test_what_is_gone_is_as_good_as_ended(google: Google) -> None:
    """A job that ended between listing and ending is no failure of the sweep."""
    google.refuses = (404, "not found")
    CustomJobs(*declared(VERTEX), root=google.url).end(Job("projects/p/locations/l/customJobs/9", "", ""))


def test_a_pool_that_nothing_here_speaks_to_is_told(tmp_path: Path) -> None:
    """So that the sweep names it rather than passing it over."""
    pool, site = declared(K8S)
    with pytest.raises(Unavailable, match="nothing here speaks to pools of type `azure-container-instance`"):
        jobs_of(pool.model_copy(update={"type": "azure-container-instance"}), site)
    ecs, _ = declared(ECS)
    with pytest.raises(Unavailable, match="does not say its `cluster`"):
        jobs_of(ecs.model_copy(update={"infrastructure": {}}), site)
