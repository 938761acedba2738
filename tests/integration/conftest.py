"""One embedded stack for all integration tests of a test process; under pytest-xdist each process has its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from deployments.local.ports import USUAL_PORTS
from deployments.local.supervisor import Stack, running_stack
from flows.adapters.dispatch import FinalState
from flows.adapters.settings import Settings

Run = Callable[..., FinalState]
"""Deploys a flow of `tests.integration.probes` to a pool, runs it there and returns its final state."""


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole stack in a temporary home on free ports, everything declared; this process talks to it."""
    home = tmp_path_factory.mktemp("home")
    lines: list[str] = []
    # a reconciler that wakes by itself would start work behind a test's back
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRADEWIND_RECONCILE_ACTIVE", "false")
        patch.setenv("TRADEWIND_GOVERN_ACTIVE", "false")
        with running_stack(Settings(home=home), lines.append, fixed=dict.fromkeys(USUAL_PORTS, 0), what="the integration tests") as found:
            yield found


@pytest.fixture
def run(stack: Stack) -> Run:
    """Run a probe on the stack."""

    def run(probe: str, pool: str, parameters: Mapping[str, Any] | None = None, **how: Any) -> FinalState:
        return asyncio.run(_run(probe, pool, parameters or {}, **how))

    return run


async def deploy(probe: str, pool: str, **fields: Any) -> str:
    """Deploy a flow of `tests.integration.probes` to a pool; returns the deployment's full name."""
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        flow = await client.create_flow_from_name(probe)
        entrypoint = fields.pop("entrypoint", f"tests.integration.probes.{probe}")
        await client.create_deployment(
            flow_id=flow,
            name=pool,
            work_pool_name=pool,
            entrypoint=entrypoint,
            parameter_openapi_schema={"type": "object", "properties": {}},
            **fields,
        )
    return f"{probe}/{pool}"


async def start(deployment: str, parameters: Mapping[str, Any], job_variables: Mapping[str, Any] | None = None) -> str:
    """Start a run with job variables of its own, as anyone with access to the server may; returns its id."""
    from prefect.deployments import arun_deployment

    run = await arun_deployment(
        deployment, parameters=dict(parameters), timeout=0, job_variables=dict(job_variables or {}), as_subflow=False
    )
    return str(run.id)


async def _run(
    probe: str,
    pool: str,
    parameters: Mapping[str, Any],
    *,
    job_variables: Mapping[str, Any] | None = None,
    deployed: Mapping[str, Any] | None = None,
) -> FinalState:
    """Deploy with the fields `deployed`, run with `job_variables`, wait for the end."""
    from flows.adapters import dispatch

    return await dispatch.wait(
        await start(await deploy(probe, pool, **(deployed or {})), parameters, job_variables), timeout=90, poll_seconds=0.3
    )


OPEN_TEMPLATE: Mapping[str, Any] = {
    "job_configuration": {name: f"{{{{ {name} }}}}" for name in ("command", "env", "working_dir", "stream_output")},
    "variables": {
        "type": "object",
        "properties": {
            "env": {"type": "object"},
            "command": {"type": "string"},
            "working_dir": {"type": "string"},
            "stream_output": {"type": "boolean"},
        },
    },
}
"""A pool's template that lets every job variable through, as one who may edit pools could make it."""


@pytest.fixture
def open_pool(stack: Stack) -> Iterator[str]:
    """A pool whose template lets every job variable through to the worker; restored afterwards."""
    import httpx

    pool = "aws-eu-north-1-ecs"
    with httpx.Client(base_url=stack.prefect_api_url, timeout=10) as client:
        before = client.get(f"/work_pools/{pool}").json()["base_job_template"]
        client.patch(f"/work_pools/{pool}", json={"base_job_template": dict(OPEN_TEMPLATE)}).raise_for_status()
        try:
            yield pool
        finally:
            client.patch(f"/work_pools/{pool}", json={"base_job_template": before}).raise_for_status()
