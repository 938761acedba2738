"""What runs do in tests of workers: end well, badly, or not by themselves."""

from __future__ import annotations

import os
import signal
import sys
import time

from prefect import flow


@flow
def probe(how: str = "well") -> str:
    """End as told; what a container writes is on its output too."""
    _tell(f"the container runs {how} at {os.environ.get('TRADEWIND_SITE')} of {os.environ.get('TRADEWIND_POOL')}")
    if how == "badly":
        raise ValueError("no such column `bmi`")
    if how == "abruptly":
        _tell("the disk is on fire")
        os._exit(3)
    if how == "greedily":
        os.killpg(os.getpgid(0), signal.SIGKILL)  # as the kernel ends a container that asks for too much
    if how == "slowly":
        time.sleep(120)
    return how


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
