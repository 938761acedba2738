"""The agent of ECS's hosts, for moto's server: runs each task's container as a local process and tells its end as AWS does.

moto answers `RunTask` and keeps the task, but nothing runs. The agent gives the container what ECS gives it: the environment of task
definition and overrides, the secrets they name, short-lived credentials of the task's role. It puts the container's lines into CloudWatch
and its states into the queue where
EventBridge delivers them.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.emulators.containers import CANNOT_START, KILLED, Container, Image, background

if TYPE_CHECKING:
    from tests.emulators.aws import Aws

QUEUE = "prefect-ecs-tasks-events"
"""The queue of a region that Prefect's ECS worker reads."""
STOP_SECONDS = 30.0
"""What ECS waits between SIGTERM and SIGKILL."""
SPOT = "Your Spot Task was interrupted."
EXITED = "Essential container in task exited"


@dataclass
class Running:
    """One task that has not come to rest."""

    task: Mapping[str, Any]
    region: str
    container: Container | None = None
    ending: tuple[str, str] | None = None
    """Stop code and reason, where somebody ends it from outside."""


@dataclass
class Agent:
    """All hosts of all clusters."""

    aws: Aws
    folder: Path
    image: Image
    images: set[str] | None = None
    """Digests that the registry has; None: every one."""
    tasks: dict[str, Running] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    """The ARN of every task that ever was, in its order."""

    def start(self, region: str, task: Mapping[str, Any]) -> None:
        """Run a task that moto has taken."""
        arn = task["taskArn"]
        if arn not in self.tasks:
            self.started.append(arn)
            self.tasks[arn] = Running(task, region)
            background(self._live, self.tasks[arn])

    def stop(self, arn: str, reason: str, code: str = "UserInitiated") -> None:
        """End a task from outside, as `StopTask` does; nothing happens to one that has ended."""
        found = next((running for name, running in self.tasks.items() if name.split("/")[-1] == arn.split("/")[-1]), None)
        if found is not None and found.ending is None:
            found.ending = (code, reason)
            if found.container is not None:
                background(found.container.stop, STOP_SECONDS)

    def interrupt(self, arn: str) -> None:
        """Take the capacity back, as AWS does with spot: SIGTERM, and no word from whoever submitted."""
        self.stop(arn, SPOT, "SpotInterruption")

    def close(self) -> None:
        """End every container now."""
        for running in list(self.tasks.values()):
            if running.container is not None:
                running.container.kill()

    def _live(self, running: Running) -> None:
        ecs = self.aws.client("ecs", running.region)
        task = running.task
        definition = ecs.describe_task_definition(taskDefinition=task["taskDefinitionArn"])["taskDefinition"]
        one = next(container for container in definition["containerDefinitions"] if container.get("essential", True))
        name = one["name"]
        self._tell(running, "PENDING", [])
        if self.images is not None and one["image"].rpartition("@")[2] not in self.images:
            reason = (
                f"CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref {one['image']}: not found"
            )
            self._end(running, [{"name": name, "lastStatus": "STOPPED", "reason": reason}], "TaskFailedToStart", reason)
            return
        given = next((each for each in task["overrides"].get("containerOverrides", []) if each.get("name", name) == name), {})
        environment = {each["name"]: each["value"] for each in (*one.get("environment", []), *given.get("environment", []))}
        secrets = {each["name"]: self.aws.secret(each["valueFrom"]) for each in one.get("secrets", [])}
        role = task["overrides"].get("taskRoleArn") or definition.get("taskRoleArn")
        home = self.folder / task["taskArn"].split("/")[-1]
        cloud = self.aws.of_role(running.region, role)
        variables = {**self.image.variables(home), **cloud, **environment, **secrets}
        running.container = Container(given.get("command") or one.get("command") or [], variables, home)
        if running.ending is not None:
            running.container.kill()
        self._tell(running, "RUNNING", [{"name": name, "lastStatus": "RUNNING"}])
        options = (one.get("logConfiguration") or {}).get("options", {})
        code = running.container.follow()
        self._log(running, name, options, running.container.lines)
        ended: dict[str, Any] = {"name": name, "lastStatus": "STOPPED", "exitCode": code}
        if code == KILLED and running.ending is None:
            ended["reason"] = "OutOfMemoryError: Container killed due to memory usage"
        if code == CANNOT_START:
            ended["reason"] = f"CannotStartContainerError: {running.container.lines[-1]}"
        self._end(running, [ended], *(running.ending or ("EssentialContainerExited", EXITED)))

    def _end(self, running: Running, containers: list[dict[str, Any]], code: str, reason: str) -> None:
        running.ending = (code, reason)
        self.aws.client("ecs", running.region).stop_task(cluster=running.task["clusterArn"], task=running.task["taskArn"], reason=reason)
        self.tasks.pop(running.task["taskArn"], None)
        self._tell(running, "STOPPED", containers, stopCode=code, stoppedReason=reason)

    def _tell(self, running: Running, status: str, containers: list[dict[str, Any]], **more: str) -> None:
        """A state of the task, as EventBridge's rule puts it into the queue that Prefect's worker reads."""
        keys = ("taskArn", "clusterArn", "taskDefinitionArn")
        detail = {
            **{key: running.task[key] for key in keys},
            "lastStatus": status,
            "desiredStatus": status,
            "containers": containers,
            **more,
        }
        message = {
            "version": "0", "id": str(uuid.uuid4()), "source": "aws.ecs", "detail-type": "ECS Task State Change",
            "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "region": running.region, "resources": [running.task["taskArn"]],
            "detail": detail,
        }  # fmt: skip
        sqs = self.aws.client("sqs", running.region)
        sqs.send_message(QueueUrl=sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"], MessageBody=json.dumps(message))

    def _log(self, running: Running, name: str, options: Mapping[str, str], lines: list[str]) -> None:
        """The container's lines, where its log driver puts them."""
        if "awslogs-group" not in options:
            return
        logs = self.aws.client("logs", options.get("awslogs-region", running.region))
        group = options["awslogs-group"]
        stream = f"{options['awslogs-stream-prefix']}/{name}/{running.task['taskArn'].split('/')[-1]}"
        with suppress(logs.exceptions.ResourceAlreadyExistsException):  # the first task of the pool made it
            logs.create_log_group(logGroupName=group)
        logs.create_log_stream(logGroupName=group, logStreamName=stream)
        now = int(time.time() * 1000)
        for start in range(0, len(lines), 1000):
            events = [{"timestamp": now, "message": line} for line in lines[start : start + 1000]]
            logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def region_of(arn: str) -> str:
    """The region that an ARN names."""
    found = re.match(r"arn:aws:[a-z0-9-]+:([a-z0-9-]+):", arn)
    assert found, arn
    return found[1]
