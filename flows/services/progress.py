"""A long training's checkpoints: kept at its site as versions of the workload's model, found again by its next try, here or elsewhere.

A checkpoint is half a model, of the same label as the whole one, so policy, transfer, retention and erasure treat it as one; its facts say
whose it is and how far. Only the intent that wrote it ever opens it: control hands it to the next try as the input `checkpoint`, after
a transfer that was decided like any other; a try at the same site finds it by itself.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flows.core.canonical import content_hash, instant
from flows.core.errors import IntegrityError
from flows.services.context import DatasetRef
from flows.store import decisions, replicas

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from flows.services.context import StepContext
    from flows.store.models import ReplicaRow

ROLE, KIND = "checkpoint", "model"
"""The role of a checkpoint among a step's inputs, and the kind of dataset that it is a version of."""
FILE = "checkpoint.pickle"
PARTS = 20
"""How many parts a fit is cut into; between two of them a checkpoint may be written."""


def newest(tx: Session, dataset: str, intent: str, *, site: str | None = None) -> ReplicaRow | None:
    """The checkpoint of an intent that came farthest, at one site or at any; None if it wrote none."""
    rows = [
        row for row in replicas.by_dataset(tx).get(dataset, ()) if row.facts.get("checkpoint_of") == intent and site in (None, row.site)
    ]
    return max(rows, key=lambda row: (row.facts["done"], row.at), default=None)


@dataclass
class Progress:
    """The checkpoints of one run of a step. `every` is the time between two of them in seconds; None: it writes none."""

    ctx: StepContext
    every: float | None
    clock: Callable[[], float] = time.monotonic
    _saved_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._saved_at = self.clock()

    def load(self) -> tuple[Any, int] | None:
        """What an earlier try had, and how far it was; None if there is nothing.

        Raises:
            IntegrityError: it is not what was recorded when it was written.
        """
        ctx = self.ctx
        given = ctx.inputs.get(ROLE)
        with ctx.state.reading() as tx:
            row = newest(tx, ctx.dataset(KIND), ctx.intent_id, site=ctx.site)
            if row is None:
                return None
            ref, files, done = DatasetRef(row.dataset, row.version), dict(row.files), int(row.facts["done"])
        folder = ctx.open(ROLE) if given == ref else ctx.storage.open(ref.dataset, ref.version)
        # it is about to be unpickled: the record in the state database counts, not the one beside the files
        if content_hash(files) != ctx.manifest(ref):
            raise IntegrityError(
                f"`{ref}` at `{ctx.site}` is not what was recorded", fix="remove the version's folder; the training starts anew"
            )
        ctx.log.info("going on from `%s`, %d of it done", ref, done)
        return pickle.loads((folder / FILE).read_bytes()), done

    def save(self, made: Any, done: int, *, now: bool = False) -> bool:
        """Keep what there is, if it is time; the one before it at this site is removed."""
        if self.every is None or not (now or self.clock() - self._saved_at >= self.every):
            return False
        ctx, at = self.ctx, datetime.now(UTC)
        dataset = ctx.dataset(KIND)
        with ctx.storage.draft(dataset) as draft:
            (draft / FILE).write_bytes(pickle.dumps(made, protocol=5))
            learnt_from = str(ctx.inputs["features"]) if "features" in ctx.inputs else None  # an erasure of those erases this too
            facts = {"checkpoint_of": ctx.intent_id, "done": done, "as_of": instant(ctx.as_of), "features": learnt_from}
            version = ctx.storage.publish(dataset, draft, facts)
        with ctx.state.transaction() as tx:
            before = newest(tx, dataset, ctx.intent_id, site=ctx.site)
            replicas.add(
                tx,
                dataset=dataset,
                version=version.version,
                site=ctx.site,
                bytes=version.bytes,
                files=version.files,
                facts=facts,
                intent_id=ctx.intent_id,
                at=at,
            )
            if before is not None and before.version != version.version:
                replicas.remove(tx, dataset=dataset, version=before.version, site=ctx.site)
            else:
                before = None
        if before is not None:
            ctx.storage.remove(dataset, before.version)
        self._saved_at = self.clock()
        return True

    def clear(self) -> None:
        """Remove the checkpoints of this intent at this site: the model is published, they are of no use any more."""
        ctx = self.ctx
        while True:
            with ctx.state.transaction() as tx:
                row = newest(tx, ctx.dataset(KIND), ctx.intent_id, site=ctx.site)
                if row is None:
                    return
                version = row.version
                replicas.remove(tx, dataset=row.dataset, version=version, site=ctx.site)
            ctx.storage.remove(ctx.dataset(KIND), version)


def of(ctx: StepContext) -> Progress:
    """The checkpoints that the step's decision planned: each `checkpoint_minutes` on capacity that may be taken back, else none."""
    if ctx.decision_id is None:
        return Progress(ctx, None)
    with ctx.state.reading() as tx:
        decision = decisions.get(tx, ctx.decision_id)
        request = decisions.document(tx, decision["inputs"]["request"]) if decision else None
    spot = bool(decision and (decision.get("chosen") or {}).get("spot"))
    minutes = (request or {}).get("checkpoint_minutes")
    return Progress(ctx, float(minutes) * 60 if spot and minutes is not None else None)


def fit(estimator: Any, features: Any, truth: Any, progress: Progress) -> Any:
    """Fit, going on from a checkpoint if there is one and writing some on the way: the fitted estimator, the given one or the checkpoint's.

    A pipeline whose last step grows tree by tree (scikit-learn's `warm_start` and `max_iter`, without early stopping) is cut into `PARTS`
    parts, and predicts to the bit what one fit would; any other is fitted at once.
    """
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    total = getattr(last, "max_iter", None)
    earlier = progress.load() if _grows(last) else None
    if not _grows(last) or (progress.every is None and earlier is None):
        estimator.fit(features, truth)
        return estimator
    assert isinstance(total, int)
    done = 0
    if earlier is not None:
        estimator, done = earlier
        last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    part = max(1, -(-total // PARTS)) if progress.every is not None else total
    last.set_params(warm_start=True)
    while done < total:
        done = min(total, done + part)
        last.set_params(max_iter=done)
        estimator.fit(features, truth)
        if done < total:
            progress.save(estimator, done)
    last.set_params(max_iter=total, warm_start=False)
    return estimator


def _grows(last: Any) -> bool:
    return (
        hasattr(last, "warm_start") and isinstance(getattr(last, "max_iter", None), int) and getattr(last, "early_stopping", None) is False
    )
