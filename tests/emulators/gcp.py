"""Google Cloud for tests: Cloud Run jobs (REST) and Vertex AI custom jobs (gRPC), pretended, behind the real clients' own TLS and tokens.

The clients' addresses are fixed, so programs reach this server through a proxy (`https_proxy`) that knows two hosts and refuses all others.
Jobs run as local processes. `python -m tests.emulators.gcp --folder F` reads `image.json`, and writes `ports.json` when it listens; `Gcp`
drives it.

Written from Google's published references, not from Google's code: it takes what Prefect's workers send, and does not judge all of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.adapters.settings import PROJECT_ROOT
from tests.emulators.containers import KILLED, Container, Image

RUN, VERTEX = "run.googleapis.com", "aiplatform.googleapis.com"
PORTS = "ports.json"
STOP_SECONDS = 10.0
START_SECONDS = 60.0


@dataclass
class Server:
    """Jobs, their executions, their containers."""

    folder: Path
    image: Image
    secrets: Mapping[str, str]
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    executions: dict[str, dict[str, Any]] = field(default_factory=dict)
    custom: dict[str, Any] = field(default_factory=dict)
    containers: dict[str, Container] = field(default_factory=dict)
    faults: deque[dict[str, Any]] = field(default_factory=deque)
    calls: list[str] = field(default_factory=list)
    images: set[str] | None = None
    metadata: str = ""
    """Where a container finds out who it is."""
    ended: set[str] = field(default_factory=set)
    """Jobs and executions that somebody ended from outside."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def spawn(self, name: str, command: list[str], environment: Mapping[str, str]) -> Container:
        """The container of a job or execution."""
        home = self.folder / "containers" / name.rpartition("/")[2]
        known = {"GCE_METADATA_HOST": self.metadata, "GCE_METADATA_IP": self.metadata}
        made = Container(command, {**self.image.variables(home), **known, **environment}, home)
        self.containers[name] = made
        return made

    async def follow(self, name: str) -> int:
        """Its exit status; its lines are in a file, where Cloud Logging would have them."""
        path = self.folder / "logs" / f"{name.rpartition('/')[2]}.log"
        with path.open("a") as log:
            return await asyncio.to_thread(self.containers[name].follow, lambda line: print(line, file=log, flush=True))

    def later(self, work: Any) -> None:
        """Run beside the answer."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def stop(self, name: str) -> None:
        """End a container from outside."""
        self.ended.add(name)
        if name in self.containers:
            self.later(asyncio.to_thread(self.containers[name].stop, STOP_SECONDS))

    def fault(self, operation: str) -> dict[str, Any] | None:
        """Count a call; the error that it was told to have."""
        self.calls.append(operation)
        found = next((one for one in self.faults if one["operation"] == operation and one["times"] > 0), None)
        if found is not None:
            found["times"] -= 1
        return found

    def lacks(self, image: str) -> bool:
        """Whether the registry has no such image."""
        return self.images is not None and image.rpartition("@")[2] not in self.images


class CloudRun:
    """`https://run.googleapis.com/v2`."""

    def __init__(self, server: Server) -> None:
        self.server = server

    async def handle(self, request: Any) -> Any:
        """One call."""
        from aiohttp import web

        path, method = request.path.removeprefix("/v2/"), request.method
        if not request.headers.get("Authorization", "").startswith("Bearer pretended-"):
            return _refused(401, "Request is missing required authentication credential.", "UNAUTHENTICATED")
        operation = self._operation(method, path)
        if (fault := self.server.fault(operation)) is not None:
            return _refused(fault["status"], fault["message"], fault["code"])
        if operation == "jobs.create":
            return self._create(f"{path}/{request.query['jobId']}", await request.json())
        if operation == "jobs.run":
            return self._run(path.removesuffix(":run"))
        if operation == "executions.cancel":
            self.server.stop(path.removesuffix(":cancel"))
            return web.json_response({"name": f"{path}/operations/1", "done": True})
        if operation == "jobs.list":
            return web.json_response({"jobs": [job for name, job in self.server.jobs.items() if name.startswith(path)]})
        if operation == "executions.list":
            return web.json_response({"executions": [one for name, one in self.server.executions.items() if name.startswith(path)]})
        held = self.server.executions if "/executions/" in path else self.server.jobs
        if path not in held:
            return _refused(404, f"Resource '{path.rpartition('/')[2]}' was not found", "NOT_FOUND")
        if method != "DELETE":
            return web.json_response(held[path])
        for name in [path, *(name for name in self.server.executions if name.startswith(f"{path}/"))]:
            self.server.stop(name)
        return web.json_response({"name": f"{path}/operations/2", "metadata": held.pop(path), "done": True})

    @staticmethod
    def _operation(method: str, path: str) -> str:
        kind = "executions" if "/executions" in path else "jobs"
        if method == "POST":
            return f"{kind}.{path.rpartition(':')[2]}" if path.endswith((":run", ":cancel")) else f"{kind}.create"
        if method == "GET":
            return f"{kind}.list" if path.endswith(("/jobs", "/executions")) else f"{kind}.get"
        return f"{kind}.{method.lower()}"

    def _create(self, name: str, body: dict[str, Any]) -> Any:
        from aiohttp import web

        if name in self.server.jobs:
            return _refused(409, f"Resource '{name.rpartition('/')[2]}' already exists.", "ALREADY_EXISTS")
        image = body["template"]["template"]["containers"][0]["image"]
        ready = {"type": "Ready", "state": "CONDITION_SUCCEEDED"}
        if self.server.lacks(image):
            ready = {"type": "Ready", "state": "CONDITION_FAILED", "reason": "CONTAINER_MISSING", "message": f"Image '{image}' not found."}
        job = self.server.jobs[name] = {
            **body, "name": name, "uid": str(uuid.uuid4()), "generation": "1", "createTime": _now(), "updateTime": _now(),
            "latestCreatedExecution": {}, "executionCount": 0, "etag": "x", "terminalCondition": ready,
        }  # fmt: skip
        return web.json_response({"name": f"{name}/operations/1", "metadata": job, "done": True})

    def _run(self, name: str) -> Any:
        from aiohttp import web

        job = self.server.jobs.get(name)
        if job is None:
            return _refused(404, f"Resource '{name.rpartition('/')[2]}' was not found", "NOT_FOUND")
        own = f"{name}/executions/{name.rpartition('/')[2]}-{uuid.uuid4().hex[:5]}"
        execution = self.server.executions[own] = {
            "name": own, "uid": str(uuid.uuid4()), "generation": "1", "createTime": _now(), "job": name, "parallelism": 1, "taskCount": 1,
            "template": job["template"]["template"], "logUri": "https://console.cloud.google.com/logs", "etag": "x", "conditions": [],
        }  # fmt: skip
        job["latestCreatedExecution"] = {"name": own, "createTime": _now()}
        job["executionCount"] += 1
        self.server.later(self._live(execution))
        return web.json_response({"name": f"{own}/operations/1", "metadata": execution})

    async def _live(self, execution: dict[str, Any]) -> None:
        container = execution["template"]["containers"][0]
        variables = {one["name"]: self._value(one) for one in container.get("env", [])}
        command = [*container.get("command", []), *container.get("args", [])]
        self.server.spawn(execution["name"], command, variables)
        execution |= {"startTime": _now(), "runningCount": 1}
        code = await self.server.follow(execution["name"])
        cancelled = execution["name"] in self.server.ended
        message = (
            "The container exited with an error." if code != KILLED else "Memory limit exceeded with the container killed by signal 9."
        )
        condition = {"type": "Completed", "state": "CONDITION_SUCCEEDED"}
        if code:
            condition = {
                "type": "Completed",
                "state": "CONDITION_FAILED",
                "message": "Cancelled." if cancelled else f"{message} Exit code {code}.",
            }
        count = "succeededCount" if code == 0 else "cancelledCount" if cancelled else "failedCount"
        execution |= {"completionTime": _now(), "runningCount": 0, count: 1, "conditions": [condition]}

    def _value(self, variable: Mapping[str, Any]) -> str:
        source = variable.get("valueSource")
        return self.server.secrets[source["secretKeyRef"]["secret"]] if source else str(variable.get("value", ""))


class Vertex:
    """`google.cloud.aiplatform.v1.JobService`, as far as custom jobs go."""

    SERVICE = "google.cloud.aiplatform.v1.JobService"

    def __init__(self, server: Server) -> None:
        self.server = server

    def handlers(self) -> Any:
        """The methods that are there."""
        import grpc
        from google.cloud.aiplatform_v1 import types

        def method(work: Any, asked: Any, answer: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(work, request_deserializer=asked.deserialize, response_serializer=answer)

        return grpc.method_handlers_generic_handler(
            self.SERVICE,
            {
                "CreateCustomJob": method(self._create, types.CreateCustomJobRequest, types.CustomJob.serialize),
                "GetCustomJob": method(self._get, types.GetCustomJobRequest, types.CustomJob.serialize),
                "ListCustomJobs": method(self._list, types.ListCustomJobsRequest, types.ListCustomJobsResponse.serialize),
                "CancelCustomJob": method(self._cancel, types.CancelCustomJobRequest, lambda message: message.SerializeToString()),
            },
        )

    async def _refuse(self, operation: str, context: Any) -> None:
        import grpc

        if (fault := self.server.fault(operation)) is not None:
            await context.abort(getattr(grpc.StatusCode, fault["code"]), fault["message"])

    async def _create(self, request: Any, context: Any) -> Any:
        from google.cloud.aiplatform_v1.types import CustomJob, JobState

        await self._refuse("CreateCustomJob", context)
        job = CustomJob(request.custom_job)
        job.name = f"{request.parent}/customJobs/{uuid.uuid4().int % 10**12}"
        job.state, job.create_time = JobState.JOB_STATE_PENDING, datetime.now(UTC)
        self.server.custom[job.name] = job
        self.server.later(self._live(job))
        return job

    async def _get(self, request: Any, context: Any) -> Any:
        import grpc

        await self._refuse("GetCustomJob", context)
        if request.name not in self.server.custom:
            await context.abort(grpc.StatusCode.NOT_FOUND, f'The CustomJob "{request.name}" does not exist.')
        return self.server.custom[request.name]

    async def _list(self, request: Any, context: Any) -> Any:
        from google.cloud.aiplatform_v1.types import ListCustomJobsResponse

        await self._refuse("ListCustomJobs", context)
        return ListCustomJobsResponse(custom_jobs=[job for name, job in self.server.custom.items() if name.startswith(request.parent)])

    async def _cancel(self, request: Any, context: Any) -> Any:
        import grpc
        from google.cloud.aiplatform_v1.types import JobState
        from google.protobuf import empty_pb2

        await self._refuse("CancelCustomJob", context)
        if request.name not in self.server.custom:
            await context.abort(grpc.StatusCode.NOT_FOUND, f'The CustomJob "{request.name}" does not exist.')
        self.server.custom[request.name].state = JobState.JOB_STATE_CANCELLING
        self.server.stop(request.name)
        return empty_pb2.Empty()

    async def _live(self, job: Any) -> None:
        from google.cloud.aiplatform_v1.types import JobState

        spec = job.job_spec.worker_pool_specs[0].container_spec
        if self.server.lacks(spec.image_uri):
            job.error = {"code": 5, "message": f"The image {spec.image_uri} does not exist or the service agent may not read it."}
            job.state, job.end_time = JobState.JOB_STATE_FAILED, datetime.now(UTC)
            return
        job.state, job.start_time = JobState.JOB_STATE_RUNNING, datetime.now(UTC)
        self.server.spawn(job.name, [*spec.command, *spec.args], {one.name: one.value for one in spec.env})
        code = await self.server.follow(job.name)
        if job.name in self.server.ended:
            job.state, job.error = JobState.JOB_STATE_CANCELLED, {"code": 1, "message": "CANCELED"}
        elif code:
            why = "Replicas low on memory: workerpool0. " if code == KILLED else ""
            text = f"{why}The replica workerpool0-0 exited with a non-zero status of {code}."
            job.state, job.error = JobState.JOB_STATE_FAILED, {"code": 3, "message": text}
        else:
            job.state = JobState.JOB_STATE_SUCCEEDED
        job.end_time = datetime.now(UTC)


def _refused(status: int, message: str, code: str) -> Any:
    from aiohttp import web

    return web.json_response({"error": {"code": status, "message": message, "status": code}}, status=status)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def _proxy(server: Server, ports: Mapping[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """`CONNECT`, to the two hosts that are pretended here."""
    line = (await reader.readline()).split()
    while (await reader.readline()).strip():
        pass
    host = line[1].decode().rpartition(":")[0] if len(line) > 1 else ""
    server.calls.append(f"CONNECT {host}")
    port = ports["rest"] if host == RUN else ports["grpc"] if host.endswith(f"-{VERTEX}") else None
    if line[:1] != [b"CONNECT"] or port is None:
        writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
        await writer.drain()
        writer.close()
        return
    upstream, out = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    await writer.drain()

    async def pipe(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        except ConnectionError:
            return
        finally:
            target.close()

    await asyncio.gather(pipe(reader, out), pipe(upstream, writer))


async def serve(folder: Path) -> None:
    """Listen on free ports, for ever."""
    import grpc
    from aiohttp import web

    given = json.loads((folder / "image.json").read_text())
    server = Server(folder, Image(given["environment"]), given["secrets"])
    (folder / "logs").mkdir(exist_ok=True)

    async def token(_request: Any) -> Any:
        server.calls.append("token")
        if (fault := server.fault("token")) is not None:
            return web.json_response({"error": fault["code"], "error_description": fault["message"]}, status=fault["status"])
        return web.json_response({"access_token": f"pretended-{uuid.uuid4().hex}", "expires_in": 3600, "token_type": "Bearer"})

    async def metadata(request: Any) -> Any:
        """The metadata server: the account's address, or an identity token of it, which nobody has signed."""
        import jwt

        flavour = {"Metadata-Flavor": "Google"}
        if not request.path.endswith("/identity"):
            return web.json_response({"email": "run@pretended.iam.gserviceaccount.com"}, headers=flavour)
        says = {"iss": "https://accounts.google.com", "aud": request.query["audience"], "sub": "1", "exp": int(time.time()) + 3600}
        return web.Response(text=jwt.encode(says, "pretended" * 4), content_type="application/text", headers=flavour)

    async def control(request: Any) -> Any:
        """What a test asks: faults to order, images that are there, what was called."""
        if request.method == "POST":
            asked = await request.json()
            if "fault" in asked:
                server.faults.append(asked["fault"])
            if "healed" in asked:
                server.faults.clear()
            if "images" in asked:
                server.images = None if asked["images"] is None else set(asked["images"])
            if "kill" in asked:
                for name, container in server.containers.items():
                    if name.startswith(asked["kill"]):
                        container.kill()
            if "vanish" in asked:
                for name in [name for name in server.jobs if name.startswith(asked["vanish"])]:
                    server.jobs.pop(name)
                for name in [name for name in (*server.executions, *server.custom) if name.startswith(asked["vanish"])]:
                    server.stop(name)
                    server.executions.pop(name, None)
                    server.custom.pop(name, None)
        custom = {
            name: {"display": job.display_name, "state": job.state.name, "labels": dict(job.labels)} for name, job in server.custom.items()
        }
        executions = {name: one["conditions"] for name, one in server.executions.items()}
        running = [name for name, one in server.containers.items() if one.process is not None and one.process.poll() is None]
        return web.json_response(
            {"calls": server.calls, "jobs": server.jobs, "executions": executions, "custom": custom, "running": running}
        )

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    application = web.Application(client_max_size=2**24)
    application.router.add_route("*", "/v2/{rest:.*}", CloudRun(server).handle)
    application.router.add_post("/token", token)
    application.router.add_get("/", metadata)
    application.router.add_get("/computeMetadata/{rest:.*}", metadata)
    application.router.add_route("*", "/control", control)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    rest, plain = (address[1] for address in runner.addresses)
    server.metadata = f"127.0.0.1:{plain}"
    rpc = grpc.aio.server()
    rpc.add_generic_rpc_handlers([Vertex(server).handlers()])
    pair = ((folder / "server.key").read_bytes(), (folder / "server.crt").read_bytes())
    ports = {"rest": rest, "plain": plain, "grpc": rpc.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))}
    await rpc.start()
    listener = await asyncio.start_server(lambda reader, writer: _proxy(server, ports, reader, writer), "127.0.0.1", 0)
    ports["proxy"] = listener.sockets[0].getsockname()[1]
    (folder / "ports.tmp").write_text(json.dumps(ports))
    (folder / "ports.tmp").replace(folder / PORTS)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(15, stopped.set)
    await stopped.wait()
    for container in server.containers.values():
        container.kill()
    os._exit(0)


