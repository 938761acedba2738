"""Canonical bytes and hashes: RFC 8785 JSON, sha256, shortest plain decimals."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import rfc8785


def plain(number: Decimal) -> str:
    """The number without exponent or trailing zeros: ``Decimal("1E-6")`` is ``0.000001``, ``Decimal("40.0")`` is ``40``."""
    text = format(number, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def instant(moment: datetime) -> str:
    """An aware instant as UTC text, whole seconds without fraction: ``2026-01-05T08:00:00Z``."""
    if moment.tzinfo is None:
        raise ValueError("an instant needs a time zone")
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def canonical_json(value: Any) -> bytes:
    """RFC 8785 bytes of a JSON value (dicts, lists, strings, integers, floats, booleans, None)."""
    return rfc8785.dumps(value)


def sha256_hex(data: bytes) -> str:
    """Lower-case hexadecimal sha256 of the bytes."""
    return hashlib.sha256(data).hexdigest()


def content_hash(value: Any) -> str:
    """sha256 of the canonical JSON of the value."""
    return sha256_hex(canonical_json(value))
