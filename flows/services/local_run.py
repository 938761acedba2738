"""The whole loop in this very process, without a server: for a data scientist who wants to see a change work in seconds.

Placement, policy, walls and records are the real ones, over a state and sites of their own; only the dispatch is a function call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zlib import crc32

from flows.adapters.settings import POOL_VARIABLE, SITE_VARIABLE, Settings, variables
from flows.core.workload import ROW_ID
from flows.services import promotion_runs
from flows.services.context import DatasetRef
from flows.services.declarations import Declarations
from flows.services.dispatching import Outcome
from flows.services.running import StepOrder, run_step
from flows.workloads import registry

if TYPE_CHECKING:
    import pandas as pd

    from flows.core.workload import Workload


class LocalDispatcher:
    """Runs each step here, under the identity of the pool it was placed on; an error of the step is raised as it is."""

    def __init__(self, settings: Settings, sample: int | None = None) -> None:
        self.settings = settings
        self.sample = sample

    async def run(self, deployment: str, parameters: Mapping[str, Any], *, key: str) -> Outcome:
        """See `flows.services.dispatching.Dispatcher`; blocks until the step is done."""
        step, _, pool = deployment.partition("/")
        estate = Declarations.load(self.settings).estate
        with acting_as(estate.pool_by_name[pool].site, pool):
            as_of = datetime.fromisoformat(parameters["as_of"])
            if step == "promote":
                promotion_runs.run(
                    parameters["workload"], as_of, parameters["intent_id"], parameters["cause"], run_id=key, settings=self.settings
                )
            else:
                inputs = {role: DatasetRef.parse(text) for role, text in parameters["inputs"].items()}
                order = StepOrder(step, parameters["workload"], as_of, parameters["intent_id"], parameters["decision_id"], inputs, key)
                workload = registry.load(parameters["workload"])
                run_step(
                    order, settings=self.settings, workload=Sampled(workload, self.sample) if self.sample else workload, ticketed=False
                )
        return Outcome(key, succeeded=True, state="Completed")


@contextmanager
def acting_as(site: str, pool: str) -> Iterator[None]:
    """Give this process the identity that a pool's worker would give it."""
    with variables(**{SITE_VARIABLE: site, POOL_VARIABLE: pool}):
        yield


@dataclass(frozen=True)
class Sampled:
    """A workload with about one in every so many examples, chosen by a hash of their id: the same ones each time."""

    workload: Workload
    rows: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.workload, name)

    def examples(self, raw: Mapping[str, pd.DataFrame], as_of: datetime) -> pd.DataFrame:
        """At most `rows` of the examples that lie in the workload's windows before `as_of`."""
        import pandas as pd

        frame = self.workload.examples(raw, as_of)
        windows = self.workload.windows
        span = max(windows.train + windows.holdout, windows.score, windows.watch)
        recent = frame[frame["event_timestamp"] >= pd.Timestamp(as_of - span)]
        order = recent[ROW_ID].map(lambda text: crc32(text.encode())).rank(method="first")
        return recent[order <= self.rows].reset_index(drop=True)
