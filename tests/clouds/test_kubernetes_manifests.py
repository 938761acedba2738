"""What goes to a cluster, judged by a real API server (1.20) without nodes, and by the published schemas of what that version cannot show.

Real: the API server with its admission of quotas and limits, the worker's own models, the worker's token. Published schemas, by jsonschema:
the custom resource definitions of KAI and Kueue; Kubernetes' own of version 1.37, for job suspension. Not shown: that KAI, Run:ai or Kueue
act on them; that a network keeps to the network policies. Objects of KAI and Kueue are not made in this server: built with a newer Go than
its version knew, it ends with a memory fault when it reads an object of any custom resource.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from deployments.apply.declared import load
from deployments.apply.options import ApplyOptions
from deployments.apply.templates import ways
from flows.adapters.estate import load_estate
from flows.adapters.settings import PROJECT_ROOT, Settings
from flows.core.placement.job_variables import job_variables, run_tags
from tests.clouds.kube_world import INFRA, NAMESPACE, POOL, WORKER
from tests.core.placement.test_kubernetes_manifest import SCHEDULERS
from tests.emulators import kube

worker = pytest.importorskip("prefect_kubernetes.worker", reason="prefect-kubernetes is not installed: `make setup-clouds`")

pytestmark = pytest.mark.clouds

DIGEST = f"sha256:{'0' * 64}"
SCHEMAS = PROJECT_ROOT / "tests" / "golden" / "schemas"
ESTATE = load_estate(PROJECT_ROOT / "deployments" / "estate")
SHIPPED = ESTATE.pool_by_name[POOL]
OFFERS = {offer.name: offer for offer in ESTATE.offers_of(SHIPPED)}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kube.Cluster]:
    """With the namespace as `infra/kubernetes` makes it."""
    controllers = ("serviceaccount", "serviceaccount-token", "resourcequota")
    with kube.cluster(tmp_path_factory.mktemp("kube"), controllers=controllers) as made:
        applied = made.kubectl("apply", "-k", str(INFRA))
        assert applied.returncode == 0, applied.stderr
        for name in ("batch", "train"):
            made.create({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": 50})
        yield made


def documents(path: Path) -> list[dict[str, Any]]:
    """All objects of a file."""
    return list(YAML(typ="safe").load_all(path.read_text()))


INFRA_OBJECTS = [
    pytest.param(one, id=f"{one['kind']}-{one['metadata']['name']}")
    for path in sorted(INFRA.glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for one in documents(path)
]
QUEUE_OBJECTS = [
    pytest.param(one, id=f"{one['kind']}-{one['metadata']['name']}")
    for path in sorted((INFRA / "queues").glob("*.yaml"))
    for one in documents(path)
]


def lost(sent: Any, kept: Any, path: str = "") -> Iterator[str]:
    """Paths of what was sent and is not in what the server keeps."""
    if isinstance(sent, Mapping) and isinstance(kept, Mapping):
        for key, value in sent.items():
            if value not in ({}, []) and key not in kept:
                yield f"{path}.{key}"
            elif key in kept:
                yield from lost(value, kept[key], f"{path}.{key}")
    elif isinstance(sent, list) and isinstance(kept, list):
        if len(sent) != len(kept):
            yield path
        for index, (one, other) in enumerate(zip(sent, kept, strict=False)):
            yield from lost(one, other, f"{path}[{index}]")
    elif type(sent) is not type(kept) and str(sent) != str(kept):
        yield path


def manifest(tmp_path: Path, scheduler: str, offer: str, *, spot: bool = False) -> dict[str, Any]:
    """The job that the unmodified worker would make for that offer, in the shipped estate with that scheduler."""
    folder = tmp_path / f"{scheduler}-{offer}"
    shutil.copytree(PROJECT_ROOT / "deployments", folder, ignore=shutil.ignore_patterns("__pycache__", "*.py"))
    declare(folder / "estate", scheduler)
    pool = next(one for one in load(Settings(profile="cloud", deployments=folder), ApplyOptions()).pools if one.name == POOL)
    tags = run_tags("flight_delay", "train", "flight_delay/train/2013-07")
    asked = job_variables("kubernetes", OFFERS[offer], spot=spot, nodes=1, tags=tags, image=DIGEST) | {"deadline_seconds": 4000}
    return configured(dict(pool.template), asked)


def configured(template: dict[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """By the worker's own model."""
    from prefect.client.schemas.objects import FlowRun

    kind = worker.KubernetesWorker.job_configuration
    made = asyncio.run(kind.from_template_and_values(json.loads(json.dumps(template)), dict(asked), client=object()))
    made.prepare_for_flow_run(FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="careful-owl"))
    found: dict[str, Any] = made.job_manifest
    return found


