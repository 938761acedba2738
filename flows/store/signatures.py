"""What control signed: one row for each subject, such as `model/<dataset>@<version>` or `decision/<id>`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.orm import Session

from flows.core.canonical import canonical_json
from flows.store.database import insert_new, locked
from flows.store.models_governance import SignatureRow

Sign = Callable[[bytes], tuple[str, str]]
"""Signs exactly these bytes; returns the key's id and the signature in base64."""


def payload(subject: str, sha256: str) -> bytes:
    """The bytes that are signed."""
    return canonical_json({"subject": subject, "sha256": sha256})


def add(tx: Session, subject: str, sha256: str, *, sign: Sign, at: datetime) -> None:
    """Sign a subject's content; what is signed already with the same content stays, another content is signed anew."""
    row = locked(tx, SignatureRow, subject)
    if row is not None and row.sha256 == sha256:
        return
    key, value = sign(payload(subject, sha256))
    if row is None:
        insert_new(tx, SignatureRow, {"subject": subject, "sha256": sha256, "key": key, "value": value, "at": at})
    else:
        row.sha256, row.key, row.value, row.at = sha256, key, value, at
        tx.flush()


def get(tx: Session, subject: str) -> SignatureRow | None:
    """The signature of a subject, None if it was never signed."""
    return tx.get(SignatureRow, subject, populate_existing=True)
