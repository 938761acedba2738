"""What the stack's server must know before steps can run: pools, deployments, automations, blocks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from flows.adapters.settings import Settings

Declare = Callable[[Settings, str], str]
"""Makes the server at an API address hold what is declared; returns one line that says what changed."""


def declare(settings: Settings, api_url: str) -> str:
    """Apply `deployments/` to the server.

    Raises:
        UserError: a declaration is wrong.
        Unavailable: the server does not answer.
    """
    from deployments.apply import apply

    # a thread of its own, since the caller may be inside an event loop
    with ThreadPoolExecutor(max_workers=1) as thread:
        diff = thread.submit(apply, settings, url=api_url).result()
    return "everything is declared already" if diff.in_sync else "pools, deployments and automations are declared"
