"""A job's output, read from CloudWatch as CloudWatch gives it: in pages, late, throttled."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest
from botocore.exceptions import ClientError

from flows.workers.sagemaker_jobs import Jobs
from flows.workers.sagemaker_logs import MAX_LINES, LogTail, Output

PAGE = 3


class CloudWatch:
    """Streams of lines, read in small pages; the answers in `failing` are errors."""

    class exceptions:
        """As a client has them."""

        class ResourceNotFoundException(Exception):
            """There is no group yet."""

    def __init__(self) -> None:
        self.streams: dict[str, list[tuple[int, str]]] = {}
        self.calls = 0
        self.failing: set[int] = set()
        self.exists = True

    def write(self, host: str, *lines: tuple[int, str]) -> None:
        """Lines of a host."""
        self.streams.setdefault(f"job/{host}-1700000000", []).extend(lines)

    def get_paginator(self, name: str) -> CloudWatch:
        """Of `describe_log_streams`."""
        return self

    def paginate(self, logGroupName: str, logStreamNamePrefix: str) -> list[dict[str, Any]]:
        """One page."""
        if not self.exists:
            raise self.exceptions.ResourceNotFoundException
        return [{"logStreams": [{"logStreamName": name} for name in self.streams if name.startswith(logStreamNamePrefix)]}]

    def get_log_events(self, logStreamName: str, startTime: int, nextToken: str = "f/0", **_: Any) -> dict[str, Any]:
        """The page after a token; the same token where nothing is left."""
        self.calls += 1
        if self.calls in self.failing:
            raise ClientError({"Error": {"Code": "ThrottlingException"}}, "GetLogEvents")
        start = int(nextToken.partition("/")[2])
        page = self.streams[logStreamName][start : start + PAGE]
        events = [{"timestamp": at, "message": text} for at, text in page if at >= startTime]
        return {"events": events, "nextForwardToken": f"f/{start + len(page)}"}


def texts(tail: LogTail, cloud: CloudWatch) -> list[str]:
    """The new lines."""
    return [str(line) for line in tail.read(cloud)]


def test_each_line_is_read_once() -> None:
    """Over pages and calls."""
    cloud, tail = CloudWatch(), LogTail("job")
    cloud.write("algo-1", *((number, f"{number}") for number in range(10)))
    assert texts(tail, cloud) == [f"[algo-1] {number}" for number in range(10)]
    assert texts(tail, cloud) == []
    cloud.write("algo-1", (10, "10"))
    assert texts(tail, cloud) == ["[algo-1] 10"]


def test_hosts_are_shown_together_in_the_order_of_time() -> None:
    """And lines of one moment in the order in which they came."""
    cloud, tail = CloudWatch(), LogTail("job")
    cloud.write("algo-1", (1, "b"), (1, "a"), (5, "d"))
    cloud.write("algo-2", (3, "c"))
    assert texts(tail, cloud) == ["[algo-1] b", "[algo-1] a", "[algo-2] c", "[algo-1] d"]


@pytest.mark.parametrize("call", range(1, 7))
def test_throttling_loses_and_doubles_nothing(call: int) -> None:
    """Whichever page it hits."""
    cloud, tail = CloudWatch(), LogTail("job")
    cloud.write("algo-1", *((number, f"a{number}") for number in range(4)))
    cloud.write("algo-2", *((number, f"b{number}") for number in range(4)))
    cloud.failing = {call}
    found: list[str] = []
    for _ in range(3):
        try:
            found += texts(tail, cloud)
        except ClientError:
            continue
    assert sorted(found) == sorted([f"[algo-1] a{number}" for number in range(4)] + [f"[algo-2] b{number}" for number in range(4)])


def test_a_job_without_output_has_none() -> None:
    """The account's first job makes the group."""
    cloud = CloudWatch()
    cloud.exists = False
    assert LogTail("job").read(cloud) == []


def test_a_terminal_is_safe_from_what_a_job_prints() -> None:
    """Such as escape sequences."""
    cloud, tail = CloudWatch(), LogTail("job")
    cloud.write("algo-1", (1, "red \x1b[31m and\ttab\n"))
    assert texts(tail, cloud) == ["[algo-1] red [31m and\ttab"]


def test_the_last_lines_are_kept_for_the_state() -> None:
    """Of however many."""
    cloud, tail = CloudWatch(), LogTail("job")
    cloud.write("algo-1", *((number, f"{number}") for number in range(50)))
    tail.read(cloud)
    assert [line.text for line in tail.tail] == [str(number) for number in range(10, 50)]


def test_a_job_that_prints_without_end_is_cut_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """CloudWatch keeps the rest."""
    cloud, tail = CloudWatch(), LogTail("job", total=MAX_LINES - 1)
    cloud.write("algo-1", (1, "shown"), (2, "cut"))
    output = Output(logging.getLogger("test"), Jobs("eu-central-1", {"logs": cloud}), tail, shown=True)
    with caplog.at_level(logging.INFO):
        anyio.run(output.show)
        cloud.write("algo-1", (3, "cut too"))
        anyio.run(output.show)
    messages = [record.getMessage() for record in caplog.records if record.name == "test"]
    assert messages == ["[algo-1] shown", f"more than {MAX_LINES} lines of `job`: the rest is in /aws/sagemaker/TrainingJobs"]


def test_a_missing_right_is_said_once_and_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The job goes on."""
    cloud = CloudWatch()
    cloud.write("algo-1", (1, "a"))
    cloud.failing = {1, 2, 3}
    output = Output(logging.getLogger("test"), Jobs("eu-central-1", {"logs": cloud}), LogTail("job"), shown=True)
    with caplog.at_level(logging.INFO):
        for _ in range(4):
            anyio.run(output.show)
    messages = [record.getMessage() for record in caplog.records if record.name == "test"]
    assert messages[0].startswith("cannot read the output of `job`")
    assert messages[1:] == ["[algo-1] a"]
