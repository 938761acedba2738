"""Grants of Kubernetes RBAC: every subject of every RoleBinding and ClusterRoleBinding, with what its role allows.

Read with the official client and the usual kubeconfig, or the pod's own service account. Kubernetes keeps no last use.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from flows.core.errors import Unavailable, UserError
from flows.core.governance.access import Source
from flows.core.governance.reviews import Grant, PrincipalKind, Trait

PAGE = 100
TIMEOUT = (10, 30)
"""Seconds to connect and to wait for an answer."""


def collect(source: Source) -> list[Grant]:
    """Every grant of the cluster.

    Raises:
        Unavailable: the API server does not answer, or does not let this identity read; nothing is returned then.
        UserError: the client is not installed.
    """
    try:
        from kubernetes import client, config
        from kubernetes.client.exceptions import ApiException
        from kubernetes.config.config_exception import ConfigException
        from pydantic import ValidationError
        from urllib3.exceptions import HTTPError
    except ModuleNotFoundError:
        raise UserError(f"source `{source.name}` needs `kubernetes`, which is not installed", fix="install it") from None
    try:
        settings = client.Configuration()
        if "KUBERNETES_SERVICE_HOST" in os.environ and source.context is None and "KUBECONFIG" not in os.environ:
            config.load_incluster_config(client_configuration=settings)
        else:
            config.load_kube_config(os.environ.get("KUBECONFIG"), context=source.context, client_configuration=settings)
        if source.endpoint:
            settings.host = source.endpoint
        settings.retries = 2
        with client.ApiClient(settings) as connection:
            return list(_collect(source.name, client.RbacAuthorizationV1Api(connection)))
    except ApiException as error:
        raise Unavailable(f"Kubernetes could not be read: {error.status} {error.reason}") from error
    except (HTTPError, ConfigException, ValidationError, OSError) as error:
        raise Unavailable(f"Kubernetes could not be read: {error}") from error


def _collect(source: str, api: Any) -> Iterator[Grant]:
    rules = {("ClusterRole", "", role.metadata.name): role.rules or () for role in _pages(api.list_cluster_role)}
    rules |= {("Role", role.metadata.namespace, role.metadata.name): role.rules or () for role in _pages(api.list_role_for_all_namespaces)}
    for binding in _pages(api.list_cluster_role_binding):
        yield from _binding(source, "clusterrolebinding", binding, rules)
    for binding in _pages(api.list_role_binding_for_all_namespaces):
        yield from _binding(source, "rolebinding", binding, rules)


def _pages(listing: Callable[..., Any]) -> Iterator[Any]:
    following: str | None = None
    while True:
        more = {} if following is None else {"_continue": following}
        found = listing(limit=PAGE, _request_timeout=TIMEOUT, **more)
        yield from found.items
        following = found.metadata._continue
        if not following:
            return


def _binding(source: str, noun: str, binding: Any, rules: dict[tuple[str, str, str], Iterable[Any]]) -> Iterator[Grant]:
    space = binding.metadata.namespace
    name, role, subjects = binding.metadata.name, binding.role_ref, binding.subjects or ()
    allowed = rules.get((role.kind, space if role.kind == "Role" else "", role.name))
    told = [_told(rule) for rule in allowed or ()]
    where = ("-n", space) if space else ()
    for index, subject in enumerate(subjects):
        principal, kind = _subject(subject)
        raw = "{principal_json}" if kind == "person" else json.dumps(subject.name)[1:-1]
        patch = f'[{{"op":"test","path":"/subjects/{index}/name","value":"{raw}"}},{{"op":"remove","path":"/subjects/{index}"}}]'
        yield Grant(
            source=source,
            principal=principal,
            kind=kind,
            permissions=(role.name,),
            scopes=(f"namespace/{space}" if space else "cluster",),
            slot=f"{noun}/{space or ''}/{name}/{subject.kind}",
            via=f"{noun} {name}",
            detail="; ".join(told) if allowed is not None else f"{role.kind} {role.name} does not exist",
            traits=_traits(allowed or ()),
            granted_at=binding.metadata.creation_timestamp,
            revoke=("kubectl", "patch", noun, name, *where, "--type=json", "-p", patch)
            if len(subjects) > 1
            else ("kubectl", "delete", noun, name, *where),
        )


def _subject(subject: Any) -> tuple[str, PrincipalKind]:
    if subject.kind == "ServiceAccount":
        return f"system:serviceaccount:{subject.namespace}:{subject.name}", "service"
    if subject.kind == "Group":
        return subject.name, "public" if subject.name in ("system:unauthenticated",) else "group"
    if subject.name == "system:anonymous":
        return subject.name, "public"
    return subject.name, "service" if subject.name.startswith("system:") else "person"


def _told(rule: Any) -> str:
    what = [*(f"{group}/{one}" if group else one for group in rule.api_groups or () for one in rule.resources or ())]
    what += getattr(rule, "non_resource_urls", None) or getattr(rule, "non_resource_ur_ls", None) or ()  # renamed in client 37
    only = f" named {', '.join(sorted(rule.resource_names))}" if rule.resource_names else ""
    return f"{', '.join(sorted(rule.verbs))} {', '.join(sorted(what))}{only}"


def _traits(rules: Iterable[Any]) -> frozenset[Trait]:
    found: set[Trait] = set()
    for rule in rules:
        verbs, resources, groups = set(rule.verbs or ()), set(rule.resources or ()), set(rule.api_groups or ())
        if "*" in verbs:
            found.add("any-action")
        if "*" in resources:
            found.add("any-resource")
        if "*" in verbs and "*" in resources and "*" in groups:
            found.add("admin")
        if verbs & {"*", "get", "list", "watch"} and resources & {"*", "secrets", "configmaps"} and groups & {"*", ""}:
            found.add("reads-data")
        if verbs & {"*", "create", "get"} and resources & {"*", "pods/exec"} and groups & {"*", ""}:
            found.add("reads-data")
        if verbs & {"escalate", "bind", "impersonate"}:
            found.add("admin")
    return frozenset(found)
