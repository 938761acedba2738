"""What control signs besides its dispatches: decisions, and the manifests of models; and the check of them before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flows.adapters import signing
from flows.core.canonical import content_hash
from flows.core.errors import IntegrityError
from flows.services.context import DatasetRef
from flows.store import outbox, replicas, signatures

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from flows.adapters.settings import Settings
    from flows.store.database import State

VERSION_LENGTH = 16
"""A version begins like the hash of its files: see `flows.adapters.storage`."""


def signs(settings: Settings) -> signatures.Sign | None:
    """How these settings sign; None without a key, as everywhere but in control."""
    if settings.signing_key is None:
        return None
    own = signing.signer(settings.signing_key.get_secret_value())

    def sign(payload: bytes) -> tuple[str, str]:
        made = own.sign(payload)
        return made.key, made.value

    return sign


def decision(tx: Session, settings: Settings, body: Mapping[str, Any], *, at: datetime) -> None:
    """Sign a decision beside its row, if these settings can sign."""
    if (sign := signs(settings)) is not None:
        signatures.add(tx, f"decision/{body['decision_id']}", content_hash(body), sign=sign, at=at)


def model(state: State, settings: Settings, ref: DatasetRef, intent_id: str, *, at: datetime) -> None:
    """Sign a model version that the finished intent says it made; control sees the hashes of its files, no byte of them.

    Raises:
        IntegrityError: the intent made another version, or what is recorded of its files does not give its version.
    """
    sign = signs(settings)
    if sign is None:
        return
    with state.transaction() as tx:
        row = outbox.get(tx, intent_id)
        made = (row.result or {}).get("outputs", {}) if row is not None and row.state == outbox.DONE else {}
        if made.get(ref.dataset) != str(ref):
            raise IntegrityError(f"`{intent_id}` did not make `{ref}`", fix="train the model again")
        signatures.add(tx, f"model/{ref}", manifest(tx, ref), sign=sign, at=at)


def manifest(tx: Session, ref: DatasetRef) -> str:
    """sha256 of the map of a version's files to their checksums, as recorded: the same at every site where it rests.

    Raises:
        IntegrityError: nothing is recorded, the sites disagree, or the version is not named by it.
    """
    rows = [row for site in replicas.sites(tx, ref.dataset, ref.version) if (row := replicas.get(tx, ref.dataset, ref.version, site))]
    found = {content_hash(row.files) for row in rows}
    if len(found) == 1 and (digest := found.pop())[:VERSION_LENGTH] == ref.version:
        return digest
    raise IntegrityError(
        f"what is recorded of the files of `{ref}` is not what was published", fix="run the step that made it again, or bring it there anew"
    )


def require_model(tx: Session, settings: Settings, ref: DatasetRef, sha256: str | None = None) -> None:
    """Let a model pass only if control signed exactly these files, with a key that was enrolled; no hash: those on record.

    Raises:
        IntegrityError: it did not.
    """
    subject = f"model/{ref}"
    found = signatures.get(tx, subject)
    if sha256 is None and found is not None:
        sha256 = manifest(tx, ref)
    keyring = signing.keyring(settings)
    if (
        found is None
        or found.sha256 != sha256
        or not keyring.verify(signatures.payload(subject, found.sha256), signing.Signature(found.key, found.value))
    ):
        raise IntegrityError(
            f"`{ref}` is not a model that control signed", expected="its files' checksums, signed when it was trained", fix="train it again"
        )


def signer_of(tx: Session, settings: Settings, body: Mapping[str, Any]) -> str | None:
    """The id of the enrolled key that signed a decision; None if none did.

    Raises:
        IntegrityError: it was signed, and is not what was signed.
    """
    subject = f"decision/{body['decision_id']}"
    found = signatures.get(tx, subject)
    if found is None:
        return None
    known = signing.keyring(settings)
    if found.sha256 == content_hash(body) and known.verify(
        signatures.payload(subject, found.sha256), signing.Signature(found.key, found.value)
    ):
        return found.key
    raise IntegrityError(
        f"decision `{body['decision_id']}` is not what control signed", fix="`tradewind ledger verify` finds what was changed"
    )
