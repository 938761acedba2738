"""What a pool's template and a run's job variables make of a training job: the request of `CreateTrainingJob`, as a template.

`training_job` is that request in AWS's own words, so whatever SageMaker offers can be set; the worker adds what belongs to one run: name,
command, environment, tags. AWS judges it when it is sent; here is refused only what AWS would take and what could not work.
"""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Mapping
from typing import Any

from prefect.workers.base import BaseJobConfiguration, BaseVariables
from pydantic import Field

from flows.core.errors import Problem, UserError
from flows.workers.sagemaker_node import FOLLOWER, SECRET

MAX_VALUE = 512
"""The longest value of an environment variable that SageMaker takes."""
MAX_TAG_KEY, MAX_TAG_VALUE = 128, 256
NOT_IN_A_TAG = re.compile(r"[^\w\s.:/=+\-@]")
LAUNCHER = ("python", "-m", "flows.workers.sagemaker_node")
API_KEY, API_AUTH = "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"
AT_SIGTERM = {"PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR": "relinquish"}
"""A run that is interrupted keeps its state: SageMaker starts a spot job again, and the worker tells what has ended."""
LOCAL_STORAGE = re.compile(r"ml\.(?:p3dn|p4de?|p5\w*|p6[\w-]*|g4dn|g5n?|g6e?|g7e?|trn\d\w*|[cmr]\d[a-z]*d[a-z]*|i\d[a-z]*)\.")
"""Instance types whose disks are the machine's own: SageMaker takes no key for them, the hardware encrypts (AWS, `ResourceConfig`)."""

TRAINING_JOB: Mapping[str, Any] = {
    "AlgorithmSpecification": {"TrainingImage": "{{ image }}", "TrainingInputMode": "File"},
    "RoleArn": "{{ role_arn }}",
    "ResourceConfig": {
        "InstanceType": "{{ instance_type }}",
        "InstanceCount": "{{ instance_count }}",
        "VolumeSizeInGB": "{{ volume_gb }}",
        "VolumeKmsKeyId": "{{ volume_kms_key }}",
    },
    "StoppingCondition": {"MaxRuntimeInSeconds": "{{ max_runtime_seconds }}", "MaxWaitTimeInSeconds": "{{ max_wait_seconds }}"},
    "EnableManagedSpotTraining": "{{ spot }}",
    "CheckpointConfig": {"S3Uri": "{{ checkpoint_s3_uri }}"},
    "OutputDataConfig": {"S3OutputPath": "{{ output_s3_uri }}", "KmsKeyId": "{{ output_kms_key }}"},
    "VpcConfig": {"Subnets": "{{ subnets }}", "SecurityGroupIds": "{{ security_groups }}"},
    "EnableInterContainerTrafficEncryption": True,
}
"""The request of a pool that was not declared by the project: everything a variable."""


class SageMakerJobConfiguration(BaseJobConfiguration):
    """One training job: where, what and how it is watched."""

    region: str = Field(min_length=1, description="The AWS region of the job.")
    training_job: dict[str, Any] = Field(
        default_factory=dict, description="The request of `CreateTrainingJob`.", json_schema_extra={"template": dict(TRAINING_JOB)}
    )
    tags: dict[str, str] = Field(default_factory=dict, description="Tags for the bill, beside `labels`.")
    launcher: list[str] = Field(
        default=list(LAUNCHER),
        description="What starts the command in the container; empty: the command itself, for one host without secrets and long values.",
        json_schema_extra={"template": list(LAUNCHER)},
    )
    follower_command: str | None = Field(
        default=None, description="What the other hosts of a job run while the first runs the flow; `{first}` is its name."
    )
    env_from_secrets: dict[str, str] = Field(
        default_factory=dict, description="Environment variables to ARNs of Secrets Manager, read by the container with the job's role."
    )
    prefect_api_key_secret_arn: str | None = Field(default=None, description="The secret with the key of the Prefect API.")
    prefect_api_auth_string_secret_arn: str | None = Field(default=None, description="The secret with the Prefect server's auth string.")
    stream_output: bool = Field(default=True, description="Show the job's output in the worker's log.")
    poll_seconds: float = Field(default=15.0, gt=0, description="Between two looks at the job.")
    unreachable_seconds: float = Field(default=3600.0, gt=0, description="How long AWS may be silent.")

    def request(self, name: str) -> dict[str, Any]:
        """The complete request.

        Raises:
            UserError: a job of which the Prefect server would never hear.
        """
        request = self._request(name)
        if found := self._problems(request):
            raise UserError(problems=found)
        return request

    @property
    def arguments(self) -> list[str]:
        """The command as a list of words."""
        return shlex.split(self.command or "prefect flow-run execute")

    def _request(self, name: str) -> dict[str, Any]:
        request = _without_empty(copy.deepcopy(self.training_job))
        resources, stop = request.get("ResourceConfig", {}), request.get("StoppingCondition", {})
        if LOCAL_STORAGE.match(str(resources.get("InstanceType", ""))):
            resources.pop("VolumeKmsKeyId", None)
        if request.get("EnableManagedSpotTraining") is True and "MaxRuntimeInSeconds" in stop:
            stop.setdefault("MaxWaitTimeInSeconds", stop["MaxRuntimeInSeconds"])
        elif not request.get("EnableManagedSpotTraining"):
            stop.pop("MaxWaitTimeInSeconds", None)
        starts, words = (list(self.launcher), self.arguments) if self.launcher else (self.arguments, [])
        specification = {**request.get("AlgorithmSpecification", {}), "ContainerEntrypoint": starts}
        specification.setdefault("TrainingInputMode", "File")
        if words:
            specification["ContainerArguments"] = words
        return {
            **request,
            "TrainingJobName": name,
            "AlgorithmSpecification": specification,
            "Environment": self._environment(request.get("Environment", {})),
            "Tags": self._tags(request.get("Tags", [])),
        }

    def _environment(self, templated: Mapping[str, Any]) -> dict[str, str]:
        secrets = dict(self.env_from_secrets)
        for name, arn in ((API_KEY, self.prefect_api_key_secret_arn), (API_AUTH, self.prefect_api_auth_string_secret_arn)):
            if arn:
                secrets[name] = arn
        plain = {**AT_SIGTERM, **templated, **self.env}
        if self.follower_command:
            plain[FOLLOWER] = self.follower_command
        environment: dict[str, str] = {}
        for name, value in plain.items():
            # a secret is read from where it is kept: the request, which many may read, names it only
            if value is not None and name not in secrets:
                environment |= _in_parts(name, str(value)) if self.launcher else {name: str(value)}
        return environment | {f"{SECRET}{name}": arn for name, arn in secrets.items()}

    def _tags(self, templated: list[dict[str, str]]) -> list[dict[str, str]]:
        named = {_tag(key, MAX_TAG_KEY): _tag(str(value), MAX_TAG_VALUE) for key, value in {**self.labels, **self.tags}.items()}
        return [*templated, *({"Key": key, "Value": value} for key, value in sorted(named.items()))]

    def _problems(self, request: Mapping[str, Any]) -> list[Problem]:
        found = []
        if request.get("EnableNetworkIsolation"):
            fix = "leave it out; `VpcConfig` closes the network"
            found.append(Problem("cuts the run off from the Prefect server", field="EnableNetworkIsolation", expected="false", fix=fix))
        if self.launcher:
            return found
        count = request.get("ResourceConfig", {}).get("InstanceCount", 1)
        needs = {
            f"{count} instances": isinstance(count, int) and count > 1,
            "secrets": any(name.startswith(SECRET) for name in request["Environment"]),
            "`follower_command`": bool(self.follower_command),
        }
        fix = f"leave `launcher` out, or set `{' '.join(LAUNCHER)}`"
        return found + [Problem(f"a job with {what} needs it", field="launcher", fix=fix) for what, asked in needs.items() if asked]


