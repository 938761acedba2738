"""Which intent follows from a drift verdict: at most one per data day, none while the last retrain is still fresh. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from flows.core.canonical import instant
from flows.core.drift import DriftVerdict
from flows.core.planning import intent_id

CAUSE = "drift"
STEP = "lifecycle"
COOL_DOWN = timedelta(days=14)
"""Data time between two retrains of one workload: labels of the last one must have had time to arrive."""


@dataclass(frozen=True, slots=True)
class RetrainIntent:
    """A retrain that must happen exactly once: the same workload and data day give the same id, however often a check is run."""

    id: str
    workload: str
    step: str
    window: str
    cause: str
    payload: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RetrainPlan:
    """The intent that follows, or None and why not."""

    intent: RetrainIntent | None
    reason: str


def plan_retrain(
    workload: str,
    verdict: DriftVerdict,
    *,
    as_of: datetime,
    last_retrain: datetime | None = None,
    cool_down: timedelta = COOL_DOWN,
    verdict_id: str | None = None,
    step: str = STEP,
) -> RetrainPlan:
    """What a drift verdict asks for. `as_of` and `last_retrain` are on the data clock, so that a replayed year cools down as the year did.

    A verdict for the very `as_of` of the last retrain gives that retrain's intent again, not a second one.

    Raises:
        ValueError: an instant has no time zone.
    """
    if as_of.tzinfo is None or (last_retrain is not None and last_retrain.tzinfo is None):
        raise ValueError("an instant needs a time zone")
    if not verdict.needs_retrain:
        return RetrainPlan(None, "the champion holds: no retrain needed")
    window = as_of.astimezone(UTC).date().isoformat()
    if last_retrain is not None and window != last_retrain.astimezone(UTC).date().isoformat():
        since = as_of - last_retrain
        if since < cool_down:
            return RetrainPlan(None, f"cooling down: the last retrain was as of {instant(last_retrain)}, {cool_down.days} days must pass")
    why = "; ".join(finding.message for finding in verdict.reasons if finding.counts and finding.exceeded)
    payload: dict[str, Any] = {"as_of": instant(as_of), "reason": why}
    if verdict_id is not None:
        payload["verdict_id"] = verdict_id
    return RetrainPlan(RetrainIntent(intent_id(workload, step, window, CAUSE), workload, step, window, CAUSE, payload), why)
