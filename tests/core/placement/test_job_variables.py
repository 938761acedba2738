"""The chosen offer as job variables: each cloud's words and units, total over pool types, never less than the offer has."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema.validators import Draft202012Validator

from flows.adapters.estate import load_estate
from flows.core.errors import UserError
from flows.core.placement.estate import Offer, Pool, PoolType
from flows.core.placement.job_variables import MAX_LABEL, job_variables, label, run_tags

DEPLOYMENTS = Path(__file__).parents[3] / "deployments"
ESTATE = load_estate(DEPLOYMENTS / "estate")
DIGEST = "sha256:" + "0a" * 32
TAGS = run_tags("flight_delay", "train", "flight_delay/train/2013-07/drift")
SHIPPED = [(pool, offer) for pool in ESTATE.pools for offer in ESTATE.offers_of(pool)]
MACHINES = {"ecs": "instance_type", "vertex-ai": "machine_type", "sagemaker": "instance_type"}
"""Pool types that rent a whole machine by its name, and the variable that names it."""
TYPES = PoolType.__args__  # type: ignore[attr-defined]


def offer(name: str = "cpu-4c-16g", **fields: Any) -> Offer:
    """An offer of 4 vCPUs and 16 GiB unless told otherwise."""
    return Offer(**{"site": "here", "InstanceType": name, "vCPUs": "4", "MemoryGiB": "16", "Price": "1", **fields})


def asked(pool_type: str, one: Offer, *, spot: bool = False, nodes: int = 1, image: str = DIGEST) -> dict[str, Any]:
    """The job variables with the tags of a training."""
    return job_variables(pool_type, one, spot=spot, nodes=nodes, tags=TAGS, image=image)


def variables(pool: Pool) -> dict[str, Any]:
    """The variables of the pool's template."""
    found: dict[str, Any] = json.loads((DEPLOYMENTS / "templates" / f"{pool.template or pool.type}.json").read_text())["variables"]
    return found


@given(pair=st.sampled_from(SHIPPED), spot=st.booleans(), workload=st.text(min_size=1), step=st.text(), intent=st.text())
def test_every_offer_of_every_shipped_pool_fits_its_template(
    pair: tuple[Pool, Offer], spot: bool, workload: str, step: str, intent: str
) -> None:
    """Whatever the names of workload, step and intent are: nothing missing, nothing unknown, every value of its kind."""
    pool, one = pair
    spot = spot and pool.spot and one.spot_usd_per_hour is not None
    found = job_variables(pool.type, one, spot=spot, nodes=1, tags=run_tags(workload, step, intent), image=DIGEST)
    Draft202012Validator(variables(pool)).validate(found)


@pytest.mark.parametrize(("pool", "one"), SHIPPED, ids=lambda value: value.name)
def test_every_shipped_offer_is_asked_for_in_full(pool: Pool, one: Offer) -> None:
    """The machine itself, or at least its vCPUs, memory and accelerators."""
    found = asked(pool.type, one)
    if pool.type in MACHINES:
        assert found[MACHINES[pool.type]] == one.name
    if pool.type == "ecs":
        assert found["cpu"] >= one.cpus * 1024  # type: ignore[operator]
        assert found["memory"] >= one.memory_gib * 1024 > found["memory_reservation"]  # type: ignore[operator]
        assert sum(int(gpu["value"]) for gpu in found["resource_requirements"]) == (one.accelerator_count or 0)
    if pool.type in ("kubernetes", "cloud-run-v2"):
        assert Decimal(found["cpu"]) >= one.cpus  # type: ignore[operator]
        assert Decimal(found["memory"].removesuffix("Mi")) >= one.memory_gib * 1024  # type: ignore[operator]
        assert found.get("gpus", 0) >= (one.accelerator_count or 0)
    if pool.type == "vertex-ai":
        assert found.get("accelerator_count", 0) == (one.accelerator_count or 0)


@given(
    cpus=st.decimals("0.25", "64", places=2),
    gib=st.decimals("0.5", "1024", places=2),
    pool_type=st.sampled_from(["kubernetes", "cloud-run-v2"]),
)
def test_quantities_never_round_down(cpus: Decimal, gib: Decimal, pool_type: str) -> None:
    """MiB and CPUs are plain numbers as Kubernetes reads them, without an exponent."""
    found = asked(pool_type, offer(vCPUs=str(cpus), MemoryGiB=str(gib)))
    assert re.fullmatch(r"\d+(\.\d+)?", found["cpu"])
    assert Decimal(found["cpu"]) == cpus
    assert 0 <= int(found["memory"].removesuffix("Mi")) - gib * 1024 < 1


@pytest.mark.parametrize("pool_type", TYPES)
def test_every_pool_type_of_the_estate_is_known(pool_type: str) -> None:
    """A pool that the estate accepts never fails for its type."""
    found = asked(pool_type, offer())
    assert found == {} if pool_type == "process" else found["image"] == DIGEST and found["workload"] == "flight_delay"


