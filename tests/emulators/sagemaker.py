"""SageMaker training jobs that really run: moto's server, with a layer in front that keeps a job's status and runs its command here.

moto alone says `Completed` at once, runs nothing, takes a name twice, checks no value and answers 500 to `StopTrainingJob`. The layer asks
moto all the same, so that names and tags are moto's, and adds what is missing: AWS's own service model, `ResourceInUse`, quota, roles and
images, statuses and their transitions, the command as a process per host with `resourceconfig.json`, its output in CloudWatch, stop, time
limit, spot that is taken back, checkpoints that outlive it where `CheckpointConfig` asks for them, and faults to order.

Hosts are loopback addresses. Everything is loopback; all processes of a job end with it, as a container's do.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from tests.emulators.sagemaker_shapes import problems

GROUP = "/aws/sagemaker/TrainingJobs"
RUNNING = ("InProgress", "Stopping")
KILL_SECONDS = 5.0


@dataclass
class Job:
    """One job: what was asked, where it stands, its processes."""

    request: dict[str, Any]
    folder: Path
    status: str = "InProgress"
    secondary: str = "Starting"
    reason: str | None = None
    transitions: list[dict[str, Any]] = field(default_factory=list)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    taken: threading.Event = field(default_factory=threading.Event)
    ended_at: float | None = None
    region: str = "us-east-1"

    def move(self, secondary: str, message: str = "") -> None:
        """Go to another secondary status."""
        self.secondary = secondary
        self.transitions.append({"Status": secondary, "StartTime": time.time(), "StatusMessage": message})

    def end(self, status: str, secondary: str, reason: str | None = None) -> None:
        """Come to rest."""
        self.move(secondary)
        self.ended_at = time.time()
        self.reason, self.status = reason, status


@dataclass
class Fault:
    """The next `times` answers to an operation: an error of that code."""

    operation: str
    code: str
    message: str
    status: int
    times: int
    after: bool
    """True: the operation is done, and its answer lost."""
    pause_seconds: float
    """How long the answer takes."""
    region: str | None = None
    """Only there."""


class SageMaker:
    """The server, on a port of its own choosing."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder, self.environment = folder, dict(environment or {})
        self.jobs: dict[str, Job] = {}
        self.images: set[str] | None = None
        self.roles: set[str] | None = None
        self.quota: dict[str, int] = {}
        self.faults: deque[Fault] = deque()
        self.calls: list[tuple[str, str]] = []
        """Access key and target of every call."""
        self.startup_seconds = 0.0
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._server: BaseWSGIServer | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """What `AWS_ENDPOINT_URL` must be."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen; again on the same port after `silence`."""
        self._server = make_server("127.0.0.1", self.port, self, threaded=True, request_handler=_Quiet)
        self.port = self._server.port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def silence(self) -> None:
        """Stop listening: connections are refused. Jobs go on."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def stop(self) -> None:
        """End the server and every process of every job."""
        for job in list(self.jobs.values()):
            job.stopping.set()
            _kill(job)
        self.silence()

    def fail(
        self, operation: str, code: str, message: str = "", *, status: int = 400, times: int = 1, after: bool = False, pause: float = 0.0,
        region: str | None = None,
    ) -> Fault:  # fmt: skip
        """Answer the next calls of an operation, in that region if one is named, with an error."""
        self.faults.append(Fault(operation, code, message, status, times, after, pause, region))
        return self.faults[-1]

    def interrupt(self, name: str, number: int = signal.SIGKILL) -> None:
        """Take the spot capacity of a job back: its processes die by that signal, and it starts again."""
        self.jobs[name].taken.set()
        _signal(self.jobs[name], number)

    def forget(self, name: str) -> None:
        """Delete a job under its watcher."""
        job = self.jobs.pop(name)
        job.stopping.set()
        _kill(job)

    def count(self, operation: str) -> int:
        """How often an operation was called."""
        return sum(target.endswith(f".{operation}") for _, target in self.calls)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        operation = target.partition(".")[2]
        self.calls.append((environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].partition("/")[0], target))
        ordered = (one for one in self.faults if one.operation == operation and one.times > 0)
        fault = next((one for one in ordered if one.region in (None, _region(environ))), None)
        if fault is not None:
            fault.times -= 1
            if not fault.after:
                return _error(start_response, fault.code, fault.message, fault.status)
        if not target.startswith("SageMaker."):
            return self._moto(environ, start_response)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        handler = {
            "CreateTrainingJob": self._create, "DescribeTrainingJob": self._describe, "StopTrainingJob": self._stop,
            "ListTrainingJobs": self._list,
        }.get(operation)  # fmt: skip
        if handler is None:
            return self._moto(environ, start_response)
        if fault is None:
            return handler(json.loads(body), environ, start_response)
        handler(json.loads(body), environ, lambda *_: None)
        time.sleep(fault.pause_seconds)
        return _error(start_response, fault.code, fault.message, fault.status)

    def _create(self, request: dict[str, Any], environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        name, resources = request["TrainingJobName"], request["ResourceConfig"]
        if wrong := problems(request):
            text = f"{len(wrong)} validation error detected: {'; '.join(wrong)}"
            return _error(start_response, "ValidationException", text)
        if self.roles is not None and request["RoleArn"] not in self.roles:
            text = f"Could not assume role {request['RoleArn']}. Please ensure that the role exists and allows principal"
            return _error(start_response, "ValidationException", f"{text} 'sagemaker.amazonaws.com' to assume the role.")
        with self._lock:
            if name in self.jobs:
                return _error(start_response, "ResourceInUse", "Training job names must be unique within an AWS account and region")
            limit = self.quota.get(resources["InstanceType"])
            if limit is not None and resources["InstanceCount"] > limit:
                what = f"{resources['InstanceType']} for training job usage"
                text = (
                    f"The account-level service limit '{what}' is {limit} Instances, with current utilization of 0 Instances and a request"
                )
                return _error(start_response, "ResourceLimitExceeded", f"{text} delta of {resources['InstanceCount']} Instances.")
            answer = list(self._moto(environ, start_response))
            job = self.jobs[name] = Job(request, self.folder / name, region=_region(environ))
        threading.Thread(target=self._live, args=(job,), daemon=True).start()
        return answer

    def _describe(self, request: dict[str, Any], environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        job = self.jobs.get(request["TrainingJobName"])
        if job is None:
            return _error(start_response, "ValidationException", "Requested resource not found.")
        told: dict[str, Any] = {}

        def keep(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
            told.update(status=status, headers=headers)

        found = json.loads(b"".join(self._moto(environ, keep)))
        found |= {"TrainingJobStatus": job.status, "SecondaryStatus": job.secondary, "SecondaryStatusTransitions": job.transitions}
        found["LastModifiedTime"] = job.ended_at or time.time()
        if job.reason:
            found["FailureReason"] = job.reason
        if job.status in RUNNING:
            found.pop("TrainingEndTime", None)
        return _json(start_response, found)

    def _list(self, request: dict[str, Any], environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        wanted, part = request.get("StatusEquals"), request.get("NameContains", "")
        rows = [
            {
                "TrainingJobName": name, "TrainingJobArn": f"arn:aws:sagemaker:{_region(environ)}:123456789012:training-job/{name}",
                "CreationTime": job.transitions[0]["StartTime"] if job.transitions else time.time(), "TrainingJobStatus": job.status,
            }
            for name, job in self.jobs.items()
            if part in name and wanted in (None, job.status)
        ]  # fmt: skip
        return _json(start_response, {"TrainingJobSummaries": rows})

    def _stop(self, request: dict[str, Any], environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        job = self.jobs.get(request["TrainingJobName"])
        if job is None:
            return _error(start_response, "ValidationException", "Requested resource not found.")
        if job.status not in RUNNING:
            text = f"The request was rejected because the training job is in status {job.status}."
            return _error(start_response, "ValidationException", text)
        job.status = "Stopping"
        job.move("Stopping")
        job.stopping.set()
        return _json(start_response, {})

    def _live(self, job: Job) -> None:
        """A job's life, from starting to its end."""
        image = job.request["AlgorithmSpecification"]["TrainingImage"]
        job.move("Starting", "Starting the training job")
        if job.stopping.wait(self.startup_seconds):
            job.end("Stopped", "Stopped")
            return
        if self.images is not None and image not in self.images:
            job.end("Failed", "Failed", f"ClientError: Cannot pull image {image}: manifest not found: the image does not exist")
            return
        while True:
            code = self._train(job)
            if not job.taken.is_set():
                break
            job.taken.clear()
            job.move("Interrupted", "Training job interrupted: spot capacity reclaimed")
            job.move("Starting", "Starting the training job again")
        if job.stopping.is_set():
            job.end("Stopped", "Stopped")
        elif code is None:
            job.end("Stopped", "MaxRuntimeExceeded")
        elif code:
            failure = job.folder / "algo-1" / "output" / "failure"
            told = failure.read_text() if failure.exists() else ""
            job.end("Failed", "Failed", f"AlgorithmError: {told}, exit code: {code}")
        else:
            job.move("Uploading")
            job.end("Completed", "Completed")

    def _train(self, job: Job) -> int | None:
        """Run the command on every host; the first exit code that is not 0, None after the time limit."""
        specification = job.request["AlgorithmSpecification"]
        command = [*specification["ContainerEntrypoint"], *specification.get("ContainerArguments", [])]
        count = job.request["ResourceConfig"]["InstanceCount"]
        hosts = [f"127.0.0.{number}" for number in range(1, count + 1)]
        readers = []
        job.processes.clear()
        for number, host in enumerate(hosts, 1):
            root = job.folder / f"algo-{number}"
            (root / "input" / "config").mkdir(parents=True, exist_ok=True)
            _checkpoints(root, self.folder / "s3", job.request.get("CheckpointConfig"))
            config = {"current_host": host, "hosts": hosts, "network_interface_name": "lo"}
            (root / "input" / "config" / "resourceconfig.json").write_text(json.dumps(config))
            environment = {**self.given(job), **job.request.get("Environment", {}), "TRADEWIND_SAGEMAKER_ROOT": str(root)}
            process = subprocess.Popen(
                command, env=environment, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
            )
            (root / "first.pid").write_text(str(process.pid))
            job.processes.append(process)
            readers.append(threading.Thread(target=self._log, args=(job, f"algo-{number}", process), daemon=True))
            readers[-1].start()
        job.move("Training", "Training image download completed. Training in progress.")
        code = _wait(job, job.request["StoppingCondition"]["MaxRuntimeInSeconds"])
        _kill(job)
        for reader in readers:
            reader.join(10)
        return code

    def given(self, job: Job) -> Mapping[str, str]:
        """What a host of the job has before the job's own environment."""
        return self.environment

    def logs(self, job: Job) -> Any:
        """A client of CloudWatch for the job's lines."""
        import boto3
        from botocore.config import Config

        region = self.environment.get("AWS_DEFAULT_REGION", "eu-central-1")
        config = Config(retries={"total_max_attempts": 10, "mode": "standard"})
        return boto3.session.Session(region_name=region, aws_access_key_id="testing", aws_secret_access_key="testing").client(
            "logs", endpoint_url=self.url, config=config
        )

    def _log(self, job: Job, host: str, process: subprocess.Popen[str]) -> None:
        """Each line of a process into CloudWatch, as it comes."""
        logs = self.logs(job)
        stream = f"{job.request['TrainingJobName']}/{host}-{int(time.time() * 1000)}"
        assert process.stdout is not None
        made = False
        for text in process.stdout:
            if not made:
                try:
                    logs.create_log_group(logGroupName=GROUP)
                except logs.exceptions.ResourceAlreadyExistsException:
                    made = True
                logs.create_log_stream(logGroupName=GROUP, logStreamName=stream)
                made = True
            event = {"timestamp": int(time.time() * 1000), "message": text.rstrip("\n") or " "}
            logs.put_log_events(logGroupName=GROUP, logStreamName=stream, logEvents=[event])


