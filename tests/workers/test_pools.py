"""Which pools the project's own worker host serves, and what it asks for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from deployments.local import commands
from deployments.local.supervisor import running
from flows.adapters.settings import Settings, SiteConnection, exported
from flows.core.errors import UserError
from flows.workers.guarded import identity_of
from flows.workers.host import keyed
from flows.workers.pools import pools_of


def test_the_cloud_profile_leaves_the_clouds_to_their_own_workers(tmp_path: Path) -> None:
    """Control alone is a pool of processes there; in the embedded profile all pools are."""
    assert pools_of(Settings(home=tmp_path, profile="cloud")) == {"control": "control"}
    assert len(pools_of(Settings(home=tmp_path))) > 5


def test_the_cloud_profile_makes_no_signing_key(tmp_path: Path) -> None:
    """Runs would refuse what a key of this process's own signed."""
    with pytest.raises(UserError, match="TRADEWIND_SIGNING_KEY"):
        keyed(Settings(home=tmp_path, profile="cloud"))


def test_commands_of_the_cloud_profile_use_the_server_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no stack of a home folder to look for."""
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example.org/api")
    found = running(Settings(home=tmp_path, profile="cloud", mlflow_url="https://mlflow.example.org"))
    assert (found.prefect_url, found.mlflow_url) == ("https://prefect.example.org", "https://mlflow.example.org")
    assert found.prefect_api_url == "https://prefect.example.org/api"


def test_a_process_gets_the_settings_and_the_secrets_of_its_own_site_alone(tmp_path: Path) -> None:
    """Sites as JSON, which is what they are read from; keys and tokens of people stay where they are."""
    connections = {name: SiteConnection(url=f"s3://{name}", credentials=SecretStr(f"key of {name}")) for name in ("here", "there")}
    settings = Settings(home=tmp_path, sites=connections, signing_key=SecretStr("k"), token=SecretStr("t"), lineage_api_key=SecretStr("l"))
    found = exported(settings, "here")
    assert json.loads(found["TRADEWIND_SITES"]) == {
        "here": {"url": "s3://here", "credentials": "key of here"},
        "there": {"url": "s3://there"},
    }
    assert "key of" not in exported(settings)["TRADEWIND_SITES"]
    assert not {"TRADEWIND_SIGNING_KEY", "TRADEWIND_TOKEN", "TRADEWIND_LINEAGE_API_KEY"} & set(found)
    assert found["TRADEWIND_HOME"] == str(tmp_path)


def test_only_the_worker_host_of_the_stack_gets_the_keys_of_the_sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes each run those of the run's own site; the servers beside it get none."""
    connections = {name: SiteConnection(url=f"s3://{name}", credentials=SecretStr(f"key of {name}")) for name in ("here", "there")}
    settings = Settings(home=tmp_path, sites=connections)
    host = commands.workers_environment(settings, "http://127.0.0.1:1/api")
    monkeypatch.setenv("TRADEWIND_SITES", host["TRADEWIND_SITES"])
    run = identity_of("here", "pool", Settings(home=tmp_path), "http://127.0.0.1:1/api").environment["TRADEWIND_SITES"]
    assert {name: one.get("credentials") for name, one in json.loads(run).items()} == {"here": "key of here", "there": None}
    for server in (commands.prefect_environment(settings, 1), commands.mlflow_environment(settings)):
        assert "key of" not in str(server)
