"""Our SageMaker worker, started as users start it, on a real Prefect server and moto with a layer that runs the jobs' commands.

moto stands in for AWS; what the layer adds is in `tests/emulators/sagemaker.py`. Most runs start together, while AWS throttles.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from flows.adapters.settings import PROJECT_ROOT
from tests.clouds.kube_world import wait
from tests.clouds.sagemaker_world import ABSENT, POOL, WORKER_KEY, World, kill, world

pytestmark = [pytest.mark.clouds, pytest.mark.timeout(300)]

LARGE = "ml.p4d.24xlarge"
SPOT = {"spot": True, "max_wait_seconds": 86400}


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The world with one worker."""
    with world(tmp_path_factory.mktemp("sagemaker")) as made:
        made.aws.quota = {LARGE: 0}
        made.worker("first-worker")
        yield made


@dataclass(frozen=True, slots=True)
class Batch:
    """The runs that were started together."""

    talking: str
    badly: str
    three: str
    greedily: str
    absent: str
    pair: str
    killed: str
    warned: str
    stopped: str
    deleted: str
    cancelled: str


@pytest.fixture(scope="module")
def batch(aws: World) -> Batch:
    """They start while AWS throttles, fails and loses an answer."""
    for operation in ("CreateTrainingJob", "DescribeTrainingJob", "GetLogEvents"):
        aws.aws.fail(operation, "ThrottlingException", "Rate exceeded", times=6)
    aws.aws.fail("CreateTrainingJob", "InternalFailure", status=500, after=True)
    made = Batch(
        talking=aws.start("talking"),
        badly=aws.start("badly"),
        three=aws.start("three"),
        greedily=aws.start("greedily"),
        absent=aws.start(image=ABSENT),
        pair=aws.start("telling", instance_count=2),
        killed=aws.start("by and by", **SPOT, intent="killed"),
        warned=aws.start("by and by", **SPOT, intent="warned"),
        stopped=aws.start("slowly"),
        deleted=aws.start("slowly"),
        cancelled=aws.start("slowly"),
    )
    for run, number in ((made.killed, signal.SIGKILL), (made.warned, signal.SIGTERM)):
        aws.busy(run)
        aws.aws.interrupt(aws.name(run), number)
    aws.busy(made.greedily)
    (aws.inside(made.greedily) / "go").touch()
    aws.busy(made.stopped)
    aws.client("sagemaker").stop_training_job(TrainingJobName=aws.name(made.stopped))
    aws.busy(made.deleted)
    aws.aws.forget(aws.name(made.deleted))
    aws.busy(made.cancelled)
    aws.set_state(made.cancelled, "CANCELLING")
    return made


def test_a_run_completes_and_its_log_has_each_line_once_in_order(aws: World, batch: Batch) -> None:
    """What the flow logs is in Prefect; all that the container prints is in the worker's log and in CloudWatch."""
    assert aws.ended(batch.talking)[0] == "COMPLETED"
    assert [line for line in aws.said(batch.talking) if line.startswith("logged")] == [f"logged {number:02d}" for number in range(1, 31)]
    wait(lambda: "printed 30" in aws.worker_said("first-worker"), 20, lambda: aws.worker_said("first-worker"))
    printed = [line.partition("[algo-1] ")[2] for line in aws.worker_said("first-worker").splitlines() if "] printed " in line]
    assert printed == [f"printed {number:02d}" for number in range(1, 31)]


def test_a_flow_that_raises_is_failed(aws: World, batch: Batch) -> None:
    """The flow says so itself; the worker does not say otherwise."""
    assert aws.ended(batch.badly) == ("FAILED", "Flow run encountered an exception: ValueError: no such column `bmi`")


def test_a_process_that_exits_is_crashed(aws: World, batch: Batch) -> None:
    """With its exit code."""
    type_, message = aws.ended(batch.three)
    assert type_ == "CRASHED"
    assert "3" in message


def test_a_container_out_of_memory_is_crashed(aws: World, batch: Batch) -> None:
    """Nothing in it can report any more: the worker does, and says what to ask for."""
    type_, message = aws.ended(batch.greedily)
    assert type_ == "CRASHED"
    assert message.startswith("memory: training job")
    assert "fix: ask for more memory" in message


