"""The server's JSON, read back into the shape of what was declared."""

from __future__ import annotations

from typing import Any

from deployments.apply import observed
from deployments.apply.desired import MARKER

POOL: dict[str, Any] = {"id": "p", "name": "control", "type": "process", "base_job_template": {}, "concurrency_limit": 10}
DEPLOYMENT: dict[str, Any] = {
    "id": "d",
    "name": "nafld",
    "flow_id": "f",
    "version": "1.2",
    "description": "",
    "work_pool_name": "control",
    "entrypoint": "flows.lifecycle.lifecycle",
    "tags": ["workload:nafld", "tradewind"],
    "parameters": {},
    "parameter_openapi_schema": {},
    "enforce_parameter_schema": True,
    "job_variables": {},
    "pull_steps": None,
    "schedules": [
        {"id": "s", "slug": "daily", "active": True, "parameters": {}, "schedule": {"cron": "0 6 * * *", "timezone": "UTC"}},
        {"id": "t", "slug": None, "active": False, "parameters": {}, "schedule": {"interval": 60.0, "timezone": "UTC", "anchor_date": "…"}},
    ],
}
AUTOMATION: dict[str, Any] = {
    "id": "a",
    "name": "drift",
    "description": "",
    "tags": ["tradewind"],
    "enabled": False,
    "trigger": {"expect": ["e"], "match": {"prefect.resource.id": "r"}, "posture": "Reactive", "threshold": 1, "within": 0.0},
    "actions": [{"type": "run-deployment", "deployment_id": "d", "parameters": {"workload": "nafld"}}],
}


def test_a_pool_is_ours_by_the_marker_in_its_description() -> None:
    """Pools have no tags."""
    assert observed.pool({**POOL, "description": f"Runs steps {MARKER}"}).ours
    assert not observed.pool({**POOL, "description": None}).ours


def test_a_deployment_is_named_by_flow_and_deployment() -> None:
    """Names are what `run_deployment` takes."""
    assert observed.deployment(DEPLOYMENT, {"f": "lifecycle"}).name == "lifecycle/nafld"


def test_schedules_are_found_by_their_slugs() -> None:
    """A schedule without a slug, made by hand, shows up by its id, so that the difference removes it."""
    found = observed.deployment(DEPLOYMENT, {"f": "lifecycle"})
    assert found.fields["schedules"] == {
        "daily": {"cron": "0 6 * * *", "timezone": "UTC", "parameters": {}},
        "t": {"interval_seconds": 60, "timezone": "UTC", "parameters": {}},
    }
    assert found.initial == {"active": {"daily": True, "t": False}}


def test_an_automation_names_its_deployment() -> None:
    """Ids differ from server to server, names do not."""
    found = observed.automation(AUTOMATION, {"d": "lifecycle/nafld"})
    assert found.fields["deployment"] == "lifecycle/nafld"
    assert found.initial == {"enabled": False}


def test_an_automation_of_a_deleted_deployment_points_nowhere() -> None:
    """It differs from the declared one, so apply points it at the new deployment."""
    assert observed.automation(AUTOMATION, {}).fields["deployment"] is None


def test_an_automation_with_other_actions_differs() -> None:
    """A hand-edited automation is put back as declared."""
    edited = {**AUTOMATION, "actions": [*AUTOMATION["actions"], {"type": "do-nothing"}]}
    assert observed.automation(edited, {"d": "lifecycle/nafld"}).fields["deployment"] is None