class SageMakerVariables(BaseVariables):
    """The job variables of a pool that was not declared by the project."""

    region: str = Field(description="The AWS region, such as `eu-central-1`.")
    role_arn: str = Field(title="Role ARN", description="The role that the job acts as.")
    image: str = Field(description="The image in ECR, best by its digest.")
    output_s3_uri: str = Field(
        title="Output S3 URI", description="Where SageMaker puts what is left in `/opt/ml/model` and `/opt/ml/output`."
    )
    instance_type: str = Field(default="ml.m5.xlarge", description="The instance type.")
    instance_count: int = Field(default=1, ge=1, description="Instances of the job; the flow runs on the first.")
    volume_gb: int = Field(default=30, ge=1, description="Disk of each instance, GB; types with disks of their own have those.")
    volume_kms_key: str | None = Field(default=None, description="Key of the disks.")
    output_kms_key: str | None = Field(default=None, description="Key of the output.")
    subnets: list[str] | None = Field(default=None, description="Subnets of the VPC.")
    security_groups: list[str] | None = Field(default=None, description="Security groups; hosts of one job must reach each other.")
    max_runtime_seconds: int = Field(default=86400, ge=1, description="The job is ended after that long.")
    spot: bool = Field(default=False, description="Managed spot training.")
    max_wait_seconds: int | None = Field(default=None, ge=1, description="Spot: waiting and running together; left out: as it may run.")
    checkpoint_s3_uri: str | None = Field(
        default=None, title="Checkpoint S3 URI", description="This run's own folder, kept in step with `/opt/ml/checkpoints`."
    )
    tags: dict[str, str] = Field(default_factory=dict, description="Tags for the bill.")
    follower_command: str | None = Field(default=None, description="What the other hosts run.")
    env_from_secrets: dict[str, str] = Field(default_factory=dict, description="Environment variables to ARNs of secrets.")
    prefect_api_key_secret_arn: str | None = Field(default=None, description="The secret with the key of the Prefect API.")
    prefect_api_auth_string_secret_arn: str | None = Field(default=None, description="The secret with the server's auth string.")
    stream_output: bool = Field(default=True, description="Show the job's output in the worker's log.")
    poll_seconds: float = Field(default=15.0, gt=0, description="Between two looks at the job.")
    unreachable_seconds: float = Field(default=3600.0, gt=0, description="How long AWS may be silent.")


def _in_parts(name: str, value: str) -> dict[str, str]:
    """The variable, in several where it is too long for one."""
    if len(value) <= MAX_VALUE:
        return {name: value}
    return {f"{name}__part_{n}": value[at : at + MAX_VALUE] for n, at in enumerate(range(0, len(value), MAX_VALUE))}


def _tag(text: str, length: int) -> str:
    return NOT_IN_A_TAG.sub("-", text)[:length]


def _without_empty(value: Any) -> Any:
    """What variables left empty, and the groups that are empty without it, is not sent."""
    if isinstance(value, Mapping):
        kept = {key: _without_empty(inner) for key, inner in value.items()}
        return {key: inner for key, inner in kept.items() if inner not in (None, "", {}, [])}
    return value
