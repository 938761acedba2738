"""What a run asks its cloud for: the chosen offer as the job variables of a pool's base job template.

Only the offer's resources, the image's digest and the tags of the bill are variables; all else is fixed in the template. Each cloud has
its own words and units, so there is one small function a pool type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any

from flows.core.canonical import plain, sha256_hex
from flows.core.errors import UserError
from flows.core.placement.estate import MULTI_NODE, Offer

DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
MAX_LABEL = 63
"""The longest label value that Google Cloud and Kubernetes take; AWS takes 256."""

FARGATE = "fargate-"
"""Offers whose name begins so are Fargate sizes; the other offers of an `ecs` pool are EC2 instance types."""
FARGATE_GIB: Mapping[Decimal, tuple[int, int, int]] = {
    Decimal("0.25"): (1, 2, 1), Decimal("0.5"): (1, 4, 1), Decimal(1): (2, 8, 1), Decimal(2): (4, 16, 1), Decimal(4): (8, 30, 1),
    Decimal(8): (16, 60, 4), Decimal(16): (32, 120, 8),
}  # fmt: skip
"""GiB that a Fargate task of that many vCPUs may have: least, most, step (AWS, "Fargate task sizes")."""

ECS_RESERVED = Decimal("0.9")
"""The part of an instance's memory that a task may reserve: kernel and agent keep some, and a reservation of all is never placed."""

VERTEX_ACCELERATORS: Mapping[str, str] = {
    "A100": "NVIDIA_TESLA_A100", "A100-80GB": "NVIDIA_A100_80GB", "H100": "NVIDIA_H100_80GB", "H200": "NVIDIA_H200_141GB",
    "L4": "NVIDIA_L4", "P100": "NVIDIA_TESLA_P100", "P4": "NVIDIA_TESLA_P4", "T4": "NVIDIA_TESLA_T4", "V100": "NVIDIA_TESLA_V100",
}  # fmt: skip
"""An accelerator's name in `offers.csv` to Vertex AI's `AcceleratorType`."""

Asked = dict[str, Any]


def job_variables(pool_type: str, offer: Offer, *, spot: bool, nodes: int, tags: Mapping[str, str], image: str) -> Asked:
    """The job variables of one run; none for a `process` pool, whose runs are processes of its worker.

    Args:
        pool_type: the Prefect type of the pool.
        offer: what was chosen, per node.
        spot: whether the cloud may take it back.
        nodes: how many of it work on the run together.
        tags: `workload`, `step` and `intent`, which become labels of the cloud's bill.
        image: what runs, as `sha256:…` or `name@sha256:…`; the repository is the site's.

    Raises:
        UserError: an unknown pool type, an image without a digest, or an offer that such a pool cannot ask for.
    """
    if pool_type == "process":
        return {}
    ask = ASKS.get(pool_type)
    if ask is None:
        expected = ", ".join(f"`{name}`" for name in ("process", *sorted(ASKS)))
        raise UserError(f"no job variables are known for pools of type `{pool_type}`", expected=f"one of {expected}")
    digest = image.rpartition("@")[2]
    if DIGEST.match(digest) is None:
        raise UserError(
            f"`{image}` names no image by its digest", expected="`sha256:` and 64 hexadecimal digits", fix="set `TRADEWIND_IMAGE`"
        )
    if nodes > 1 and pool_type not in MULTI_NODE:
        listed = ", ".join(f"`{name}`" for name in sorted(MULTI_NODE))
        raise UserError(
            f"a run on a pool of type `{pool_type}` has one node, not {nodes}", expected=f"a pool of type {listed}, or `nodes: 1`"
        )
    return {**ask(offer, spot, nodes), "image": digest, **{name: label(value) for name, value in tags.items()}}


def label(text: str) -> str:
    """The text as a label value that AWS, Google Cloud, Azure and Kubernetes all take; what had to change gets a part of its hash."""
    clean = re.sub(r"[^a-z0-9_-]", "-", text.lower()).strip("-_")[:MAX_LABEL]
    if clean and clean == text:
        return clean
    digest = sha256_hex(text.encode())[:8]
    return f"{clean[: MAX_LABEL - 9].rstrip('-_')}-{digest}" if clean else digest


def run_tags(workload: str, step: str, intent: str) -> dict[str, str]:
    """The tags of a run; the intent as a hash, since it holds more than labels can."""
    return {"workload": workload, "step": step, "intent": sha256_hex(intent.encode())[:16]}


def mebibytes(offer: Offer) -> int:
    """Memory of the offer in MiB, rounded up.

    Raises:
        UserError: the table does not say how much it has.
    """
    return _whole(_known(offer, "memory_gib", "MemoryGiB") * 1024)


