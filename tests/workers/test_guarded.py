"""What the worker makes of a run's job before anything starts; no server needed."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from pydantic import SecretStr

from flows.adapters import signing
from flows.adapters.settings import PROJECT_ROOT, Settings
from flows.workers import host
from flows.workers.guarded import GuardedJobConfiguration, GuardedProcessWorker, identity_of

API = "http://127.0.0.1:1/api"


def prepared(**fields: object) -> GuardedJobConfiguration:
    """A configuration as the pool's template, blocks and variables have made it."""
    configuration = GuardedJobConfiguration.model_validate(fields)
    configuration.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="run"))
    return configuration


def test_a_clean_job_is_not_refused() -> None:
    """The environment that Prefect itself adds is no violation."""
    assert prepared(env={"GREETING": "hi"}).refusal is None


def test_what_a_template_or_block_sets_is_seen_after_it_was_filled_in() -> None:
    """A guarded name that hides in a pool's template is refused by name."""
    configuration = prepared(env={"TRADEWIND_SITE": "elsewhere"}, command="sh")
    assert configuration.refused_names == ("TRADEWIND_SITE", "command")
    assert "`TRADEWIND_SITE`" in (configuration.refusal or "") and "fix:" in (configuration.refusal or "")


def test_identity_is_set_last_over_whatever_was_inherited(tmp_path: Path) -> None:
    """Site, pool, home, server and search path come from the worker; a second spelling of a guarded name is removed."""
    settings = Settings(home=tmp_path, mlflow_url="http://127.0.0.1:2")
    worker = GuardedProcessWorker(identity_of("onprem-fra", "onprem-fra-k8s", settings, API), settings)
    configuration = prepared()
    configuration.env |= {"TRADEWIND_SITE": "elsewhere", "tradewind_home": "/", "PYTHONPATH": "/evil", "PREFECT_API_URL": "http://evil"}
    environment = worker._environment(configuration, tmp_path)
    expected = {
        "TRADEWIND_SITE": "onprem-fra",
        "TRADEWIND_POOL": "onprem-fra-k8s",
        "TRADEWIND_HOME": str(tmp_path),
        "TRADEWIND_MLFLOW_URL": "http://127.0.0.1:2",
        "PREFECT_API_URL": API,
        "PYTHONPATH": str(PROJECT_ROOT),
        "TMPDIR": str(tmp_path),
        "tradewind_home": None,
    }
    assert {name: environment[name] for name in expected} == expected


def test_only_the_runs_of_control_get_the_signing_key(tmp_path: Path) -> None:
    """No run of a data site can sign as control, and none inherits the key from the host."""
    settings = Settings(home=tmp_path, signing_key=SecretStr("secret"))
    assert identity_of("control", "control-process", settings, "http://x").environment[signing.VARIABLE] == "secret"
    assert signing.VARIABLE not in identity_of("onprem-fra", "onprem-fra-k8s", settings, "http://x").environment


def test_the_host_makes_a_key_enrols_it_and_keeps_it_out_of_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that was given is used; without one there is a new one; runs inherit neither."""
    given = signing.new_key()
    monkeypatch.setenv(signing.VARIABLE, given)
    first = host.keyed(Settings(home=tmp_path))
    assert first.signing_key is not None and first.signing_key.get_secret_value() == given
    assert signing.VARIABLE not in os.environ
    second = host.keyed(Settings(home=tmp_path))
    assert second.signing_key is not None and second.signing_key.get_secret_value() != given
    assert len(signing.Keyring.load(tmp_path / "anchors").keys) == 2
