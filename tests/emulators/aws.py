"""AWS for tests: moto's server (S3, STS, IAM, Secrets Manager, CloudWatch, SQS, ECS, SageMaker) in which tasks and jobs really run.

SageMaker's jobs: see `tests/emulators/sagemaker.py`; ECS's tasks: `tests/emulators/ecs.py`. Rights are not enforced. All is loopback.
"""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from tests.emulators.containers import Image
from tests.emulators.ecs import QUEUE, Agent, region_of
from tests.emulators.sagemaker import Job, SageMaker, _region

PLENTY = 10**9
"""CPU units and MiB of the one host that a cluster has."""
ECS = "AmazonEC2ContainerServiceV20141113."


class Aws(SageMaker):
    """The server; `accounts` are those of the estate, all keys are of the first one."""

    def __init__(self, folder: Path, image: Image, *, account: str) -> None:
        self.image, self.account = image, account
        home = folder / "sagemaker"
        home.mkdir(parents=True, exist_ok=True)
        super().__init__(home)
        self.agent = Agent(self, folder / "ecs", image)
        self.keys: dict[str, str] = {}
        self._clients: dict[tuple[str, str], Any] = {}
        self._making = threading.Lock()
        self._plain = self._moto
        self._moto = self._watched  # type: ignore[assignment,method-assign]

    def start(self) -> None:
        """Listen; the first time, forget what another server of this process was told, and make the account's keys."""
        super().start()
        if not self.keys:
            from moto.moto_api import state_manager

            # moto keeps one state per process, whatever the number of its servers
            urllib.request.urlopen(urllib.request.Request(f"{self.url}/moto-api/reset", method="POST"), timeout=10).read()
            # tasks go on until the agent says that they have ended
            state_manager.set_transition("ecs::task", {"progression": "manual", "times": 1_000_000})
            self.keys = self._account_keys()

    def stop(self) -> None:
        """End the server and all that it started."""
        self.agent.close()
        super().stop()

    def client(self, service: str, region: str, keys: Mapping[str, str] | None = None) -> Any:
        """A client of the real library, as the account's administrator unless told otherwise."""
        import boto3
        from botocore.config import Config

        with self._making:
            if keys is None and (service, region) in self._clients:
                return self._clients[service, region]
            given = keys or self.keys
            config = Config(retries={"total_max_attempts": 5, "mode": "standard"}, connect_timeout=10, read_timeout=30)
            made = boto3.session.Session(
                aws_access_key_id=given.get("AWS_ACCESS_KEY_ID", "testing"),
                aws_secret_access_key=given.get("AWS_SECRET_ACCESS_KEY", "testing"),
                aws_session_token=given.get("AWS_SESSION_TOKEN"),
            ).client(service, region_name=region, endpoint_url=self.url, config=config)  # type: ignore[call-overload]
            if keys is None:
                self._clients[service, region] = made
            return made

    def environment_of(self, region: str) -> dict[str, str]:
        """What a program of the account's administrator needs to find this server."""
        return {"AWS_ENDPOINT_URL": self.url, "AWS_DEFAULT_REGION": region, "AWS_REGION": region, **self.keys}

    def of_role(self, region: str, role: str | None) -> dict[str, str]:
        """What a container of a role has: the region, and the role's short-lived credentials."""
        plain = {"AWS_ENDPOINT_URL": self.url, "AWS_DEFAULT_REGION": region, "AWS_REGION": region}
        return plain if role is None else {**plain, **self.assume(role, region)}

    def assume(self, role: str, region: str) -> dict[str, str]:
        """Short-lived credentials of a role."""
        found = self.client("sts", region).assume_role(RoleArn=role, RoleSessionName="task")["Credentials"]
        return {
            "AWS_ACCESS_KEY_ID": found["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": found["SecretAccessKey"],
            "AWS_SESSION_TOKEN": found["SessionToken"],
        }

    def given(self, job: Job) -> Mapping[str, str]:
        """The image's variables, and what SageMaker gives to a job of a role."""
        return {**self.image.variables(job.folder), **self.of_role(job.region, job.request["RoleArn"])}

    def logs(self, job: Job) -> Any:
        """CloudWatch of the job's region."""
        return self.client("logs", job.region)

    def keep_secret(self, region: str, name: str, value: str) -> None:
        """Put a secret into the region's Secrets Manager."""
        self.client("secretsmanager", region).create_secret(Name=name, SecretString=value)

    def secret(self, arn: str) -> str:
        """A secret by its ARN, which may lack the random end of its name."""
        name = arn.split(":secret:", 1)[1]
        return str(self.client("secretsmanager", region_of(arn)).get_secret_value(SecretId=name)["SecretString"])

    def bucket(self, name: str, region: str) -> None:
        """Make a bucket in the region."""
        where: dict[str, Any] = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        self.client("s3", region).create_bucket(Bucket=name, **where)

    def objects(self, bucket: str, region: str) -> Iterator[tuple[str, bytes]]:
        """Every object of a bucket: its key and its bytes."""
        s3 = self.client("s3", region)
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for one in page.get("Contents", []):
                yield one["Key"], s3.get_object(Bucket=bucket, Key=one["Key"])["Body"].read()

    def logged(self, region: str) -> str:
        """Every line of CloudWatch in the region."""
        logs, found = self.client("logs", region), list[str]()
        for group in logs.describe_log_groups()["logGroups"]:
            for stream in logs.describe_log_streams(logGroupName=group["logGroupName"])["logStreams"]:
                named = {"logGroupName": group["logGroupName"], "logStreamName": stream["logStreamName"]}
                found += [event["message"] for event in logs.get_log_events(**named, startFromHead=True)["events"]]
        return "\n".join(found)

    def role(self, arn: str) -> None:
        """Make the role that an ARN names."""
        trust = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Principal": {"Service": "ecs-tasks.amazonaws.com"}, "Action": "sts:AssumeRole"}],
        }
        iam = self.client("iam", "us-east-1")
        with suppress(iam.exceptions.EntityAlreadyExistsException):  # pools of one site share theirs
            iam.create_role(RoleName=arn.rpartition("/")[2], AssumeRolePolicyDocument=json.dumps(trust))

    def subnet(self, wanted: str, region: str) -> None:
        """A subnet with this very id, which AWS would have chosen itself."""
        from moto.backends import get_backend

        vpc = self.client("ec2", region).describe_vpcs()["Vpcs"][0]["VpcId"]
        made = self.client("ec2", region).create_subnet(VpcId=vpc, CidrBlock="172.31.240.0/20")["Subnet"]["SubnetId"]
        for zone in get_backend("ec2")[self.account][region].subnets.values():
            if made in zone:
                zone[wanted] = zone.pop(made)
                zone[wanted].id = wanted

    def cluster(self, name: str, region: str) -> None:
        """An ECS cluster with one host that is large enough, and the queue that Prefect's worker reads."""
        from moto.backends import get_backend

        ecs, ec2 = self.client("ecs", region), self.client("ec2", region)
        ecs.create_cluster(clusterName=name)
        images = ec2.describe_images(Owners=["amazon"], MaxResults=5)["Images"]
        instance = ec2.run_instances(ImageId=images[0]["ImageId"], MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
        document = {"region": region, "instanceId": instance, "accountId": self.account}
        ecs.register_container_instance(cluster=name, instanceIdentityDocument=json.dumps(document), instanceIdentityDocumentSignature="x")
        for host in get_backend("ecs")[self.account][region].container_instances[name].values():
            for resource in host.remaining_resources:
                if resource["name"] in ("CPU", "MEMORY"):
                    resource["integerValue"] = PLENTY
        self.client("sqs", region).create_queue(QueueName=QUEUE)

    def _watched(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """moto's answer; what it says of tasks is told to the agent."""
        operation = environ.get("HTTP_X_AMZ_TARGET", "").removeprefix(ECS)
        if operation not in ("RunTask", "StopTask"):
            return self._plain(environ, start_response)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        answer = b"".join(self._plain(environ, start_response))
        if operation == "RunTask":
            for task in json.loads(answer).get("tasks", []):
                self.agent.start(_region(environ), task)
        else:
            asked = json.loads(body)
            self.agent.stop(asked["task"], asked.get("reason", "Task stopped by user"))
        return [answer]

    def _account_keys(self) -> dict[str, str]:
        """Keys of an administrator of the account: moto has one account per key."""
        as_role = self.assume(f"arn:aws:iam::{self.account}:role/administrator", "us-east-1")
        iam = self.client("iam", "us-east-1", as_role)
        iam.create_user(UserName="administrator")
        made = iam.create_access_key(UserName="administrator")["AccessKey"]
        self._clients.clear()
        return {"AWS_ACCESS_KEY_ID": made["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"]}


@contextmanager
def aws(folder: Path, image: Image, *, account: str) -> Iterator[Aws]:
    """A running server."""
    found = Aws(folder, image, account=account)
    found.start()
    try:
        yield found
    finally:
        found.stop()
