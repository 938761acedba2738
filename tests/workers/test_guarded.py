"""What the worker makes of a run's job before anything starts; no server needed."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from pydantic import SecretStr

from flows.adapters import signing
from flows.adapters.settings import PROJECT_ROOT, Settings
from flows.core.governance.tickets import Ticket, parameters_hash
from flows.workers import host
from flows.workers.guarded import GuardedJobConfiguration, GuardedProcessWorker, identity_of
from tests.tickets import keyed

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


STEP = "flows.train.train"
SENT = {"workload": "nafld", "decision_id": "d" * 64}
KEY = "nafld/train/2026-01-05/manual#0"


def asked(settings: Settings, *, parameters: dict[str, Any], key: str | None = KEY, entrypoint: str = STEP) -> str | None:
    """Why the guard would not start a run with these parameters, or None."""
    run = FlowRun(id=uuid4(), flow_id=uuid4(), name="run", parameters=parameters, idempotency_key=key)
    configuration = GuardedJobConfiguration()
    configuration._related_objects = {"deployment": SimpleNamespace(entrypoint=entrypoint)}
    configuration.require_ticket(run, "onprem-fra-k8s", settings)
    return configuration.refusal


def ticket_of(settings: Settings, **changes: Any) -> dict[str, Any]:
    """A ticket that control signed."""
    now = datetime.now(UTC)
    body = Ticket(
        **{
            "deployment": "train/onprem-fra-k8s",
            "parameters": parameters_hash(SENT),
            "intent": KEY.partition("#")[0],
            "attempt": 0,
            "decision": "d" * 64,
            "decision_sha256": "e" * 64,
            "manifests": {},
            "issued_at": now,
            "expires_at": now + timedelta(hours=1),
            "nonce": "n",
            **changes,
        }
    )
    assert settings.signing_key is not None
    signature = signing.signer(settings.signing_key.get_secret_value()).sign(body.payload)
    return {"body": body.model_dump(mode="json"), "signature": signature.to_json()}


def test_a_placed_step_starts_with_the_ticket_of_its_own_run(tmp_path: Path) -> None:
    """Before its process does, so that a forged one costs nothing; what control itself runs, and other code, has none."""
    settings = keyed(Settings(home=tmp_path))
    assert asked(settings, parameters={**SENT, "ticket": ticket_of(settings)}) is None
    assert asked(settings, parameters={}, entrypoint="flows.lifecycle.lifecycle") is None


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"parameters": SENT}, "has no ticket"),
        ({"edited": {"workload": "flight_delay"}}, "not the ones that control signed"),
        ({"key": "another"}, "that of another run"),
        ({"key": None}, "that of another run"),
        ({"changes": {"deployment": "train/gcp-us-central1-vertex"}}, "the ticket is for"),
        ({"changes": {"expires_at": datetime(2026, 1, 1, tzinfo=UTC)}}, "the ticket holds from"),
    ],
    ids=["none", "edited", "copied", "no key", "another pool", "expired"],
)
def test_a_placed_step_without_its_own_ticket_is_refused(tmp_path: Path, how: dict[str, Any], told: str) -> None:
    """The reason is the message of the run's state."""
    settings = keyed(Settings(home=tmp_path))
    sent = how.get("parameters") or {**SENT, **how.get("edited", {}), "ticket": ticket_of(settings, **how.get("changes", {}))}
    refusal = asked(settings, parameters=sent, key=how.get("key", KEY))
    assert refusal is not None and refusal.startswith("refused by the guard: ") and told in refusal


def test_no_run_inherits_the_token_of_whoever_started_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person's token is for one command."""
    monkeypatch.setenv("TRADEWIND_TOKEN", "secret")
    host.keyed(Settings(home=tmp_path))
    assert "TRADEWIND_TOKEN" not in os.environ


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
