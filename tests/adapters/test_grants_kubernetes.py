"""Grants of Kubernetes RBAC, from a real API server with a real etcd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.adapters import grants_kubernetes
from flows.core.errors import Unavailable
from flows.core.governance.access import Source
from flows.core.governance.reviews import Grant
from tests.emulators import kube

kubernetes = pytest.importorskip("kubernetes", reason="the Kubernetes client is not installed")
SOURCE = Source(name="kube", kind="kubernetes")


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster without nodes, and the file that leads to it."""
    with kube.cluster(tmp_path_factory.mktemp("kube")) as cluster:
        yield cluster.kubeconfig


@pytest.fixture
def api(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """The interface to set the cluster up; the adapter finds the same one by the usual variable."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    with kubernetes.config.new_client_from_config(config_file=str(kubeconfig)) as client:
        yield kubernetes.client.RbacAuthorizationV1Api(client)


def cluster_binding(name: str, role: str, *subjects: tuple[str, str]) -> dict[str, object]:
    return {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": of} for kind, of in subjects],
    }


def collect() -> list[Grant]:
    return grants_kubernetes.collect(SOURCE)


def test_every_subject_of_every_binding_is_a_grant(api: kubernetes.client.RbacAuthorizationV1Api) -> None:
    """Cluster-wide and in a namespace: people, groups and service accounts, with what their role allows."""
    api.create_cluster_role_binding(cluster_binding("admins", "cluster-admin", ("User", "ada"), ("Group", "ops")))
    rules = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]
    api.create_namespaced_role("default", {"metadata": {"name": "peek"}, "rules": rules})
    bound = cluster_binding("peekers", "peek")
    bound["roleRef"] = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "peek"}
    bound["subjects"] = [{"kind": "ServiceAccount", "name": "worker", "namespace": "ml"}]
    api.create_namespaced_role_binding("default", bound)

    grants = {(grant.via, grant.principal): grant for grant in collect()}
    ada = grants["clusterrolebinding admins", "ada"]
    assert (ada.kind, ada.permissions, ada.scopes) == ("person", ("cluster-admin",), ("cluster",))
    assert ada.traits == {"admin", "any-action", "any-resource", "reads-data"}
    assert ada.granted_at is not None
    assert grants["clusterrolebinding admins", "ops"].kind == "group"
    worker = grants["rolebinding peekers", "system:serviceaccount:ml:worker"]
    assert (worker.kind, worker.scopes, worker.traits, worker.detail) == ("service", ("namespace/default",), {"reads-data"}, "get secrets")
    assert worker.command(worker.principal) == "kubectl delete rolebinding peekers -n default"
    assert grants["clusterrolebinding cluster-admin", "system:masters"].kind == "group"


def test_the_command_takes_away_one_subject_only(api: kubernetes.client.RbacAuthorizationV1Api) -> None:
    """What is printed is a patch that the server takes once, and refuses when another subject has come into that place."""
    import json
    import shlex

    api.create_cluster_role_binding(cluster_binding("pair", "view", ("User", "bob"), ("User", "eve")))
    (bob,) = [grant for grant in collect() if (grant.via, grant.principal) == ("clusterrolebinding pair", "bob")]
    patch = json.loads(shlex.split(bob.command("bob"))[-1])
    left = api.patch_cluster_role_binding("pair", patch)
    assert [subject.name for subject in left.subjects] == ["eve"]
    with pytest.raises(kubernetes.client.ApiException):
        api.patch_cluster_role_binding("pair", patch)


def test_every_page_is_read(api: kubernetes.client.RbacAuthorizationV1Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of five leaves none of the server's own sixty bindings out."""
    whole = {grant.id for grant in collect()}
    monkeypatch.setattr(grants_kubernetes, "PAGE", 5)
    assert {grant.id for grant in collect()} == whole
    assert len(whole) > 30


def test_a_changed_role_changes_its_grants(api: kubernetes.client.RbacAuthorizationV1Api) -> None:
    """The binding is the same, what it allows is not: the same grant with another fingerprint."""
    role = {"metadata": {"name": "growing"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}
    api.create_cluster_role(role)
    api.create_cluster_role_binding(cluster_binding("growing", "growing", ("User", "cy")))
    (old,) = [grant for grant in collect() if grant.principal == "cy"]
    api.replace_cluster_role("growing", role | {"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]})
    (new,) = [grant for grant in collect() if grant.principal == "cy"]
    assert (new.id, new.fingerprint != old.fingerprint) == (old.id, True)


def test_a_server_that_is_down_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is returned that could be taken for a cluster without grants."""
    path = tmp_path / "kubeconfig"
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n"
        'clusters: [{name: c, cluster: {server: "http://127.0.0.1:9"}}]\nusers: [{name: u, user: {token: none}}]\n'
    )
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(Unavailable, match="Kubernetes could not be read"):
        collect()
