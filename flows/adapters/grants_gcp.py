"""Grants of Google Cloud IAM: every member of every binding of projects, folders and organisations, and of all that lies beneath.

Read with the official client over REST and the application's default credentials. The interface keeps neither the day of a binding nor
its last use. Bindings on single resources, such as one bucket, are not in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flows.core.errors import Unavailable, UserError
from flows.core.governance.access import Source
from flows.core.governance.reviews import Grant, PrincipalKind, Trait

TIMEOUT = 30.0
"""Seconds for one answer, tries included."""
ADMIN = ("roles/owner", "roles/editor")
READS = ("roles/viewer", "roles/storage.", "roles/bigquery.data", "roles/bigquery.admin", "roles/secretmanager.")
KINDS: dict[str, PrincipalKind] = {"user": "person", "serviceAccount": "service", "group": "group", "domain": "group"}
NOUNS = {
    "projects": ("gcloud", "projects"),
    "folders": ("gcloud", "resource-manager", "folders"),
    "organizations": ("gcloud", "organizations"),
}


def collect(source: Source) -> list[Grant]:
    """Every grant of the declared resources and of what lies beneath them.

    Raises:
        Unavailable: the interface does not answer, or does not let this identity read; nothing is returned then.
        UserError: the client is not installed.
    """
    try:
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import RequestException
    except ModuleNotFoundError:
        raise UserError(f"source `{source.name}` needs `google-cloud-resource-manager`, which is not installed", fix="install it") from None
    try:
        return list(_collect(source))
    except (GoogleAPIError, GoogleAuthError, RequestException) as error:
        raise Unavailable(f"Google Cloud IAM could not be read: {error}") from error


def _collect(source: Source) -> Iterator[Grant]:
    clients = {noun: _client(noun, source.endpoint) for noun in NOUNS}
    waiting, seen = list(source.resources), set[str]()
    while waiting:
        resource = waiting.pop(0)
        noun = resource.partition("/")[0]
        if noun not in NOUNS:
            raise UserError(f"`{resource}` is no resource of Google Cloud", expected="`projects/…`, `folders/…` or `organizations/…`")
        if resource in seen:
            continue
        seen.add(resource)
        request = {"resource": resource, "options": {"requested_policy_version": 3}}  # older versions leave conditions out
        for binding in clients[noun].get_iam_policy(request=request, timeout=TIMEOUT).bindings:
            yield from _binding(source.name, resource, binding)
        if noun != "projects":
            waiting += [f"projects/{one.project_id}" for one in clients["projects"].list_projects(parent=resource, timeout=TIMEOUT)]
            waiting += [one.name for one in clients["folders"].list_folders(parent=resource, timeout=TIMEOUT)]


def _client(noun: str, endpoint: str | None) -> Any:
    from google.cloud import resourcemanager_v3

    kind = getattr(resourcemanager_v3, f"{noun.title()}Client")
    if endpoint is None:
        return kind(transport="rest")
    scheme, _, host = endpoint.rpartition("://")
    transport = kind.get_transport_class("rest")
    if scheme == "http":  # no credentials go where nothing is encrypted
        from google.auth.credentials import AnonymousCredentials

        return kind(transport=transport(host=host, url_scheme="http", credentials=AnonymousCredentials()))
    return kind(transport=transport(host=host))


def _binding(source: str, resource: str, binding: Any) -> Iterator[Grant]:
    role, condition = binding.role, binding.condition
    noun, _, name = resource.partition("/")
    detail = f"if {condition.expression}" if condition.expression else ""
    only = f"--condition=expression={condition.expression},title={condition.title}" if detail else "--condition=None"
    for member in binding.members:
        prefix, principal, kind = _member(member)
        yield Grant(
            source=source,
            principal=principal,
            kind=kind,
            permissions=(role,),
            scopes=(resource,),
            slot=f"{resource} {role} {condition.title} {prefix}",
            via=f"binding on {resource}",
            detail=detail,
            traits=_traits(role),
            revoke=(*NOUNS[noun], "remove-iam-policy-binding", name, f"--member={prefix}{{principal}}", f"--role={role}", only),
        )


def _member(member: str) -> tuple[str, str, PrincipalKind]:
    """What stands before the name, the name, and what it is."""
    if member in ("allUsers", "allAuthenticatedUsers"):
        return "", member, "public"
    gone = member.startswith("deleted:")
    prefix, _, name = member.removeprefix("deleted:").partition(":")
    return f"{'deleted:' if gone else ''}{prefix}:", name, "gone" if gone else KINDS.get(prefix, "service")


def _traits(role: str) -> frozenset[Trait]:
    found: set[Trait] = set()
    if role in ADMIN or role.endswith("organizationAdmin"):
        found |= {"admin", "reads-data"}
    if role.startswith(READS):
        found.add("reads-data")
    return frozenset(found)
