# ruff: noqa: E402, E501 - the skips come first; the clouds' sentences are quoted as they are
"""The words that the classification reads, written here by the code of Prefect's own workers, unmodified, and by ours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

for name in ("prefect_aws", "prefect_gcp", "prefect_kubernetes"):
    pytest.importorskip(name, reason="Prefect's workers for the clouds are not installed: `make setup-clouds`")

from flows.core.failures import classify

pytestmark = pytest.mark.clouds

GONE = "No active or succeeded pods found for any job"
STOPPED = "The following containers stopped with a non-zero exit code: ['tradewind']"


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"containerStatuses": [{"name": "prefect-job", "state": {"waiting": {"reason": reason, "message": message}}}]}


def terminated(reason: str) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "prefect-job", "state": {"terminated": {"reason": reason}}}]}


def unschedulable(message: str) -> dict[str, Any]:
    return {"conditions": [{"type": "PodScheduled", "reason": "Unschedulable", "message": message}]}


@pytest.mark.parametrize(
    ("status", "spot", "kind"),
    [
        (terminated("OOMKilled"), False, "memory"),
        (terminated("Evicted"), True, "spot"),
        (terminated("Evicted"), False, "crash"),
        (waiting("ImagePullBackOff", "Back-off pulling image"), False, "image"),
        (waiting("ErrImagePull"), False, "image"),
        (unschedulable("0/3 nodes are available: 3 Insufficient nvidia.com/gpu."), False, "capacity"),
    ],
)
def test_a_pods_diagnosis(status: dict[str, Any], spot: bool, kind: str) -> None:
    """As the observer logs it: summary, detail, resolution."""
    from prefect_kubernetes.diagnostics import diagnose_k8s_pod

    found = diagnose_k8s_pod(status)
    assert found is not None
    line = f"{found.summary}: {found.detail} Resolution: {found.resolution}"
    assert classify("Crashed", GONE, [line], spot=spot).kind == kind


@pytest.mark.parametrize(
    ("detail", "spot", "kind"),
    [
        ({"stopCode": "EssentialContainerExited", "containers": [{"name": "tradewind", "exitCode": 1}]}, False, "crash"),
        ({"stopCode": "EssentialContainerExited", "containers": [{"name": "tradewind", "exitCode": 137}]}, False, "memory"),
        ({"stopCode": "SpotInterruption", "stoppedReason": "Your Spot Task was interrupted.", "containers": [{"name": "tradewind"}]}, True, "spot"),
        ({"stopCode": "SpotInterruption", "containers": [{"name": "tradewind", "exitCode": 143}]}, True, "spot"),
        ({"stopCode": "UserInitiated", "containers": [{"name": "tradewind", "exitCode": 143}]}, False, "crash"),
        ({"stopCode": "TaskFailedToStart", "stoppedReason": "CannotPullContainerError: not found", "containers": [{"name": "tradewind"}]}, False, "image"),
        ({"stopCode": "TaskFailedToStart", "stoppedReason": "RESOURCE:GPU", "containers": []}, False, "capacity"),
    ],
)  # fmt: skip
def test_a_tasks_diagnosis(detail: dict[str, Any], spot: bool, kind: str) -> None:
    """As the ECS observer logs it."""
    from prefect_aws.observers.diagnostics import diagnose_ecs_task

    found = diagnose_ecs_task({"lastStatus": "STOPPED", **detail})
    assert found is not None
    line = f"{found.summary}: {found.detail} Resolution: {found.resolution}"
    assert classify("Crashed", STOPPED, [line], spot=spot).kind == kind


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        ("ClusterNotFoundException", "Cluster not found.", "configuration"),
        ("InvalidParameterException", "No Container Instances were found in your cluster.", "capacity"),
        ("ClientException", "There is no capacity in the capacity provider.", "capacity"),
        ("InvalidParameterException", "The subnet ID 'subnet-0' does not exist", "configuration"),
        ("ExpiredTokenException", "The security token included in the request is expired", "credentials"),
        ("ThrottlingException", "Rate exceeded", "throttled"),
        ("AccessDeniedException", "User: x is not authorized to perform: ecs:RunTask", "access"),
        ("LimitExceededException", "The limit for the resource has been exceeded.", "quota"),
        ("ServerException", "Service Unavailable. Please try again later. InternalFailure", "unreachable"),
    ],
)
def test_what_the_ecs_worker_makes_of_a_refusal(code: str, text: str, kind: str) -> None:
    """Its own wrapping of AWS's errors, in the message that Prefect's base worker gives the run."""
    from botocore.exceptions import ClientError  # type: ignore[import-untyped]
    from prefect_aws.workers.ecs_worker import ECSWorker

    refused = ClientError({"Error": {"Code": code, "Message": text}}, "RunTask")
    configuration = SimpleNamespace(configure_cloudwatch_logs=True, execution_role="role")
    with pytest.raises(Exception) as raised:
        try:
            raise refused
        except ClientError as error:
            ECSWorker._report_task_run_creation_failure(SimpleNamespace(), configuration, {"launchType": "EC2"}, error)  # type: ignore[arg-type]
    message = f"Failed to submit flow run to infrastructure: {type(raised.value).__name__}: {raised.value}"
    assert classify("Crashed", message).kind == kind


@pytest.mark.parametrize(("code", "kind"), [(1, "crash"), (137, "memory"), (247, "memory"), (-9, "crash"), (143, "crash"), (127, "crash")])
def test_what_the_base_worker_says_of_an_exit_status(code: int, kind: str) -> None:
    """Its sentence for the status; on capacity that may be taken back SIGTERM is spot."""
    from prefect._internal.infrastructure_exit_codes import get_infrastructure_exit_info

    message = f"Flow run infrastructure exited with non-zero status code {code}. {get_infrastructure_exit_info(code).explanation}"
    assert classify("Crashed", message).kind == kind
    if code == 143:
        assert classify("Crashed", message, spot=True).kind == "spot"


@pytest.mark.parametrize(
    ("description", "kind"),
    [
        ({"TrainingJobStatus": "Failed", "FailureReason": "AlgorithmError: x, exit code: 137"}, "memory"),
        ({"TrainingJobStatus": "Failed", "FailureReason": "CapacityError: Unable to provision requested ML compute capacity."}, "capacity"),
        ({"TrainingJobStatus": "Failed", "FailureReason": "ClientError: Cannot pull image x: manifest not found"}, "image"),
        ({"TrainingJobStatus": "Failed", "FailureReason": "InternalServerError: We encountered an internal error."}, "unreachable"),
        ({"TrainingJobStatus": "Failed", "FailureReason": "AlgorithmError: x, exit code: 3"}, "crash"),
        ({"TrainingJobStatus": "Stopped", "SecondaryStatus": "MaxWaitTimeExceeded"}, "spot"),
        ({"TrainingJobStatus": "Stopped", "SecondaryStatus": "MaxRuntimeExceeded"}, "timeout"),
        ({"TrainingJobStatus": "Stopped", "SecondaryStatus": "Stopped"}, "deleted"),
    ],
)
def test_what_our_sagemaker_worker_says(description: dict[str, Any], kind: str) -> None:
    """Its message begins with its own kind, and keeps its own fix."""
    from flows.workers.sagemaker_endings import ending

    found = ending({"TrainingJobName": "t", **description})
    assert found is not None
    failure = classify("Crashed", found.message)
    assert failure.kind == kind
    assert failure.fix in found.message
