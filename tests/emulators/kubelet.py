"""A pretended scheduler and node: binds pods, runs their commands as local processes, reports their state, hands out their logs.

`python -m tests.emulators.kubelet --kubeconfig F --folder D --port N --certificate C --key K --image DIGEST=PATH …`: an image is a `PATH`
to look for programs in; what is in no `--image` cannot be pulled; `--variable NAME=VALUE` is in every image. A pod whose node selector the
node does not fit stays unschedulable, whatever its `schedulerName` says. It stands in for kube-scheduler or KAI, kubelet, container runtime
and registry; nothing is isolated.
"""

from __future__ import annotations

import argparse
import base64
import os
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubernetes import client, config, watch

NODE = "pretended"
LABELS = {
    "kubernetes.io/hostname": NODE, "kubernetes.io/arch": "amd64", "tradewind/purchase": "on-demand", "tradewind/accelerator": "A100",
}  # fmt: skip
CAPACITY = {"cpu": "64", "memory": "256Gi", "pods": "100", "ephemeral-storage": "1Ti", "nvidia.com/gpu": "8"}
KILLED = 137
"""Exit status of a container that was killed; here that is always the kernel's want of memory."""


class Kubelet:
    """One node and what runs on it."""

    def __init__(self, api: Any, folder: Path, port: int, images: Mapping[str, str], variables: Mapping[str, str] | None = None) -> None:
        self.core = client.CoreV1Api(api)
        self.folder, self.port, self.images = folder, port, dict(images)
        self.variables = dict(variables or {})
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.known: set[str] = set()
        self.dying: set[str] = set()

    def register(self) -> None:
        """The node, ready."""
        self.core.create_node({"metadata": {"name": NODE, "labels": LABELS}})
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
            "capacity": CAPACITY,
            "allocatable": CAPACITY,
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": _now(), "lastTransitionTime": _now()}],
        }
        self.core.patch_node_status(NODE, {"status": status})

    def serve(self) -> None:
        """Take up pods as they come and go, for ever."""
        while True:
            for event in watch.Watch().stream(self.core.list_pod_for_all_namespaces, timeout_seconds=60):
                pod = event["object"]
                uid, gone = pod.metadata.uid, pod.metadata.deletion_timestamp is not None
                if event["type"] == "DELETED":
                    continue
                if gone and uid not in self.dying:
                    self.dying.add(uid)
                    threading.Thread(target=self._end, args=(pod,), daemon=True).start()
                elif not gone and uid not in self.known and pod.status.phase == "Pending":
                    self.known.add(uid)
                    threading.Thread(target=self._run, args=(pod,), daemon=True).start()

    def _run(self, pod: Any) -> None:
        (container,) = pod.spec.containers
        wanted = {key: value for key, value in (pod.spec.node_selector or {}).items() if LABELS.get(key) != value}
        if wanted:
            message = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
            self._report(pod, {"phase": "Pending", "conditions": [condition]})
            return
        target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
        body = {"metadata": {"name": pod.metadata.name}, "target": target}
        self.core.create_namespaced_binding(pod.metadata.namespace, body, _preload_content=False)
        path = self.images.get(container.image.rpartition("@")[2])
        if path is None:
            reason = {"reason": "ErrImagePull", "message": f"manifest for {container.image} not found"}
            self._report(pod, {"phase": "Pending", "containerStatuses": [_status(container, {"waiting": reason})]})
            return
        self._report(pod, {"phase": "Pending", "containerStatuses": [_status(container, {"waiting": {"reason": "ContainerCreating"}})]})
        started = _now()
        command = [*(container.command or ()), *(container.args or ())]
        # a container's root is its own: what it calls /tmp is a folder of this pod
        home = self.folder / pod.metadata.name
        home.mkdir()
        own = {"PATH": path, "HOME": str(home), "PREFECT_HOME": str(home), "TMPDIR": str(home), "TRADEWIND_HOME": str(home / ".tradewind")}
        with self.log(pod.metadata.namespace, pod.metadata.name).open("wb") as log:
            try:
                process = subprocess.Popen(
                    command,
                    env={**self.variables, **self._mounted(pod, container, home), **own},
                    stdout=log,
                    stderr=log,
                    cwd=home,
                    start_new_session=True,
                )
            except OSError as error:
                self._finish(pod, container, started, 127, "ContainerCannotRun", str(error))
                return
            self.processes[pod.metadata.uid] = process
            self._report(
                pod,
                {
                    "phase": "Running", "startTime": started, "hostIP": "127.0.0.1", "podIP": "127.0.0.1",
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "containerStatuses": [_status(container, {"running": {"startedAt": started}}, ready=True)],
                },
            )  # fmt: skip
            code = process.wait()
            _kill_all(home)  # a container ends with its first process
        code = code if code >= 0 else 128 - code
        self._finish(pod, container, started, code, "Completed" if code == 0 else "OOMKilled" if code == KILLED else "Error")

    def _finish(self, pod: Any, container: Any, started: str, code: int, reason: str, message: str = "") -> None:
        ended = {"exitCode": code, "reason": reason, "message": message, "startedAt": started, "finishedAt": _now()}
        self._report(
            pod,
            {
                "phase": "Succeeded" if code == 0 else "Failed",
                "conditions": [{"type": "Ready", "status": "False"}],
                "containerStatuses": [_status(container, {"terminated": ended})],
            },
        )
        self.processes.pop(pod.metadata.uid, None)

    def _end(self, pod: Any) -> None:
        process = self.processes.get(pod.metadata.uid)
        if process is not None:
            process.terminate()
            try:
                process.wait(pod.metadata.deletion_grace_period_seconds or 30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._quietly(self.core.delete_namespaced_pod, pod.metadata.name, pod.metadata.namespace, grace_period_seconds=0)

    def _report(self, pod: Any, status: Mapping[str, Any]) -> None:
        self._quietly(self.core.patch_namespaced_pod_status, pod.metadata.name, pod.metadata.namespace, {"status": status})

    def _quietly(self, call: Any, *arguments: Any, **named: Any) -> None:
        """A pod may be gone before its end is told."""
        try:
            call(*arguments, **named)
        except client.ApiException as error:
            if error.status != 404:
                raise

    def _environment(self, pod: Any, container: Any) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in container.env_from or ():
            found |= self._secret(pod.metadata.namespace, source.secret_ref.name)
        for one in container.env or ():
            if one.value_from is not None:
                reference = one.value_from.secret_key_ref
                found[one.name] = self._secret(pod.metadata.namespace, reference.name)[reference.key]
            else:
                found[one.name] = one.value or ""
        return found

    def _mounted(self, pod: Any, container: Any, home: Path) -> dict[str, str]:
        """The container's variables, once the tokens of its projected volumes, by the API server, are in a folder of this pod."""
        found = self._environment(pod, container)
        projected = {volume.name: volume.projected.sources for volume in pod.spec.volumes or () if volume.projected is not None}
        for mount in container.volume_mounts or ():
            for source in (one.service_account_token for one in projected.get(mount.name, ())):
                asked = {"audiences": [source.audience], "expirationSeconds": source.expiration_seconds}
                name, namespace = pod.spec.service_account_name, pod.metadata.namespace
                given = self.core.create_namespaced_service_account_token(name, namespace, {"spec": asked})
                (home / mount.name).mkdir(exist_ok=True)
                (home / mount.name / source.path).write_text(given.status.token)
                inside = f"{mount.mount_path}/"
                found = {
                    key: value.replace(inside, f"{home / mount.name}/", 1) if value.startswith(inside) else value
                    for key, value in found.items()
                }
        return found

    def _secret(self, namespace: str, name: str) -> dict[str, str]:
        data = self.core.read_namespaced_secret(name, namespace).data or {}
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def log(self, namespace: str, pod: str) -> Path:
        """The file that holds what the pod's container wrote."""
        return self.folder / f"{namespace}.{pod}.log"

    def logs(self, certificate: Path, key: Path) -> ThreadingHTTPServer:
        """The server of `kubectl logs`: the API server asks it, as it asks a real kubelet."""
        kubelet = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                _, _, namespace, pod, _ = url.path.split("/")
                path, query = kubelet.log(namespace, pod), parse_qs(url.query)
                data = path.read_bytes() if path.exists() and query.get("previous") != ["true"] else b""
                if tail := query.get("tailLines"):
                    data = b"".join(data.splitlines(keepends=True)[-int(tail[0]) :])
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        return server


def _status(container: Any, state: Mapping[str, Any], *, ready: bool = False) -> dict[str, Any]:
    return {
        "name": container.name, "image": container.image, "imageID": container.image, "restartCount": 0, "ready": ready, "started": ready,
        "state": dict(state),
    }  # fmt: skip


def _kill_all(home: Path) -> None:
    """All processes whose home is the folder: some lead process groups of their own, some have lost their parents."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"HOME={home}".encode() in path.read_bytes().split(b"\0"):
                os.kill(int(path.parent.name), signal.SIGKILL)
        except OSError:
            continue  # it ended by itself, or is not ours


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def main() -> None:
    """Run until ended; end what runs then."""
    parser = argparse.ArgumentParser()
    for name in ("--kubeconfig", "--folder", "--certificate", "--key"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--image", action="append", default=[])
    parser.add_argument("--variable", action="append", default=[], help="NAME=VALUE of every image's environment")
    given = parser.parse_args()
    api = config.new_client_from_config(config_file=str(given.kubeconfig))
    kubelet = Kubelet(
        api, given.folder, given.port, dict(image.split("=", 1) for image in given.image), dict(one.split("=", 1) for one in given.variable)
    )

    def leave(*_: object) -> None:
        for process in list(kubelet.processes.values()):
            process.kill()
        for home in given.folder.iterdir():
            if home.is_dir():
                _kill_all(home)
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    kubelet.register()
    server = kubelet.logs(given.certificate, given.key)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        try:
            kubelet.serve()
        except (client.ApiException, OSError):
            time.sleep(0.5)


if __name__ == "__main__":
    main()
