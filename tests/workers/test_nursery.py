"""Runs are forked from a process that has its libraries loaded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from flows.adapters.settings import PROJECT_ROOT
from flows.workers.starting import Nurseries

pytestmark = pytest.mark.skipif(os.uname().sysname != "Linux", reason="elsewhere runs start a new interpreter")


@asynccontextmanager
async def nursery(tmp_path: Path) -> AsyncIterator[Nurseries]:
    """A nursery without heavy libraries, which ends with the test."""
    found = Nurseries(libraries=("json",))
    try:
        yield found
    finally:
        await found.close()


def environment(tmp_path: Path, **more: str) -> Mapping[str, str]:
    """All that a child knows: without a flow run's id the engine ends at once with status 1."""
    return {"PYTHONPATH": str(PROJECT_ROOT), "PREFECT_HOME": str(tmp_path), "PATH": os.environ["PATH"], **more}


def test_a_child_is_a_process_of_its_own_and_its_end_is_known(tmp_path: Path) -> None:
    """The child leads its own process group, and its exit status reaches the host."""

    async def scenario() -> tuple[int, int | None, int]:
        async with nursery(tmp_path) as found:
            child = await found.fork("a", environment(tmp_path), tmp_path)
            group = os.getpgid(child.pid)
            await asyncio.wait_for(child.ended.wait(), 30)
            return child.pid, child.returncode, group

    pid, status, group = asyncio.run(scenario())
    assert status == 1
    assert group == pid
    assert not psutil.pid_exists(pid)


def test_children_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """Several children live at once; each end is told apart."""

    async def scenario() -> list[int | None]:
        async with nursery(tmp_path) as found:
            children = await asyncio.gather(*(found.fork(str(number), environment(tmp_path), tmp_path) for number in range(3)))
            await asyncio.wait_for(asyncio.gather(*(child.ended.wait() for child in children)), 60)
            assert len({child.pid for child in children}) == 3
            return [child.returncode for child in children]

    assert asyncio.run(scenario()) == [1, 1, 1]


def test_a_killed_child_is_told_by_its_signal(tmp_path: Path) -> None:
    """A run killed by the system looks as it does for a process of Prefect's own."""

    async def scenario() -> int | None:
        async with nursery(tmp_path) as found:
            child = await found.fork("a", environment(tmp_path), tmp_path)
            os.kill(child.pid, 9)
            await asyncio.wait_for(child.ended.wait(), 30)
            return child.returncode

    assert asyncio.run(scenario()) == -9


def test_two_processes_of_one_run_are_told_apart(tmp_path: Path) -> None:
    """A suspended run may be resumed before its process has ended: that end is not the end of the new process."""

    async def scenario() -> tuple[int | None, int | None, bool]:
        async with nursery(tmp_path) as found:
            first, second = await found.fork("a", environment(tmp_path), tmp_path), await found.fork("a", environment(tmp_path), tmp_path)
            os.kill(first.pid, 9)
            await asyncio.wait_for(asyncio.gather(first.ended.wait(), second.ended.wait()), 30)
            return first.returncode, second.returncode, psutil.pid_exists(second.pid)

    assert asyncio.run(scenario()) == (-9, 1, False)


def test_a_dead_nursery_is_replaced(tmp_path: Path) -> None:
    """The next run gets a new one."""

    async def scenario() -> int | None:
        async with nursery(tmp_path) as found:
            await found.warm()
            assert found._process is not None
            found._process.kill()
            await found._process.wait()
            await asyncio.sleep(0.2)
            child = await found.fork("b", environment(tmp_path), tmp_path)
            await asyncio.wait_for(child.ended.wait(), 30)
            return child.returncode

    assert asyncio.run(scenario()) == 1
