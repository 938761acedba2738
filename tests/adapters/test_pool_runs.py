"""The sweeper's questions to the server; the server is a stand-in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from prefect.exceptions import ObjectNotFound

from flows.adapters import dispatch
from flows.adapters.pool_runs import PoolRuns


def test_a_run_that_was_deleted_meanwhile_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs no end any more, and stops no round over its pool."""

    class Client:
        async def read_flow_run(self, id: Any) -> Any:
            raise ObjectNotFound(Exception("not found"))

    @asynccontextmanager
    async def server() -> AsyncIterator[Any]:
        yield Client()

    monkeypatch.setattr(dispatch, "server", server)
    assert asyncio.run(PoolRuns().crash(str(uuid4()), "gone")) is False
