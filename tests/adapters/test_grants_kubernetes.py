"""Grants of Kubernetes RBAC, from a real API server with a real etcd.

The programs are looked for where the ecosystem's convention says: in `$KUBEBUILDER_ASSETS`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.adapters import grants_kubernetes
from flows.core.errors import Unavailable
from flows.core.governance.access import Source
from flows.core.governance.reviews import Grant

kubernetes = pytest.importorskip("kubernetes", reason="the Kubernetes client is not installed")
SOURCE = Source(name="kube", kind="kubernetes")


def _program(name: str) -> str:
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    if not folder:
        pytest.skip("KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd")
    found = shutil.which(name, path=folder) or shutil.which(name)
    if found is None:
        pytest.skip(f"`{name}` is neither in KUBEBUILDER_ASSETS nor on the path")
    return found


def _ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster without nodes, and the file that leads to it."""
    etcd, server = _program("etcd"), _program("kube-apiserver")
    folder = tmp_path_factory.mktemp("kube")
    client_port, peer_port, port = _ports(3)
    subprocess.run(["openssl", "genrsa", "-out", folder / "sa.key", "2048"], check=True, capture_output=True)
    token = secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f'{token},admin,1,"system:masters"\n')
    store = f"http://127.0.0.1:{client_port}"
    running = []
    with (folder / "log").open("wb") as log:
        try:
            flags = ["--data-dir", folder / "etcd", "--listen-client-urls", store, "--advertise-client-urls", store, "--unsafe-no-fsync"]
            running.append(subprocess.Popen([etcd, *flags, "--listen-peer-urls", f"http://127.0.0.1:{peer_port}"], stdout=log, stderr=log))
            flags = [
                f"--etcd-servers={store}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={port}",
                f"--cert-dir={folder / 'pki'}", "--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=RBAC",
                "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={folder / 'sa.key'}",
                f"--service-account-signing-key-file={folder / 'sa.key'}", f"--token-auth-file={folder / 'tokens.csv'}",
                "--endpoint-reconciler-type=none",
            ]  # fmt: skip
            running.append(subprocess.Popen([server, *flags], stdout=log, stderr=log))
            path = folder / "kubeconfig"
            path.write_text(
                "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n"
                f'clusters: [{{name: c, cluster: {{server: "https://127.0.0.1:{port}", '
                f'certificate-authority: "{folder}/pki/apiserver.crt"}}}}]\n'
                f"users: [{{name: u, user: {{token: {token}}}}}]\n"
            )
            _wait(path, running, folder / "log")
            yield path
        finally:
            for process in reversed(running):
                process.terminate()
                process.wait(30)


def _wait(path: Path, running: list[subprocess.Popen[bytes]], log: Path) -> None:
    """Until the server's own roles and its first namespace are there."""
    from urllib3.exceptions import HTTPError

    for _ in range(240):
        if any(process.poll() is not None for process in running):
            pytest.fail(f"the API server did not start: {log.read_text()[-2000:]}")
        try:
            with kubernetes.config.new_client_from_config(config_file=str(path)) as client:
                kubernetes.client.RbacAuthorizationV1Api(client).read_cluster_role_binding("system:basic-user", _request_timeout=5)
                kubernetes.client.CoreV1Api(client).read_namespace("default", _request_timeout=5)
            return
        except (kubernetes.client.ApiException, HTTPError, OSError, kubernetes.config.ConfigException):
            time.sleep(0.25)
    pytest.fail("the API server did not become ready")


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
