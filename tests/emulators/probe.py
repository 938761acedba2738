"""What runs do in tests of workers: end well, badly, or not by themselves."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from prefect import flow


@flow
def probe(how: str = "well") -> str:
    """End as told; what a container writes is on its output too."""
    _tell(f"the container runs {how} at {os.environ.get('TRADEWIND_SITE')} of {os.environ.get('TRADEWIND_POOL')}")
    if how == "badly":
        raise ValueError("no such column `bmi`")
    if how in ("abruptly", "at last"):
        time.sleep(20 if how == "at last" else 0)
        _tell("the disk is on fire")
        time.sleep(2)  # until the processes above have passed the line on
        _end_container(signal.SIGABRT)
    if how == "hungrily":
        os.kill(os.getpid(), signal.SIGKILL)  # as a kernel that ends only the process that asks for too much
    if how == "greedily":
        _tell("more memory than there is")
        time.sleep(2)
        _end_container(signal.SIGKILL)  # as one that ends all of the container, whose first process could tell of the end
    if how == "slowly":
        time.sleep(120)
    return how


def _end_container(number: int) -> None:
    """End the container's first process, and with it all of it."""
    above, pid = [], os.getppid()
    while b"flow-run\0execute" in (command := Path(f"/proc/{pid}/cmdline").read_bytes()) or b"prefect.runner" in command:
        above.append(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    for each in reversed(above):
        with suppress(ProcessLookupError):
            os.kill(each, number)
    os.kill(os.getpid(), signal.SIGKILL)


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