def declare(estate: Path, scheduler: str) -> None:
    """Let the pool have that scheduler; a fraction is a fraction in the table of offers, too."""
    yaml = YAML()
    path = estate / "pools.yaml"
    rows = yaml.load(path.read_text())
    row = next(row for row in rows if row["name"] == POOL)
    row["kubernetes"] = {"namespace": NAMESPACE, "scheduler": scheduler, **SCHEDULERS[scheduler]}
    with path.open("w") as file:
        yaml.dump(rows, file)
    if fraction := SCHEDULERS[scheduler].get("gpu_fraction"):
        table = estate / "offers.csv"
        table.write_text(table.read_text().replace(",a100-16c-128g,A100,1,", f",a100-16c-128g,A100,{fraction},"))


@pytest.mark.parametrize("sent", INFRA_OBJECTS)
def test_the_server_keeps_every_field_of_what_a_namespace_needs(cluster: kube.Cluster, sent: dict[str, Any]) -> None:
    """Service accounts, role and binding, quota, limits, network policies: nothing is dropped as unknown."""
    found = cluster.kubectl("get", sent["kind"], sent["metadata"]["name"], "-n", NAMESPACE, "-o", "json")
    assert found.returncode == 0, found.stderr
    assert list(lost(sent, json.loads(found.stdout))) == []


def problems(sent: Mapping[str, Any]) -> list[str]:
    """What is wrong with the object by its published definition; an unknown field, which a server would drop, is wrong too."""
    from jsonschema.validators import Draft202012Validator

    for path in sorted(SCHEMAS.glob("*/*.yaml")):
        (definition,) = documents(path)
        if (definition["spec"]["group"], definition["spec"]["names"]["kind"]) == (sent["apiVersion"].partition("/")[0], sent["kind"]):
            (version,) = definition["spec"]["versions"]
            assert sent["apiVersion"].endswith(f"/{version['name']}")
            judge = Draft202012Validator(closed(version["schema"]["openAPIV3Schema"]))
            return [f"{error.json_path}: {error.message}" for error in judge.iter_errors(sent)]
    raise AssertionError(f"no definition of {sent['kind']}")


def closed(schema: Any) -> Any:
    """The schema without room for fields that it does not name."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return ({"additionalProperties": False} if "properties" in schema else {}) | {key: closed(value) for key, value in schema.items()}


@pytest.mark.parametrize("sent", QUEUE_OBJECTS)
def test_the_queues_fit_the_published_definitions(sent: dict[str, Any]) -> None:
    """Every field is known and of the right type."""
    assert problems(sent) == []


@pytest.mark.parametrize(
    ("name", "spoil", "why"),
    [
        ("kai", lambda spec: spec["resources"]["gpu"].update(limit="one"), "$.spec.resources.gpu.limit"),
        ("kai", lambda spec: spec.update(parent="ml"), "'parent' was unexpected"),
        ("kueue", lambda spec: spec.update(queueingStrategy="LIFO"), "$.spec.queueingStrategy"),
        ("kueue", lambda spec: spec["resourceGroups"][0].pop("coveredResources"), "'coveredResources' is a required property"),
    ],
)
def test_the_definitions_do_judge(name: str, spoil: Any, why: str) -> None:
    """What does not fit is found, so that what is taken means something."""
    one = next(one for one in documents(INFRA / "queues" / f"{name}.yaml") if one["kind"] in ("Queue", "ClusterQueue"))
    spoil(one["spec"])
    (found,) = problems(one)
    assert why in found


def test_a_pod_group_of_our_job_fits_kais_definition(tmp_path: Path) -> None:
    """KAI's grouper makes it from the job's own labels and annotation (job_grouper.go, default_grouper.go); here the test does."""
    job = manifest(tmp_path, "kai", "a100-16c-128g")
    pod = job["spec"]["template"]
    spec = {
        "minMember": int(job["metadata"]["annotations"]["kai.scheduler/batch-min-member"]),
        "queue": pod["metadata"]["labels"]["kai.scheduler/queue"],
        "priorityClassName": pod["spec"]["priorityClassName"],
    }
    metadata = {"name": "pg-1", "namespace": NAMESPACE}
    assert problems({"apiVersion": "scheduling.run.ai/v2alpha2", "kind": "PodGroup", "metadata": metadata, "spec": spec}) == []


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_server_takes_the_job_from_the_worker(cluster: kube.Cluster, tmp_path: Path, scheduler: str) -> None:
    """With the worker's own token, and every field kept; only `suspend` is newer than this server."""
    sent = manifest(tmp_path, scheduler, "a100-16c-128g")
    kept = cluster.create(sent, kubeconfig=cluster.account(NAMESPACE, WORKER), dry=True)
    assert list(lost(sent, kept)) == ([".spec.suspend"] if scheduler == "kueue" else [])


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_job_fits_the_published_schema(tmp_path: Path, scheduler: str) -> None:
    """Of Kubernetes 1.37, which has job suspension; a field that it does not know would be an error."""
    made = manifest(tmp_path, scheduler, "a100-16c-128g")
    assert [error.message for error in published().iter_errors(made)] == []
    made["spec"]["suspended"] = True
    assert [error.validator for error in published().iter_errors(made)] == ["additionalProperties"]