def _ecs(offer: Offer, spot: bool, nodes: int) -> Asked:
    """CPU units (1024 a vCPU) and MiB."""
    cpus = _known(offer, "cpus", "vCPUs")
    asked: Asked = {"cpu": _whole(cpus * 1024), "architecture": "ARM64" if offer.arch == "arm64" else "X86_64"}
    if offer.name.startswith(FARGATE):
        return {**asked, "memory": _fargate_gib(offer, cpus) * 1024, "launch_type": "FARGATE_SPOT" if spot else "FARGATE"}
    memory = mebibytes(offer)
    gpus = [{"type": "GPU", "value": str(_gpus(offer))}] if offer.accelerator else []
    return {
        **asked,
        "memory": memory,
        "memory_reservation": int(memory * ECS_RESERVED),
        "resource_requirements": gpus,
        "instance_type": offer.name,
        "purchase": "spot" if spot else "on-demand",
    }


def _fargate_gib(offer: Offer, cpus: Decimal) -> int:
    wanted = _known(offer, "memory_gib", "MemoryGiB")
    size = FARGATE_GIB.get(cpus)
    if size is None or wanted > size[1] or offer.accelerator:
        raise UserError(
            f"`{offer.name}` is no size that Fargate has",
            expected=f"{', '.join(plain(known) for known in FARGATE_GIB)} vCPUs, the memory that goes with them, no accelerator",
        )
    least, _, step = size
    return least + max(0, _whole((wanted - least) / step)) * step


def _cloud_run(offer: Offer, spot: bool, nodes: int) -> Asked:
    """vCPUs and MiB as text."""
    if spot or offer.accelerator:
        raise UserError(
            f"a Cloud Run job cannot ask for `{offer.name}`{' as spot' if spot else ''}", expected="on demand, without accelerator"
        )
    return {"cpu": plain(_known(offer, "cpus", "vCPUs")), "memory": f"{mebibytes(offer)}Mi"}


def _vertex(offer: Offer, spot: bool, nodes: int) -> Asked:
    """A machine type, which says the vCPUs and the memory; an accelerator by Vertex AI's own name."""
    asked: Asked = {"machine_type": offer.name, "scheduling": {"strategy": "SPOT" if spot else "STANDARD"}}
    if offer.accelerator is None:
        return asked
    type_ = VERTEX_ACCELERATORS.get(offer.accelerator)
    if type_ is None:
        raise UserError(
            f"Vertex AI has no accelerator `{offer.accelerator}` (offer `{offer.name}`)",
            expected=f"one of {', '.join(VERTEX_ACCELERATORS)}",
        )
    return {**asked, "accelerator_type": type_, "accelerator_count": _gpus(offer)}


def _kubernetes(offer: Offer, spot: bool, nodes: int) -> Asked:
    """CPUs and MiB as Kubernetes quantities, for requests and limits alike."""
    asked: Asked = {
        "cpu": plain(_known(offer, "cpus", "vCPUs")),
        "memory": f"{mebibytes(offer)}Mi",
        "arch": "arm64" if offer.arch == "arm64" else "amd64",
        "purchase": "spot" if spot else "on-demand",
    }
    if offer.accelerator is not None:
        asked |= {"accelerator": offer.accelerator, "gpus": _gpus(offer)}
    return asked


def _sagemaker(offer: Offer, spot: bool, nodes: int) -> Asked:
    """An instance type, which says all else."""
    return {"instance_type": offer.name, "instance_count": nodes, "spot": spot}


def _azure(offer: Offer, spot: bool, nodes: int) -> Asked:
    """vCPUs and GiB as numbers."""
    asked: Asked = {"cpu": float(_known(offer, "cpus", "vCPUs")), "memory": float(_known(offer, "memory_gib", "MemoryGiB"))}
    if spot:
        raise UserError(f"the worker of `azure-container-instance` asks for no spot (offer `{offer.name}`)", expected="`spot: false`")
    if offer.accelerator is not None:
        asked |= {"gpu_sku": offer.accelerator, "gpu_count": _gpus(offer)}
    return asked


ASKS: Mapping[str, Callable[[Offer, bool, int], Asked]] = {
    "ecs": _ecs,
    "cloud-run-v2": _cloud_run,
    "vertex-ai": _vertex,
    "kubernetes": _kubernetes,
    "sagemaker": _sagemaker,
    "azure-container-instance": _azure,
}


def _gpus(offer: Offer) -> int:
    return _whole(offer.accelerator_count or Decimal(0))


def _known(offer: Offer, field: str, column: str) -> Decimal:
    value: Decimal | None = getattr(offer, field)
    if not value:
        raise UserError(
            f"`{offer.name}` at `{offer.site}` has no `{column}`", file="estate/offers.csv", fix="write it down: runs ask for it"
        )
    return value


def _whole(value: Decimal) -> int:
    return int(value.to_integral_value(rounding=ROUND_CEILING))
