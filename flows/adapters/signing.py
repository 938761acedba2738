"""Ed25519 signatures of the control plane: who holds the key signs, everybody else verifies.

The private key is never in a file: control gets it through its environment (`TRADEWIND_SIGNING_KEY`), from a secret store in the cloud
profile, made anew at every start of the embedded stack. Public keys are appended to a file beside the ledger's anchors, outside the
database, so that what an earlier key signed stays verifiable. Ed25519: RFC 8032.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from flows.core.canonical import canonical_json, instant, sha256_hex
from flows.core.errors import IntegrityError, Unavailable, UserError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from flows.adapters.settings import Settings

VARIABLE = "TRADEWIND_SIGNING_KEY"
KEYS = "signing-keys.jsonl"
"""The file of public keys in the folder of anchors: one JSON object a line, only ever appended to."""


@dataclass(frozen=True, slots=True)
class Signature:
    """`value` is the base64 of 64 bytes; `key` is the id of the key that made it: the first 16 hex digits of its public key's sha256."""

    key: str
    value: str

    def to_json(self) -> dict[str, str]:
        """The signature as a JSON value."""
        return {"key": self.key, "value": self.value}

    @classmethod
    def parse(cls, found: object) -> Signature:
        """Read what `to_json` gave.

        Raises:
            IntegrityError: it is no signature.
        """
        if isinstance(found, Mapping) and isinstance(found.get("key"), str) and isinstance(found.get("value"), str):
            return cls(found["key"], found["value"])
        raise IntegrityError("this is no signature", expected='`{"key": "…", "value": "…"}`')


@dataclass(frozen=True)
class Signer:
    """Holds the private key; its text never shows in a log or a message."""

    _key: Ed25519PrivateKey

    def __repr__(self) -> str:
        return f"Signer({self.key_id})"

    @cached_property
    def public_key(self) -> str:
        """Base64 of the 32 bytes that verify."""
        return base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    @cached_property
    def key_id(self) -> str:
        """The id by which `Keyring` finds the public key."""
        return key_id(self.public_key)

    def sign(self, payload: bytes) -> Signature:
        """Sign exactly these bytes."""
        return Signature(self.key_id, base64.b64encode(self._key.sign(payload)).decode())


def new_key() -> str:
    """A new private key, as the text that `VARIABLE` holds: base64 of 32 random bytes."""
    return base64.b64encode(os.urandom(32)).decode()


def signer(key: str) -> Signer:
    """The signer of a private key's text.

    Raises:
        UserError: the text is not the base64 of 32 bytes.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        raw = base64.b64decode(key, validate=True)
        return Signer(Ed25519PrivateKey.from_private_bytes(raw))
    except ValueError:
        raise UserError(f"{VARIABLE} holds no signing key", expected="the base64 of 32 bytes, from a secret store") from None


def key_id(public_key: str) -> str:
    """The id of a public key in base64."""
    return sha256_hex(base64.b64decode(public_key))[:16]


@dataclass(frozen=True, slots=True)
class Keyring:
    """The public keys, by id, that signatures are verified with."""

    keys: Mapping[str, str]

    @classmethod
    def load(cls, folder: Path) -> Keyring:
        """The keys that were enrolled in a folder; none if there is no file. A last line without its end was never enrolled.

        Raises:
            IntegrityError: a line is no key, or its id is not that of its key.
            Unavailable: the file cannot be read.
        """
        path = folder / KEYS
        try:
            lines = path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return cls({})
        except OSError as error:
            raise Unavailable(f"the public keys cannot be read: {error.strerror}", file=str(path)) from error
        keys: dict[str, str] = {}
        for number, line in enumerate(lines, start=1):
            try:
                entry = json.loads(line)
                sound = key_id(entry["public_key"]) == entry["key"] and len(base64.b64decode(entry["public_key"], validate=True)) == 32
            except (ValueError, TypeError, KeyError):
                sound = False
            if not sound:
                raise IntegrityError("this line is no public key", file=str(path), line=number)
            keys[entry["key"]] = entry["public_key"]
        return cls(keys)

    @classmethod
    def parse(cls, text: str) -> Keyring:
        """The public keys of a text, as `text` gives it; empty: none, and nothing verifies.

        Raises:
            IntegrityError: a part of it is no key.
        """
        parts = [part for part in text.split(",") if part]
        try:
            sound = all(len(base64.b64decode(part, validate=True)) == 32 for part in parts)
        except ValueError:
            sound = False
        if not sound:
            raise IntegrityError("these are no public keys", field="TRADEWIND_PUBLIC_KEYS", expected="the base64 of 32 bytes each")
        return cls({key_id(part): part for part in parts})

    @property
    def text(self) -> str:
        """The public keys between commas, in order of their ids."""
        return ",".join(self.keys[name] for name in sorted(self.keys))

    def verify(self, payload: bytes, signature: Signature) -> bool:
        """Whether a known key signed exactly these bytes."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        known = self.keys.get(signature.key)
        if known is None:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(base64.b64decode(known)).verify(base64.b64decode(signature.value), payload)
        except (InvalidSignature, ValueError):
            return False
        return True


def keyring(settings: Settings) -> Keyring:
    """What this process verifies with: the keys that it was given, in a container; else those that were enrolled beside the anchors.

    Raises:
        IntegrityError: they are no keys.
        Unavailable: the file cannot be read.
    """
    return Keyring.load(settings.anchors) if settings.public_keys is None else Keyring.parse(settings.public_keys)


def enroll(folder: Path, public_key: str, *, at: datetime) -> bool:
    """Append a public key to the folder's file, once; returns whether it is new.

    Raises:
        Unavailable: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / KEYS, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        raise Unavailable(f"no public key can be written: {error.strerror}", file=str(folder / KEYS)) from error
    with os.fdopen(descriptor, "r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        content = stream.read()
        name = key_id(public_key)
        if name in Keyring.load(folder).keys:
            return False
        whole = content.rfind(b"\n") + 1
        if whole < len(content):  # a writer died within its line
            stream.truncate(whole)
        stream.write(canonical_json({"at": instant(at.astimezone(UTC)), "key": name, "public_key": public_key}) + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    return True
