"""AWS for tests with rights enforced: moto's server (IAM, STS, S3), which asks a role's policies at each request once `enforced`.

moto judges actions and resources by its own evaluator, ignores conditions other than `StringEquals`, and never looks at session policies.
`session_policies` adds those: a request must also pass the policy that its session was asked with, as this project's oracle reads it
(`tests/core/governance/policy_oracle.py`). What an evaluator of all of AWS's rules makes of them: `tests/emulators/simulator.py`.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.core.governance.policy_oracle import aws_allows

ACCOUNT = "111122223333"
REGION = "eu-central-1"
ADMINISTRATOR = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
SESSION = "task"


@dataclass
class EnforcingAws:
    """The server; `asked` are the requests for a session, as STS got them."""

    url: str
    asked: list[dict[str, str]]

    def client(self, service: str, keys: Mapping[str, str]) -> Any:
        """A client of the real library."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session(
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=keys.get("AWS_SESSION_TOKEN"),
        ).client(service, region_name=REGION, endpoint_url=self.url, config=Config(retries={"total_max_attempts": 1}))

    def session(self, role: str, name: str) -> dict[str, str]:
        """Credentials of a role, which while nothing is enforced need not exist."""
        arn = f"arn:aws:iam::{ACCOUNT}:role/{role}"
        found = self.client("sts", ADMINISTRATOR).assume_role(RoleArn=arn, RoleSessionName=name)["Credentials"]
        return {
            "AWS_ACCESS_KEY_ID": found["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": found["SecretAccessKey"],
            "AWS_SESSION_TOKEN": found["SessionToken"],
        }

    def role(self, name: str, policy: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
        """A role with a policy, which may assume itself; its ARN, and the credentials that a container of it has."""
        arn, session = f"arn:aws:iam::{ACCOUNT}:role/{name}", f"arn:aws:sts::{ACCOUNT}:assumed-role/{name}/{SESSION}"
        # moto compares the caller's own ARN, which is its session's; AWS takes the role's
        trusted = {"Effect": "Allow", "Principal": {"AWS": [arn, session]}, "Action": ["sts:AssumeRole", "sts:TagSession"]}
        iam = self.client("iam", self.session("administrator", "setup"))
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trusted]}))
        iam.put_role_policy(RoleName=name, PolicyName="data", PolicyDocument=json.dumps(policy))
        return arn, self.session(name, SESSION)

    def bucket(self, name: str, *keys: str) -> None:
        """A bucket of the account with an object at each key."""
        s3 = self.client("s3", self.session("administrator", "setup"))
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        for key in keys:
            s3.put_object(Bucket=name, Key=key, Body=key.encode())

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """From now on every request is judged."""
        from moto import settings

        before, settings.INITIAL_NO_AUTH_ACTION_COUNT = settings.INITIAL_NO_AUTH_ACTION_COUNT, 0
        try:
            yield
        finally:
            settings.INITIAL_NO_AUTH_ACTION_COUNT = before


@contextmanager
def enforcing_aws(*, session_policies: bool) -> Iterator[EnforcingAws]:
    """A running server; whether it minds session policies, which moto does not."""
    pytest.importorskip("moto.server", reason="moto's server is not installed")
    from moto.iam import access_control
    from moto.server import ThreadedMotoServer
    from moto.sts.models import STSBackend, sts_backends

    with pytest.MonkeyPatch.context() as patched:
        made = EnforcingAws("", [])
        assume, permitted = STSBackend.assume_role, access_control.IAMRequestBase.check_action_permitted

        def assume_role(self: Any, **asked: Any) -> Any:
            made.asked.append(asked)
            return assume(self, **asked)

        def check(self: Any, resource: str) -> None:
            permitted(self, resource)
            token = self._headers.get("X-Amz-Security-Token")
            for role in sts_backends[self.account_id]["aws"].assumed_roles:
                if role.session_token == token and role.policy and not _session_allows(self, json.loads(role.policy), resource):
                    self._raise_access_denied()

        patched.setattr(STSBackend, "assume_role", assume_role)
        if session_policies:
            patched.setattr(access_control.IAMRequestBase, "check_action_permitted", check)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        try:
            host, port = server.get_host_and_port()
            made.url = f"http://{host}:{port}"
            # moto's state is the process's, not the server's
            urllib.request.urlopen(urllib.request.Request(f"{made.url}/moto-api/reset", method="POST"), timeout=10).read()
            yield made
        finally:
            server.stop()


def _session_allows(request: Any, policy: Mapping[str, Any], resource: str) -> bool:
    asked = parse_qs(urlsplit(request._path).query, keep_blank_values=True)
    if "delete" in asked:  # many at once: AWS judges each object, moto the bucket
        import xmltodict  # moto's own

        rows = xmltodict.parse(request._body, force_list=("Object",))["Delete"]["Object"]
        wanted = [(f"s3:DeleteObject{'Version' if row.get('VersionId') else ''}", f"{resource}/{row['Key']}") for row in rows]
        return all(aws_allows(policy, action, key) for action, key in wanted)
    return aws_allows(policy, request._action, resource, prefix=asked["prefix"][0] if "prefix" in asked else None)
