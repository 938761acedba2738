"""A Kubernetes cluster for tests: real API server, etcd and controller manager; its nodes are pretended by `tests/emulators/kubelet.py`.

The programs are looked for where the ecosystem's convention says: in `$KUBEBUILDER_ASSETS`. Everything listens on loopback only.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CONTROLLERS = ("job", "ttl-after-finished", "garbagecollector", "namespace", "serviceaccount", "serviceaccount-token", "resourcequota")
AUDIT_POLICY = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Metadata"}], "omitStages": ["RequestReceived"]}
GATES = "--feature-gates=TTLAfterFinished=true"
"""What every later version does by itself."""
READY_SECONDS = 60


class Refused(AssertionError):
    """The API server did not take an object."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster: where its files are, its address, the administrator's kubeconfig."""

    folder: Path
    url: str
    kubeconfig: Path

    def client(self, kubeconfig: Path | None = None) -> Any:
        """A client of the official library, as the administrator unless told otherwise; close it."""
        from kubernetes import config

        return config.new_client_from_config(config_file=str(kubeconfig or self.kubeconfig))

    def kubectl(self, *arguments: str, kubeconfig: Path | None = None, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """The command line's answer, with `given` on its input."""
        command = [program("kubectl"), "--kubeconfig", str(kubeconfig or self.kubeconfig), *arguments]
        return subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)

    def create(self, body: Mapping[str, Any], *, kubeconfig: Path | None = None, dry: bool = False) -> dict[str, Any]:
        """The object as the API server made it, or with `dry` would make it.

        Raises:
            Refused: with the server's words.
        """
        flags = ["--dry-run=server"] if dry else []
        answer = self.kubectl("create", "--validate=false", *flags, "-o", "json", "-f", "-", kubeconfig=kubeconfig, given=json.dumps(body))
        if answer.returncode != 0:
            raise Refused(answer.stderr)
        found: dict[str, Any] = json.loads(answer.stdout)
        return found

    def account(self, namespace: str, name: str) -> Path:
        """A kubeconfig with the service account's own token, once the controller has made one."""
        from kubernetes import client

        core = client.CoreV1Api(self.client())
        for _ in range(240):
            found = core.read_namespaced_service_account(name, namespace).secrets or []
            if found:
                token = base64.b64decode(core.read_namespaced_secret(found[0].name, namespace).data["token"]).decode()
                return kubeconfig(self.folder / f"{namespace}.{name}", self.url, token)
            time.sleep(0.25)
        raise AssertionError(f"service account {name} has no token")

    def audit(self, user: str) -> list[dict[str, Any]]:
        """What the API server recorded of the user's requests, in their order."""
        events = [json.loads(line) for line in (self.folder / "audit.log").read_text().splitlines() if line.endswith("}")]
        return [event for event in events if event["user"].get("username") == user]


def program(name: str) -> str:
    """The path of the program; the test is skipped where it is not there."""
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    if not folder:
        pytest.skip("KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd")
    found = shutil.which(name, path=folder) or shutil.which(name)
    if found is None:
        pytest.skip(f"`{name}` is neither in KUBEBUILDER_ASSETS nor on the path")
    return found


def ports(count: int) -> list[int]:
    """That many free ports."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    found = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return found


@contextmanager
def cluster(folder: Path, *, controllers: Sequence[str] = ()) -> Iterator[Cluster]:
    """A cluster that answers, without nodes; with the named controllers, else with none."""
    etcd, server = program("etcd"), program("kube-apiserver")
    manager = program("kube-controller-manager") if controllers else ""
    client_port, peer_port, port, manager_port = ports(4)
    key, token = folder / "sa.key", secrets.token_hex(16)
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    (folder / "tokens.csv").write_text(f'{token},admin,1,"system:masters"\n')
    (folder / "audit.json").write_text(json.dumps(AUDIT_POLICY))
    store, url = f"http://127.0.0.1:{client_port}", f"https://127.0.0.1:{port}"
    found = Cluster(folder, url, kubeconfig(folder / "kubeconfig", url, token))
    running: list[subprocess.Popen[bytes]] = []
    with (folder / "log").open("wb") as log:
        try:
            flags = ["--data-dir", folder / "etcd", "--listen-client-urls", store, "--advertise-client-urls", store, "--unsafe-no-fsync"]
            running.append(subprocess.Popen([etcd, *flags, "--listen-peer-urls", f"http://127.0.0.1:{peer_port}"], stdout=log, stderr=log))
            flags = [
                f"--etcd-servers={store}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={port}",
                f"--cert-dir={folder / 'pki'}", "--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=RBAC",
                "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}",
                f"--service-account-signing-key-file={key}", f"--token-auth-file={folder / 'tokens.csv'}",
                "--endpoint-reconciler-type=none", f"--audit-policy-file={folder / 'audit.json'}",
                f"--audit-log-path={folder / 'audit.log'}", "--audit-log-mode=blocking", GATES,
            ]  # fmt: skip
            running.append(subprocess.Popen([server, *flags], stdout=log, stderr=log))
            _wait(found, running)
            if manager:
                flags = [
                    f"--kubeconfig={found.kubeconfig}", "--leader-elect=false", f"--service-account-private-key-file={key}",
                    f"--controllers={','.join(controllers)}", "--bind-address=127.0.0.1", f"--secure-port={manager_port}", "--port=0",
                    f"--cert-dir={folder / 'manager'}", GATES,
                ]  # fmt: skip
                running.append(subprocess.Popen([manager, *flags], stdout=log, stderr=log))
            yield found
        finally:
            for process in reversed(running):
                process.terminate()
                process.wait(30)


def kubeconfig(path: Path, url: str, token: str) -> Path:
    """The file that leads to the cluster with this token."""
    authority = path.parent / "pki" / "apiserver.crt"
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n"
        f'clusters: [{{name: c, cluster: {{server: "{url}", certificate-authority: "{authority}"}}}}]\n'
        f"users: [{{name: u, user: {{token: {token}}}}}]\n"
    )
    return path


def _wait(found: Cluster, running: list[subprocess.Popen[bytes]]) -> None:
    """Until the server's own roles and its first namespace are there."""
    from kubernetes import client, config
    from urllib3.exceptions import HTTPError

    for _ in range(READY_SECONDS * 4):
        if any(process.poll() is not None for process in running):
            pytest.fail(f"the API server did not start: {(found.folder / 'log').read_text()[-2000:]}")
        try:
            with found.client() as api:
                client.RbacAuthorizationV1Api(api).read_cluster_role_binding("system:basic-user", _request_timeout=5)
                client.CoreV1Api(api).read_namespace("default", _request_timeout=5)
            return
        except (client.ApiException, HTTPError, OSError, config.ConfigException):
            time.sleep(0.25)
    pytest.fail("the API server did not become ready")
