"""The worker of type `sagemaker`: each flow run of its pool is one SageMaker training job, started once, watched to its end.

A job's name follows from its flow run, so whoever submits a second time finds the first job instead of paying for another. Every other
heartbeat the worker looks for runs whose worker is gone: it goes on watching their jobs, submits again what never became a job, and ends
jobs whose runs are over.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio
import anyio.abc
import anyio.to_thread
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
from prefect.client.schemas.objects import StateType, WorkerStatus
from prefect.exceptions import InfrastructureNotFound, ObjectNotFound
from prefect.states import Cancelled, Scheduled
from prefect.workers.base import BaseWorker, BaseWorkerResult

from flows.workers.sagemaker_configuration import SageMakerJobConfiguration, SageMakerVariables
from flows.workers.sagemaker_endings import OVER, Ending, ending, gone, silent
from flows.workers.sagemaker_jobs import Jobs, Patience, Submitted, job_name, name_of, prefix_of
from flows.workers.sagemaker_logs import LogTail, Output

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun

OPEN = frozenset({StateType.PENDING, StateType.RUNNING, StateType.CANCELLING})
"""States in which a run may have a job."""
UNTOLD = frozenset({StateType.PENDING, StateType.RUNNING})
"""States in which a run has not said how it ended."""
INTERRUPTED = "Interrupted"


class SageMakerWorkerResult(BaseWorkerResult):
    """How a training job ended; `identifier` is its ARN."""


class SageMakerWorker(BaseWorker[SageMakerJobConfiguration, SageMakerVariables, SageMakerWorkerResult]):
    """Runs flow runs as SageMaker training jobs."""

    type = "sagemaker"
    job_configuration = SageMakerJobConfiguration
    job_configuration_variables = SageMakerVariables
    _display_name = "AWS SageMaker training jobs"
    _description = "Execute flow runs as SageMaker training jobs. Requires an AWS account."
    _documentation_url = "https://docs.aws.amazon.com/sagemaker/latest/dg/how-it-works-training.html"

    submit_seconds = 300.0
    """How long AWS may be silent while a job is being submitted."""
    settle_seconds = 15.0
    """How long a run may take to report its end after its job has completed."""
    drain_seconds = 10.0
    """How long the last lines may take to reach CloudWatch."""
    sweep_seconds = 600.0
    """How long a job may go on after its run is over: SageMaker uploads what it left."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._watched: set[UUID] = set()
        self._endings: dict[UUID, Ending] = {}
        self._patrol_scope: anyio.CancelScope | None = None

    @property
    def stranded_seconds(self) -> float:
        """How long a run may be pending without a job before it counts as left behind: three missed heartbeats make a worker offline."""
        return 4.0 * self.heartbeat_interval_seconds

    async def run(
        self,
        flow_run: FlowRun,
        configuration: SageMakerJobConfiguration,
        task_status: anyio.abc.TaskStatus[Any] | None = None,
    ) -> SageMakerWorkerResult:
        """Submit the run's job, or find it, and watch it to its end.

        Raises:
            UserError: the pool's template or the job variables are wrong.
            JobRefused: AWS does not take the job.
            Unavailable: AWS does not answer.
        """
        jobs = Jobs(configuration.region)
        self._watched.add(flow_run.id)
        try:
            submitted = await self._submit_job(flow_run, configuration, jobs)
            if task_status:
                task_status.started(submitted.arn)
            found = await self._follow(flow_run, configuration, jobs, submitted.name)
        finally:
            self._watched.discard(flow_run.id)
        return SageMakerWorkerResult(identifier=submitted.arn, status_code=found.status_code)

    async def _initiate_run(self, flow_run: FlowRun, configuration: SageMakerJobConfiguration) -> None:
        """Submit without watching."""
        await self._submit_job(flow_run, configuration, Jobs(configuration.region))

    async def kill_infrastructure(self, infrastructure_pid: str, configuration: SageMakerJobConfiguration, grace_seconds: int = 30) -> None:
        """Stop the run's job; SageMaker gives it two minutes between SIGTERM and SIGKILL.

        Raises:
            InfrastructureNotFound: there is no such job, or it has ended.
        """
        try:
            region, name = name_of(infrastructure_pid)
        except ValueError as error:
            raise InfrastructureNotFound(str(error)) from error
        jobs = Jobs(region)
        stopped = await Patience(jobs, self._logger, self.submit_seconds, also_credentials=True).ask(f"stop `{name}`", jobs.stop, name)
        if not stopped:
            raise InfrastructureNotFound(f"training job `{name}` is not there, or has ended")
        self._logger.info("asked SageMaker to stop training job `%s`", name)

    async def teardown(self, *exc_info: Any) -> None:
        """End the patrol, then all else."""
        if self._patrol_scope is not None:
            self._patrol_scope.cancel()
        await super().teardown(*exc_info)

    async def _submit_job(self, flow_run: FlowRun, configuration: SageMakerJobConfiguration, jobs: Jobs) -> Submitted:
        logger = self.get_flow_run_logger(flow_run)
        name = job_name(self._work_pool_name, flow_run.id)
        request = await anyio.to_thread.run_sync(configuration.request, name)
        patience = Patience(jobs, logger, self.submit_seconds)
        submitted = await patience.ask("submit the training job", jobs.submit, request)
        if submitted.attached:
            logger.info("training job `%s` was submitted before and still runs: watching it", submitted.name)
        else:
            resources = request["ResourceConfig"]
            logger.info(
                "submitted training job `%s` on %s x %s", submitted.name, resources.get("InstanceCount"), resources.get("InstanceType")
            )
        return submitted

    async def _follow(
        self, flow_run: FlowRun, configuration: SageMakerJobConfiguration, jobs: Jobs, name: str, since: datetime | None = None
    ) -> Ending:
        """Watch a job to its end, show its output, and note how it ended for the run's state."""
        logger = self.get_flow_run_logger(flow_run)
        patience = Patience(jobs, logger, configuration.unreachable_seconds, also_credentials=True)
        output = Output(self._logger, jobs, LogTail(name, int(since.timestamp() * 1000) if since else 0), configuration.stream_output)
        seen = 0
        while True:
            found = await patience.ask(f"look at training job `{name}`", jobs.describe, name)
            if found is None:
                end: Ending | None = gone(name)
            else:
                transitions = found.get("SecondaryStatusTransitions", [])
                for transition in transitions[seen:]:
                    status, message = transition["Status"], transition.get("StatusMessage") or ""
                    if status == INTERRUPTED:
                        logger.warning("AWS took the spot capacity of `%s` back; SageMaker starts it again from its checkpoint", name)
                    else:
                        logger.info("training job `%s`: %s", name, f"{status} {message}".rstrip())
                seen = len(transitions)
                end = ending(found)
            await output.show()
            if end is not None:
                break
            await anyio.sleep(configuration.poll_seconds * random.uniform(0.8, 1.2))
        await output.drain(self.drain_seconds)
        if end.status_code:
            await self._tell_failure(flow_run, configuration, end, output)
        elif not await self._told(flow_run.id):
            end = silent(name)
        if end.status_code:
            self._endings[flow_run.id] = end
        return end

    async def _tell_failure(self, flow_run: FlowRun, configuration: SageMakerJobConfiguration, end: Ending, output: Output) -> None:
        """Write how a job failed into its run's log, which is kept where the server is: with its last lines if the run never began.

        What a job prints after that may quote the step's data; it stays in the worker's log and in CloudWatch.
        """
        lines = "\n".join(str(line) for line in output.tail.tail)
        last = f"\nlast lines of the job:\n{lines}" if lines else ""
        run = await self._read(flow_run.id)
        began = run is None or run.start_time is not None
        self.get_flow_run_logger(flow_run).error("%s%s", end.message, "" if began else last)
        if began and last and not configuration.stream_output:
            self._logger.error("training job of run `%s`: %s%s", flow_run.id, end.kind, last)

    async def _told(self, flow_run_id: UUID) -> bool:
        """Whether the run says how it ended, which may be a moment after its job completed."""
        with anyio.move_on_after(self.settle_seconds):
            while True:
                run = await self._read(flow_run_id)
                if run is None or run.state is None or run.state.type not in UNTOLD:
                    return True
                await anyio.sleep(0.5)
        return False

    async def _propose_crashed_state(self, flow_run: FlowRun, message: str, client: PrefectClient | None = None) -> None:
        """Say how the job ended, in a run that has not said it itself; a run that was being cancelled is cancelled by it."""
        told = self._endings.pop(flow_run.id, None)
        current = await self._read(flow_run.id)
        if current is None or current.state is None or current.state.is_final():
            return
        if current.state.is_cancelling():
            await self.client.set_flow_run_state(flow_run.id, Cancelled(message="its training job has ended"), force=True)
        elif current.state.type in UNTOLD:
            await super()._propose_crashed_state(flow_run, told.message if told else message, client)

    async def _read(self, flow_run_id: UUID) -> FlowRun | None:
        try:
            return await self.client.read_flow_run(flow_run_id)
        except ObjectNotFound:
            return None

    # what other workers, or an earlier life of this one, left behind

    async def _initialize_after_sync(self) -> None:
        await super()._initialize_after_sync()
        if self._patrol_scope is None and self._work_pool is not None and self._runs_task_group is not None:
            self._patrol_scope = anyio.CancelScope()
            self._runs_task_group.start_soon(self._patrol)

    async def _patrol(self) -> None:
        assert self._patrol_scope is not None
        with self._patrol_scope:
            while True:
                for look in (self._take_over, self._sweep):
                    try:
                        await look()
                    except Exception:
                        self._logger.exception("the patrol of `%s` did not finish; it goes round again", self._work_pool_name)
                await anyio.sleep(2 * self.heartbeat_interval_seconds * random.uniform(0.8, 1.2))

    async def _take_over(self) -> None:
        """Watch the jobs of runs whose worker is gone, and submit again what never became a job."""
        open_runs = await self.client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": [state.value for state in OPEN]}}}),
            work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [self._work_pool_name]}}),
            limit=200,
        )
        if not open_runs:
            return
        workers = {worker.name: worker for worker in await self.client.read_workers_for_work_pool(self._work_pool_name)}
        online = {name for name, worker in workers.items() if worker.status == WorkerStatus.ONLINE and name != self.name}
        for run in open_runs:
            owner = run.labels.get("prefect.worker.name")
            # one without an owner may be in the hands of a worker that has not said so yet
            begun = owner is not None or (run.state is not None and _age(run.state.timestamp) > self.stranded_seconds)
            left = begun and owner not in online and not self._has(run.id)
            if run.state is not None and run.state.is_cancelling() and run.start_time is None and (left or self._has(run.id)):
                # the event that asks for it may have been lost, and there is no runner yet that would see the state
                await self._cancel_run(run.id)
            elif left:
                await self._take_over_run(run, workers[owner].last_heartbeat_time if owner in workers and owner != self.name else None)

    def _has(self, flow_run_id: UUID) -> bool:
        """Whether this worker has the run in its hands."""
        return flow_run_id in self._watched or flow_run_id in self._submitting_flow_run_ids

    async def _take_over_run(self, run: FlowRun, seen: datetime | None) -> None:
        try:
            configuration = await self.job_configuration.resolve_for_flow_run(
                run, client=self.client, work_pool=self.work_pool.model_copy(deep=True), worker_name=self.name, worker_id=self.backend_id
            )
        except ObjectNotFound:
            self._logger.warning("run `%s` has no deployment any more: left as it is", run.id)
            return
        jobs = Jobs(configuration.region)
        patience = Patience(jobs, self._logger, self.submit_seconds, also_credentials=True)
        job = await patience.ask("look for its job", jobs.latest, job_name(self._work_pool_name, run.id))
        now = await self._read(run.id)
        if now is None or now.state is None or run.state is None or now.state.id != run.state.id or self._has(run.id):
            return  # it went on while AWS was asked: the next round sees it as it is
        if job is not None and _is_of(job, run):
            assert self._runs_task_group is not None
            self._watched.add(run.id)
            self._runs_task_group.start_soon(self._watch_again, run, configuration, jobs, job, seen)
        elif run.state.type == StateType.PENDING and _age(run.state.timestamp) > self.stranded_seconds:
            self._logger.warning("run `%s` was left pending and has no job: scheduled anew", run.id)
            await self.client.set_flow_run_state(run.id, Scheduled(message="its worker ended before it made a job"), force=True)

    async def _watch_again(
        self, run: FlowRun, configuration: SageMakerJobConfiguration, jobs: Jobs, job: Mapping[str, Any], seen: datetime | None
    ) -> None:
        """Watch a job from when its last watcher was heard of."""
        name, logger = job["TrainingJobName"], self.get_flow_run_logger(run)
        logger.info("worker `%s` goes on watching training job `%s`", self.name, name)
        try:
            await self.client.update_flow_run(run.id, infrastructure_pid=job["TrainingJobArn"])
            await self._give_worker_labels_to_flow_run(run.id)
            found = await self._follow(run, configuration, jobs, name, since=seen)
            if found.status_code:
                await self._propose_crashed_state(run, found.message)
        except Exception:
            logger.exception("lost sight of training job `%s`; it goes on, and is looked for again", name)
        finally:
            self._watched.discard(run.id)

    async def _sweep(self) -> None:
        """Stop this pool's jobs whose runs are over or were deleted."""
        region = _fixed_region(self.work_pool.base_job_template)
        if region is None:
            return
        jobs = Jobs(region)
        patience = Patience(jobs, self._logger, self.submit_seconds, also_credentials=True)
        # known by the pool's id on the server that made it: another server may have a pool of the same name
        tagged = await patience.ask("list its jobs", lambda: list(jobs.tagged(prefix_of(self._work_pool_name), str(self.work_pool.id))))
        for name, flow_run_id in tagged:
            if await self._is_over(flow_run_id) and await patience.ask(f"stop `{name}`", jobs.stop, name):
                self._logger.warning("training job `%s` outlived its flow run `%s`: stopped", name, flow_run_id)

    async def _is_over(self, flow_run_id: str) -> bool:
        run = await self._read(UUID(flow_run_id))
        if run is None:
            return True
        return bool(run.state and run.state.is_final() and _age(run.state.timestamp) > self.sweep_seconds)


def _is_of(job: Mapping[str, Any], run: FlowRun) -> bool:
    """Whether the last job of a run belongs to its present submission: it may have been submitted again after an earlier job ended."""
    if run.state is None or run.state.type != StateType.PENDING or job["TrainingJobStatus"] not in OVER:
        return True
    return bool(job["LastModifiedTime"] >= run.state.timestamp)


def _age(at: datetime) -> float:
    return (datetime.now(UTC) - at).total_seconds()


def _fixed_region(template: Mapping[str, Any]) -> str | None:
    """The region of a pool whose template says it, as the project's do."""
    region = template.get("job_configuration", {}).get("region")
    return region if isinstance(region, str) and "{{" not in region else None
