"""What a pool's template and a run's variables make of a training job."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.client.schemas.objects import FlowRun

from flows.core.errors import UserError
from flows.workers.sagemaker import SageMakerWorker
from flows.workers.sagemaker_configuration import LAUNCHER, SageMakerJobConfiguration
from flows.workers.sagemaker_node import completed
from tests.emulators.sagemaker_shapes import problems

ASKED = {
    "region": "eu-central-1",
    "role_arn": "arn:aws:iam::111122223333:role/run",
    "image": f"111122223333.dkr.ecr.eu-central-1.amazonaws.com/tradewind@sha256:{'0' * 64}",
    "output_s3_uri": "s3://bucket/output",
}


def configured(**asked: Any) -> SageMakerJobConfiguration:
    """The configuration of a run of a pool that has the worker's own template, as the worker makes it."""
    template = json.loads(json.dumps(SageMakerWorker.get_default_base_job_template()))
    properties = template["variables"]["properties"]
    values = {name: one["default"] for name, one in properties.items() if one.get("default") is not None} | ASKED | asked
    made = anyio.run(lambda: SageMakerJobConfiguration.from_template_and_values(template, values, client=object()))  # type: ignore[arg-type]
    made.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="careful-owl"))
    return made


CONFIGURED = configured()


def requested(**asked: Any) -> dict[str, Any]:
    """The request, which AWS's service model takes."""
    request = configured(**asked).request("job")
    assert problems(request) == []
    return request


def test_a_run_asks_for_one_instance_and_nothing_that_it_need_not() -> None:
    """What was left empty is not sent."""
    request = requested()
    assert request["ResourceConfig"] == {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30}
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 86400}
    assert request["EnableManagedSpotTraining"] is False
    assert not {"CheckpointConfig", "VpcConfig"} & set(request)


def test_the_launcher_starts_the_command() -> None:
    """SageMaker's own entry point would be the image's."""
    specification = requested()["AlgorithmSpecification"]
    assert specification["ContainerEntrypoint"] == list(LAUNCHER)
    assert specification["ContainerArguments"] == ["prefect", "flow-run", "execute"]


def test_an_interrupted_run_keeps_its_state() -> None:
    """SageMaker starts it again."""
    assert requested()["Environment"]["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "relinquish"


def test_spot_waits_at_least_as_long_as_it_may_run() -> None:
    """SageMaker asks for it."""
    request = requested(spot=True, checkpoint_s3_uri="s3://bucket/checkpoints/run")
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 86400, "MaxWaitTimeInSeconds": 86400}
    assert request["CheckpointConfig"] == {"S3Uri": "s3://bucket/checkpoints/run"}
    assert requested(spot=True, max_wait_seconds=100_000)["StoppingCondition"]["MaxWaitTimeInSeconds"] == 100_000


def test_on_demand_has_no_wait() -> None:
    """SageMaker refuses one."""
    assert "MaxWaitTimeInSeconds" not in requested(max_wait_seconds=100_000)["StoppingCondition"]


@pytest.mark.parametrize(
    ("type_", "sent"), [("ml.m5.xlarge", True), ("ml.g5.xlarge", False), ("ml.p4d.24xlarge", False), ("ml.m5d.xlarge", False)]
)
def test_disks_of_the_machines_own_take_no_key(type_: str, sent: bool) -> None:
    """The hardware encrypts them, and SageMaker refuses a key."""
    assert ("VolumeKmsKeyId" in requested(instance_type=type_, volume_kms_key="k")["ResourceConfig"]) is sent


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=3000))
def test_a_long_value_arrives_whole(value: str) -> None:
    """SageMaker takes 512 characters."""
    made = CONFIGURED.model_copy(update={"env": {"LONG": value}})
    environment = made.request("job")["Environment"]
    assert max(len(part) for part in environment.values()) <= 512
    assert completed(environment, ["algo-1"], "algo-1")["LONG"] == value


def test_a_secret_is_named_and_never_sent() -> None:
    """Many may read a job's description."""
    arn = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:s"
    request = requested(
        env={"PASSWORD": "hunter2", "PREFECT_API_KEY": "pnu_1"}, env_from_secrets={"PASSWORD": arn}, prefect_api_key_secret_arn=arn
    )
    assert "hunter2" not in json.dumps(request)
    assert "pnu_1" not in json.dumps(request)
    assert request["Environment"]["TRADEWIND_FROM_SECRET_PASSWORD"] == arn
    assert request["Environment"]["TRADEWIND_FROM_SECRET_PREFECT_API_KEY"] == arn


def test_tags_are_those_of_the_run_and_of_the_bill() -> None:
    """In characters that AWS takes."""
    tags = {tag["Key"]: tag["Value"] for tag in requested(tags={"workload": "a*b"})["Tags"]}
    assert tags["workload"] == "a-b"
    assert tags["prefect.io/flow-run-name"] == "careful-owl"
    assert "prefect.io/flow-run-id" in tags


def test_a_job_that_prefect_would_never_hear_of_is_refused() -> None:
    """AWS would take it."""
    made = configured()
    made.training_job["EnableNetworkIsolation"] = True
    with pytest.raises(UserError, match="cuts the run off from the Prefect server"):
        made.request("job")


def test_without_the_launcher_a_job_has_one_host_and_no_secrets() -> None:
    """All that it would have done is named."""
    made = configured(instance_count=2, env_from_secrets={"A": "arn:aws:s:r:1:b"}, follower_command="ray start")
    made.launcher = []
    with pytest.raises(UserError) as refused:
        made.request("job")
    for what in ("2 instances", "secrets", "`follower_command`"):
        assert what in str(refused.value)


def test_without_the_launcher_the_command_is_the_entry_point() -> None:
    """For images without this project."""
    made = configured()
    made.launcher = []
    assert made.request("job")["AlgorithmSpecification"]["ContainerEntrypoint"] == ["prefect", "flow-run", "execute"]
