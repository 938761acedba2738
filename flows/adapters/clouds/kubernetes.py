"""Jobs of a Kubernetes cluster, in the pool's namespace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flows.adapters.clouds import POOL, RUN, WORK_POOL, Job
from flows.core.errors import Unavailable

if TYPE_CHECKING:
    from flows.core.placement.estate import Pool, Site

SECONDS = 20
OVER = frozenset({"Complete", "Failed"})
DEFAULT_NAMESPACE = "default"


class ClusterJobs:
    """See `flows.adapters.clouds.Jobs`; `connect` says which cluster is asked."""

    def __init__(self, pool: Pool, site: Site) -> None:
        self._pool, self._site = pool.name, site.id
        self._namespace = pool.kubernetes.namespace if pool.kubernetes is not None else DEFAULT_NAMESPACE

    def list(self) -> list[Job]:
        """Those of the pool that are neither complete nor failed nor being deleted."""
        with self._batch(f"cannot list the jobs of namespace `{self._namespace}`") as batch:
            rows = batch.list_namespaced_job(self._namespace, label_selector=f"{POOL}={self._pool}", _request_timeout=SECONDS).items
        return [self._job(row) for row in rows if not _is_over(row)]

    def end(self, job: Job) -> None:
        """Delete it, and with it its pods."""
        from kubernetes.client import ApiException

        with self._batch(f"cannot delete job `{job.id}`") as batch:
            try:
                batch.delete_namespaced_job(
                    job.id.partition(":")[2], self._namespace, propagation_policy="Background", _request_timeout=SECONDS
                )
            except ApiException as error:
                if error.status != 404:
                    raise

    def _job(self, row: Any) -> Job:
        labels = row.metadata.labels or {}
        return Job(
            f"{self._namespace}:{row.metadata.name}", labels.get(RUN, ""), labels.get(WORK_POOL, ""), row.metadata.creation_timestamp
        )

    @contextmanager
    def _batch(self, what: str) -> Iterator[Any]:
        from kubernetes import client, config
        from urllib3.exceptions import HTTPError

        try:
            with connect(self._site) as api:
                yield client.BatchV1Api(api)
        except (client.ApiException, HTTPError, OSError, config.ConfigException) as error:
            told = getattr(error, "reason", None) or str(error).partition("\n")[0] or type(error).__name__
            raise Unavailable(f"{what}: {told}", fix="is the cluster up, and does the service account's role hold?") from error


def connect(site: str) -> Any:
    """A client of a site's cluster: the kubeconfig's context named as the site; else the cluster of this process; else the current context.

    Raises:
        ConfigException: none of them is there (`kubernetes.config`).
    """
    from kubernetes import client, config

    try:
        named = any(context["name"] == site for context in config.list_kube_config_contexts()[0])
    except config.ConfigException:
        named = False
    if named:
        api = config.new_client_from_config(context=site)
    else:
        try:
            config.load_incluster_config()
            api = client.ApiClient()
        except config.ConfigException:
            api = config.new_client_from_config()
    # a cluster that is gone is told at once, not after three tries
    api.configuration.retries = False
    return api


def _is_over(row: Any) -> bool:
    if row.metadata.deletion_timestamp is not None:
        return True
    return any(condition.type in OVER and condition.status == "True" for condition in row.status.conditions or ())
