"""`python -m flows.workers.host`: one guarded worker per pool of the estate, all in one process.

Eleven workers that each ask the server every second would keep one core busy with nothing. Here they poll slowly, for the server's
own bookkeeping, and one doorbell asks for the due runs of all pools at once and wakes the workers that have some.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
from prefect.client.schemas.objects import State
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Crashed
from pydantic import SecretStr

from flows.adapters import signing
from flows.adapters.oidc import TOKEN
from flows.adapters.settings import Settings
from flows.core.errors import UserError
from flows.workers.guard import is_guarded
from flows.workers.guarded import SCRATCH, GuardedProcessWorker, identity_of
from flows.workers.pools import pools_of
from flows.workers.starting import Nurseries

logger = logging.getLogger("flows.workers.host")

DOORBELL_SECONDS = 0.5
RESTART_SECONDS = 5.0
GONE = "its worker host ended before it did"
STAGGER_SECONDS = 0.1
"""Workers start and report one after the other rather than all in the same instant."""


@dataclass
class Host:
    """The workers of all pools; `sites` maps each pool to its site."""

    sites: Mapping[str, str]
    settings: Settings
    api_url: str
    running: dict[str, GuardedProcessWorker] = field(default_factory=dict)
    nurseries: Nurseries = field(default_factory=Nurseries)

    async def serve(self) -> None:
        """Run until cancelled; a worker that ends, whatever the reason, is started anew."""
        try:
            async with get_client() as client, asyncio.TaskGroup() as group:
                await self._await_server(client)
                await self._bury(client)
                group.create_task(self._ring(client))
                for number, pool in enumerate(self.sites):
                    group.create_task(self._keep(pool, client, delay=number * STAGGER_SECONDS))
        finally:
            await self.nurseries.close()

    async def _keep(self, pool: str, client: PrefectClient, delay: float) -> None:
        while True:
            await asyncio.sleep(delay)
            await self._await_pool(pool, client)
            worker = GuardedProcessWorker(
                identity_of(self.sites[pool], pool, self.settings, self.api_url),
                self.settings,
                self.nurseries,
            )
            try:
                self.running[pool] = worker
                await worker.start(printer=logger.info)
                logger.warning("worker of `%s` ended; starting it again", pool)
            except Exception:
                logger.exception("worker of `%s` failed; starting it again in %g s", pool, RESTART_SECONDS)
            finally:
                self.running.pop(pool, None)
            await asyncio.sleep(RESTART_SECONDS)

    async def _await_server(self, client: PrefectClient) -> None:
        while not await _answers(client):
            await asyncio.sleep(1.0)

    async def _await_pool(self, pool: str, client: PrefectClient) -> None:
        """Wait until the server knows the pool: `apply` declares it, a worker never does."""
        told = False
        while not (await _answers(client) and await _knows(client, pool)):
            if not told:
                logger.info("waiting for pool `%s`", pool)
                told = True
            await asyncio.sleep(1.0)

    async def _bury(self, client: PrefectClient) -> None:
        """Close what an earlier host left open: its runs ended with it, and nobody else would ever tell the server."""
        _clear_scratch(self.settings, self.sites)
        left = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}),
            work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": list(self.sites)}}),
            limit=200,
        )
        for run in left:
            state: State[Any] = Cancelled(message=GONE) if run.state and run.state.is_cancelling() else Crashed(message=GONE)
            await client.set_flow_run_state(run.id, state, force=True)
            logger.warning("run `%s` (%s) was left %s by an earlier worker host: closed", run.name, run.id, run.state_name)

    async def _ring(self, client: PrefectClient) -> None:
        """Ask once for all pools which runs are due, and wake only their workers."""
        while True:
            await asyncio.sleep(DOORBELL_SECONDS)
            if len(self.running) < len(self.sites):
                continue
            await self.nurseries.warm()
            try:
                due = await client.read_flow_runs(
                    flow_run_filter=FlowRunFilter.model_validate(
                        {"state": {"type": {"any_": ["SCHEDULED"]}}, "next_scheduled_start_time": {"before_": datetime.now(UTC)}}
                    ),
                    work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": list(self.running)}}),
                    limit=100,
                )
                await asyncio.gather(*(self._wake(pool) for pool in {run.work_pool_name for run in due if run.work_pool_name}))
            except httpx.HTTPError as error:
                logger.debug("no answer from the server: %r", error)

    async def _wake(self, pool: str) -> None:
        worker = self.running.get(pool)
        if worker is not None and worker.is_setup:
            await worker.get_and_submit_flow_runs()


async def _answers(client: PrefectClient) -> bool:
    try:
        return (await client.hello()).status_code == httpx.codes.OK
    except httpx.HTTPError as error:
        logger.debug("no answer from the server: %r", error)
        return False


async def _knows(client: PrefectClient, pool: str) -> bool:
    from prefect.exceptions import ObjectNotFound

    try:
        await client.read_work_pool(pool)
    except (ObjectNotFound, httpx.HTTPError):
        return False
    return True


def _clear_scratch(settings: Settings, sites: Mapping[str, str]) -> None:
    """Remove the temporary folders of runs that were killed."""
    for site in set(sites.values()):
        for folder in (settings.site_folder(site) / SCRATCH).glob("*"):
            shutil.rmtree(folder, ignore_errors=True)


def keyed(settings: Settings) -> Settings:
    """The settings with the control plane's signing key: the given one, or a new one; its public half is enrolled beside the anchors.

    The key leaves this process's own environment, which every run of every site inherits; so does the token of whoever started it.

    Raises:
        UserError: none is given in the cloud profile, where runs verify with the keys that `apply` wrote into their pools.
    """
    if settings.signing_key is None and settings.profile == "cloud":
        raise UserError(
            "this profile asks for a signing key", field=signing.VARIABLE, expected="the base64 of 32 bytes, from a secret store"
        )
    given = settings.signing_key.get_secret_value() if settings.signing_key else signing.new_key()
    for name in (signing.VARIABLE, TOKEN):
        os.environ.pop(name, None)
    signing.enroll(settings.anchors, signing.signer(given).public_key, at=datetime.now(UTC))
    return settings.model_copy(update={"signing_key": SecretStr(given), "token": None})


async def main() -> None:
    """Host the estate's workers until SIGTERM or SIGINT; runs under way are then terminated by their workers."""
    settings = keyed(Settings())
    api_url = get_current_settings().api.url
    if not api_url:
        raise SystemExit("PREFECT_API_URL is not set; `tradewind up` starts the host with it")
    for name in [name for name in os.environ if is_guarded(name) and name != name.upper()]:
        del os.environ[name]
    serving = asyncio.create_task(Host(pools_of(settings), settings, api_url).serve())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        logger.info("stopped")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    asyncio.run(main())
