"""What bridges to other catalogs last said of datasets: the only thing that placement knows of them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from flows.store.database import insert_new, locked
from flows.store.models_governance import ImportedLabelRow


def put(tx: Session, *, bridge: str, dataset: str, label: Any | None, words: Collection[str], at: datetime) -> bool:
    """Record what a bridge says of a dataset now; whether its label is another one than before.

    Args:
        tx: an open write transaction.
        bridge: the bridge's name.
        dataset: catalog name.
        label: the label as JSON, None if the other catalog says nothing.
        words: the classifications there.
        at: when it was read, aware.
    """
    values = {"label": label, "words": sorted(words), "at": at}
    if insert_new(tx, ImportedLabelRow, {"bridge": bridge, "dataset": dataset, **values}):
        return label is not None
    row = locked(tx, ImportedLabelRow, (bridge, dataset))
    assert row is not None
    changed = bool(row.label != label)
    for name, value in values.items():
        setattr(row, name, value)
    tx.flush()
    return changed


def rows(tx: Session, bridge: str | None = None) -> list[ImportedLabelRow]:
    """Everything that is known, or what one bridge said, in order of name."""
    query = select(ImportedLabelRow).order_by(ImportedLabelRow.bridge, ImportedLabelRow.dataset)
    return list(tx.scalars(query if bridge is None else query.where(ImportedLabelRow.bridge == bridge)))


def keep(tx: Session, bridge: str, datasets: Collection[str]) -> None:
    """Forget what a bridge said of datasets that it is no longer declared for."""
    gone = delete(ImportedLabelRow).where(ImportedLabelRow.bridge == bridge, ImportedLabelRow.dataset.not_in(list(datasets)))
    tx.execute(gone)
