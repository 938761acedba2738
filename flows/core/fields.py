"""Field types of the models that people write: exact decimals, UTC instants, sorted names; anything doubtful is refused."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from flows.core.governance.blocs import not_mistaken

MAX_NUMBER = Decimal(10) ** 9
MAX_HOURS = Decimal(87_600)
"""Ten years: no run is longer."""
MAX_YEAR = 2500

Step = Literal["ingest", "materialize", "transfer", "train", "evaluate", "score", "serve", "watch"]

_PLAIN_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?\Z", re.ASCII)
_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?([Zz]|[+-]([01]\d|2[0-3]):?[0-5]\d)?\Z", re.ASCII)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}\Z", re.ASCII)
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d\Z|24:00\Z", re.ASCII)


class Model(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)


def wrong(what: str, *path: str | int) -> PydanticCustomError:
    """What is wrong with a model as a whole, and where inside it that was written."""
    return PydanticCustomError("wrong", "{what}", {"what": what, "path": path})


def _shown(value: Any) -> str:
    """The value as a file has it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _decimal(value: Any) -> Decimal:
    """The number from its shortest decimal text: 0.1 is exactly 0.1."""
    if isinstance(value, Decimal):
        number = value
    elif isinstance(value, bool):
        raise ValueError(f"`{_shown(value)}` is not a number")
    elif isinstance(value, int):
        number = Decimal(value)
    elif isinstance(value, float):
        number = Decimal(repr(float(value)))
    elif isinstance(value, str) and _PLAIN_NUMBER.match(value):
        number = Decimal(value)
    else:
        raise ValueError(f"`{_shown(value)}` is not a number")
    if not number.is_finite():
        raise ValueError(f"`{value}` is not a finite number")
    return number


def _integer(value: Any) -> int:
    number = _decimal(value)
    if number != number.to_integral_value():
        raise ValueError(f"`{value}` is not a whole number")
    return int(number)


def _version(value: Any) -> Any:
    """Python takes `true` and `1.0` for 1."""
    if isinstance(value, (bool, float)):
        raise ValueError(f"`{_shown(value)}` is not a version; write `1`")
    return value


def _instant(value: Any) -> datetime:
    """The instant in UTC."""
    if isinstance(value, str) and _INSTANT.match(value):
        try:
            value = datetime.fromisoformat(value.upper())
        except ValueError as error:
            raise ValueError(f"`{value}` is not an instant: {error}") from None
    if not isinstance(value, datetime):
        raise ValueError(f"`{_shown(value)}` is not an instant such as `2026-01-05T08:00:00Z`")
    if value.tzinfo is None:
        raise ValueError(f"`{value.isoformat()}` has no offset; write `2026-01-05T08:00:00Z` for UTC, or an offset such as `+01:00`")
    if not 1970 <= value.year <= MAX_YEAR:
        raise ValueError(f"`{value.isoformat()}` is not between 1970 and {MAX_YEAR}")
    return value.astimezone(UTC)


def _day(value: Any) -> date:
    if isinstance(value, str) and _DAY.match(value):
        try:
            return date.fromisoformat(value)
        except ValueError as error:
            raise ValueError(f"`{value}` is not a day: {error}") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    raise ValueError(f"`{_shown(value)}` is not a day such as `2026-12-31`")


def _clock(value: str) -> str:
    if not _CLOCK.match(value):
        raise ValueError(f'`{value}` is not a time of day such as "22:00"')
    return value


def _sorted_names(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(value)))


Number = Annotated[Decimal, BeforeValidator(_decimal), Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]
NonNegative = Annotated[Decimal, BeforeValidator(_decimal), Field(ge=0, le=MAX_NUMBER)]
KeepDays = Annotated[NonNegative, Field(le=36_500)]
"""A hundred years at most."""
Positive = Annotated[Decimal, BeforeValidator(_decimal), Field(gt=0, le=MAX_NUMBER)]
Hours = Annotated[Decimal, BeforeValidator(_decimal), Field(ge=0, le=MAX_HOURS)]
PositiveHours = Annotated[Decimal, BeforeValidator(_decimal), Field(gt=0, le=MAX_HOURS)]
Minutes = Annotated[Decimal, BeforeValidator(_decimal), Field(ge=0, le=MAX_HOURS)]
Count = Annotated[int, BeforeValidator(_integer), Field(ge=1, le=1_000_000)]
Integer = Annotated[int, BeforeValidator(_integer)]
Version = Annotated[Literal[1], BeforeValidator(_version)]
Percentile = Annotated[Literal[50, 99], BeforeValidator(_integer), Field(description="50 or 99")]
Instant = Annotated[datetime, BeforeValidator(_instant), Field(description="an instant with an offset, such as `2026-01-05T08:00:00Z`")]
Day = Annotated[date, BeforeValidator(_day), Field(description="a UTC day such as `2026-12-31`")]
Clock = Annotated[str, AfterValidator(_clock), Field(description='a time of day such as "22:00"')]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\s\x00-\x1f]+$", description="a name without spaces")]
Line = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$", description="one line of text")]
Country = Annotated[
    str, Field(pattern=r"^[A-Z]{2}$", description="an ISO country of two capital letters, such as `DE`"), AfterValidator(not_mistaken)
]
Names = Annotated[tuple[Name, ...], AfterValidator(_sorted_names)]
Countries = Annotated[tuple[Country, ...], AfterValidator(_sorted_names)]
