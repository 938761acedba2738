"""A run's session policy under AWS's rules, by a simulator of them (`tests/emulators/simulator.py`), which also judges our oracle."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.core.governance.session_policies import Root, policy_document, session_policy, step_reach, workload_reach
from tests.core.governance.policy_oracle import aws_allows
from tests.core.governance.test_session_policies import ACTIONS, KEY, asked, expected, keys
from tests.emulators.simulator import Simulator, simulator


@pytest.fixture(scope="module")
def aws() -> Iterator[Simulator]:
    with simulator() as found:
        yield found


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_exactly_the_steps_own_folders(aws: Simulator, data: st.DataObject) -> None:
    """The role may do anything; its session may do what the step is there for, on its own keys, and the oracle says the same."""
    workload, step, inputs, root, destination = data.draw(asked())
    document = json.loads(session_policy(step_reach(workload, step, inputs, root, destination=destination), workload))
    if not document["Statement"]:
        return
    place = data.draw(st.sampled_from([root, destination] if destination else [root]))
    key = data.draw(keys(workload, inputs))
    for what, actions in ACTIONS.items():
        may = expected(what, workload, step, inputs, key, at_destination=place is destination)
        resource = f"arn:aws:s3:::{place.bucket}/{place.prefix}{key}"
        for action in actions:
            assert aws.allows(document, action, resource) is aws_allows(document, action, resource) is may, (action, resource)
    bucket, prefix = f"arn:aws:s3:::{place.bucket}", place.prefix + key
    may = expected("read", workload, step, inputs, key, at_destination=place is destination)
    assert aws.allows(document, "s3:ListBucket", bucket, prefix=prefix) is may
    assert not aws.allows(document, "s3:ListBucket", bucket)


DOCUMENT = json.loads(session_policy(step_reach("nafld", "materialize", ["nafld-raw"], Root("tradewind-eu", "data/", KEY)), "nafld"))


@pytest.mark.parametrize(
    ("action", "resource", "prefix", "may"),
    [
        ("s3:ListBucketVersions", "arn:aws:s3:::tradewind-eu", "data/features/nafld/head.json", True),
        ("s3:ListBucketVersions", "arn:aws:s3:::tradewind-eu", "data/datasets/nafld-raw/", False),
        ("s3:ListBucketMultipartUploads", "arn:aws:s3:::tradewind-eu", None, True),
        ("s3:ListMultipartUploadParts", "arn:aws:s3:::tradewind-eu/data/datasets/nafld-features/v/f", None, True),
        ("s3:GetBucketPolicy", "arn:aws:s3:::tradewind-eu", None, False),
        ("s3:PutBucketPolicy", "arn:aws:s3:::tradewind-eu", None, False),
        ("s3:DeleteBucket", "arn:aws:s3:::tradewind-eu", None, False),
        ("s3:PutObjectAcl", "arn:aws:s3:::tradewind-eu/data/datasets/nafld-features/v/f", None, False),
        ("s3:GetObjectVersion", "arn:aws:s3:::tradewind-eu/data/datasets/nafld-raw/v/f", None, False),
        ("kms:Decrypt", KEY, None, True),
        ("kms:GenerateDataKey", KEY, None, True),
        ("kms:Encrypt", KEY, None, False),
        ("kms:ScheduleKeyDeletion", KEY, None, False),
        ("kms:Decrypt", KEY.replace("eu-central-1", "us-east-1"), None, False),
        ("sts:AssumeRole", "arn:aws:iam::111122223333:role/run", None, False),
    ],
)
def test_what_else_a_session_may_do(aws: Simulator, action: str, resource: str, prefix: str | None, may: bool) -> None:
    """Uploads in parts and the site's key, and no setting of a bucket, no earlier version, no other key, no other session."""
    assert aws.allows(DOCUMENT, action, resource, prefix=prefix) is may


def test_a_session_never_has_more_than_its_role(aws: Simulator) -> None:
    """A session asked of another workload's role has nothing: the two narrow each other."""
    role = policy_document([workload_reach("flight_delay", Root("tradewind-eu", "data/"))])
    for workload in ("nafld", "flight_delay"):
        assert not aws.allows(DOCUMENT, "s3:GetObject", f"arn:aws:s3:::tradewind-eu/data/datasets/{workload}-raw/v/f", role=role)


def test_the_simulator_refuses_what_aws_would(aws: Simulator) -> None:
    """Its yes means something: an action that does not exist is no request."""
    with pytest.raises(AssertionError, match="wrong"):
        aws.allows(DOCUMENT, "s3:ReadObject", "arn:aws:s3:::b/x")
