"""How a lifecycle gets a step done elsewhere: through a server and its workers, or in this very process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from flows.core import failures


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a dispatched run ended: `succeeded`, its state's name and message, its id, the page where a person reads more.

    `evidence` are lines of its log that its worker wrote: what the cloud said of it.
    """

    run_id: str
    succeeded: bool
    state: str
    message: str = ""
    url: str = ""
    evidence: tuple[str, ...] = ()

    def failure(self, *, spot: bool = False) -> failures.Failure:
        """Why it did not complete; `spot`: whether it ran on capacity that may be taken back."""
        return failures.classify(self.state, self.message, self.evidence, spot=spot)


class Dispatcher(Protocol):
    """Runs one deployment to its end."""

    async def run(self, deployment: str, parameters: Mapping[str, Any], *, key: str) -> Outcome:
        """Start `<step>/<pool>` unless a run with this idempotency key exists, and wait for its end."""
        ...
