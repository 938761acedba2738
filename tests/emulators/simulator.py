"""What AWS's rules make of a role's policy and a session's: the npm package `@cloud-copilot/iam-simulate`, run beside the tests by Node.

`npm ci --prefix tests/emulators/iam_simulate` brings it; a test is skipped where it or Node is missing. It knows resources and condition
keys of every action, and refuses policies and requests that AWS would refuse.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "iam_simulate"
ALL: Mapping[str, Any] = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:*", "kms:*"], "Resource": "*"}]}
"""A role that may do anything: what is left is the session's."""


@dataclass
class Simulator:
    """The running program."""

    process: subprocess.Popen[str]

    def allows(
        self,
        session: Mapping[str, Any] | None,
        action: str,
        resource: str,
        *,
        prefix: str | None = None,
        role: Mapping[str, Any] = ALL,
        context: Mapping[str, str] | None = None,
    ) -> bool:
        """Whether a session of a role may do it; `prefix` is what a listing asks for, `context` what else is known of the request."""
        context = {**(context or {}), **({} if prefix is None else {"s3:prefix": prefix})}
        asked = {"action": action, "resource": resource, "context": context, "role": role, "session": session}
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        verdict = json.loads(self.process.stdout.readline())
        assert isinstance(verdict, bool), verdict
        return verdict


@contextmanager
def simulator() -> Iterator[Simulator]:
    """The program, ready for questions."""
    node = shutil.which("node")
    if node is None or not (FOLDER / "node_modules").is_dir():
        pytest.skip("`@cloud-copilot/iam-simulate` is not installed: `npm ci --prefix tests/emulators/iam_simulate`")
    with subprocess.Popen(
        [node, "simulate.mjs"], cwd=FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        yield Simulator(process)
        assert process.stdin is not None
        process.stdin.close()
