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
    if how == "greedily":
        _tell("more memory than there is")
        time.sleep(2)  # until the process above has passed the line on
        # as the kernel ends a container that asks for too much: the process that started this one first, which would tell of its end
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "slowly":
        time.sleep(120)
    return how


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
