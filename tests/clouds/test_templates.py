"""Every filled template with every offer, judged by the workers' own models and, where there is one, by the cloud's client.

The workers are Prefect's, unmodified, and our own for SageMaker; nothing is started. AWS's client judges what would be sent by AWS's own
service model.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from deployments.apply.declared import load
from deployments.apply.desired import PoolSpec
from deployments.apply.options import ApplyOptions
from deployments.apply.templates import ways
from flows.adapters.estate import load_estate
from flows.adapters.settings import PROJECT_ROOT, Settings
from flows.core.placement.estate import Offer
from flows.core.placement.job_variables import job_variables, run_tags
from flows.workers.sagemaker import SageMakerWorker
from tests.emulators.sagemaker_shapes import problems

pytestmark = pytest.mark.clouds

ecs_worker = pytest.importorskip("prefect_aws.workers.ecs_worker", reason="prefect-aws is not installed: `make setup-clouds`")
cloud_run = pytest.importorskip("prefect_gcp.workers.cloud_run_v2", reason="prefect-gcp is not installed: `make setup-clouds`")
vertex = pytest.importorskip("prefect_gcp.workers.vertex", reason="prefect-gcp[aiplatform] is not installed: `make setup-clouds`")
kubernetes = pytest.importorskip("prefect_kubernetes.worker", reason="prefect-kubernetes is not installed: `make setup-clouds`")

DIGEST = "sha256:" + "0a" * 32
INTENT = "flight_delay/train/2013-07/drift"
ESTATE = load_estate(PROJECT_ROOT / "deployments" / "estate")
POOLS = {pool.name: pool for pool in load(Settings(profile="cloud", public_keys=""), ApplyOptions()).pools}
WORKERS = {
    "ecs": ecs_worker.ECSWorker,
    "cloud-run-v2": cloud_run.CloudRunWorkerV2,
    "vertex-ai": vertex.VertexAIWorker,
    "kubernetes": kubernetes.KubernetesWorker,
    "sagemaker": SageMakerWorker,
}
CASES = [
    pytest.param(POOLS[pool.name], offer, spot, id=f"{pool.name}-{offer.name}{'-spot' if spot else ''}")
    for pool in ESTATE.pools
    if pool.type in WORKERS
    for offer in ESTATE.offers_of(pool)
    for spot in ways(pool, offer)
]


def of(type_: str) -> list[Any]:
    """The cases of one pool type."""
    return [case for case in CASES if case.values[0].type == type_]


@pytest.fixture(autouse=True)
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that mean nothing; Google's models want a key to be there when they are made."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account", "project_id": "elsewhere", "private_key_id": "1", "private_key": key.decode(), "client_id": "1",
        "client_email": "worker@elsewhere.iam.gserviceaccount.com", "token_uri": "http://127.0.0.1:9/token",
    }  # fmt: skip
    path = tmp_path / "key.json"
    path.write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))


def configured(pool: PoolSpec, offer: Offer, spot: bool, **more: Any) -> Any:
    """The job configuration as the worker of the pool makes it for a run."""
    from prefect.client.schemas.objects import FlowRun

    asked = job_variables(pool.type, offer, spot=spot, nodes=1, tags=run_tags("flight_delay", "train", INTENT), image=DIGEST)
    configuration = WORKERS[pool.type].job_configuration
    template = json.loads(json.dumps(dict(pool.template)))
    made = asyncio.run(configuration.from_template_and_values(template, {**asked, **more}, client=object()))
    made.prepare_for_flow_run(FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="careful-owl"))
    return made


def command(pool: PoolSpec) -> list[str]:
    """What each run of the pool begins with."""
    # no key was enrolled here: such a run would verify no ticket
    identity = [f"TRADEWIND_SITE={pool.site}", f"TRADEWIND_POOL={pool.name}", "TRADEWIND_PUBLIC_KEYS="]
    return ["env", "TRADEWIND_PROFILE=cloud", *identity, "prefect", "flow-run", "execute"]


@pytest.mark.parametrize(("pool", "offer", "spot"), CASES)
def test_the_worker_takes_every_offer(pool: PoolSpec, offer: Offer, spot: bool) -> None:
    """Nothing is left unfilled, the identity is the pool's, and the bill's tags are there."""
    made = configured(pool, offer, spot)
    text = made.model_dump_json()
    assert "{{" not in text
    assert "${" not in text
    assert (made.env["TRADEWIND_SITE"], made.env["TRADEWIND_POOL"]) == (pool.site, pool.name)
    tags = {name: value for name, value in made.labels.items() if name.startswith("tradewind-")}
    assert set(tags) == {f"tradewind-{name}" for name in ("site", "pool", "workload", "step", "intent")}
    assert tags["tradewind-workload"] == "flight_delay"
    assert f"tradewind@{DIGEST}" in text


@pytest.mark.parametrize("pool", [pool for pool in POOLS.values() if pool.type in WORKERS], ids=lambda pool: pool.name)
def test_a_forged_environment_does_not_change_who_a_run_is(pool: PoolSpec) -> None:
    """A server that let `env` through, which it does not, would still not reach past the command."""
    offer = ESTATE.offers_of(ESTATE.pool_by_name[pool.name])[0]
    made = configured(pool, offer, False, env={"TRADEWIND_SITE": "onprem-fra"}, command="sh -c true")
    assert made.command == " ".join(command(pool))


@pytest.mark.parametrize(("pool", "offer", "spot"), of("ecs"))
def test_ecs_would_be_sent_a_task_that_its_interface_takes(pool: PoolSpec, offer: Offer, spot: bool) -> None:
    """The worker's own task definition and request, checked by AWS's service model; whole machine, bought as decided."""
    import boto3
    from botocore.validate import ParamValidator
    from prefect.client.schemas.objects import FlowRun

    made = configured(pool, offer, spot)
    worker = ecs_worker.ECSWorker(work_pool_name=pool.name)
    client = boto3.client("ecs", region_name="eu-central-1")
    run = FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="careful-owl")
    definition = worker._prepare_task_definition(made, region="eu-central-1", flow_run=run)
    request = worker._prepare_task_run_request(made, definition, "arn:aws:ecs:eu-central-1:111122223333:task-definition/t:1", True)
    for operation, body in (("RegisterTaskDefinition", definition), ("RunTask", request)):
        report = ParamValidator().validate(body, client.meta.service_model.operation_model(operation).input_shape)
        assert not report.has_errors(), report.generate_report()
    (container,) = definition["containerDefinitions"]
    assert container["memory"] > container["memoryReservation"]
    assert [gpu["value"] for gpu in container.get("resourceRequirements", [])] == (["1"] if offer.accelerator else [])
    assert container["secrets"][0]["name"] == "TRADEWIND_DATABASE_URL"
    assert container["logConfiguration"]["options"]["awslogs-region"] in pool.site
    assert definition["requiresCompatibilities"] == ["EC2"]
    assert request["capacityProviderStrategy"][0]["capacityProvider"].endswith("-spot" if spot else "-on-demand")
    assert "launchType" not in request
    assert request["placementConstraints"][0]["expression"].endswith(f"== {offer.name}")
    assert request["overrides"]["containerOverrides"][0]["command"] == command(pool)
    assert {"key": "tradewind-workload", "value": "flight_delay"} in request["tags"]


@pytest.mark.parametrize(("pool", "offer", "spot"), of("vertex-ai"))
def test_vertex_would_be_sent_a_job_that_its_interface_takes(pool: PoolSpec, offer: Offer, spot: bool) -> None:
    """Built by the worker into Google's own message types."""
    made = configured(pool, offer, spot)
    spec = object.__new__(vertex.VertexAIWorker)._build_job_spec(made)
    (group,) = spec.worker_pool_specs
    assert group.machine_spec.machine_type == offer.name
    assert group.machine_spec.accelerator_count == (offer.accelerator_count or 0)
    assert spec.scheduling.strategy.name == ("SPOT" if spot else "STANDARD")
    assert spec.scheduling.timeout.total_seconds() == 24 * 3600
    assert spec.service_account.endswith("@tradewind-example.iam.gserviceaccount.com")
    assert list(group.container_spec.command) == command(pool)


