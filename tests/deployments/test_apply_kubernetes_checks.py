"""What `apply --check` says of a cluster, from a real API server without nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.apply import checks_kubernetes
from deployments.apply.cloud_checks import Looked
from flows.adapters.estate import read_estate
from flows.adapters.settings import PROJECT_ROOT
from tests.emulators import kube

pytest.importorskip("kubernetes", reason="the Kubernetes client is not installed")
FILES = read_estate(PROJECT_ROOT / "deployments" / "estate")
NAMESPACE = ("-n", "tradewind")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kube.Cluster]:
    """As `infra/kubernetes` makes it."""
    with kube.cluster(tmp_path_factory.mktemp("kube")) as made:
        applied = made.kubectl("apply", "-k", str(PROJECT_ROOT / "infra" / "kubernetes"))
        assert applied.returncode == 0, applied.stderr
        yield made


def found(**declared: object) -> dict[str, tuple[str, str]]:
    """Each check's result and words, for the shipped pool with these fields."""
    pools = []
    for pool in FILES.estate.pools:
        cluster = pool.kubernetes
        if cluster is not None and declared:
            cluster = type(cluster).model_validate({**cluster.model_dump(), **declared})
        pools.append(pool.model_copy(update={"kubernetes": cluster}))
    files = replace(FILES, estate=FILES.estate.model_copy(update={"pools": tuple(pools)}))
    site = FILES.estate.site_by_id["onprem-fra"]
    return {one.check.partition(" ")[2]: (one.result, str(one.problem)) for one in checks_kubernetes.look(Looked(files, site, None))}


@pytest.fixture(autouse=True)
def here(cluster: kube.Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster is that of the kubeconfig."""
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(cluster.kubeconfig))


PLAIN = {"scheduler": "plain", "queue": None}


def test_what_is_as_declared_is_well() -> None:
    """Account, priority class, quota."""
    told = found(**PLAIN, priority_class="system-cluster-critical")
    assert {check: result for check, (result, _) in told.items()} == {"account": "ok", "priority class": "ok", "quota": "ok"}


@pytest.mark.parametrize(
    ("declared", "check", "words"),
    [
        ({"service_account": "nobody"}, "account", "there is no service account `nobody` in namespace `tradewind`"),
        ({"namespace": "elsewhere"}, "account", "in namespace `elsewhere`"),
        ({"priority_class": "urgent"}, "priority class", "there is no PriorityClass `urgent`"),
        ({"scheduler": "kai", "queue": "ml"}, "queue", "there is no Queue `ml`"),
        ({"scheduler": "kueue", "queue": "ml"}, "queue", "there is no LocalQueue `ml`"),
    ],
)
def test_what_lacks_is_told_with_its_line(declared: dict[str, object], check: str, words: str) -> None:
    """Before a run waits for it in vain."""
    result, problem = found(**{**PLAIN, **declared})[check]
    assert result == "wrong"
    assert words in problem
    assert "estate/pools.yaml" in problem


def test_a_quota_below_the_capacity_is_told(cluster: kube.Cluster) -> None:
    """Jobs beyond it would wait without a word."""
    for cpus in ("8", "17"):
        patch = json.dumps({"spec": {"hard": {"requests.cpu": cpus}}})
        assert cluster.kubectl("patch", "resourcequota", "tradewind", *NAMESPACE, "-p", patch).returncode == 0
        told = found(**PLAIN)["quota"]
        if cpus == "8":
            assert told[0] == "wrong"
            assert "`requests.cpu` is 8, but the pool's capacity is 16 cpus" in told[1]
    assert told[0] == "ok"


def test_what_may_not_be_read_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither well nor wrong."""
    monkeypatch.setattr(checks_kubernetes._Cluster, "_get", lambda self, path: (403, None))
    assert {result for result, _ in found(**PLAIN).values()} == {"unknown"}


def test_a_cluster_that_does_not_answer_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One finding, with what to do."""
    (port,) = kube.ports(1)
    path = kube.kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{port}", "none")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    (told,) = found().items()
    assert told[0] == "cluster"
    assert told[1][0] == "unknown"
