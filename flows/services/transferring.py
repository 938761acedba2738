"""Move one dataset version to the site a decision names: policy, copy, checksum; its record is written with the run's."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flows.adapters.storage import copy_version, site_storage
from flows.core.errors import GuardRefused
from flows.services.context import StepContext, StepResult
from flows.store import decisions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def destination_of(request: Mapping[str, Any]) -> str:
    """The site a transfer's decision sends the data to: the home of its only output.

    Raises:
        GuardRefused: the request names no such site.
    """
    homes = {output.get("home") for output in request.get("outputs", ())} - {None}
    if len(homes) != 1:
        raise GuardRefused("the decision names no single destination", expected="one output with a home")
    return str(homes.pop())


def transfer(ctx: StepContext) -> StepResult:
    """Copy the input `data` from this site to the destination of the decision that sent this run.

    Policy was asked by the worker just now, for this request: to process here, to transfer to and to store at the destination.

    Raises:
        IntegrityError: what rests here is not what control sent, or what arrived is not what rests here.
    """
    with ctx.state.reading() as tx:
        decision = decisions.get(tx, ctx.decision_id or "")
        request = decisions.document(tx, decision["inputs"]["request"]) if decision else {}
    destination = destination_of(request or {})
    ref = ctx.sent("data")
    began, sent = time.monotonic(), 0

    def count(size: int) -> None:
        nonlocal sent
        sent += size

    arrived = copy_version(ctx.storage, site_storage(destination, ctx.settings), ref.dataset, ref.version, sent=count)
    seconds = time.monotonic() - began
    ctx.log.info("`%s` (%s bytes) rests at `%s` now, checksums equal", ref, f"{arrived.bytes:,}", destination)
    numbers = {
        "source": ctx.site,
        "destination": destination,
        "bytes": arrived.bytes,
        "bytes_sent": sent,
        "files": len(arrived.files),
        "copy_seconds": round(seconds, 3),
    }
    return StepResult(outputs=(arrived,), numbers=numbers, summary=f"`{ref}`: {ctx.site} -> {destination}, {arrived.bytes:,} bytes")