def test_a_missing_image_is_crashed(aws: World, batch: Batch) -> None:
    """No process ever ran."""
    type_, message = aws.ended(batch.absent)
    assert type_ == "CRASHED"
    assert message.startswith("image: training job")
    assert "fix: push the image by its digest" in message


def test_of_two_nodes_the_first_runs_the_flow(aws: World, batch: Batch) -> None:
    """The flow knows all hosts, its pool and its secret; the other host waits for its end."""
    assert aws.ended(batch.pair)[0] == "COMPLETED"
    job = aws.job(batch.pair)
    wait(lambda: job.status == "Completed", 30, lambda: f"{job.status} {job.reason}")
    assert not (aws.inside(batch.pair, host=2) / "told.json").exists()
    told = json.loads((aws.inside(batch.pair) / "told.json").read_text())
    assert told == {
        "secret": "sqlite://",
        "SM_HOSTS": '["127.0.0.1", "127.0.0.2"]',
        "SM_CURRENT_HOST": "127.0.0.1",
        "TRADEWIND_SITE": "aws-eu-central-1",
        "TRADEWIND_POOL": POOL,
    }
    assert "sqlite://" not in json.dumps(job.request)


@pytest.mark.parametrize("how", ["killed", "warned"])
def test_a_spot_job_goes_on_from_its_checkpoint(aws: World, batch: Batch, how: str) -> None:
    """In the same job and the same run: what was done before is not done again."""
    run = getattr(batch, how)
    assert aws.ended(run)[0] == "COMPLETED"
    request = aws.job(run).request
    assert request["CheckpointConfig"]["S3Uri"] == f"s3://tradewind-eu-central-1/checkpoints/nafld/{how}"
    assert (request["EnableManagedSpotTraining"], request["StoppingCondition"]["MaxWaitTimeInSeconds"]) == (True, 86400)
    assert any("took the spot capacity" in line for line in aws.said(run))
    assert len(aws.jobs(run)) == 1
    # a process that is killed takes what it had not sent to Prefect with it; CloudWatch has all
    printed = f"Flow run '{aws.run(run)['name']}' - epoch "
    wait(lambda: f"{printed}3" in aws.worker_said("first-worker"), 20, aws.workers_said)
    assert [line[-1] for line in aws.worker_said("first-worker").splitlines() if printed in line] == ["1", "2", "2", "3"]


def test_a_job_stopped_from_outside_is_crashed(aws: World, batch: Batch) -> None:
    """Somebody used the console."""
    type_, message = aws.ended(batch.stopped)
    assert type_ == "CRASHED"
    assert message.startswith("stopped: training job")


def test_a_deleted_job_is_crashed(aws: World, batch: Batch) -> None:
    """It is not looked for for ever."""
    type_, message = aws.ended(batch.deleted)
    assert type_ == "CRASHED"
    assert message.startswith("deleted: training job")


def test_a_cancelled_run_ends_its_job(aws: World, batch: Batch) -> None:
    """Prefect's own runner in the container does it."""
    assert aws.ended(batch.cancelled)[0] == "CANCELLED"
    job = aws.job(batch.cancelled)
    wait(lambda: job.status in ("Completed", "Failed", "Stopped"), 30, lambda: job.status)


def test_throttling_and_a_lost_answer_cost_no_second_job(aws: World, batch: Batch) -> None:
    """All of it happened while those runs started."""
    assert [fault for fault in aws.aws.faults if fault.times] == []
    assert [len(aws.jobs(getattr(batch, name))) for name in Batch.__slots__ if name != "deleted"] == [1] * 10


def test_a_refused_quota_says_so(aws: World) -> None:
    """AWS's words, and what to do."""
    type_, message = aws.ended(aws.start(instance_type=LARGE))
    assert type_ == "CRASHED"
    assert f"quota: SageMaker refused the training job: ResourceLimitExceeded: The account-level service limit '{LARGE}" in message
    assert "fix: ask AWS for a higher quota of it, or use another offer" in message


def test_a_missing_role_says_so(aws: World) -> None:
    """As AWS answers when SageMaker may not be it."""
    roles, aws.aws.roles = aws.aws.roles, set()
    try:
        type_, message = aws.ended(aws.start())
    finally:
        aws.aws.roles = roles
    assert type_ == "CRASHED"
    assert "fix: let SageMaker assume the job's role, and the worker pass it" in message


