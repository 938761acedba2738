"""The guarded process worker: each run gets its site's identity from the worker, set last, or is refused.

Prefect's process worker builds a run's environment as `{**os.environ, **job_variables.env}` and lets job variables choose the
command and the folder: whoever may create a flow run could then make it act as another site. Here the worker fixes all three.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
from prefect.client.schemas.objects import State
from prefect.exceptions import Abort
from prefect.runner._flow_run_executor import FlowRunExecutionResult, FlowRunExecutorContext
from prefect.runner._process_manager import ProcessHandle
from prefect.utilities.engine import propose_state
from prefect.workers.base import BaseWorker
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult
from pydantic import PrivateAttr

from flows.adapters import signing
from flows.adapters.settings import CONTROL, POOL_VARIABLE, PROJECT_ROOT, SITE_VARIABLE, Settings, exported
from flows.adapters.ticket_checks import verified
from flows.core.errors import GuardRefused, TradewindError
from flows.core.governance.tickets import PARAMETER, check
from flows.workers.guard import Violation, foreign_code, is_guarded, placed_step, violations
from flows.workers.starting import Nurseries, starter

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import Flow, FlowRun, WorkPool
    from prefect.client.schemas.responses import DeploymentResponse

REFUSED = "Refused"
"""Name of the FAILED state of a run that the guard did not start."""
SCRATCH = "scratch"
"""Folder of a site with the temporary folders of the runs under way there."""
PACKAGES = frozenset(p.parent.name for p in PROJECT_ROOT.glob("*/__init__.py"))


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the runs of one pool are: `environment` holds all that is set last on each of them."""

    site: str
    pool: str
    environment: Mapping[str, str]


def identity_of(site: str, pool: str, settings: Settings, api_url: str) -> Identity:
    """The identity of a pool's runs, from the estate and this worker's own settings.

    Only control's runs get the signing key, none a person's token.
    """
    shared = exported(settings, site)
    if site == CONTROL and settings.signing_key is not None:
        shared[signing.VARIABLE] = settings.signing_key.get_secret_value()
    environment = {
        **shared,
        SITE_VARIABLE: site,
        POOL_VARIABLE: pool,
        "PREFECT_API_URL": api_url,
        "PYTHONPATH": str(PROJECT_ROOT),
        "PYTHONSAFEPATH": "1",
    }
    return Identity(site, pool, environment)


class GuardedJobConfiguration(ProcessJobConfiguration):
    """A process job that remembers which guarded names the run, its deployment or its pool tried to set."""

    _found: tuple[Violation, ...] = PrivateAttr(default=())
    _foreign: str | None = PrivateAttr(default=None)
    _unsent: str | None = PrivateAttr(default=None)

    @classmethod
    async def resolve_for_flow_run(
        cls,
        flow_run: FlowRun,
        *,
        client: PrefectClient,
        work_pool: WorkPool,
        worker_name: str,
        worker_id: UUID | None = None,
        deployment: DeploymentResponse | None = None,
    ) -> GuardedJobConfiguration:
        """Check the job variables as they were given; only clean ones are ever templated."""
        if deployment is None and flow_run.deployment_id:
            deployment = await client.read_deployment(flow_run.deployment_id)
        found = violations(getattr(deployment, "job_variables", None), "the deployment") + violations(
            flow_run.job_variables, "the flow run"
        )
        foreign = foreign_code(getattr(deployment, "entrypoint", None), getattr(deployment, "pull_steps", None), PACKAGES)
        if found or foreign:
            refused = cls()
            refused._found, refused._foreign = found, foreign
            refused._related_objects = {"deployment": deployment, "flow-run": flow_run}
            return refused
        resolved = await super().resolve_for_flow_run(
            flow_run, client=client, work_pool=work_pool, worker_name=worker_name, worker_id=worker_id, deployment=deployment
        )
        assert isinstance(resolved, cls)
        return resolved

    def prepare_for_flow_run(
        self,
        flow_run: FlowRun,
        deployment: DeploymentResponse | None = None,
        flow: Flow | None = None,
        work_pool: WorkPool | None = None,
        worker_name: str | None = None,
        worker_id: UUID | None = None,
    ) -> None:
        """Check once more what blocks, variables and the pool's template made of them, before anything is merged in."""
        resolved = {"env": self.env, "command": self.command, "working_dir": self.working_dir}
        self._found = violations(resolved, "the work pool, or in what a block or variable in them holds")
        super().prepare_for_flow_run(flow_run, deployment, flow, work_pool, worker_name, worker_id)

    @property
    def refusal(self) -> str | None:
        """Why the run may not start, in words, or None."""
        reasons = []
        if self._found:
            reasons.append(
                f"{', '.join(str(one) for one in self._found)}: only the worker sets identity, command and folder\n"
                "  fix: remove it from the job variables; a run's site follows from its work pool"
            )
        if self._foreign:
            reasons.append(f"{self._foreign}\n  fix: deploy a flow of the project by its module path, such as `flows.train.train`")
        if self._unsent:
            reasons.append(self._unsent)
        return f"refused by the guard: {'; '.join(reasons)}" if reasons else None

    def require_ticket(self, flow_run: FlowRun, pool: str, settings: Settings) -> None:
        """Refuse a placed step that control did not send, before its process starts; `running` looks again, at all of it and only once."""
        deployment = self._related_objects.get("deployment")
        step = placed_step(getattr(deployment, "entrypoint", None))
        if step is None:
            return
        try:
            ticket = verified(flow_run.parameters.get(PARAMETER), signing.Keyring.load(settings.anchors))
            check(
                ticket,
                deployment=f"{step}/{pool}",
                parameters=flow_run.parameters,
                at=datetime.now(UTC),
                run_key=flow_run.idempotency_key or "",
            )
        except TradewindError as error:
            self._unsent = str(error)

    @property
    def refused_names(self) -> tuple[str, ...]:
        """The guarded names alone, sorted."""
        return tuple(sorted({one.name for one in self._found}))


