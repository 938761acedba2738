"""What a pool of type `kubernetes` says of its cluster: namespace, queue, nodes, how long a job may wait."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, StrictBool, model_validator

from flows.core.fields import Count, Model, Positive, PositiveHours

DnsLabel = Annotated[
    str,
    Field(max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", description="lower-case letters, digits and `-`, such as `ml-team`"),
]
DnsName = Annotated[
    str,
    Field(
        max_length=253,
        pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*$",
        description="lower-case letters, digits, `-` and `.`, such as `tradewind-run`",
    ),
]
LabelKey = Annotated[
    str,
    Field(
        max_length=317,
        pattern=r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$",
        description="the key of a label, such as `nvidia.com/gpu.product`",
    ),
]
LabelValue = Annotated[
    str,
    Field(
        max_length=63,
        pattern=r"^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$",
        description="the value of a label, at most 63 letters and digits",
    ),
]
ResourceName = Annotated[
    str,
    Field(
        max_length=253,
        pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$",
        description="an extended resource, such as `nvidia.com/gpu`",
    ),
]

ENTRANCES: Mapping[str, str | None] = {"plain": None, "kai": "queue", "runai": "project", "kueue": "queue"}
"""The field that says where a scheduler lets the pool's jobs in."""
WATCH_MARGIN_SECONDS = 600
"""How much longer than the queue's longest wait a worker waits for a pod: pulling an image, starting a container."""


class Toleration(Model):
    """A taint that the pool's pods bear: Kubernetes, "Taints and Tolerations" (`core/v1` Toleration)."""

    key: LabelKey
    operator: Literal["Exists", "Equal"] = "Exists"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @model_validator(mode="after")
    def _value_fits_operator(self) -> Self:
        if (self.operator == "Equal") != (self.value is not None):
            raise ValueError(f"the toleration of `{self.key}` needs `operator: Equal` with a `value`, or neither")
        return self


class Kubernetes(Model):
    """How the pool's jobs enter its cluster.

    `scheduler`: `plain` is Kubernetes' own; `kai` is the KAI scheduler, with a `queue`; `runai` is Run:ai, with a `project`; `kueue`
    admits suspended jobs of a `queue`, a LocalQueue of the namespace. `gpu_fraction` is the part of one GPU that a run gets (of its memory;
    nothing keeps it from taking more). `priority_class` names a PriorityClass; with Kueue a WorkloadPriorityClass. `gang`: all of the job's
    pods start together or none. `max_queue_hours` is the longest that a job may wait in the queue; the worker waits longer than that for
    its pod (`pod_watch_timeout_seconds`, by default ten minutes longer).
    """

    namespace: DnsLabel
    scheduler: Literal["plain", "kai", "runai", "kueue"] = "plain"
    queue: DnsName | None = None
    project: DnsLabel | None = None
    gpu_fraction: Annotated[Positive, Field(lt=1)] | None = None
    priority_class: DnsName | None = None
    gang: StrictBool = False
    node_selector: Mapping[LabelKey, LabelValue] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    gpu_resource: ResourceName = "nvidia.com/gpu"
    service_account: DnsName = "tradewind-run"
    max_queue_hours: PositiveHours = Decimal(1)
    pod_watch_timeout_seconds: Count | None = None

    @model_validator(mode="after")
    def _enters_as_its_scheduler_wants(self) -> Self:
        wanted = ENTRANCES[self.scheduler]
        for field, what in (("queue", self.queue), ("project", self.project)):
            if (what is not None) != (field == wanted):
                takes = f"takes a `{wanted}`" if wanted else "takes neither `queue` nor `project`"
                raise ValueError(f"`scheduler: {self.scheduler}` {takes}; `{field}` is {'missing' if what is None else 'given'}")
        return self

    @model_validator(mode="after")
    def _asks_only_what_its_scheduler_gives(self) -> Self:
        if self.gpu_fraction is not None and self.scheduler not in ("kai", "runai"):
            raise ValueError(f"`gpu_fraction` needs `scheduler: kai` or `runai`; with `{self.scheduler}` a pod has whole GPUs")
        if self.gang and self.scheduler not in ("kai", "runai"):
            why = "Kueue admits whole jobs anyway" if self.scheduler == "kueue" else "it would change nothing"
            raise ValueError(f"`gang` needs `scheduler: kai` or `runai`; with `{self.scheduler}` {why}")
        return self

    @model_validator(mode="after")
    def _waits_longer_than_the_queue(self) -> Self:
        if self.pod_watch_timeout_seconds is not None and self.pod_watch_timeout_seconds <= self.queue_seconds:
            raise ValueError(
                f"`pod_watch_timeout_seconds` is {self.pod_watch_timeout_seconds}, but a job may wait {self.queue_seconds} seconds in the "
                "queue (`max_queue_hours`); leave it out, or wait longer"
            )
        return self

    @property
    def queue_seconds(self) -> int:
        """The longest wait in the queue, in seconds, rounded up."""
        return int((self.max_queue_hours * 3600).to_integral_value(ROUND_CEILING))

    @property
    def watch_seconds(self) -> int:
        """How long a worker waits for a job's pod, in seconds: as declared, else the queue's longest wait and a margin."""
        return self.pod_watch_timeout_seconds or self.queue_seconds + WATCH_MARGIN_SECONDS