class _Quiet(WSGIRequestHandler):
    def log_request(self, *_: Any, **__: Any) -> None:
        """Nothing."""


def _wait(job: Job, limit: float) -> int | None:
    until = time.monotonic() + limit
    killed_at: float | None = None
    while True:
        codes = [process.poll() for process in job.processes]
        if job.taken.is_set() and None not in codes:
            return 0
        failed = next((128 - code if code < 0 else code for code in codes if code), None)
        if None not in codes:
            return failed or 0
        if failed and not job.taken.is_set():
            return failed
        if job.stopping.is_set():
            if killed_at is None:
                _signal(job, signal.SIGTERM)
                killed_at = time.monotonic() + KILL_SECONDS
            elif time.monotonic() > killed_at:
                _kill(job)
        elif time.monotonic() > until:
            return None
        time.sleep(0.02)


def _signal(job: Job, number: int) -> None:
    """SIGTERM goes to each container's first process alone, SIGKILL to all of them."""
    if number == signal.SIGKILL:
        _kill(job)
        return
    for process in job.processes:
        if process.poll() is None:
            process.send_signal(number)


def _kill(job: Job) -> None:
    """End all that a job's containers hold, known by its environment: some lead groups of their own, some have lost their parents."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("TRADEWIND_SAGEMAKER_ROOT", "").startswith(f"{job.folder}/"):
                process.kill()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def _checkpoints(root: Path, buckets: Path, config: Mapping[str, Any] | None) -> None:
    """`checkpoints` as the bucket has it; without a bucket it is as new as the instance."""
    folder = root / "checkpoints"
    if config is None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    elif not folder.exists():
        kept = buckets / config["S3Uri"].removeprefix("s3://")
        kept.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(kept)


def _json(start_response: Callable[..., Any], body: Mapping[str, Any], status: str = "200 OK") -> Iterable[bytes]:
    start_response(status, [("Content-Type", "application/x-amz-json-1.1")])
    return [json.dumps(body).encode()]


def _error(start_response: Callable[..., Any], code: str, message: str, status: int = 400) -> Iterable[bytes]:
    return _json(start_response, {"__type": code, "message": message}, f"{status} Error")


def _region(environ: Mapping[str, Any]) -> str:
    credential = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2]
    return credential.split("/")[2] if credential.count("/") >= 4 else "us-east-1"
