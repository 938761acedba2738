"""`python -m flows.workers.sagemaker_node COMMAND…`: what runs first in every container of a training job.

One flow run has one engine. On the first host this runs the command, which is that engine; the other hosts lend their processors: they
wait, running `TRADEWIND_FOLLOWER_COMMAND` if the pool sets one (say, a Ray node that joins the first host), until the first host says how
the command ended. A job of one host is the command and nothing else. Standard library only, but for secrets.

SageMaker gives the hosts' names in `input/config/resourceconfig.json`; `SM_HOSTS` and `SM_CURRENT_HOST` repeat them, as its own images do.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = "TRADEWIND_SAGEMAKER_ROOT"
"""Where SageMaker's folders lie; `/opt/ml` in a job."""
FOLLOWER = "TRADEWIND_FOLLOWER_COMMAND"
PART = re.compile(r"(?P<name>.+)__part_(?P<number>\d+)")
"""A value that is longer than SageMaker's 512 characters comes in parts."""
SECRET = "TRADEWIND_FROM_SECRET_"
"""`TRADEWIND_FROM_SECRET_NAME` holds the ARN of the secret that becomes `NAME`."""
PORT = 53911
JOIN_SECONDS = 900.0
"""How long hosts wait for each other: images are pulled on each by itself."""
GRACE_SECONDS = 20.0
REASON_LENGTH = 1024
"""What SageMaker takes of `output/failure` into `FailureReason`."""


def main(command: list[str], environ: Mapping[str, str] = os.environ) -> int:
    """Run the command, or wait for the host that runs it; returns the exit code."""
    root = Path(environ.get(ROOT, "/opt/ml"))
    current, hosts = hosts_of(root)
    environment = completed(environ, hosts, current)
    follower = environment.pop(FOLLOWER, None)
    first, others = hosts[0], hosts[1:]
    try:
        code = follow(first, current, follower, environment) if current != first else lead(command, others, environment)
    except OSError as error:
        code, note = 1, str(error)
    else:
        note = f"`{shlex.join(command)[:200]}`" if current == first else "lost the first host"
    if code:
        _explain(root, f"exit code {code} on {current}: {note}")
    return code


def hosts_of(root: Path) -> tuple[str, list[str]]:
    """This host and all hosts, the first one leading; one of both outside a job."""
    path = root / "input" / "config" / "resourceconfig.json"
    if not path.exists():
        return "algo-1", ["algo-1"]
    found: dict[str, Any] = json.loads(path.read_text())
    return found["current_host"], sorted(found["hosts"], key=_natural)


def completed(environ: Mapping[str, str], hosts: list[str], current: str) -> dict[str, str]:
    """The environment of the command: parts joined, secrets read, hosts named."""
    environment: dict[str, str] = {}
    parts: dict[str, dict[int, str]] = {}
    for name, value in environ.items():
        part = PART.fullmatch(name)
        if part:
            parts.setdefault(part["name"], {})[int(part["number"])] = value
        elif not name.startswith(SECRET):
            environment[name] = value
    for name, pieces in parts.items():
        environment[name] = "".join(pieces[number] for number in sorted(pieces))
    _read_secrets({name.removeprefix(SECRET): arn for name, arn in environ.items() if name.startswith(SECRET)}, environment)
    environment.setdefault("SM_HOSTS", json.dumps(hosts))
    environment.setdefault("SM_CURRENT_HOST", current)
    return environment


def lead(command: list[str], others: Iterable[str], environment: Mapping[str, str], port: int = PORT, join: float = JOIN_SECONDS) -> int:
    """Run the command and tell the other hosts, who wait on a connection each, how it ended."""
    waiting = set(others)
    if not waiting:
        return run(command, environment)
    # the kernel keeps their connections until the command is over
    with socket.create_server(("", port), backlog=max(16, 2 * len(waiting))) as server:
        until = time.monotonic() + join
        code = run(command, environment)
        # a host that starts later than `join` gives up by itself
        until = max(until, time.monotonic() + min(join, GRACE_SECONDS))
        while waiting and (left := until - time.monotonic()) > 0:
            server.settimeout(left)
            with suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(5)
                    host = connection.makefile("r").readline().strip()
                    connection.sendall(f"{code}\n".encode())
                    waiting.discard(host)
    if waiting:
        print(f"the command ended, but {', '.join(sorted(waiting))} never joined", file=sys.stderr)  # noqa: T201 - this is a program
    return code


def follow(
    first: str, current: str, command: str | None, environment: Mapping[str, str], port: int = PORT, join: float = JOIN_SECONDS
) -> int:
    """Wait for the first host's word, running `command` meanwhile; 0 once it came, whatever it is, since that host tells it."""
    connection = _joined(first, port, join)
    if connection is None:
        return 1
    helper = None
    with connection:
        if command:
            arguments = [part.replace("{first}", first).replace("{current}", current) for part in shlex.split(command)]
            helper = subprocess.Popen(arguments, env=dict(environment))
        _on_sigterm(helper, then_exit=True)
        try:
            connection.sendall(f"{current}\n".encode())
            return _word(connection, helper)
        finally:
            if helper is not None:
                _end(helper)


def run(command: list[str], environment: Mapping[str, str]) -> int:
    """Run the command, pass SIGTERM on to it, and return its exit code, 128 + n after signal n."""
    process = subprocess.Popen(command, env=dict(environment))
    _on_sigterm(process, then_exit=False)
    code = process.wait()
    return 128 - code if code < 0 else code


def _joined(first: str, port: int, join: float) -> socket.socket | None:
    until = time.monotonic() + join
    while time.monotonic() < until:
        with suppress(OSError):
            connection = socket.create_connection((first, port), timeout=10)
            # a host that vanished without a word is noticed within about two minutes
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 6)):
                if hasattr(socket, option):
                    connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
            return connection
        time.sleep(1)
    return None


def _word(connection: socket.socket, helper: subprocess.Popen[bytes] | None) -> int:
    connection.settimeout(1)
    while True:
        try:
            # 0 bytes: the first host closed without a word, so it is gone
            return 0 if connection.recv(16) else 1
        except TimeoutError:
            if helper is not None and helper.poll() not in (None, 0):
                return abs(helper.returncode) or 1
        except OSError:
            return 1


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _on_sigterm(process: subprocess.Popen[bytes] | None, *, then_exit: bool) -> None:
    def handle(number: int, frame: Any) -> None:
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
        if then_exit:
            raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, handle)


def _read_secrets(wanted: Mapping[str, str], into: MutableMapping[str, str]) -> None:
    if not wanted:
        return
    import boto3

    for name, arn in wanted.items():
        client = boto3.session.Session(region_name=arn.split(":")[3]).client("secretsmanager")
        into[name] = client.get_secret_value(SecretId=arn)["SecretString"]


def _explain(root: Path, reason: str) -> None:
    with suppress(OSError):
        (root / "output").mkdir(parents=True, exist_ok=True)
        (root / "output" / "failure").write_text(reason[:REASON_LENGTH])


def _natural(host: str) -> tuple[str, int]:
    """`algo-2` before `algo-10`, on every host alike."""
    head, _, tail = host.rpartition("-")
    return (head, int(tail)) if tail.isdigit() else (host, 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
