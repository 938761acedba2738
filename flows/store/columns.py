"""Column types of the state database: UTC instants, canonical JSON text, exact money; and how values become JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, Integer, Text
from sqlalchemy.types import TypeDecorator

from flows.core.canonical import canonical_json, instant, plain
from flows.core.errors import IntegrityError

MICRO = Decimal("0.000001")
BigKey = BigInteger().with_variant(Integer, "sqlite")
"""A 64-bit integer key; SQLite numbers rows by itself only in a column declared INTEGER."""


def jsonable(value: Any) -> Any:
    """A JSON value of the same meaning: instants as canonical text, decimals as plain text, sets sorted, NaN and infinities as None.

    Raises:
        ValueError: an instant has no time zone, or the value has no JSON form.
    """
    match value:
        case None | bool() | str():
            return str(value.value) if isinstance(value, Enum) else value
        case Enum():
            return jsonable(value.value)
        case int():
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else None
        case datetime():
            return instant(value)
        case Decimal():
            return plain(value)
        case Mapping():
            return {str(key): jsonable(item) for key, item in value.items()}
        case PurePath():
            return value.as_posix()
        case AbstractSet():
            return sorted((jsonable(item) for item in value), key=canonical_json)
        case Sequence():
            return [jsonable(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:  # a NumPy scalar
        return jsonable(value.item())
    raise ValueError(f"a {type(value).__name__} has no JSON form")


def canonical_text(value: Any) -> str:
    """RFC 8785 text of a value, made JSON first."""
    return canonical_json(jsonable(value)).decode()


class Instant(TypeDecorator[datetime]):
    """An aware instant, kept as UTC with microseconds; one without a time zone is refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Into the database: UTC; SQLite keeps it without the offset."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("an instant needs a time zone")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Out of the database: aware, UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class CanonicalJson(TypeDecorator[Any]):
    """A JSON value kept as its RFC 8785 text, so that equal values are equal bytes in every database."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Into the database: canonical text."""
        return None if value is None else canonical_text(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Out of the database: dicts, lists, numbers, text."""
        try:
            return None if value is None else json.loads(value)
        except ValueError as error:
            raise IntegrityError(f"stored JSON cannot be read: {error}", fix="see `tradewind ledger verify`") from error


class Micros(TypeDecorator[Decimal]):
    """A decimal with six places (USD, kg), kept as a whole number of millionths: sums are exact in every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> int | None:
        """Into the database: millionths, half to even; floats by their shortest decimal text."""
        if value is None:
            return None
        number = value if isinstance(value, Decimal) else Decimal(str(value))
        return int(number.quantize(MICRO, rounding=ROUND_HALF_EVEN).scaleb(6))

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """Out of the database: a decimal with six places."""
        return None if value is None else Decimal(int(value)).scaleb(-6)
