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
    role, _ = printed("aws-us-east-1", "nafld", "--to", "aws-eu-central-1")["roles"]
    text = json.dumps(role["policy"])
    assert role["role"].endswith("tradewind-us-east-1-run") and role["trust"]["Statement"]
    assert "tradewind-us/datasets/nafld-*" in text and "tradewind-eu/datasets/nafld-*" in text and "key/1" in text
    assert "flight_delay" not in text


def test_google_has_conditions() -> None:
    """On each bucket, for the pools' service account, of all workloads."""
    account, _ = printed("gcp-us-central1")["roles"]
    assert account["service_account"].endswith(".iam.gserviceaccount.com")
    assert "objects/data/datasets/nafld-'" in account["buckets"][0]["bindings"][0]["condition"]["expression"]


def test_runs_of_other_clouds_bring_data_to_a_site_and_take_none() -> None:
    """The role that they take on writes the datasets of transfers; the cluster's service account and Google's account may, nobody else."""
    _, role = printed("aws-us-east-1", "nafld")["roles"]
    assert role["role"] == "arn:aws:iam::111122223333:role/tradewind-us-east-1-access"
    assert "datasets/nafld-*" in json.dumps(role["policy"]) and "artifacts" not in json.dumps(role["policy"])
    assert "s3:DeleteObject" not in json.dumps(role["policy"])
    kubernetes, google = role["trust"]["Statement"]
    assert kubernetes["Principal"] == {"Federated": "arn:aws:iam::111122223333:oidc-provider/kubernetes.example.com"}
    assert kubernetes["Condition"]["StringEquals"] == {
        "kubernetes.example.com:sub": "system:serviceaccount:tradewind:tradewind-run",
        "kubernetes.example.com:aud": "sts.amazonaws.com",
    }
    assert google["Principal"] == {"Federated": "accounts.google.com"}
    assert google["Condition"]["StringEquals"] == {
        "accounts.google.com:sub": "104857600000000000001",
        "accounts.google.com:aud": "104857600000000000001",
        "accounts.google.com:oaud": "sts.amazonaws.com",
    }
    assert {one["Action"] for one in role["trust"]["Statement"]} == {"sts:AssumeRoleWithWebIdentity"}


def test_google_takes_the_roles_of_aws_for_its_account() -> None:
    """By the provider's own mapping; the account may only bring data."""
    _, account = printed("gcp-us-central1", "nafld")["roles"]
    assert account["service_account"].startswith("tradewind-us-central1-access@")
    assert [one["role"] for one in account["buckets"][0]["bindings"]][:2] == ["roles/storage.objectCreator", "roles/storage.objectViewer"]
    (trust,) = account["trust"]
    pool = "principalSet://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/tradewind"
    assert trust["role"] == "roles/iam.workloadIdentityUser"
    assert f"{pool}/attribute.aws_role/arn:aws:sts::111122223333:assumed-role/tradewind-eu-central-1-run" in trust["members"]


def test_a_store_that_speaks_s3_has_one_role() -> None:
    """Its cluster's service accounts have no ARN: the site's own runs take it on, and so it reaches all that they touch."""
    (only,) = printed("onprem-fra", "nafld")["roles"]
    assert only["role"].endswith("role/tradewind-onprem-fra-access") and len(only["trust"]["Statement"]) == 2
    assert "artifacts/nafld/*" in json.dumps(only["policy"])


@pytest.mark.parametrize(("words", "message"), [(("mars",), "no site `mars`"), (("onprem-fra", "mars"), "no workload `mars`")])
def test_a_name_that_is_not_declared_is_a_mistake(words: tuple[str, ...], message: str) -> None:
    """One message."""
    with pytest.raises(UserError, match=message):
        printed(*words)
