"""What apply wants, from what is declared."""

from __future__ import annotations

from dataclasses import replace

from deployments.apply.desired import DRIFT_EVENT, desired
from deployments.apply.model import Resource
from flows.core.planning import PLACED_STEPS, SITE_STEPS
from tests.deployments.declarations import DAILY, ESTATE, NAFLD, flows


def resources(kind: str) -> dict[str, Resource]:
    return {one.name: one for one in desired(ESTATE, flows()) if one.kind == kind}


def test_each_placed_step_has_one_deployment_per_data_pool() -> None:
    """`run_deployment` takes no pool, so a pool is chosen by the deployment's name."""
    found = {name for name, one in resources("deployment").items() if one.fields["pool"] != "control"}
    assert found == {f"{step}/{pool}" for step in (*PLACED_STEPS, *SITE_STEPS) for pool in ("onprem-fra-k8s", "aws-eu-central-1-ecs")}


def test_no_placed_step_runs_in_control() -> None:
    """Control sees no data."""
    found = {name for name, one in resources("deployment").items() if one.fields["pool"] == "control"}
    assert found == {"promote/control", "reconcile/control", "govern/control", "lifecycle/nafld"}


def test_a_deployment_runs_its_flow_by_module_path() -> None:
    """A script path would put the script's folder first on `sys.path`."""
    assert resources("deployment")["train/onprem-fra-k8s"].fields["entrypoint"] == "flows.train.train"


def test_deployments_set_no_job_variables() -> None:
    """Command, environment and folder come from the worker alone."""
    assert all(one.fields["job_variables"] == {} for one in resources("deployment").values())


def test_a_lifecycle_carries_its_workload_and_its_schedules() -> None:
    """Schedules start inactive unless declared active, in the workload's own time zone, and say that the clock was the cause."""
    lifecycle = resources("deployment")["lifecycle/nafld"]
    assert lifecycle.fields["parameters"] == {"workload": "nafld"}
    assert lifecycle.fields["schedules"] == {
        "daily": {"cron": "0 6 * * *", "timezone": "Europe/Berlin", "parameters": {"cause": "schedule"}}
    }
    assert lifecycle.initial == {"active": {"daily": False}}


def test_the_reconciler_has_an_interval() -> None:
    """The reconciler runs by the clock, whatever happened to events."""
    reconcile = resources("deployment")["reconcile/control"]
    assert reconcile.fields["schedules"]["reconcile"]["interval_seconds"] == 60
    assert reconcile.initial == {"active": {"reconcile": True}}


def test_the_duties_of_governance_have_an_interval() -> None:
    """Reviews come round by the clock, once a day."""
    govern = resources("deployment")["govern/control"]
    assert govern.fields["schedules"]["govern"]["interval_seconds"] == 86400
    assert govern.initial == {"active": {"govern": True}}


def test_drift_of_a_workload_starts_its_lifecycle() -> None:
    """Each workload has one automation, on its own resource, that passes on the event's clock and intent."""
    (automation,) = resources("automation").values()
    assert automation.fields["expect"] == [DRIFT_EVENT]
    assert automation.fields["match"] == {"prefect.resource.id": "tradewind.workload.nafld"}
    assert automation.fields["deployment"] == "lifecycle/nafld"
    assert automation.fields["parameters"] == {
        "workload": "nafld",
        "cause": "drift",
        "as_of": "{{ event.payload.as_of | default(none) }}",
        "intent_id": "{{ event.payload.intent_id | default(none) }}",
    }


def test_the_version_tells_declarations_apart() -> None:
    """The digest kept in a deployment's version follows its fields and its schedules' activity, each in its own part."""
    active = replace(ESTATE, workloads=(replace(NAFLD, schedules=(replace(DAILY, active=True),)),))
    renamed = replace(ESTATE, workloads=(replace(NAFLD, title="NAFLD"),))
    before, switched, told = (
        next(one for one in desired(declared, flows()) if one.name == "lifecycle/nafld").fields["version"].split(".")
        for declared in (ESTATE, active, renamed)
    )
    assert before[0] == switched[0] != told[0]
    assert before[1] == told[1] != switched[1]
