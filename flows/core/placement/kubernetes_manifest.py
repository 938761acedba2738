"""The job manifest of a Kubernetes pool: what its cluster's scheduler, nodes and security rules want, laid over the pool's template.

The fields, as published (read 2026-11-24):
- Kubernetes: `batch/v1` Job and `core/v1` PodSpec; `suspend` since 1.21 (docs/concepts/workloads/controllers/job), "restricted" of the Pod
  Security Standards (docs/concepts/security/pod-security-standards).
- KAI scheduler (NVIDIA/KAI-Scheduler, Apache-2.0): `schedulerName: kai-scheduler` and label `kai.scheduler/queue`
  (pkg/common/constants/constants.go, docs/batch), annotation `gpu-fraction` on the pod, which then asks for no whole GPU
  (docs/gpu-sharing), `priorityClassName` of the pod (docs/priority), annotation
  `kai.scheduler/batch-min-member` on the Job (docs/batch, after v0.13).
- Run:ai, which is built on it: `schedulerName: runai-scheduler` (docs.nvidia.com/run-ai, "Setting the default scheduler"), label `project`
  (KAI's pkg/podgrouper/podgrouper/plugins/constants), from which the queue follows, label `priorityClassName` (the same; KAI's
  docs/priority), annotation `gpu-fraction`.
- Kueue (kubernetes-sigs/kueue, Apache-2.0): labels `kueue.x-k8s.io/queue-name` and `kueue.x-k8s.io/priority-class` on the Job, which is
  made suspended and resumed once admitted (pkg/controller/constants/constants.go, site/content/en/docs/tasks/run/jobs.md).
- Web identity: a projected volume with a `serviceAccountToken` (docs/concepts/storage/projected-volumes), which the kubelet renews before
  it ends; `AWS_WEB_IDENTITY_TOKEN_FILE`, as AWS's clients call its path.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from flows.core.canonical import plain
from flows.core.placement.estate import Pool
from flows.core.placement.kubernetes_pool import Kubernetes

PODS = 1
"""Prefect's worker runs a flow in one pod; a run of several nodes is refused before it is sent."""
GPUS = "{{ gpus }}"
SCHEDULER_NAMES: Mapping[str, str] = {"kai": "kai-scheduler", "runai": "runai-scheduler"}
"""`schedulerName` where it is not Kubernetes' own."""
OVERRUN = 2
"""How many times its decided time at p90 a run may take before it is ended."""
UNDECLARED_WAIT_SECONDS = 3600
TOKEN, TOKEN_FOLDER = "identity", "/var/run/secrets/tradewind"
"""The volume with the token by which other clouds know a run, and where it is."""
TOKEN_SECONDS = 3600
"""How long such a token holds."""

Json = dict[str, Any]


def manifest(base: Mapping[str, Any], pool: Pool) -> Json:
    """The template's job manifest with all that the pool's cluster decides; placeholders of either kind are left as they are.

    Args:
        base: `job_manifest` of the pool's template.
        pool: of type `kubernetes`, with or without a declared cluster; without, the template alone decides.
    """
    cluster = pool.kubernetes
    if cluster is None:
        return dict(base)
    made = merged(base, {"metadata": _job_metadata(cluster), "spec": {**_job_spec(cluster), "template": _pod(cluster, base)}})
    return made if pool.web_identity is None else _with_token(made, pool.web_identity.audience)


def values(pool: Pool) -> Json:
    """What the declared cluster fills the template's placeholders with."""
    if pool.kubernetes is None:
        return {}
    return {
        "namespace": pool.kubernetes.namespace,
        "role": pool.kubernetes.service_account,
        "pod_watch_timeout_seconds": pool.kubernetes.watch_seconds,
    }