def test_an_unknown_pool_type_is_told_the_known_ones() -> None:
    """No variables are guessed."""
    with pytest.raises(UserError, match=r"`docker`; expected one of `process`, .*`ecs`"):
        asked("docker", offer())


@pytest.mark.parametrize("image", ["", "tradewind:1.4", "sha256:abc", f"sha256:{'0a' * 32}x"])
def test_an_image_without_its_digest_is_refused(image: str) -> None:
    """A tag can point elsewhere tomorrow."""
    with pytest.raises(UserError, match="names no image by its digest"):
        asked("ecs", offer(), image=image)


def test_the_repository_of_an_image_is_left_to_the_site() -> None:
    """Only the digest goes along, whatever registry the request named."""
    assert asked("ecs", offer(), image=f"elsewhere.example.com/other@{DIGEST}")["image"] == DIGEST


@pytest.mark.parametrize("pool_type", [name for name in TYPES if name not in ("process", "sagemaker")])
def test_more_than_one_node_needs_a_worker_that_starts_them(pool_type: str) -> None:
    """A run that expects partners does not start alone."""
    with pytest.raises(UserError, match="has one node, not 2"):
        asked(pool_type, offer(), nodes=2)


def test_sagemaker_starts_every_node() -> None:
    """The instances work on the run together."""
    assert asked("sagemaker", offer("ml.m5.xlarge"), nodes=3)["instance_count"] == 3


@pytest.mark.parametrize(
    ("pool_type", "told"),
    [
        ("ecs", {"purchase": "spot"}),
        ("kubernetes", {"purchase": "spot"}),
        ("vertex-ai", {"scheduling": {"strategy": "SPOT"}}),
        ("sagemaker", {"spot": True}),
    ],
)
def test_spot_is_asked_for_in_each_cloud_s_word(pool_type: str, told: dict[str, Any]) -> None:
    """And on demand is not the same."""
    assert told.items() <= asked(pool_type, offer(), spot=True).items()
    assert not told.items() <= asked(pool_type, offer()).items()


@pytest.mark.parametrize("pool_type", ["cloud-run-v2", "azure-container-instance"])
def test_spot_where_there_is_none_is_refused(pool_type: str) -> None:
    """Not run at another price in silence."""
    with pytest.raises(UserError, match="spot"):
        asked(pool_type, offer(), spot=True)


@pytest.mark.parametrize(
    ("cpus", "gib", "mib"), [("4", "8", 8192), ("4", "8.5", 9216), ("0.25", "0.5", 1024), ("8", "17", 20480), ("16", "120", 122880)]
)
def test_fargate_gets_the_next_size_that_exists(cpus: str, gib: str, mib: int) -> None:
    """Fargate has steps of 1, 4 or 8 GiB."""
    found = asked("ecs", offer("fargate-x", vCPUs=cpus, MemoryGiB=gib), spot=True)
    assert (found["memory"], found["launch_type"]) == (mib, "FARGATE_SPOT")
    assert "instance_type" not in found


@pytest.mark.parametrize(("cpus", "gib"), [("3", "8"), ("4", "31")])
def test_a_size_that_fargate_does_not_have_is_refused(cpus: str, gib: str) -> None:
    """Before AWS refuses the task."""
    with pytest.raises(UserError, match="no size that Fargate has"):
        asked("ecs", offer("fargate-x", vCPUs=cpus, MemoryGiB=gib))


def test_an_accelerator_that_vertex_does_not_have_is_refused() -> None:
    """Its names are Google's own."""
    with pytest.raises(UserError, match="`TPU9`"):
        asked("vertex-ai", offer(AcceleratorName="TPU9", AcceleratorCount="1"))


@pytest.mark.parametrize("column", ["vCPUs", "MemoryGiB"])
def test_an_offer_that_does_not_say_its_size_is_refused(column: str) -> None:
    """The message names the column."""
    with pytest.raises(UserError, match=column):
        asked("kubernetes", offer(**{column: ""}))


@given(st.text())
def test_a_label_is_one_in_every_cloud(text: str) -> None:
    """Lower-case letters, digits, dashes, underscores; 63 at most; a letter or digit at both ends."""
    assert re.fullmatch(r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?", label(text))
    assert len(label(text)) <= MAX_LABEL


@given(st.text(), st.text())
def test_two_texts_never_share_a_label(one: str, other: str) -> None:
    """What had to change carries a part of its hash; an unchanged one is itself."""
    assert (label(one) == label(other)) == (one == other)


def test_a_fine_name_stays_as_it_is() -> None:
    """People find their workload on the bill."""
    assert label("flight_delay") == "flight_delay"
    assert label("Größe") != label("Grösse")
