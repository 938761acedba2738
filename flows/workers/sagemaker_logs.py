"""The output of a training job, read from CloudWatch while it runs: each line once, all hosts together, bounded."""

from __future__ import annotations

import logging
import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.to_thread

from flows.workers.sagemaker_jobs import Jobs

GROUP = "/aws/sagemaker/TrainingJobs"
MAX_PAGES = 20
"""Pages of one stream that are read in one go: 20 MB at most."""
MAX_LINES = 100_000
"""Lines of one job that are passed on; CloudWatch keeps all of them."""
TAIL = 40
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
"""Characters that could move the cursor of the worker's terminal."""


@dataclass(frozen=True, slots=True, order=True)
class Line:
    """One line: milliseconds since 1970, the host that wrote it, the text."""

    at: int
    host: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"[{self.host}] {self.text}"


@dataclass
class LogTail:
    """Reads one job's log streams, `<job>/algo-<n>-<time>` for each host, and remembers how far it came in each."""

    job: str
    since: int = 0
    tail: deque[Line] = field(default_factory=lambda: deque(maxlen=TAIL))
    total: int = 0
    _tokens: dict[str, str | None] = field(default_factory=dict)
    _number: int = 0
    _new: list[Line] = field(default_factory=list)

    def read(self, client: Any) -> list[Line]:
        """The lines that came since the last call, in the order of their times; none while the job has written nothing.

        Raises:
            ClientError: as AWS says, such as a missing right.
        """
        for stream in self._streams(client):
            # an error half-way keeps what was read for the next call
            self._fetch(client, stream)
        lines, self._new = sorted(self._new), []
        self.tail.extend(lines)
        room = max(0, MAX_LINES - self.total)
        self.total += len(lines)
        return lines[:room]

    def _streams(self, client: Any) -> list[str]:
        try:
            pages = client.get_paginator("describe_log_streams").paginate(logGroupName=GROUP, logStreamNamePrefix=f"{self.job}/")
            return [stream["logStreamName"] for page in pages for stream in page["logStreams"]]
        except client.exceptions.ResourceNotFoundException:
            # the account's first job makes the group
            return []

    def _fetch(self, client: Any, stream: str) -> None:
        host = "-".join(stream.rpartition("/")[2].split("-")[:2])
        for _ in range(MAX_PAGES):
            token = self._tokens.get(stream)
            where = {"nextToken": token} if token else {}
            page = client.get_log_events(logGroupName=GROUP, logStreamName=stream, startFromHead=True, startTime=self.since, **where)
            for event in page["events"]:
                self._number += 1
                self._new.append(Line(event["timestamp"], host, self._number, CONTROL.sub("", event["message"].rstrip("\n"))))
            self._tokens[stream] = page["nextForwardToken"]
            if page["nextForwardToken"] == token:
                break


class Output:
    """Shows a job's output; a right that is missing for it is said once and harms nothing else."""

    def __init__(self, logger: logging.LoggerAdapter[Any] | logging.Logger, jobs: Jobs, tail: LogTail, shown: bool) -> None:
        self.logger, self.jobs, self.tail, self.shown = logger, jobs, tail, shown
        self._told = self._cut = False

    async def show(self) -> int:
        """Show what is new; how many lines that were."""
        try:
            lines = await anyio.to_thread.run_sync(self.tail.read, self.jobs.client("logs"))
        except Exception as error:
            from botocore.exceptions import BotoCoreError, ClientError

            if not isinstance(error, (BotoCoreError, ClientError)):
                raise
            if not self._told:
                self._told = True
                self.logger.warning("cannot read the output of `%s` in %s: %s", self.tail.job, GROUP, error)
            return 0
        if self.shown:
            for line in lines:
                self.logger.info("%s", line)
            if self.tail.total > MAX_LINES and not self._cut:
                self._cut = True
                self.logger.warning("more than %d lines of `%s`: the rest is in %s", MAX_LINES, self.tail.job, GROUP)
        return len(lines)

    async def drain(self, seconds: float) -> None:
        """Show the last lines, which CloudWatch has some seconds after they were written."""
        with anyio.move_on_after(seconds):
            quiet = 0
            while quiet < 2:
                quiet = 0 if await self.show() else quiet + 1
                await anyio.sleep(min(1.0, seconds / 4))