def deadline_seconds(pool: Pool, planned: timedelta) -> int:
    """When Kubernetes ends the job, in seconds after it was made: the longest wait for its pod and twice the decided time at p90.

    A job that never gets a pod (no quota, no node, no image) ends then as well, since nothing else would end it. With Kueue, the time
    before admission does not count.
    """
    wait = pool.kubernetes.watch_seconds if pool.kubernetes is not None else UNDECLARED_WAIT_SECONDS
    return wait + OVERRUN * math.ceil(planned.total_seconds())


def _job_metadata(cluster: Kubernetes) -> Json:
    labels = _queue_labels(cluster)
    if cluster.scheduler == "kueue" and cluster.priority_class is not None:
        labels["kueue.x-k8s.io/priority-class"] = cluster.priority_class
    return _metadata(labels, {"kai.scheduler/batch-min-member": str(PODS)} if cluster.gang else {})


def _metadata(labels: Json, annotations: Json) -> Json:
    return {name: value for name, value in (("labels", labels), ("annotations", annotations)) if value}


def _queue_labels(cluster: Kubernetes) -> Json:
    match cluster.scheduler:
        case "kueue":
            return {"kueue.x-k8s.io/queue-name": cluster.queue}
        case "kai":
            return {"kai.scheduler/queue": cluster.queue}
        case "runai":
            return {"project": cluster.project} | ({} if cluster.priority_class is None else {"priorityClassName": cluster.priority_class})
        case "plain":
            return {}


def _job_spec(cluster: Kubernetes) -> Json:
    suspended = {"suspend": True} if cluster.scheduler == "kueue" else {}
    return {"parallelism": PODS, "completions": PODS, **suspended}


def _pod(cluster: Kubernetes, base: Mapping[str, Any]) -> Json:
    # Kueue's queue is the job's alone: with its label, a pod would be admitted a second time
    labels = {} if cluster.scheduler == "kueue" else _queue_labels(cluster)
    annotations = {} if cluster.gpu_fraction is None else {"gpu-fraction": plain(cluster.gpu_fraction)}
    spec: Json = {
        "nodeSelector": dict(cluster.node_selector),
        "tolerations": [toleration.model_dump(exclude_none=True) for toleration in cluster.tolerations],
        "schedulerName": SCHEDULER_NAMES.get(cluster.scheduler),
        "priorityClassName": cluster.priority_class if cluster.scheduler in ("plain", "kai") else None,
        "containers": [_container(cluster, base)],
    }
    return {"metadata": _metadata(labels, annotations), "spec": {name: value for name, value in spec.items() if value}}


def _container(cluster: Kubernetes, base: Mapping[str, Any]) -> Json:
    """The template's container; a fraction of a GPU is no resource of it."""
    (container,) = base["spec"]["template"]["spec"]["containers"]
    gpus = {} if cluster.gpu_fraction is not None else {cluster.gpu_resource: GPUS}
    asked = {
        group: {name: value for name, value in container["resources"][group].items() if value != GPUS} | gpus
        for group in ("requests", "limits")
    }
    return {**container, "resources": asked}


def _with_token(made: Mapping[str, Any], audience: str) -> Json:
    """The job with a token of the runs' service account, for that audience alone: the API server takes it from nobody."""
    spec = made["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    source = {"serviceAccountToken": {"audience": audience, "expirationSeconds": TOKEN_SECONDS, "path": "token"}}
    own = {
        **container,
        "env": [{"name": "AWS_WEB_IDENTITY_TOKEN_FILE", "value": f"{TOKEN_FOLDER}/token"}],
        "volumeMounts": [*container["volumeMounts"], {"name": TOKEN, "mountPath": TOKEN_FOLDER, "readOnly": True}],
    }
    volumes = [*spec["volumes"], {"name": TOKEN, "projected": {"sources": [source]}}]
    return merged(made, {"spec": {"template": {"spec": {"containers": [own], "volumes": volumes}}}})


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Json:
    """Both mappings in one; mappings are merged, of any other value the second wins."""
    both = dict(base)
    for key, value in over.items():
        known = both.get(key)
        both[key] = merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return both
