"""What a cluster says of the Kubernetes pools of a site: namespace, runs' account, quota, priority class, queue. Reads only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from deployments.apply.cloud_checks import Found, Looked
from flows.adapters.clouds.kubernetes import connect
from flows.core.placement.estate import Pool
from flows.core.placement.kubernetes_pool import Kubernetes

OK, MISSING = 200, 404
SECONDS = 10
APPLY = "kubectl apply -k infra/kubernetes (docs/kubernetes.md)"
QUEUES = {
    "kai": ("Queue", "/apis/scheduling.run.ai/v2/queues/{queue}"),
    "kueue": ("LocalQueue", "/apis/kueue.x-k8s.io/v1beta2/namespaces/{namespace}/localqueues/{queue}"),
}
"""Where a scheduler keeps its queues."""
COUNTED = {"cpus": "requests.cpu"}
"""A pool's capacity to the quota's name of it; accelerators are counted by the pool's own resource."""


def look(at: Looked) -> Iterator[Found]:
    """Each check of the site's Kubernetes pools; where the cluster does not answer, no other check is made."""
    from kubernetes import client, config
    from urllib3.exceptions import HTTPError

    for row, pool in at.pools:
        if pool.kubernetes is None:
            continue
        try:
            with connect(at.site.id) as api:
                yield from _Cluster(at, row, pool, pool.kubernetes, api).checks()
        except (client.ApiException, HTTPError, OSError, config.ConfigException) as error:
            told = getattr(error, "reason", None) or str(error).partition("\n")[0]
            fix = f"see KUBECONFIG: its context named `{at.site.id}` is taken, else this process's cluster, else the current context"
            yield at.unknown("cluster", f"{pool.name}: {told}", fix)


class _Cluster:
    def __init__(self, at: Looked, row: int, pool: Pool, declared: Kubernetes, api: Any) -> None:
        self.at, self.row, self.pool, self.declared, self.api = at, row, pool, declared, api

    def checks(self) -> Iterator[Found]:
        where = f"/api/v1/namespaces/{self.declared.namespace}"
        account = f"service account `{self.declared.service_account}` in namespace `{self.declared.namespace}`"
        yield self._there("account", account, f"{where}/serviceaccounts/{self.declared.service_account}", APPLY)
        if self.declared.priority_class is not None and self.declared.scheduler != "kueue":
            name = self.declared.priority_class
            fix = "without it no job gets a pod: make it, or name another"
            yield self._there("priority class", f"PriorityClass `{name}`", f"/apis/scheduling.k8s.io/v1/priorityclasses/{name}", fix)
        if self.declared.scheduler in QUEUES:
            kind, path = QUEUES[self.declared.scheduler]
            path = path.format(queue=self.declared.queue, namespace=self.declared.namespace)
            fix = f"make it (infra/kubernetes/queues/{self.declared.scheduler}.yaml), or name another"
            yield self._there("queue", f"{kind} `{self.declared.queue}`", path, fix)
        yield from self._quota(f"{where}/resourcequotas")

    def _there(self, check: str, what: str, path: str, fix: str) -> Found:
        status, _ = self._get(path)
        if status == OK:
            return self.at.ok(check, f"{what} is there")
        if status == MISSING:
            return self.at.wrong(check, self.at.at_pool(self.row, f"there is no {what}", field="kubernetes", fix=fix))
        return self.at.unknown(check, f"{what}: the API server answers {status}", "let this identity read it")

    def _quota(self, path: str) -> Iterator[Found]:
        """Whether each quota leaves room for the pool's capacity."""
        from kubernetes.utils.quantity import parse_quantity

        status, body = self._get(path)
        if status != OK:
            yield self.at.unknown("quota", f"the API server answers {status}", "let this identity list quotas")
            return
        hard = {name: value for quota in body["items"] for name, value in quota["spec"].get("hard", {}).items()}
        short = []
        for name, capacity in sorted((self.pool.capacity or {}).items()):
            counted = COUNTED.get(name) or (None if name in ("nodes", "memory_gib") else f"requests.{self.declared.gpu_resource}")
            if counted in hard and Decimal(parse_quantity(hard[counted])) < capacity:  # type: ignore[no-untyped-call]
                short.append(f"`{counted}` is {hard[counted]}, but the pool's capacity is {capacity} {name}")
        for what in short:
            fix = "raise the quota, or lower `capacity`: jobs beyond it wait without a word"
            yield self.at.wrong("quota", self.at.at_pool(self.row, what, field="capacity", fix=fix))
        if not short:
            yield self.at.ok("quota", f"the quotas of `{self.declared.namespace}` leave room for the pool's capacity")

    def _get(self, path: str) -> tuple[int, Any]:
        """The API server's answer."""
        asked = self.api.param_serialize("GET", path, header_params={"Accept": "application/json"}, auth_settings=["BearerToken"])
        answer = self.api.call_api(*asked, _request_timeout=SECONDS)
        data = answer.read()
        return answer.status, json.loads(data) if answer.status == OK else None
