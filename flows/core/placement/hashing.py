"""The content of a model as one JSON form, whatever the order or the spelling it was written in; and the names made of its hash.

Fields that hold their default are dropped, sets and rows sorted, instants are UTC, days ISO, numbers plain decimal strings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from importlib import import_module
from typing import Any

from pydantic import BaseModel

from flows.core.canonical import content_hash, instant, plain

TRADEWIND = "0.1.0"
"""The engine's version: the same inputs give the same bytes as long as it stays the same."""

TZDATA = str(import_module("tzdata").IANA_VERSION)
"""Version of the daylight-saving rules, such as `2026f`."""


def engine(policy_engine: str) -> str:
    """The versions that a decision depends on besides its inputs."""
    return f"tradewind {TRADEWIND}, {policy_engine}, tzdata {TZDATA}"


def content_form(value: Any) -> Any:
    """The value as JSON of dicts, sorted lists, strings, booleans and None.

    Raises:
        TypeError: a value of a type that has no such form.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return content_form(value.value)
    if isinstance(value, str):
        return value
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, BaseModel):
        return _model_form(value)
    if isinstance(value, Mapping):
        return {str(key): content_form(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return sorted((content_form(inner) for inner in value), key=_sort_key)
    raise TypeError(f"no content form for a {type(value).__name__}")


def _model_form(model: BaseModel) -> dict[str, Any]:
    found = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if field.is_required() or value != field.get_default(call_default_factory=True):
            found[field.alias or name] = content_form(value)
    return found


def _sort_key(form: Any) -> str:
    return form if isinstance(form, str) else json.dumps(form, sort_keys=True, separators=(",", ":"))


def decision_id(at: datetime, inputs: Mapping[str, str]) -> str:
    """The name of the decision made at that instant from inputs of these hashes."""
    return content_hash({"at": instant(at), "inputs": dict(inputs)})
