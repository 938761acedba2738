"""Grants of AWS IAM, read by the real client from moto's server on the loopback: the real wire protocol; rights are not enforced there."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from flows.adapters import grants_aws
from flows.core.errors import Unavailable
from flows.core.governance.access import Source
from flows.core.governance.reviews import Grant

boto3 = pytest.importorskip("boto3", reason="the AWS client is not installed")
pytest.importorskip("moto.server", reason="moto's server is not installed")


def document(action: Any, resource: Any, **more: Any) -> str:
    statement = {"Effect": "Allow", "Action": action, "Resource": resource, **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh server, and credentials that mean nothing."""
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST"), timeout=10).read()
    try:
        yield url
    finally:
        server.stop()


@pytest.fixture
def iam(endpoint: str) -> Any:
    """A client to set the account up."""
    return boto3.client("iam", endpoint_url=endpoint, region_name="us-east-1")


def collect(endpoint: str) -> list[Grant]:
    return grants_aws.collect(Source(name="aws", kind="aws", endpoint=endpoint))


def of(grants: list[Grant], principal: str) -> list[Grant]:
    return [grant for grant in grants if grant.principal == principal]


def test_inline_attached_and_group_policies_of_a_user(iam: Any, endpoint: str) -> None:
    """Each allowed statement is a grant; how it came and the command that takes it away are told."""
    iam.create_user(UserName="ada")
    iam.put_user_policy(
        UserName="ada", PolicyName="own", PolicyDocument=document("s3:GetObject", "arn:aws:s3:::raw/*", Condition={"Bool": {"x": "true"}})
    )
    arn = iam.create_policy(PolicyName="shared", PolicyDocument=document(["s3:*"], "*"))["Policy"]["Arn"]
    iam.attach_user_policy(UserName="ada", PolicyArn=arn)
    iam.create_group(GroupName="team")
    iam.put_group_policy(GroupName="team", PolicyName="team", PolicyDocument=document("*", "*"))
    iam.add_user_to_group(UserName="ada", GroupName="team")
    iam.create_group(GroupName="empty")
    iam.put_group_policy(GroupName="empty", PolicyName="later", PolicyDocument=document("ec2:RunInstances", "*"))

    grants = collect(endpoint)
    found = {grant.via: grant for grant in of(grants, "ada")}
    assert set(found) == {"policy inline own", "policy shared", "group team, policy inline team"}
    assert (found["policy inline own"].permissions, found["policy inline own"].scopes) == (("s3:GetObject",), ("arn:aws:s3:::raw/*",))
    assert found["policy inline own"].detail == '{"Bool": {"x": "true"}}'
    assert found["policy inline own"].traits == {"reads-data"}
    assert found["policy shared"].traits == {"any-action", "any-resource", "reads-data"}
    assert found["group team, policy inline team"].traits == {"admin", "any-action", "any-resource", "reads-data"}
    assert [grant.command(grant.principal) for grant in found.values()] == [
        f"aws iam detach-user-policy --user-name ada --policy-arn {arn}",
        "aws iam delete-user-policy --user-name ada --policy-name own",
        "aws iam remove-user-from-group --user-name ada --group-name team",
    ]
    (waiting,) = of(grants, "empty")
    assert (waiting.kind, waiting.use_known) == ("group", False)


def test_active_access_keys_and_their_use(iam: Any, endpoint: str) -> None:
    """A key is a grant of its own, with the day it was made; an inactive one grants nothing."""
    iam.create_user(UserName="ada")
    kept = iam.create_access_key(UserName="ada")["AccessKey"]["AccessKeyId"]
    off = iam.create_access_key(UserName="ada")["AccessKey"]["AccessKeyId"]
    iam.update_access_key(UserName="ada", AccessKeyId=off, Status="Inactive")
    (key,) = of(collect(endpoint), "ada")
    assert (key.via, key.use_known) == (kept, True)
    assert key.granted_at is not None
    assert key.command("ada") == f"aws iam update-access-key --user-name ada --access-key-id {kept} --status Inactive"


def test_who_may_act_as_a_role(iam: Any, endpoint: str) -> None:
    """People of the account by name, services by theirs, another account by its ARN, everyone as such."""
    account = iam.create_user(UserName="ada")["User"]["Arn"].split(":")[4]
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": "sts:AssumeRole",
                "Principal": {"AWS": [f"arn:aws:iam::{account}:user/ada", "arn:aws:iam::999999999999:root"]},
            },
            {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "ec2.amazonaws.com"}},
            {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": "*"},
            {"Effect": "Deny", "Action": "sts:AssumeRole", "Principal": {"AWS": f"arn:aws:iam::{account}:root"}},
        ],
    }
    iam.create_role(RoleName="worker", AssumeRolePolicyDocument=json.dumps(trust))
    iam.put_role_policy(RoleName="worker", PolicyName="data", PolicyDocument=document("kms:Decrypt", "*"))
    grants = collect(endpoint)
    assert {(grant.principal, grant.kind) for grant in grants if grant.permissions == ("sts:AssumeRole",)} == {
        ("ada", "person"), ("arn:aws:iam::999999999999:root", "service"), ("ec2.amazonaws.com", "service"), ("everyone", "public"),
    }  # fmt: skip
    (own,) = of(grants, "role/worker")
    assert own.permissions == ("kms:Decrypt",)


def test_what_a_statement_leaves_out_is_everything_else(iam: Any, endpoint: str) -> None:
    """`NotAction` on `*` is no small grant."""
    iam.create_user(UserName="ada")
    body = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}}
    iam.put_user_policy(UserName="ada", PolicyName="most", PolicyDocument=json.dumps(body))
    (grant,) = of(collect(endpoint), "ada")
    assert grant.permissions == ("* except iam:*",)
    assert "admin" in grant.traits


def test_every_page_is_read(iam: Any, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More policies than a page holds: IAM answers with a Marker, and the next page is asked for."""
    monkeypatch.setattr(grants_aws, "PAGE", 3)
    iam.create_user(UserName="ada")
    for number in range(8):
        made = iam.create_policy(PolicyName=f"p{number}", PolicyDocument=document("s3:GetObject", "*"))
        iam.attach_user_policy(UserName="ada", PolicyArn=made["Policy"]["Arn"])
    assert iam.list_attached_user_policies(UserName="ada", MaxItems=3)["IsTruncated"]
    assert {grant.via for grant in of(collect(endpoint), "ada")} == {f"policy p{number}" for number in range(8)}


def test_a_server_that_is_down_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is returned that could be taken for an account without grants."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Unavailable, match="AWS IAM could not be read"):
        collect(f"http://127.0.0.1:{port}")
