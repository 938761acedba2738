"""`tradewind access policy`: JSON that goes on the roles of a site, made of the estate and `TRADEWIND_SITES`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from deployments.cli.main import app
from flows.core.errors import UserError

SITES = {
    "aws-us-east-1": {"url": "s3://tradewind-us", "kms_key": "arn:aws:kms:us-east-1:111122223333:key/1"},
    "aws-eu-central-1": {"url": "s3://tradewind-eu"},
    "gcp-us-central1": {"url": "gs://tradewind-iowa/data"},
    "onprem-fra": {"url": "s3://fra", "endpoint": "https://s3.example.com"},
}


@pytest.fixture(autouse=True)
def sites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADEWIND_SITES", json.dumps(SITES))


def printed(*words: str) -> dict[str, Any]:
    ended = CliRunner().invoke(app, ["access", "policy", *words], catch_exceptions=False)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_aws_has_one_role_with_policy_and_trust() -> None:
    """Both pools of the site stand on it; one workload alone, the site's key, and the destination of its transfers."""
    (role,) = printed("aws-us-east-1", "nafld", "--to", "aws-eu-central-1")["roles"]
    text = json.dumps(role["policy"])
    assert role["role"].endswith("tradewind-us-east-1-run") and role["trust"]["Statement"]
    assert "tradewind-us/datasets/nafld-*" in text and "tradewind-eu/datasets/nafld-*" in text and "key/1" in text
    assert "flight_delay" not in text


def test_google_has_conditions() -> None:
    """On each bucket, for the pools' service account, of all workloads."""
    (account,) = printed("gcp-us-central1")["roles"]
    assert account["service_account"].endswith(".iam.gserviceaccount.com")
    assert "objects/data/datasets/nafld-'" in account["buckets"][0]["bindings"][0]["condition"]["expression"]


def test_a_store_that_speaks_s3_has_the_policy_alone() -> None:
    """Its cluster's service accounts have no ARN."""
    (only,) = printed("onprem-fra", "nafld")["roles"]
    assert set(only) == {"policy"}


@pytest.mark.parametrize(("words", "message"), [(("mars",), "no site `mars`"), (("onprem-fra", "mars"), "no workload `mars`")])
def test_a_name_that_is_not_declared_is_a_mistake(words: tuple[str, ...], message: str) -> None:
    """One message."""
    with pytest.raises(UserError, match=message):
        printed(*words)
