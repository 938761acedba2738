"""Prefect's unmodified workers of ECS, Cloud Run and Vertex AI, on the shipped pools: a run's end and its words come to Prefect.

ECS: moto's server (real protocol, no rights enforced) and an agent that runs the task's container as a local process, with its lines in
CloudWatch and its states on EventBridge. Cloud Run and Vertex AI: a pretended server, Google's real clients. Kubernetes and SageMaker have
files of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from tests.clouds.cloud_stack import CloudStack, cloud_stack, wait

for name in ("prefect_aws", "prefect_gcp", "moto"):
    pytest.importorskip(name, reason="Prefect's workers for the clouds are not installed: `make setup-clouds`")

pytestmark = [pytest.mark.clouds, pytest.mark.timeout(420)]

ECS, RUN, VERTEX = "aws-eu-central-1-ecs", "gcp-us-central1-cloudrun", "gcp-europe-west4-vertex"
POOLS = (ECS, RUN, VERTEX)


@dataclass(frozen=True)
class Probed:
    """A stack, and for each pool the runs of the probe by how they were told to end."""

    stack: CloudStack
    runs: dict[tuple[str, str], str]

    def ended(self, pool: str, how: str) -> tuple[str, str]:
        """The run's final state: its type and its message."""
        state = self.stack.ended(self.runs[pool, how])
        return state["type"], state["message"] or ""


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probed]:
    """All runs at once."""
    with cloud_stack(tmp_path_factory.mktemp("clouds"), pools=POOLS) as stack:
        runs = {}
        for pool in POOLS:
            deployment = stack.deploy_probe(pool)
            for how in ("well", "badly", "greedily"):
                runs[pool, how] = stack.start(deployment, pool, how=how)
        yield Probed(stack, runs)


@pytest.mark.parametrize("pool", POOLS)
def test_a_run_completes_and_its_words_are_kept(probed: Probed, pool: str) -> None:
    """It ran at the pool's site, which the container has from its command; what it wrote is in the cloud's logs."""
    assert probed.ended(pool, "well")[0] == "COMPLETED"
    stack, site = probed.stack, probed.stack.estate.pool_by_name[pool].site
    assert stack.aws is not None
    assert stack.gcp is not None
    logged = partial(stack.aws.logged, "eu-central-1") if pool == ECS else stack.gcp.logged
    wait(lambda: f"the container runs well at {site} of {pool}" in logged(), 30, logged)


@pytest.mark.parametrize("pool", POOLS)
def test_an_error_of_the_flow_is_a_failure(probed: Probed, pool: str) -> None:
    """With its message, from the flow itself."""
    kind, message = probed.ended(pool, "badly")
    assert kind == "FAILED"
    assert "no such column `bmi`" in message


@pytest.mark.parametrize("pool", POOLS)
def test_a_container_that_dies_is_a_crash(probed: Probed, pool: str) -> None:
    """The flow cannot say it any more: the worker does, from what the cloud says."""
    kind, _ = probed.ended(pool, "greedily")
    assert kind == "CRASHED"


def test_a_dead_task_is_told_by_its_queue_of_events(probed: Probed) -> None:
    """Prefect's observer names the container and that it failed; its last lines are in CloudWatch, where the pool's log group says."""
    _, message = probed.ended(ECS, "greedily")
    assert "non-zero exit code" in message
    assert "tradewind" in message
    assert probed.stack.aws is not None
    logged = partial(probed.stack.aws.logged, "eu-central-1")
    wait(lambda: "more memory than there is" in logged(), 30, logged)
