"""What a pool says of its cluster: contradictions are refused before anything is sent."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flows.core.placement.estate import Pool
from flows.core.placement.kubernetes_pool import Kubernetes


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"scheduler": "kai", "queue": "ml", "gpu_fraction": "0.5", "gang": True, "priority_class": "train"},
        {"scheduler": "runai", "project": "ml", "gpu_fraction": 0.25},
        {"scheduler": "kueue", "queue": "ml", "priority_class": "high"},
        {"tolerations": [{"key": "nvidia.com/gpu"}, {"key": "team", "operator": "Equal", "value": "ml", "effect": "NoSchedule"}]},
    ],
)
def test_what_a_scheduler_wants_is_taken(said: dict[str, Any]) -> None:
    """Each with the one field that lets its jobs in."""
    assert Kubernetes(namespace="ml", **said).scheduler == said.get("scheduler", "plain")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"scheduler": "kai"}, "`scheduler: kai` takes a `queue`; `queue` is missing"),
        ({"scheduler": "kai", "queue": "ml", "project": "ml"}, "`project` is given"),
        ({"scheduler": "runai", "queue": "ml"}, "`scheduler: runai` takes a `project`; `queue` is given"),
        ({"scheduler": "kueue"}, "`scheduler: kueue` takes a `queue`; `queue` is missing"),
        ({"queue": "ml"}, "takes neither `queue` nor `project`; `queue` is given"),
        ({"scheduler": "kueue", "queue": "ml", "gpu_fraction": 0.5}, "a pod has whole GPUs"),
        ({"gpu_fraction": 0.5}, "a pod has whole GPUs"),
        ({"scheduler": "kueue", "queue": "ml", "gang": True}, "Kueue admits whole jobs anyway"),
        ({"gang": True}, "it would change nothing"),
        ({"scheduler": "kai", "queue": "ml", "gpu_fraction": 1}, "less than 1"),
        ({"scheduler": "slurm"}, "'plain', 'kai', 'runai' or 'kueue'"),
        ({"namespace": "ML"}, "pattern"),
        ({"node_selector": {"gpu type": "a100"}}, "pattern"),
        ({"gpu_resource": "gpu"}, "pattern"),
        ({"tolerations": [{"key": "team", "value": "ml"}]}, "needs `operator: Equal` with a `value`"),
        ({"max_queue_hours": 2, "pod_watch_timeout_seconds": 7200}, "a job may wait 7200 seconds in the queue"),
        ({"scheduler_name": "kai"}, "Extra inputs"),
    ],
)
def test_a_contradiction_is_refused(said: dict[str, Any], why: str) -> None:
    """With what the scheduler would take."""
    with pytest.raises(ValidationError, match="1 validation error") as caught:
        Kubernetes(**{"namespace": "ml", **said})
    assert why in str(caught.value)


@given(hours=st.decimals("0.001", "1000", places=3), own=st.none() | st.integers(1, 1_000_000))
def test_a_worker_always_waits_longer_than_the_queue(hours: Decimal, own: int | None) -> None:
    """Whatever is declared is longer, or it is refused."""
    try:
        declared = Kubernetes(namespace="ml", max_queue_hours=hours, pod_watch_timeout_seconds=own)
    except ValidationError:
        assert own is not None
        assert own <= hours * 3600 + 1
    else:
        assert declared.watch_seconds > hours * 3600


def test_only_a_kubernetes_pool_has_a_cluster() -> None:
    """Elsewhere it would be ignored."""
    with pytest.raises(ValidationError, match="is for pools of type `kubernetes`"):
        Pool(name="p", site="s", type="ecs", offers=(), kubernetes=Kubernetes(namespace="ml"))
