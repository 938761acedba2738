"""Files, flows and settings read for apply."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deployments.apply.block_values import blocks, names_of_sites
from deployments.apply.declared import load, load_templates
from deployments.apply.model import difference
from deployments.apply.options import ApplyOptions, SiteConnection
from deployments.apply.server import api_url
from deployments.apply.signatures import flow_specs
from flows.adapters.settings import PROJECT_ROOT, Settings
from flows.core.errors import Unavailable, UserError

TEMPLATES = PROJECT_ROOT / "deployments" / "templates"
SITES = ("onprem-fra", "aws-eu-central-1")


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.json")), ids=lambda path: path.stem)
def test_no_template_takes_command_environment_or_folder(path: Path) -> None:
    """A run's identity is fixed in the template or comes from its worker: no variable sets it, and unknown ones are refused."""
    template = json.loads(path.read_text())
    assert not {"command", "env", "working_dir"} & {*template["variables"]["properties"]}
    assert "{{" not in json.dumps([template["job_configuration"].get(name) for name in ("command", "env", "working_dir")])
    assert template["variables"]["additionalProperties"] is False


def test_a_missing_template_names_the_pool_and_what_there_is(tmp_path: Path) -> None:
    """The message says which file is missing, who asks for it, and which ones exist."""
    (tmp_path / "process.json").write_text("{}")
    with pytest.raises(UserError, match=r"pool `p` asks for template `vertex`, which is not there; expected one of `process`"):
        load_templates(tmp_path, {"p": "vertex"})


@pytest.mark.parametrize("text", ["{", "[]", '{"variables": {}}'])
def test_a_broken_template_is_refused(tmp_path: Path, text: str) -> None:
    """A template that Prefect would refuse is refused before anything is sent."""
    (tmp_path / "process.json").write_text(text)
    with pytest.raises(UserError, match=r"process\.json"):
        load_templates(tmp_path, {"p": "process"})


def test_in_the_embedded_profile_every_pool_is_a_process_pool() -> None:
    """Same names as in the cloud, another type; control takes more runs at once than a data pool."""
    pools = {pool.name: pool for pool in load(Settings(), ApplyOptions()).pools}
    assert {pool.type for pool in pools.values()} == {"process"}
    assert pools["control"].concurrency > pools["onprem-fra-k8s"].concurrency


def test_each_declared_schedule_says_that_the_clock_was_the_cause() -> None:
    """A run that nobody started by hand is told from one that somebody did."""
    schedules = [schedule for workload in load(Settings(), ApplyOptions()).workloads for schedule in workload.schedules]
    assert schedules
    assert all(schedule.parameters["cause"] == "schedule" for schedule in schedules)


def test_the_form_of_a_flow_comes_from_its_code() -> None:
    """Types, choices, defaults and help texts of the UI's form are those of the function."""
    flow = flow_specs(["lifecycle"], "tests.deployments.sample_flows")["lifecycle"]
    properties = flow.schema["properties"]
    assert flow.entrypoint == "tests.deployments.sample_flows.lifecycle.lifecycle"
    assert flow.description == "Run a workload's steps."
    assert properties["cause"]["enum"] == ["manual", "schedule", "drift"]
    assert {"type": "string", "format": "date-time"}.items() <= properties["as_of"]["anyOf"][0].items()
    assert properties["workload"]["description"] == "The workload to run."
    assert flow.schema["required"] == ["workload"]


def test_a_step_without_a_flow_is_named() -> None:
    """The message says which function is missing and where."""
    with pytest.raises(UserError, match=r"tests/deployments/sample_flows/train\.py: .*is no flow named `train`"):
        flow_specs(["train"], "tests.deployments.sample_flows")


def test_the_embedded_profile_has_a_folder_per_site(tmp_path: Path) -> None:
    """Each data site's storage block names the site's own folder; no credentials."""
    found = {one.name: one for one in blocks(Settings(home=tmp_path), ApplyOptions(), SITES)}
    storage = found["tradewind-site-storage/tradewind-site-onprem-fra"]
    assert storage.fields["url"] == (tmp_path / "sites" / "onprem-fra").as_uri()
    assert storage.fields["credentials"] is None
    assert storage.secret == {"credentials"}


def test_the_cloud_profile_writes_the_sites_it_has_connections_for(tmp_path: Path) -> None:
    """A site whose connection is not in the environment is someone else's to write, and is not removed."""
    connection = SiteConnection(url="s3://bucket", credentials="key", online_url="redis://cache")
    settings = Settings(home=tmp_path, profile="cloud")
    found = {one.name for one in blocks(settings, ApplyOptions(sites={"aws-eu-central-1": connection}), SITES)}
    assert found == {
        "tradewind-state-database/tradewind-state",
        "tradewind-model-registry/tradewind-models",
        "tradewind-site-storage/tradewind-site-aws-eu-central-1",
        "tradewind-feature-store/tradewind-features-aws-eu-central-1",
    }
    assert ("block", "tradewind-site-storage/tradewind-site-onprem-fra") in names_of_sites(SITES)


def test_the_words_of_a_block_hold_no_secret(tmp_path: Path) -> None:
    """What apply prints of a new block is its name."""
    settings = Settings(home=tmp_path, database_url="postgresql://u:password@db/state")
    assert "password" not in str(difference(blocks(settings, ApplyOptions(), ()), []))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRADEWIND_POOL_CONCURRENCY", "0"),
        ("TRADEWIND_SITES", "secret"),
        ("TRADEWIND_SITES", '{"a": {"url": "secret://bucket"}}'),
        ("TRADEWIND_SITES", '{"a": {"url": "s3://bucket", "credentialz": "secret"}}'),
    ],
)
def test_a_wrong_variable_is_named_and_its_value_is_not(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Values of these variables may be secrets."""
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=name) as caught:
        ApplyOptions.load()
    assert "secret" not in str(caught.value)


def test_apply_starts_no_server_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a running stack the message says how to start one; exit 6, as of every command that needs it."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(Unavailable, match="tradewind up") as caught:
        api_url(Settings(home=tmp_path))
    assert caught.value.exit_code == 6