class GuardedProcessWorker(ProcessWorker):
    """Runs flow runs of one pool as processes of one site."""

    type = "process"
    job_configuration = GuardedJobConfiguration
    _display_name = "Guarded process"

    def __init__(self, identity: Identity, settings: Settings, nurseries: Nurseries | None = None, **arguments: Any) -> None:
        super().__init__(work_pool_name=identity.pool, name=f"{identity.pool}-host", create_pool_if_not_found=False, **arguments)
        self.identity = identity
        self.settings = settings
        self.nurseries = nurseries

    @classmethod
    def __dispatch_key__(cls) -> str:
        # beside Prefect's own process worker in its registry, not instead of it
        return "tradewind-guarded-process"

    async def __aenter__(self) -> GuardedProcessWorker:
        # no runner: it serves ad-hoc submissions only, and costs a client and a loop for each pool
        await BaseWorker.__aenter__(self)
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await BaseWorker.__aexit__(self, *exc_info)

    async def run(
        self,
        flow_run: FlowRun,
        configuration: ProcessJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> ProcessWorkerResult:
        """Start the run's process with the site's identity and wait for its end, or refuse it."""
        status = task_status or anyio.TASK_STATUS_IGNORED
        assert isinstance(configuration, GuardedJobConfiguration)
        configuration.require_ticket(flow_run, self.identity.pool, self.settings)
        if configuration.refusal:
            await self._refuse(flow_run, configuration)
            status.started(0)
            return ProcessWorkerResult(status_code=0, identifier="refused")
        scratch = self.settings.site_folder(self.identity.site) / SCRATCH
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{flow_run.name}-", dir=scratch, ignore_cleanup_errors=True) as folder:
            execution = await self._execute(flow_run, self._environment(configuration, Path(folder)), Path(folder), configuration, status)
        if execution is None or execution.status_code is None:
            raise RuntimeError("failed to start the flow run's process")
        return ProcessWorkerResult(status_code=execution.status_code, identifier=str(execution.handle.pid))

    def _environment(self, configuration: GuardedJobConfiguration, folder: Path) -> dict[str, str | None]:
        inherited: dict[str, str | None] = {
            # a second spelling of a guarded name would be read too: settings ignore case
            name: None if is_guarded(name) and name != name.upper() else value
            for name, value in configuration.env.items()
        }
        return {**inherited, "TMPDIR": str(folder), **self.identity.environment}

    async def _execute(
        self,
        flow_run: FlowRun,
        environment: dict[str, str | None],
        folder: Path,
        configuration: GuardedJobConfiguration,
        status: anyio.abc.TaskStatus[int],
    ) -> FlowRunExecutionResult | None:
        execution: FlowRunExecutionResult | None = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            async with FlowRunExecutorContext() as context:
                process = starter(self.nurseries, environment, folder, context.control_channel, stream_output=configuration.stream_output)
                executor = context.create_executor(flow_run, process, propose_submitting=False, hook_runner=_NoHooks())

                async def execute(*, task_status: anyio.abc.TaskStatus[ProcessHandle] = anyio.TASK_STATUS_IGNORED) -> None:
                    nonlocal execution
                    execution = await executor.submit(task_status=task_status)

                async with anyio.create_task_group() as group:
                    handle = await group.start(execute)
                    status.started(handle.pid)
        return execution

    async def _refuse(self, flow_run: FlowRun, configuration: GuardedJobConfiguration) -> None:
        message = configuration.refusal or ""
        logger = self.get_flow_run_logger(flow_run)
        logger.error(message)
        body = {
            "flow_run": str(flow_run.id),
            "deployment": str(flow_run.deployment_id) if flow_run.deployment_id else None,
            "pool": self.identity.pool,
            "site": self.identity.site,
            "names": list(configuration.refused_names),
            "reason": message,
        }
        try:
            await anyio.to_thread.run_sync(self._record, body)
        except Exception:
            logger.exception("the refusal is not in the ledger: the state database did not take it")
        state: State[Any] = State(type="FAILED", name=REFUSED, message=message)
        try:
            await propose_state(self.client, state, flow_run_id=flow_run.id)
        except Abort as abort:
            logger.info("the run was at its end already: %s", abort)

    def _record(self, body: Mapping[str, Any]) -> None:
        from flows.store import ledger
        from flows.store.database import State as StateDatabase

        with StateDatabase(self.settings.state_url).transaction() as tx:
            ledger.append(tx, "guard-refusal", body, principal=f"worker:{self.identity.pool}", at=datetime.now(UTC))

    async def _submit_adhoc_run(self, *_arguments: Any, **_keywords: Any) -> None:
        raise GuardRefused("a guarded pool runs deployments only: code that comes with the run is refused")


class _NoHooks:
    """A run's own hooks would be imported into the worker, which holds the identity of every site."""

    async def run_crashed_hooks(self, flow_run: FlowRun, state: State[Any]) -> None:
        """Nothing."""

    async def run_cancellation_hooks(self, flow_run: FlowRun, state: State[Any]) -> None:
        """Nothing."""
