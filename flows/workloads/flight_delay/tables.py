"""The raw tables: what the source holds, when each row became known, what a good row looks like."""

from __future__ import annotations

from flows.core.workload import Expectation, Table

INSTANT = "timestamp[us, tz=UTC]"
AIRPORTS = ("EWR", "JFK", "LGA")


def _between(column: str, low: float, high: float) -> Expectation:
    return Expectation("expect_column_values_to_be_between", {"column": column, "min_value": low, "max_value": high}, "quarantine")


def _not_null(column: str) -> Expectation:
    return Expectation("expect_column_values_to_not_be_null", {"column": column})


FLIGHTS = Table(
    name="flights",
    columns={
        "row_id": "string",
        "scheduled_departure": INSTANT,
        "carrier": "string",
        "flight": "int64",
        "tailnum": "string",
        "origin": "string",
        "dest": "string",
        "distance": "float64",
        "sched_arr_time": "int64",
    },
    key=("row_id",),
    known_at="scheduled_departure",
    partition_by="scheduled_departure",
    expectations=(
        Expectation("expect_table_row_count_to_be_between", {"min_value": 1}),
        _not_null("row_id"),
        _not_null("carrier"),
        Expectation("expect_column_values_to_be_in_set", {"column": "origin", "value_set": list(AIRPORTS)}),
        _between("distance", 50, 6000),
        _between("sched_arr_time", 0, 2400),
    ),
)

ARRIVALS = Table(
    name="arrivals",
    columns={
        "row_id": "string",
        "carrier": "string",
        "outcome": "string",
        "arr_delay": "float64",
        "scheduled_departure": INSTANT,
        "known_at": INSTANT,
    },
    key=("row_id",),
    known_at="known_at",
    partition_by="scheduled_departure",
    expectations=(
        _not_null("row_id"),
        _not_null("known_at"),
        Expectation("expect_column_values_to_be_in_set", {"column": "outcome", "value_set": ["arrived", "cancelled", "diverted"]}),
        _between("arr_delay", -120, 2000),
    ),
)

WEATHER = Table(
    name="weather",
    columns={
        "origin": "string",
        "hour": INSTANT,
        "temp": "float64",
        "dewp": "float64",
        "humid": "float64",
        "wind_dir": "float64",
        "wind_speed": "float64",
        "wind_gust": "float64",
        "precip": "float64",
        "pressure": "float64",
        "visib": "float64",
        "known_at": INSTANT,
    },
    key=("origin", "hour"),
    known_at="known_at",
    partition_by="hour",
    expectations=(
        Expectation("expect_table_row_count_to_be_between", {"min_value": 1}),
        Expectation("expect_column_values_to_be_in_set", {"column": "origin", "value_set": list(AIRPORTS)}),
        Expectation("expect_column_values_to_not_be_null", {"column": "temp"}, "quarantine"),
        _between("temp", -40, 130),
        _between("humid", 0, 100),
        _between("wind_speed", 0, 150),
        _between("precip", 0, 10),
        _between("visib", 0, 20),
    ),
)

PLANES = Table(
    name="planes",
    columns={"tailnum": "string", "year": "float64", "manufacturer": "string", "engines": "int64", "seats": "int64", "engine": "string"},
    key=("tailnum",),
    expectations=(
        Expectation("expect_table_row_count_to_be_between", {"min_value": 1}),
        _not_null("tailnum"),
        _between("seats", 1, 900),
        _between("year", 1940, 2014),
    ),
)

TABLES = (FLIGHTS, ARRIVALS, WEATHER, PLANES)
