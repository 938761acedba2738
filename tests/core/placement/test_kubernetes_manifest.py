"""The job manifest of a Kubernetes pool, for each scheduler as written down in `tests/golden/kubernetes`.

The golden manifests are the whole template of the pool, `${…}` and `{{…}}` still in it, as YAML. Set TRADEWIND_WRITE_GOLDEN to write them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows.core.placement import kubernetes_manifest
from flows.core.placement.estate import Pool
from flows.core.placement.kubernetes_pool import Kubernetes
from flows.core.placement.web_identity import WebIdentity

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "kubernetes"
SCHEDULERS: dict[str, dict[str, Any]] = {
    "plain": {
        "priority_class": "batch",
        "node_selector": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"},
        "tolerations": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}, {"key": "team", "operator": "Equal", "value": "ml"}],
    },
    "kai": {"queue": "tradewind", "priority_class": "train", "gang": True},
    "kai-fraction": {"scheduler": "kai", "queue": "tradewind", "gpu_fraction": "0.5"},
    "runai": {"project": "tradewind", "priority_class": "train", "gpu_fraction": "0.25"},
    "kueue": {"queue": "tradewind", "priority_class": "train", "gpu_resource": "amd.com/gpu"},
}


def template() -> dict[str, Any]:
    """The shipped job manifest."""
    body = json.loads((ROOT / "deployments" / "templates" / "kubernetes.json").read_text())
    found: dict[str, Any] = body["job_configuration"]["job_manifest"]
    return found


def pool(name: str) -> Pool:
    """A pool of that case."""
    cluster = Kubernetes(**{"namespace": "tradewind", "scheduler": name, **SCHEDULERS[name]})
    known = WebIdentity(issuer="https://kubernetes.example.com")
    return Pool(name="onprem", site="onprem", type="kubernetes", offers=(), kubernetes=cluster, web_identity=known)


def made(name: str) -> dict[str, Any]:
    """Its manifest."""
    return kubernetes_manifest.manifest(template(), pool(name))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_manifest_is_as_written_down(name: str) -> None:
    """Any change of what a cluster is sent is seen in a review."""
    path = GOLDEN / f"{name}.yaml"
    yaml = YAML()
    yaml.width = 200
    if "TRADEWIND_WRITE_GOLDEN" in os.environ:
        with path.open("w") as file:
            yaml.dump(made(name), file)
    assert made(name) == YAML(typ="safe").load(path.read_text())


def test_a_pool_without_a_cluster_has_the_template_alone() -> None:
    """As on EKS or GKE with nothing declared."""
    bare = Pool(name="gke", site="gke", type="kubernetes", offers=())
    assert kubernetes_manifest.manifest(template(), bare) == template()
    assert kubernetes_manifest.values(bare) == {}


def test_a_fraction_asks_for_no_whole_gpu() -> None:
    """KAI and Run:ai refuse a pod that asks for both."""
    (container,) = made("kai-fraction")["spec"]["template"]["spec"]["containers"]
    assert not [name for group in container["resources"].values() for name in group if "gpu" in name]
    assert made("kai-fraction")["spec"]["template"]["metadata"]["annotations"] == {"gpu-fraction": "0.5"}


def test_only_kueue_jobs_are_made_suspended() -> None:
    """Nobody would ever resume the others."""
    assert [name for name in SCHEDULERS if made(name)["spec"].get("suspend")] == ["kueue"]


def test_the_queue_of_kueue_is_on_no_pod() -> None:
    """Else the pod, too, would wait for admission."""
    labels = made("kueue")["spec"]["template"]["metadata"]["labels"]
    assert not [name for name in labels if "kueue" in name]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_pods_are_restricted(name: str) -> None:
    """The rules of the Pod Security Standards' "restricted" profile, and a read-only root with one scratch volume."""
    assert list(unrestricted(made(name)["spec"]["template"]["spec"])) == []


def unrestricted(pod: dict[str, Any]) -> Iterator[str]:
    """What the profile forbids (docs/concepts/security/pod-security-standards), and what we ask beyond it."""
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            yield name
    security = pod["securityContext"]
    if not security["runAsNonRoot"] or security["runAsUser"] == 0:
        yield "may be root"
    if security["seccompProfile"]["type"] != "RuntimeDefault":
        yield "seccomp"
    if pod["automountServiceAccountToken"]:
        yield "has a token of the API server"
    for volume in pod["volumes"]:
        if set(volume) not in ({"name", "emptyDir"}, {"name", "projected"}):
            yield f"volume {volume['name']}"
    for container in pod["containers"]:
        own = container["securityContext"]
        if own["allowPrivilegeEscalation"] or own["privileged"] or not own["readOnlyRootFilesystem"]:
            yield "privileges"
        if own["capabilities"] != {"drop": ["ALL"]}:
            yield "capabilities"
        if [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")] != ["/tmp"]:
            yield "writes elsewhere than scratch"


def test_a_token_is_mounted_where_the_pool_is_known_by_one() -> None:
    """For that audience, an hour at most; the API server's own token is not among them. Without, there is no volume and no variable."""
    pod = made("plain")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    token = {"audience": "sts.amazonaws.com", "expirationSeconds": 3600, "path": "token"}
    assert pod["volumes"][1:] == [{"name": "identity", "projected": {"sources": [{"serviceAccountToken": token}]}}]
    (variable,) = container["env"]
    assert variable == {"name": "AWS_WEB_IDENTITY_TOKEN_FILE", "value": f"{container['volumeMounts'][1]['mountPath']}/token"}
    bare = kubernetes_manifest.manifest(template(), pool("plain").model_copy(update={"web_identity": None}))["spec"]["template"]["spec"]
    assert [volume["name"] for volume in bare["volumes"]] == ["scratch"]
    assert bare["containers"][0]["env"] == {}


@pytest.mark.parametrize(
    ("kind", "given", "why"),
    [
        ("kubernetes", {"subject": "104857600000000000001"}, "the cluster's own `issuer`, and no `subject`"),
        ("vertex-ai", {}, "takes the `subject`"),
        ("vertex-ai", {"subject": "104857600000000000001", "issuer": "https://kubernetes.example.com"}, "no other `issuer`"),
        ("ecs", {"subject": "104857600000000000001"}, "is for Google's pools"),
    ],
)
def test_a_pool_has_only_the_token_that_its_platform_signs(kind: str, given: dict[str, Any], why: str) -> None:
    """Anything else would be trusted and never come."""
    cluster = {"namespace": "tradewind"} if kind == "kubernetes" else None
    with pytest.raises(ValueError, match=why):
        Pool.model_validate({"name": "one", "site": "one", "type": kind, "kubernetes": cluster, "web_identity": given})


def test_the_template_is_not_changed() -> None:
    """It is filled for many pools."""
    before = template()
    kubernetes_manifest.manifest(before, pool("kueue"))
    assert before == template()


def test_what_the_cluster_declares_fills_the_template() -> None:
    """Namespace, account, and a wait above the queue's."""
    assert kubernetes_manifest.values(pool("kai")) == {
        "namespace": "tradewind", "role": "tradewind-run", "pod_watch_timeout_seconds": 4200,
    }  # fmt: skip


def test_a_job_is_ended_after_its_wait_and_twice_its_time() -> None:
    """Else one without a pod would wait for ever."""
    assert kubernetes_manifest.deadline_seconds(pool("kai"), timedelta(hours=2)) == 4200 + 2 * 7200
