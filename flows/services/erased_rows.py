"""Who was erased, as ingest must know it: a source that still holds a person must not bring their rows back."""

from __future__ import annotations

import hmac
import os
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from flows.core.errors import UserError
from flows.services.declarations import Declarations
from flows.store import erasures
from flows.store.database import State

if TYPE_CHECKING:
    import pandas as pd

    from flows.adapters.settings import Settings
    from flows.services.context import StepContext

KEY_VARIABLE, KEY_SECRET = "TRADEWIND_ERASURE_KEY", "erasure-key"
"""Where the key of all references is: in the environment, or in a secret of the orchestrator."""


def reference(key: str, workload: str, subject: str) -> str:
    """The keyed hash that stands for a person's key in this workload."""
    return hmac.new(key.encode(), f"{workload}\0{subject}".encode(), sha256).hexdigest()[:32]


def left_out(ctx: StepContext, frame: pd.DataFrame) -> pd.DataFrame:
    """A source's rows, as they came, but for those of people who were erased.

    Raises:
        UserError: people were erased from this workload, and the key that tells whom is not in the environment.
    """
    declared = Declarations.load(ctx.settings).workloads.get(ctx.workload.name)
    present = sorted(set() if declared is None else declared.subject & set(frame.columns))
    if not present:
        return frame
    with ctx.state.reading() as tx:
        erased = erasures.references(tx, ctx.workload.name)
    if not erased:
        return frame
    key = os.environ.get(KEY_VARIABLE)
    if not key:
        raise UserError(
            f"people were erased from `{ctx.workload.name}`, and the key that tells whom is not here; nothing was landed",
            field=KEY_VARIABLE,
            expected=f"the value of the secret `{KEY_SECRET}`, which the first `tradewind erase` made",
        )
    gone = frame[present[0]].isna() & False
    for name in present:
        known = {value for value in frame[name].dropna().unique() if reference(key, ctx.workload.name, _plain(value)) in erased}
        gone |= frame[name].isin(known)
    return frame.drop(index=frame.index[gone]).reset_index(drop=True)


def key_wanted(workload: str, settings: Settings) -> bool:
    """Whether the workload's ingest needs the key of references and the environment lacks it."""
    if KEY_VARIABLE in os.environ:
        return False
    with State(settings.state_url).reading() as tx:
        return bool(erasures.references(tx, workload))


def _plain(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
