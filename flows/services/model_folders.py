"""What a version of `<workload>-model` tells of itself."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.adapters.models import MODEL_FOLDER
from flows.core.errors import IntegrityError
from flows.services.context import StepContext
from flows.services.signed import require_model

TRAINING_FILE = "training.json"


def signed_model(ctx: StepContext, role: str) -> Path:
    """The folder of a model that is an input, its checksums those that control signed: it may be loaded, though it holds a pickle.

    Raises:
        IntegrityError: a file changed, or control never signed this model.
        UserError: the step was given no such input, or it does not rest here.
    """
    folder = ctx.open(role)
    ref = ctx.inputs[role]
    with ctx.state.reading() as tx:
        require_model(tx, ctx.settings, ref, ctx.manifest(ref))
    return folder / MODEL_FOLDER


def training_of(ctx: StepContext, role: str) -> dict[str, Any]:
    """The `training.json` of a model that is an input.

    Raises:
        IntegrityError: there is none, or it cannot be read.
    """
    path = ctx.open(role) / TRAINING_FILE
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError) as error:
        raise IntegrityError(f"`{ctx.inputs[role]}` has no readable `{TRAINING_FILE}`", fix="train the model again") from error
    return found


def train_end(ctx: StepContext, role: str) -> datetime:
    """The end of the window that a model was trained on: rows from then on are new to it."""
    return datetime.fromisoformat(training_of(ctx, role)["windows"]["train"]["end"])