def published() -> Any:
    """The judge of jobs."""
    from jsonschema.validators import Draft202012Validator

    return Draft202012Validator(json.loads((SCHEMAS / "kubernetes" / "job-1.37.json").read_text()))


def pod_of(job: Mapping[str, Any], **resources: str) -> dict[str, Any]:
    """The pod that the job's controller would make."""
    template = json.loads(json.dumps(job["spec"]["template"]))
    for group in template["spec"]["containers"][0]["resources"].values():
        group.update(resources)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        **template,
        "metadata": {**template["metadata"], "generateName": "tradewind-", "namespace": NAMESPACE},
    }


@pytest.mark.parametrize("offer", OFFERS)
def test_quota_and_limits_let_every_offer_in(cluster: kube.Cluster, tmp_path: Path, offer: str) -> None:
    """They are the pool's capacity, so no offer of the pool may be beyond them."""
    for spot in ways(SHIPPED, OFFERS[offer]):
        made = manifest(tmp_path / str(spot), "runai", offer, spot=spot)
        kept = cluster.create(pod_of(made), dry=True)
        assert kept["spec"]["securityContext"]["runAsNonRoot"] is True
        assert kept["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize(
    ("resources", "why"),
    [
        ({"cpu": "17"}, "maximum cpu usage per Container is 16, but limit is 17"),
        ({"nvidia.com/gpu": "2"}, "exceeded quota: tradewind, requested: requests.nvidia.com/gpu=2"),
        ({"memory": "129Gi"}, "maximum memory usage per Container is 128Gi"),
    ],
)
def test_quota_and_limits_let_nothing_larger_in(cluster: kube.Cluster, tmp_path: Path, resources: dict[str, str], why: str) -> None:
    """Refused by the server's own admission, with the reason."""
    with pytest.raises(kube.Refused) as caught:
        cluster.create(pod_of(manifest(tmp_path, "plain", "a100-16c-128g"), **resources), dry=True)
    assert why in str(caught.value)


def test_a_priority_class_must_be_there(cluster: kube.Cluster, tmp_path: Path) -> None:
    """Else the job would never get a pod."""
    pod = pod_of(manifest(tmp_path, "kai", "cpu-4c-16g"))
    pod["spec"]["priorityClassName"] = "urgent"
    with pytest.raises(kube.Refused, match="no PriorityClass with name urgent was found"):
        cluster.create(pod, dry=True)


def test_the_quotas_are_the_capacity_of_the_pool() -> None:
    """One figure in four places: pools.yaml, the namespace's quota, KAI's queue, Kueue's queue."""
    capacity = {name: float(value) for name, value in (SHIPPED.capacity or {}).items()}
    quota, limits = documents(INFRA / "quota.yaml")
    assert float(quota["spec"]["hard"]["requests.cpu"]) == capacity["cpus"] + 1
    assert float(quota["spec"]["hard"]["requests.nvidia.com/gpu"]) == capacity["A100"]
    assert float(limits["spec"]["limits"][0]["max"]["cpu"]) == max(float(offer.cpus or 0) for offer in OFFERS.values())
    kai = next(one for one in documents(INFRA / "queues" / "kai.yaml") if one["metadata"]["name"] == "tradewind")["spec"]["resources"]
    assert (kai["cpu"]["limit"] / 1000, kai["gpu"]["limit"]) == (capacity["cpus"], capacity["A100"])
    kueue = next(one for one in documents(INFRA / "queues" / "kueue.yaml") if one["kind"] == "ClusterQueue")
    quotas = {one["name"]: one["nominalQuota"] for one in kueue["spec"]["resourceGroups"][0]["flavors"][0]["resources"]}
    assert (float(quotas["cpu"]), float(quotas["nvidia.com/gpu"])) == (capacity["cpus"], capacity["A100"])


def test_kueue_covers_all_that_a_run_asks_for(tmp_path: Path) -> None:
    """A resource that its queue does not cover is never admitted."""
    queue = next(one for one in documents(INFRA / "queues" / "kueue.yaml") if one["kind"] == "ClusterQueue")
    made = manifest(tmp_path, "kueue", "a100-16c-128g")
    asked = {
        "nvidia.com/gpu" if name == "amd.com/gpu" else name
        for name in made["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
    }
    assert asked <= set(queue["spec"]["resourceGroups"][0]["coveredResources"])


def test_the_names_are_those_of_the_pool() -> None:
    """The namespace, the account that runs have, the queue."""
    assert SHIPPED.kubernetes is not None
    objects = {(one.values[0]["kind"], one.values[0]["metadata"]["name"]) for one in (*INFRA_OBJECTS, *QUEUE_OBJECTS)}
    assert {("Namespace", SHIPPED.kubernetes.namespace), ("ServiceAccount", SHIPPED.kubernetes.service_account)} <= objects
    assert ("Queue", SHIPPED.kubernetes.queue) in objects
