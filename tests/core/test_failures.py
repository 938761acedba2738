# ruff: noqa: E501 - the workers' sentences are quoted as they are
"""How a run ended, read from what Prefect's workers say of it: each literal is quoted from the worker that writes it.

`tests/clouds/test_failure_words.py` lets those workers write them.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.core.failures import KINDS, NOT_STARTED, classify

FAILED_TO_SUBMIT = "Failed to submit flow run to infrastructure: "
GONE = "No active or succeeded pods found for any job"  # prefect_kubernetes/observer.py
STOPPED = "The following containers stopped with a non-zero exit code: ['tradewind']"  # prefect_aws/observers/ecs.py
EXIT_1 = "Flow run infrastructure exited with non-zero status code 1. Process exited with a general error."  # prefect/workers/base.py

SEEN = [
    # Kubernetes
    ("crash", GONE, ""),
    ("memory", GONE, "Container 'prefect-job' was killed due to out-of-memory (OOMKilled): The container exceeded its memory limit and was terminated by the kernel OOM killer. Resolution: Increase the container's memory limit"),
    ("image", "", "Image pull failed for container 'prefect-job': Kubernetes cannot pull the container image. Reason: ImagePullBackOff. Back-off pulling image Resolution: Verify the image name"),
    ("quota", f'{FAILED_TO_SUBMIT}InfrastructureError: Unable to create Kubernetes job: Forbidden: jobs.batch "tradewind-x" is forbidden: exceeded quota: runs, requested: count/jobs.batch=1, used: 0, limited: 0', ""),
    ("access", f'{FAILED_TO_SUBMIT}InfrastructureError: Unable to create Kubernetes job: Forbidden: jobs.batch is forbidden: User "system:serviceaccount:tradewind:tradewind-worker" cannot create resource "jobs"', ""),
    ("credentials", f"{FAILED_TO_SUBMIT}InfrastructureError: Unable to create Kubernetes job: Unauthorized: Unauthorized", ""),
    ("unreachable", f"{FAILED_TO_SUBMIT}ClientConnectorError: Cannot connect to host 127.0.0.1:6443 ssl:default [Connect call failed ('127.0.0.1', 6443)]", ""),
    ("configuration", f"{FAILED_TO_SUBMIT}InfrastructureError: Unable to create Kubernetes job: Unprocessable Entity: Job.batch is invalid", ""),
    ("deleted", "Kubernetes job was deleted", ""),
    # ECS
    ("crash", STOPPED, "Essential container exited: Container 'tradewind' exited with code 1. Resolution: An essential container in the task exited, causing the task to stop."),
    ("memory", STOPPED, "Essential container exited: Container 'tradewind' exited with code 137. Resolution: An essential container in the task exited, causing the task to stop."),
    ("image", STOPPED, "Container image pull failed: CannotPullContainerError: pull image manifest has been retried 1 time(s) Resolution: Verify that the container image exists"),
    ("capacity", "ECS task failed to start: Capacity is unavailable at this time. Please try again later or in a different availability zone. The capacity provider could not place the task.", ""),
    ("capacity", f"{FAILED_TO_SUBMIT}RuntimeError: Failed to run ECS task due to a capacity provider error. Verify that your Fargate or EC2 capacity providers are correctly configured", ""),
    ("credentials", f"{FAILED_TO_SUBMIT}ClientError: An error occurred (ExpiredTokenException) when calling the RunTask operation: The security token included in the request is expired", ""),
    ("credentials", f"{FAILED_TO_SUBMIT}NoCredentialsError: Unable to locate credentials", ""),
    ("throttled", f"{FAILED_TO_SUBMIT}ClientError: An error occurred (ThrottlingException) when calling the RunTask operation (reached max retries: 4): Rate exceeded", ""),
    ("quota", f"{FAILED_TO_SUBMIT}ClientError: An error occurred (LimitExceededException) when calling the RunTask operation: You've reached the limit on the number of vCPUs you can run concurrently", ""),
    ("access", f"{FAILED_TO_SUBMIT}ClientError: An error occurred (AccessDeniedException) when calling the RunTask operation: User is not authorized to perform: ecs:RunTask", ""),
    ("unreachable", f'{FAILED_TO_SUBMIT}EndpointConnectionError: Could not connect to the endpoint URL: "https://ecs.eu-central-1.amazonaws.com/"', ""),
    ("configuration", f"{FAILED_TO_SUBMIT}RuntimeError: Failed to run ECS task, cluster 'tradewind' not found. Confirm that the cluster is configured in your region.", ""),
    # Cloud Run
    ("memory", EXIT_1, "Cloud Run Job V2 tradewind-1 failed - Task tradewind-1-task0 failed with message: The configured memory limit was reached."),
    ("image", EXIT_1, "Cloud Run Job V2 tradewind-1 failed - Image 'europe-west6-docker.pkg.dev/p/t/t@sha256:ee' not found."),
    ("crash", EXIT_1, "Cloud Run Job V2 tradewind-1 failed - Task tradewind-1-task0 failed with message: The container exited with an error."),
    ("quota", f'{FAILED_TO_SUBMIT}HttpError: <HttpError 429 when requesting https://run.googleapis.com/v2/ returned "Quota exceeded for total allowable CPU per project per region.">', ""),
    ("credentials", f"{FAILED_TO_SUBMIT}RefreshError: ('invalid_grant: Token has been expired or revoked.', {{}})", ""),
    ("unreachable", f'{FAILED_TO_SUBMIT}HttpError: <HttpError 503 when requesting https://run.googleapis.com/v2/ returned "The service is currently unavailable.">', ""),
    ("access", f'{FAILED_TO_SUBMIT}HttpError: <HttpError 403 when requesting https://run.googleapis.com/v2/ returned "Permission run.jobs.create denied">', ""),
    ("memory", EXIT_1, "Cloud Run Job V2 tradewind-1 failed - Memory limit exceeded with the container killed by signal 9. Exit code 137."),
    ("deleted", "Flow run infrastructure exited with non-zero status code -1.", "Cloud Run V2 Job 'tradewind-1' was deleted. The flow run will be marked based on its current state."),
    # Vertex AI
    ("memory", EXIT_1, "Vertex AI job tradewind failed: Replicas low on memory: workerpool0."),
    ("quota", f"{FAILED_TO_SUBMIT}RetryError: RetryError[<Future at 0x7f3aac7436d0 state=finished raised ResourceExhausted>]", "google.api_core.exceptions.ResourceExhausted: 429 The following quotas are exceeded: CustomModelTrainingCPUsPerProjectPerRegion"),
    ("credentials", f"{FAILED_TO_SUBMIT}RetryError: RetryError[<Future at 0x7f3aac7436d0 state=finished raised ServiceUnavailable>]", "google.api_core.exceptions.ServiceUnavailable: 503 Getting metadata from plugin failed with error: ('invalid_grant: Token has been expired or revoked.', {})"),
    ("unreachable", f"{FAILED_TO_SUBMIT}RetryError: RetryError[<Future at 0x7f3aac7436d0 state=finished raised ServiceUnavailable>]", ""),
    ("memory", EXIT_1, "Vertex AI job tradewind failed: The replica workerpool0-0 exited with a non-zero status of 137. Termination reason: OOMKilled."),
    ("capacity", EXIT_1, "Vertex AI job tradewind failed: Resources are insufficient in region: europe-west4. Please try a different region."),
    ("quota", f"{FAILED_TO_SUBMIT}ResourceExhausted: 429 The following quotas are exceeded: CustomModelTrainingA2CPUsPerProjectPerRegion", ""),
    ("spot", EXIT_1, "Vertex AI job tradewind failed: The worker was preempted."),
    # our SageMaker worker: flows/workers/sagemaker_endings.py
    ("memory", "memory: training job `t` failed: AlgorithmError: out of memory\n  fix: ask for more memory: raise `resources` in the workload's file", ""),
    ("quota", f"{FAILED_TO_SUBMIT}JobRefused: quota: SageMaker refused the training job: ResourceLimitExceeded: x\n  fix: ask AWS for a higher quota of it, or use another offer", ""),
    ("spot", "spot: training job `t` did not end within 60 s of waiting for spot capacity and running\n  fix: raise `max_wait_seconds`", ""),
    ("deleted", "stopped: training job `t` was stopped from outside its flow run\n  fix: run it again if that was not meant", ""),
    # the first process of a container, of the one that ran the step; and a process of our own host
    ("memory", "Process exited with status code: -9. Process exited due to a SIGKILL signal.", ""),
    ("crash", "Flow run process exited with non-zero status code -9", ""),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "message", "evidence"), SEEN)
def test_the_words_of_each_worker_tell_the_kind(kind: str, message: str, evidence: str) -> None:
    """A crashed run is of the kind that its state or its worker's lines say."""
    found = classify("Crashed", message, [evidence])
    assert found.kind == kind
    told = (message or evidence).partition("\n")[0]
    assert found.fix and (told in found.what or found.what in told)


