"""The field types of all models, under the name that placement knows them by."""

from flows.core.fields import (
    MAX_HOURS,
    MAX_NUMBER,
    MAX_YEAR,
    Clock,
    Count,
    Countries,
    Country,
    Day,
    Hours,
    Instant,
    Integer,
    KeepDays,
    Line,
    Minutes,
    Model,
    Name,
    Names,
    NonNegative,
    Number,
    Percentile,
    Positive,
    PositiveHours,
    Version,
)

__all__ = [
    "MAX_HOURS", "MAX_NUMBER", "MAX_YEAR", "Clock", "Count", "Countries", "Country", "Day", "Hours", "Instant", "Integer", "KeepDays",
    "Line", "Minutes", "Model", "Name", "Names", "NonNegative", "Number", "Percentile", "Positive", "PositiveHours", "Version",
]  # fmt: skip
