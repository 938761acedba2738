"""What a Kubernetes namespace holds in the clear: config maps, and the environment in pod templates. Secrets belong into its Secrets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from flows.adapters.security.secrets import Text
from flows.core.errors import Unavailable, UserError

PAGE = 200
TIMEOUT = (10, 30)
"""Seconds to connect and for each answer."""


def held(namespace: str, context: str | None, pool: str) -> list[Text]:
    """Every config map, pod, deployment and job of the namespace, for the search.

    Raises:
        Unavailable: the API server does not answer, or does not let this identity read.
        UserError: the client is not installed, or there is no such context.
    """
    try:
        from kubernetes import client, config
        from kubernetes.client.exceptions import ApiException
        from kubernetes.config.config_exception import ConfigException
        from urllib3.exceptions import HTTPError
    except ModuleNotFoundError:
        raise UserError("the search of a cluster needs `kubernetes`, which is not installed", fix="install it") from None
    settings = client.Configuration()
    try:
        if context is None and not os.environ.get("KUBECONFIG") and os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(client_configuration=settings)
        else:
            config.load_kube_config(os.environ.get("KUBECONFIG"), context=context, client_configuration=settings)
    except ConfigException as error:
        raise UserError(f"no way to the cluster: {error}", fix="see KUBECONFIG, or correct `context`") from error
    settings.retries = 2
    try:
        with client.ApiClient(settings) as connection:
            return list(_held(namespace, pool, client.CoreV1Api(connection), client.AppsV1Api(connection), client.BatchV1Api(connection)))
    except (ApiException, HTTPError) as error:
        told = f"{error.status} {error.reason}" if isinstance(error, ApiException) else str(error)
        raise Unavailable(f"the Kubernetes API could not be read: {told}") from error


def _held(namespace: str, pool: str, core: Any, apps: Any, batch: Any) -> Iterator[Text]:
    for one in _pages(core.list_namespaced_config_map, namespace):
        yield Text(f"config map `{namespace}/{one.metadata.name}`", pool, dict(one.data or {}))
    listings = (("pod", core.list_namespaced_pod), ("deployment", apps.list_namespaced_deployment), ("job", batch.list_namespaced_job))
    for noun, listing in listings:
        for one in _pages(listing, namespace):
            pod = one.spec if noun == "pod" else one.spec.template.spec
            for container in (*(pod.init_containers or ()), *pod.containers):
                clear = {entry.name: entry.value for entry in container.env or () if entry.value}
                words = [*(container.command or ()), *(container.args or ())]
                yield Text(f"{noun} `{namespace}/{one.metadata.name}`", pool, {**clear, "command": words})


def _pages(listing: Any, namespace: str) -> Iterator[Any]:
    token: str | None = None
    while token is None or token:
        found = listing(namespace, limit=PAGE, _continue=token, _request_timeout=TIMEOUT)
        yield from found.items
        token = found.metadata._continue or ""
