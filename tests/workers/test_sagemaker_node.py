"""What runs first in a job's containers: real processes and sockets, hosts as loopback addresses."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.workers.sagemaker_node import completed, follow, hosts_of, lead, main

PLAIN = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])}


def hosts(root: Path, current: str, *names: str) -> dict[str, str]:
    """The environment of a host of a job."""
    (root / "input" / "config").mkdir(parents=True)
    (root / "input" / "config" / "resourceconfig.json").write_text(json.dumps({"current_host": current, "hosts": names}))
    return {**PLAIN, "TRADEWIND_SAGEMAKER_ROOT": str(root)}


def script(text: str) -> list[str]:
    """A command."""
    return [sys.executable, "-c", text]


def port() -> int:
    """One that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
    return found


def test_hosts_are_ordered_as_people_count(tmp_path: Path) -> None:
    """All hosts must agree which is the first."""
    hosts(tmp_path, "algo-10", "algo-10", "algo-2", "algo-1")
    assert hosts_of(tmp_path) == ("algo-10", ["algo-1", "algo-2", "algo-10"])
    assert hosts_of(tmp_path / "elsewhere") == ("algo-1", ["algo-1"])


def test_the_command_is_told_all_hosts() -> None:
    """As SageMaker's own images do."""
    environment = completed({"A": "1"}, ["algo-1", "algo-2"], "algo-2")
    assert environment == {"A": "1", "SM_HOSTS": '["algo-1", "algo-2"]', "SM_CURRENT_HOST": "algo-2"}


@pytest.mark.parametrize(("text", "code"), [("pass", 0), ("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_one_host_is_the_command_and_nothing_else(tmp_path: Path, text: str, code: int) -> None:
    """Its exit code, and the reason where SageMaker looks for it."""
    assert main(script(text), hosts(tmp_path, "algo-1", "algo-1")) == code
    failure = tmp_path / "output" / "failure"
    assert failure.exists() is bool(code)
    assert not code or failure.read_text().startswith(f"exit code {code} on algo-1")


def test_a_command_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    """The image lacks it."""
    assert main(["no-such-program"], hosts(tmp_path, "algo-1", "algo-1")) == 1
    assert "no-such-program" in (tmp_path / "output" / "failure").read_text()


def test_sigterm_is_passed_on(tmp_path: Path) -> None:
    """SageMaker gives two minutes to save what must not be lost."""
    save = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); print('ready', flush=True); time.sleep(30)"
    command = [sys.executable, "-m", "flows.workers.sagemaker_node", *script(save)]
    with subprocess.Popen(command, env=hosts(tmp_path, "algo-1", "algo-1"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 7


def follower(where: int, command: str | None = None) -> subprocess.Popen[bytes]:
    """Another host, waiting for the first."""
    waits = f"follow('127.0.0.1', 'b', {command!r}, dict(os.environ), {where}, 20)"
    return subprocess.Popen(script(f"import os; from flows.workers.sagemaker_node import follow; raise SystemExit({waits})"), env=PLAIN)


@pytest.mark.parametrize("code", [0, 3])
def test_the_others_wait_for_the_first_and_end_well(code: int) -> None:
    """Only the first host tells how the command ended."""
    where = port()
    with follower(where) as other:
        assert lead(script(f"import time; time.sleep(0.5); raise SystemExit({code})"), ["b"], PLAIN, where, 20) == code
        assert other.wait(10) == 0


def test_the_others_run_their_command_meanwhile(tmp_path: Path) -> None:
    """Such as a Ray node that joins the first host; it is ended with the job."""
    where, note = port(), tmp_path / "note"
    with follower(where, f"sh -c 'echo {{first}} {{current}} > {note}; exec sleep 60'") as other:
        wait = f"import pathlib, time\nwhile not pathlib.Path({str(note)!r}).exists(): time.sleep(0.05)"
        assert lead(script(wait), ["b"], PLAIN, where, 20) == 0
        assert other.wait(10) == 0
    assert note.read_text() == "127.0.0.1 b\n"


def test_a_follower_whose_command_fails_ends_the_job() -> None:
    """A cluster that lacks a node must not wait for it."""
    where = port()
    with socket.create_server(("127.0.0.1", where)):
        assert follow("127.0.0.1", "b", "false", PLAIN, where, 20) == 1


def test_a_first_host_that_vanishes_ends_the_others() -> None:
    """A machine that lost its power says nothing."""
    where = port()
    with follower(where) as other:
        with socket.create_server(("127.0.0.1", where)) as server:
            connection, _ = server.accept()
            connection.close()
        assert other.wait(10) == 1


def test_a_first_host_that_never_comes_is_not_waited_for_without_end() -> None:
    """It could not pull its image."""
    assert follow("127.0.0.1", "b", None, PLAIN, port(), 0.5) == 1


def test_a_follower_that_never_comes_does_not_change_how_the_command_ended(capfd: pytest.CaptureFixture[str]) -> None:
    """It is said, and the job ends."""
    begun = time.monotonic()
    assert lead(script("pass"), ["b"], PLAIN, port(), 0.5) == 0
    assert time.monotonic() - begun < 10
    assert "b never joined" in capfd.readouterr().err
