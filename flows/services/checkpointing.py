"""Signed checkpoints of the ledger: made by whoever holds the control plane's key, verified with the keys that are trusted."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flows.adapters import signing
from flows.adapters.signing import Keyring, Signature
from flows.core.errors import TradewindError
from flows.store import ledger

if TYPE_CHECKING:
    from flows.adapters.settings import Settings
    from flows.core.governance.checkpoints import Check
    from flows.store.checkpoints import Sign
    from flows.store.database import State

log = logging.getLogger("flows.checkpoints")

ENROLLED = "signing-key"
BY = "control"


def checkpoint(state: State, settings: Settings, *, at: datetime, folder: Path | None = None) -> tuple[int, str] | None:
    """Vouch for the newest row, outside the database; keys that were enrolled since the last time are put on record first.

    Without the signing key the line is an anchor that nobody signed.

    Returns:
        The newest row's (seq, hash); None for an empty ledger.

    Raises:
        IntegrityError: the ledger or the file of checkpoints is not what it was.
        Unavailable: the database does not answer, or the folder cannot be written.
    """
    where = folder if folder is not None else settings.anchors
    sign = _sign(settings)
    if sign is not None:
        _record_keys(state, Keyring.load(settings.anchors), at)
    return ledger.anchor(state, where, at=at, sign=sign)


def checkpoint_if_due(state: State, settings: Settings, *, at: datetime) -> tuple[int, str] | None:
    """`checkpoint` once `checkpoint_rows` wait, or any row for `checkpoint_seconds`; None if it is not yet time."""
    if not ledger.due(state, settings.anchors, at=at, rows=settings.checkpoint_rows, seconds=settings.checkpoint_seconds):
        return None
    return checkpoint(state, settings, at=at)


def vouch(state: State, settings: Settings, *, at: datetime) -> tuple[int, str] | None:
    """`checkpoint` at once, after what auditors look for first: a promotion, a rollback, a person's word. Call it once that is committed.

    Only where the signing key is; elsewhere the reconciler's next round vouches. What was done stands whatever becomes of the
    checkpoint, so a failure is logged and the reconciler meets it again; None then, too.
    """
    if settings.signing_key is None:
        return None
    try:
        return checkpoint(state, settings, at=at)
    except TradewindError as error:
        log.error("no checkpoint was made, the reconciler tries again: %s", error)
        return None


def verify(state: State, settings: Settings, *, folder: Path | None = None, pinned: Iterable[str] | None = None) -> ledger.Verification:
    """Check rows, checkpoints and signatures.

    Args:
        state: the database.
        settings: say where the checkpoints and the enrolled keys are.
        folder: another folder of checkpoints.
        pinned: base64 public keys that alone are trusted: then a line of another key is a problem, and one that nobody signed vouches
            for nothing. Left out: the keys that were enrolled beside the checkpoints.

    Raises:
        IntegrityError: a line of the file of keys is no key.
        Unavailable: the database or a file cannot be read.
    """
    where = folder if folder is not None else settings.anchors
    keys = Keyring.load(where) if pinned is None else Keyring({signing.key_id(key): key for key in pinned})
    return ledger.verify(state, where, _check(keys), trust_unsigned=pinned is None)


def _check(keys: Keyring) -> Check:
    def check(payload: bytes, key: str, value: str) -> str | None:
        if key not in keys.keys:
            return f"it is signed with key `{key}`, which is not trusted"
        return None if keys.verify(payload, Signature(key, value)) else "its signature does not hold"

    return check


def _sign(settings: Settings) -> Sign | None:
    if settings.signing_key is None:
        return None
    signer = signing.signer(settings.signing_key.get_secret_value())

    def sign(payload: bytes) -> tuple[str, str]:
        made = signer.sign(payload)
        return made.key, made.value

    return sign


def _record_keys(state: State, keys: Keyring, at: datetime) -> None:
    """One row for each enrolled key that has none: a key that somebody slipped into the file shows, too."""
    with state.reading() as tx:
        told = {row.body.get("key") for row in ledger.rows(tx, kind=ENROLLED)}
    for key in sorted(keys.keys.keys() - told):
        body = {"key": key, "public_key": keys.keys[key]}
        with state.transaction() as tx:
            ledger.append_if_changed(tx, ENROLLED, body, same=("public_key",), of=("key",), principal=BY, at=at)