@pytest.mark.parametrize(
    ("state", "kind"),
    [("Failed", "step"), ("Refused", "refused"), ("Cancelled", "cancelled"), ("TimedOut", "timeout"), ("Unavailable", "worker-lost"), (NOT_STARTED, "not-started"), ("Crashed", "crash")],
)  # fmt: skip
def test_the_state_alone_tells_a_kind(state: str, kind: str) -> None:
    """Without a word more each state has a kind of its own."""
    assert classify(state).kind == kind


@pytest.mark.parametrize("message", [row[1] or row[2] for row in SEEN])
def test_what_a_step_says_of_itself_is_the_steps_own_error(message: str) -> None:
    """A step that fails with the words of a cloud moves nothing: only what ends it from outside is its place's fault."""
    found = classify("Failed", message)
    assert (found.kind, found.at_fault, found.elsewhere) == ("step", False, False)


@pytest.mark.parametrize(("message", "evidence"), [
    (GONE, ""), (STOPPED, "Task terminated by infrastructure: Container(s) 'tradewind' had no exit code, indicating the task was terminated by ECS Resolution: x"),
    (STOPPED, "Essential container exited: Container 'tradewind' exited with code 143. Resolution: x"),
    ("Execution was interrupted by an unexpected exception: TerminationSignal", ""),
])  # fmt: skip
def test_an_end_from_outside_on_spot_capacity_is_spot(message: str, evidence: str) -> None:
    """The clouds do not say in a state that they took it back; that it was theirs to take back does."""
    assert classify("Crashed", message, [evidence], spot=True).kind == "spot"
    assert classify("Crashed", message, [evidence]).kind == "crash"