@pytest.mark.parametrize(("pool", "offer", "spot"), of("cloud-run-v2"))
def test_cloud_run_would_be_sent_a_job_that_its_interface_takes(pool: PoolSpec, offer: Offer, spot: bool) -> None:
    """Every field is one of Google's published interface, which comes with its client; one try, one hour limit, no secret in plain."""
    made = configured(pool, offer, spot)
    documents = Path(__import__("googleapiclient").__file__).parent / "discovery_cache" / "documents" / "run.v2.json"
    schemas = json.loads(documents.read_text())["schemas"]
    assert unknown(made.job_body, "GoogleCloudRunV2Job", schemas) == []
    task = made.job_body["template"]["template"]
    assert (task["maxRetries"], task["timeout"]) == (0, "86400s")
    assert task["containers"][0]["command"] == command(pool)
    secrets = [one for one in task["containers"][0]["env"] if one["name"] == "TRADEWIND_DATABASE_URL"]
    assert secrets == [
        {"name": "TRADEWIND_DATABASE_URL", "valueSource": {"secretKeyRef": {"secret": "tradewind-database", "version": "latest"}}}
    ]


def unknown(value: Any, schema: str, schemas: dict[str, Any], path: str = "") -> list[str]:
    """Fields of a body that the interface does not have."""
    found = []
    properties = schemas[schema]["properties"]
    for name, inner in value.items():
        if name not in properties:
            found.append(f"{path}{name}")
            continue
        below = properties[name].get("$ref") or properties[name].get("items", {}).get("$ref")
        for one in inner if isinstance(inner, list) else [inner]:
            if below and isinstance(one, dict):
                found += unknown(one, below, schemas, f"{path}{name}.")
    return found


@pytest.mark.parametrize(("pool", "offer", "spot"), of("kubernetes"))
def test_kubernetes_would_be_sent_what_was_decided(pool: PoolSpec, offer: Offer, spot: bool) -> None:
    """Requests and limits are the offer; a job is not tried again by Kubernetes."""
    made = configured(pool, offer, spot)
    spec = made.job_manifest["spec"]
    resources = spec["template"]["spec"]["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"]
    assert resources["limits"].get("nvidia.com/gpu", 0) == (offer.accelerator_count or 0)
    assert spec["backoffLimit"] == 0
    assert made.pod_watch_timeout_seconds >= 3600


@pytest.mark.parametrize(("pool", "offer", "spot"), of("sagemaker"))
def test_sagemaker_would_be_sent_a_job_that_its_interface_takes(pool: PoolSpec, offer: Offer, spot: bool) -> None:
    """The worker's own request, judged by AWS's service model; each intent has checkpoints of its own."""
    request = configured(pool, offer, spot).request("tradewind-careful-owl")
    assert problems(request) == []
    assert request["CheckpointConfig"]["S3Uri"].endswith(f"/checkpoints/flight_delay/{run_tags('', '', INTENT)['intent']}")
    assert request["ResourceConfig"]["InstanceType"] == offer.name
    assert "TRADEWIND_DATABASE_URL" not in request["Environment"]
