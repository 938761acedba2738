"""How a lifecycle gets a step done elsewhere: through a server and its workers, or in this very process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

PLACE_FAILED = frozenset({"Crashed", "TimedOut", "Unavailable"})
"""Names of states: the process or its machine died, nobody heard from it in time, or no worker took it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a dispatched run ended: `succeeded`, its state's name and message, its id, the page where a person reads more."""

    run_id: str
    succeeded: bool
    state: str
    message: str = ""
    url: str = ""

    @property
    def place_failed(self) -> bool:
        """Whether its place failed the run: it ended from outside, without a word of its step or of the one who started it."""
        return not self.succeeded and self.state in PLACE_FAILED


class Dispatcher(Protocol):
    """Runs one deployment to its end."""

    async def run(self, deployment: str, parameters: Mapping[str, Any], *, key: str) -> Outcome:
        """Start `<step>/<pool>` unless a run with this idempotency key exists, and wait for its end."""
        ...