@pytest.mark.parametrize("end", [
    "Cloud Run Job V2 tradewind-1 failed - Task tradewind-1-task0 failed with message: The container exited with an error.",
    "Vertex AI job tradewind failed: The replica workerpool0-0 exited with a non-zero status of 3.",
])  # fmt: skip
def test_what_was_said_on_the_way_does_not_explain_an_end(end: str) -> None:
    """An API that answered 503 once, long before the container ended by itself, does not close its site."""
    on_the_way = 'Cloud Run V2: transient error: <HttpError 503 when requesting https://run.googleapis.com/v2/ returned "unavailable">'
    assert classify("Crashed", EXIT_1, [on_the_way, end]).kind == "crash"
    assert classify("Crashed", EXIT_1, [on_the_way]).kind == "unreachable"


def test_only_what_a_place_does_to_a_run_cools_it_down() -> None:
    """Users, people who cancel and people who delete jobs do not; neither does a want of memory, which goes to a larger offer."""
    assert {kind for kind, facts in KINDS.items() if not facts.at_fault} == {"step", "refused", "cancelled", "deleted", "memory"}
    assert {kind for kind, facts in KINDS.items() if facts.elsewhere and not facts.at_fault} == {"memory"}
    assert {kind for kind, facts in KINDS.items() if facts.whole_site} == {"unreachable"}


@given(
    st.sampled_from(["Crashed", NOT_STARTED, "TimedOut", "Unavailable", "Failed", "Paused"]),
    st.text(),
    st.lists(st.text(), max_size=4),
    st.booleans(),
)
def test_every_ending_has_a_kind_a_message_and_a_fix(state: str, message: str, evidence: list[str], spot: bool) -> None:
    """Whatever a cloud says, the user is told something; a step's own error is never the place's, nor the other way round."""
    found = classify(state, message, evidence, spot=spot)
    assert found.kind in KINDS and found.what and found.fix
    assert (found.kind == "step") == (state in ("Failed", "Paused"))


@given(st.sampled_from(SEEN), st.text(alphabet="abc xyz", max_size=30))
def test_a_line_without_a_word_of_the_cloud_changes_nothing(seen: tuple[str, str, str], noise: str) -> None:
    """More lines beside the telling one do not hide it."""
    kind, message, evidence = seen
    assert classify("Crashed", message, [noise, evidence, noise]).kind == kind