@dataclass(frozen=True, slots=True)
class Gcp:
    """The running server, as a test sees it."""

    folder: Path
    ports: Mapping[str, int]
    project: str

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to find this server instead of Google, with credentials of an account that is not one."""
        certificate = str(self.folder / "server.crt")
        return {
            "https_proxy": f"http://127.0.0.1:{self.ports['proxy']}",
            "no_proxy": "127.0.0.1,localhost",
            "HTTPLIB2_CA_CERTS": certificate,
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": certificate,
            "GOOGLE_APPLICATION_CREDENTIALS": str(self.folder / "account.json"),
            "GOOGLE_CLOUD_PROJECT": self.project,
        }

    def fail(self, operation: str, code: str, message: str, *, status: int = 429, times: int = 1) -> None:
        """Answer the next calls of `jobs.create`, `jobs.run`, `CreateCustomJob`, `token` … with an error."""
        self._ask({"fault": {"operation": operation, "code": code, "message": message, "status": status, "times": times}})

    def heal(self) -> None:
        """Forget the errors that are still to come."""
        self._ask({"healed": True})

    def registry(self, digests: set[str] | None) -> None:
        """What images there are; None: every one."""
        self._ask({"images": None if digests is None else sorted(digests)})

    def kill(self, prefix: str = "") -> None:
        """Kill the containers of all jobs whose names begin so, as want of memory does."""
        self._ask({"kill": prefix})

    def vanish(self, prefix: str = "") -> None:
        """Delete those jobs under whoever watches them."""
        self._ask({"vanish": prefix})

    def seen(self) -> dict[str, Any]:
        """Calls so far, jobs and executions as they are, and what `running` containers there are."""
        return self._ask(None)

    def logged(self) -> str:
        """Every line that a container wrote."""
        return "\n".join(path.read_text() for path in sorted((self.folder / "logs").glob("*.log")))

    def _ask(self, body: Mapping[str, Any] | None) -> dict[str, Any]:
        import httpx

        url = f"http://127.0.0.1:{self.ports['plain']}/control"
        answer = httpx.get(url, timeout=20) if body is None else httpx.post(url, json=dict(body), timeout=20)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found


@contextmanager
def gcp(folder: Path, image: Image, *, project: str, secrets: Mapping[str, str]) -> Iterator[Gcp]:
    """A running server; `secrets` are those of the project's Secret Manager."""
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key = folder / "server.crt", folder / "server.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=pretended"]
    names = ["-addext", "subjectAltName=DNS:*.googleapis.com"]
    subprocess.run([*command, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    (folder / "image.json").write_text(json.dumps({"environment": dict(image.environment), "secrets": dict(secrets)}))
    with (folder / "server.log").open("wb") as log:
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        command = [sys.executable, "-m", "tests.emulators.gcp", "--folder", str(folder)]
        process = subprocess.Popen(command, cwd=PROJECT_ROOT, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (folder / PORTS).exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the pretended Google Cloud did not start: {(folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.1)
        ports = json.loads((folder / PORTS).read_text())
        account = {
            "type": "service_account", "project_id": project, "private_key_id": "1", "private_key": key.read_text(),
            "client_email": f"worker@{project}.iam.gserviceaccount.com", "client_id": "1",
            "token_uri": f"http://127.0.0.1:{ports['plain']}/token",
        }  # fmt: skip
        (folder / "account.json").write_text(json.dumps(account))
        yield Gcp(folder, ports, project)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    asyncio.run(serve(parser.parse_args().folder))