def test_expired_credentials_say_so(aws: World) -> None:
    """A run is not kept waiting for somebody to renew them."""
    aws.aws.fail("CreateTrainingJob", "ExpiredTokenException", "The security token included in the request is expired")
    type_, message = aws.ended(aws.start())
    assert type_ == "CRASHED"
    assert "fix: renew the worker's credentials" in message


def test_a_run_cancelled_while_its_job_starts_has_its_job_stopped(aws: World) -> None:
    """There is no runner yet that could."""
    aws.aws.startup_seconds = 60
    try:
        run = aws.start()
        job = aws.job(run)
        wait(lambda: bool(aws.run(run)["infrastructure_pid"]), 20, lambda: f"{aws.state(run)}")
        aws.set_state(run, "CANCELLING")
        assert aws.ended(run)[0] == "CANCELLED"
    finally:
        aws.aws.startup_seconds = 0
    wait(lambda: job.status == "Stopped", 20, lambda: job.status)
    assert job.processes == []


def test_silence_of_aws_and_credentials_that_expire_meanwhile_are_waited_out(aws: World) -> None:
    """The job runs; only the watcher is blind."""
    run = aws.start("until told")
    aws.busy(run)
    aws.aws.fail("DescribeTrainingJob", "ExpiredTokenException", "The security token included in the request is expired", times=2)
    wait(lambda: not any(fault.times for fault in aws.aws.faults), 20, aws.workers_said)
    aws.aws.silence()
    wait(lambda: any("Could not connect" in line for line in aws.said(run)), 30, aws.workers_said)
    assert aws.state(run)["type"] == "RUNNING"
    aws.aws.start()
    (aws.inside(run) / "go").touch()
    assert aws.ended(run)[0] == "COMPLETED"
    assert len(aws.jobs(run)) == 1


def test_a_new_worker_goes_on_where_a_killed_one_stopped(aws: World) -> None:
    """Killed before, during and after submission, and with a run deleted: each run has one job, no job is left without a run."""
    after, doomed, orphan = aws.start("until told"), aws.start("greedily"), aws.start("slowly")
    for run in (after, doomed, orphan):
        aws.busy(run)
    aws.aws.fail("CreateTrainingJob", "InternalFailure", status=500, after=True, pause=20)
    during = aws.start()
    aws.job(during)
    asked = aws.aws.count("CreateTrainingJob")
    blocked = aws.aws.fail("CreateTrainingJob", "ThrottlingException", times=1000)
    before = aws.start()
    wait(lambda: aws.aws.count("CreateTrainingJob") > asked, 20, aws.workers_said)
    kill(aws.processes[0])
    blocked.times = 0
    assert aws.jobs(before) == {}
    httpx.delete(f"{aws.url}/flow_runs/{orphan}", timeout=30).raise_for_status()
    (aws.inside(doomed) / "go").touch()

    aws.worker("second-worker")
    type_, message = aws.ended(doomed)
    assert type_ == "CRASHED"
    assert message.startswith("memory: training job")
    wait(lambda: "worker `second-worker` goes on watching" in "\n".join(aws.said(after)), 60, aws.workers_said)
    (aws.inside(after) / "go").touch()
    for run in (before, during, after):
        assert aws.ended(run)[0] == "COMPLETED"
    for run in (before, during, after, doomed):
        assert len(aws.jobs(run)) == 1
    left = aws.job(orphan)
    wait(lambda: left.status == "Stopped", 40, aws.workers_said)


def test_the_documented_rights_are_those_that_are_used(aws: World) -> None:
    """No more and no less; two of them go with the creation of a job and are no operations."""
    policy = json.loads(re.findall(r"```json\n(.*?)```", (PROJECT_ROOT / "docs" / "sagemaker.md").read_text(), re.DOTALL)[0])
    actions = [one["Action"] for one in policy["Statement"]]
    granted = {action for one in actions for action in ([one] if isinstance(one, str) else one)}
    services = {"SageMaker": "sagemaker", "Logs_20140328": "logs"}
    used = {target.partition(".") for key, target in aws.aws.calls if key == WORKER_KEY}
    assert granted - {"sagemaker:AddTags", "iam:PassRole"} == {f"{services[service]}:{operation}" for service, _, operation in used}
