"""Which steps a lifecycle runs, and in what order: pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from flows.core.canonical import instant

Cause = Literal["manual", "schedule", "drift", "erasure"]

PLACED_STEPS = ("ingest", "materialize", "transfer", "train", "evaluate", "score", "watch")
"""Steps that run at a site and touch data: one deployment per (step, pool)."""

SITE_STEPS = ("purge",)
"""Steps that control sends to a site for governance, to look at or to remove data that rests there: no decision places them."""

CONTROL_STEPS = ("promote", "reconcile", "govern")
"""Steps that run in control and see no data."""

INPUTS: dict[str, tuple[str, ...]] = {
    "ingest": (),
    "materialize": ("raw",),
    "train": ("features",),
    "evaluate": ("features", "challenger", "champion"),
    "score": ("features", "champion"),
    "watch": ("features", "champion", "predictions"),
}
"""The roles a step reads. A champion may be absent: there is none before the first promotion."""

OUTPUTS: dict[str, tuple[str, ...]] = {
    "ingest": ("raw", "quarantine", "reports"),
    "materialize": ("features",),
    "train": ("model",),
    "evaluate": (),
    "score": ("predictions",),
    "watch": ("reports",),
}
"""The kinds of dataset a step makes."""

DATASET_OF_ROLE = {"champion": "model", "challenger": "model"}
"""The kind of dataset behind a role, where the two words differ."""


def steps_of(cause: Cause, *, has_champion: bool, has_features: bool, retrain: bool) -> tuple[str, ...]:
    """The steps of one lifecycle.

    A drift run trains on the features that showed the drift, an erasure's on those that are left, so it makes them only if they are
    missing; any other run takes in new data, trains if there is no champion yet or a person asked for it, then scores and watches.
    """
    fresh = ("ingest", "materialize")
    learn = ("train", "evaluate", "promote")
    if cause in ("drift", "erasure"):
        return (() if has_features else fresh) + learn
    return fresh + (learn if retrain or not has_champion else ()) + ("score", "watch")


def intent_id(workload: str, step: str, window: str, cause: str) -> str:
    """The deterministic id of a thing that must happen exactly once."""
    return f"{workload}/{step}/{window}/{cause}"


def window_of(as_of: datetime) -> str:
    """The data clock as the window of an intent: the UTC day at midnight, else the instant."""
    moment = as_of.astimezone(UTC)
    return moment.date().isoformat() if moment.time() == moment.min.time() else instant(moment)
