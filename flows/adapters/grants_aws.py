"""Grants of AWS IAM: users, groups, roles, their attached and inline policies, access keys with their last use, and who may assume a role.

Read through IAM's own interface with the client's usual chain of credentials. A Deny takes rights away and is not weighed: a grant is
reported as if there were none. `granted_at` of a policy is the day its principal was made, since IAM keeps no day of attachment.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from flows.core.errors import Unavailable, UserError
from flows.core.governance.access import Source, touches
from flows.core.governance.reviews import Grant, PrincipalKind, Trait

PAGE = 100
"""Objects a page; IAM's own default."""
READS = ("s3:getobject", "dynamodb:getitem", "secretsmanager:getsecretvalue", "kms:decrypt")


@dataclass(frozen=True, slots=True)
class _Principal:
    name: str
    kind: PrincipalKind
    noun: str
    made_at: datetime
    used_at: datetime | None
    group: str = ""


@dataclass
class _Documents:
    """The policies that are attached somewhere, by ARN; each read once."""

    client: Any
    known: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, arn: str) -> dict[str, Any]:
        if arn not in self.known:
            version = self.client.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
            self.known[arn] = _document(self.client.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"])
        return self.known[arn]


def collect(source: Source) -> list[Grant]:
    """Every grant of the account.

    Raises:
        Unavailable: IAM does not answer, or does not let this identity read; nothing is returned then.
        UserError: the client is not installed.
    """
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ModuleNotFoundError:
        raise UserError(f"source `{source.name}` needs `boto3`, which is not installed", fix="install it") from None
    try:
        config = Config(connect_timeout=10, read_timeout=30, retries={"total_max_attempts": 3, "mode": "standard"})
        client = boto3.client("iam", endpoint_url=source.endpoint, config=config, region_name="us-east-1")
        return list(_collect(source.name, client))
    except (BotoCoreError, ClientError) as error:
        raise Unavailable(f"AWS IAM could not be read: {error}") from error


def _collect(source: str, client: Any) -> Iterator[Grant]:
    documents = _Documents(client)
    groups = {group["GroupName"]: group for group in _pages(client, "list_groups", "Groups")}
    members: set[str] = set()
    for user in _pages(client, "list_users", "Users"):
        name = user["UserName"]
        keys = list(_keys(source, client, name))
        yield from (key for key, _ in keys)
        used = max((moment for moment in (user.get("PasswordLastUsed"), *(used for _, used in keys)) if moment), default=None)
        person = _Principal(name, "person", "user", user["CreateDate"], used)
        yield from _policies(source, client, documents, person)
        for group in _pages(client, "list_groups_for_user", "Groups", UserName=name):
            members.add(group["GroupName"])
            yield from _policies(
                source, client, documents, _Principal(name, "person", "user", user["CreateDate"], used, group["GroupName"])
            )
    for name, group in groups.items():
        if name not in members:  # nobody has it now; whoever enters the group will
            yield from _policies(source, client, documents, _Principal(name, "group", "group", group["CreateDate"], None))
    for role in _pages(client, "list_roles", "Roles"):
        told = client.get_role(RoleName=role["RoleName"])["Role"]  # only this answer holds the last use
        used = (told.get("RoleLastUsed") or {}).get("LastUsedDate")
        yield from _policies(source, client, documents, _Principal(f"role/{role['RoleName']}", "service", "role", role["CreateDate"], used))
        yield from _trust(source, role, used)


def _pages(client: Any, operation: str, key: str, **wanted: str) -> Iterator[Any]:
    """All objects of a listing: page after page by IAM's Marker."""
    for found in client.get_paginator(operation).paginate(PaginationConfig={"PageSize": PAGE}, **wanted):
        yield from found[key]


def _keys(source: str, client: Any, user: str) -> Iterator[tuple[Grant, datetime | None]]:
    for key in _pages(client, "list_access_keys", "AccessKeyMetadata", UserName=user):
        id = key["AccessKeyId"]
        used = client.get_access_key_last_used(AccessKeyId=id)["AccessKeyLastUsed"].get("LastUsedDate")
        if key["Status"] == "Active":
            grant = Grant(
                source=source, principal=user, kind="person", permissions=("access-key",), scopes=("account",), slot=f"key/{id}", via=id,
                granted_at=key["CreateDate"], last_used=used, use_known=True,
                revoke=("aws", "iam", "update-access-key", "--user-name", "{principal}", "--access-key-id", id, "--status", "Inactive"),
            )  # fmt: skip
            yield grant, used


def _policies(source: str, client: Any, documents: _Documents, who: _Principal) -> Iterator[Grant]:
    noun, name = ("group", who.group) if who.group else (who.noun, who.name.removeprefix("role/"))
    wanted = {f"{noun.title()}Name": name}
    shown = "{principal}" if noun == "user" else name
    for policy in _pages(client, f"list_attached_{noun}_policies", "AttachedPolicies", **wanted):
        arn = policy["PolicyArn"]
        take = ("aws", "iam", f"detach-{noun}-policy", f"--{noun}-name", shown, "--policy-arn", arn)
        yield from _statements(source, who, policy["PolicyName"], documents.of(arn), take)
    for inline in _pages(client, f"list_{noun}_policies", "PolicyNames", **wanted):
        document = _document(getattr(client, f"get_{noun}_policy")(**wanted, PolicyName=inline)["PolicyDocument"])
        take = ("aws", "iam", f"delete-{noun}-policy", f"--{noun}-name", shown, "--policy-name", inline)
        yield from _statements(source, who, f"inline {inline}", document, take)


def _statements(source: str, who: _Principal, policy: str, document: Mapping[str, Any], take: tuple[str, ...]) -> Iterator[Grant]:
    if who.group:
        take = ("aws", "iam", "remove-user-from-group", "--user-name", "{principal}", "--group-name", who.group)
    via = f"group {who.group}, policy {policy}" if who.group else f"policy {policy}"
    for number, statement in enumerate(_listed(document.get("Statement", ())), 1):
        if statement.get("Effect") != "Allow":
            continue
        actions = _words(statement, "Action")
        resources = _words(statement, "Resource")
        condition = statement.get("Condition")
        yield Grant(
            source=source,
            principal=who.name,
            kind=who.kind,
            permissions=actions,
            scopes=resources,
            slot=f"{via}#{number}",
            via=via,
            detail=json.dumps(condition, sort_keys=True) if condition else "",
            traits=_traits(actions, resources),
            granted_at=who.made_at,
            last_used=who.used_at,
            use_known=who.kind != "group",
            revoke=take,
        )


def _words(statement: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The actions or resources of a statement; `NotAction` and `NotResource` are everything, with what is left out told beside it."""
    if f"Not{key}" in statement:
        return (f"* except {', '.join(sorted(_listed(statement[f'Not{key}'])))}",)
    return tuple(sorted(_listed(statement.get(key, "*"))))


def _traits(actions: tuple[str, ...], resources: tuple[str, ...]) -> frozenset[Trait]:
    found: set[Trait] = set()
    everywhere = any(resource == "*" or resource.startswith("* except") for resource in resources)
    if any(action in ("*", "*:*") or action.startswith("* except") for action in actions):
        found.add("any-action")
        if everywhere:
            found.add("admin")
    elif any(action.endswith(":*") for action in actions):
        found.add("any-action")
    if everywhere:
        found.add("any-resource")
    if any(action.startswith("* except") or touches(action.casefold(), read) for action in actions for read in READS):
        found.add("reads-data")
    return frozenset(found)


def _trust(source: str, role: Mapping[str, Any], used: datetime | None) -> Iterator[Grant]:
    """Who may act as the role: users of this account by their name, anybody else by ARN."""
    account = role["Arn"].split(":")[4]
    for number, statement in enumerate(_listed(_document(role["AssumeRolePolicyDocument"]).get("Statement", ())), 1):
        if statement.get("Effect") != "Allow":
            continue
        condition = statement.get("Condition")
        for how, name in _trusted(statement.get("Principal", "*")):
            principal, kind = _known_as(how, name, account)
            yield Grant(
                source=source, principal=principal, kind=kind, permissions=("sts:AssumeRole",), scopes=(f"role/{role['RoleName']}",),
                slot=f"trust/{role['RoleName']}#{number}", via=f"trust of role {role['RoleName']}",
                detail=json.dumps(condition, sort_keys=True) if condition else "", granted_at=role["CreateDate"], last_used=used,
                use_known=True,
                revoke=("aws", "iam", "update-assume-role-policy", "--role-name", role["RoleName"], "--policy-document",
                        "file://trust-without-{principal}.json"),
            )  # fmt: skip


def _trusted(principal: Any) -> Iterator[tuple[str, str]]:
    if principal == "*":
        yield "AWS", "*"
        return
    for how, names in principal.items():
        for name in _listed(names):
            yield how, name


def _known_as(how: str, name: str, account: str) -> tuple[str, PrincipalKind]:
    if name == "*":
        return "everyone", "public"
    if how != "AWS":
        return name, "service"
    own = f"arn:aws:iam::{account}:"
    if name.startswith(f"{own}user/"):
        return name.rsplit("/", 1)[-1], "person"
    if name.startswith(f"{own}role/"):
        return f"role/{name.rsplit('/', 1)[-1]}", "service"
    if name in (account, f"{own}root"):
        return "this account", "group"
    if name.startswith(("AIDA", "AROA")):  # IAM puts the id of a deleted principal in its place
        return name, "gone"
    return name, "service"


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, (str, Mapping)) else list(value)


def _document(found: Any) -> dict[str, Any]:
    """A policy document: boto3 gives an object, or the text with percent signs where it was not decoded."""
    return dict(found) if isinstance(found, Mapping) else dict(json.loads(unquote(found)))
