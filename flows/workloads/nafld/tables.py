"""The raw tables of the cohort: one person, one laboratory value, one diagnosis, one end of follow-up a row."""

from __future__ import annotations

from flows.core.workload import Expectation, Table

INSTANT = "timestamp[us, tz=UTC]"
PATTERN = r"^nafld-patient-\d{6}$"


def _between(column: str, low: float, high: float) -> Expectation:
    return Expectation("expect_column_values_to_be_between", {"column": column, "min_value": low, "max_value": high}, "quarantine")


def _in_set(column: str, *values: object) -> Expectation:
    return Expectation("expect_column_values_to_be_in_set", {"column": column, "value_set": list(values)})


_IDENTIFIED = Expectation("expect_column_values_to_match_regex", {"column": "patient", "regex": PATTERN})

PATIENTS = Table(
    name="patients",
    columns={
        "patient": "string",
        "index_date": INSTANT,
        "age": "float64",
        "male": "float64",
        "weight": "float64",
        "height": "float64",
        "bmi": "float64",
    },
    key=("patient",),
    known_at="index_date",
    partition_by=None,
    expectations=(
        Expectation("expect_table_row_count_to_be_between", {"min_value": 1}),
        _IDENTIFIED,
        _in_set("male", 0, 1),
        _between("age", 18, 110),
        _between("weight", 25, 350),
        _between("height", 100, 230),
        _between("bmi", 10, 90),
    ),
)

LABS = Table(
    name="labs",
    columns={"patient": "string", "test": "string", "measured_at": INSTANT, "value": "float64", "known_at": INSTANT},
    key=("patient", "test", "measured_at"),
    known_at="known_at",
    expectations=(
        _IDENTIFIED,
        _in_set("test", "chol", "dbp", "fib4", "hdl", "sbp", "smoke"),
        _between("value", 0, 400),
    ),
)

EVENTS = Table(
    name="events",
    columns={"patient": "string", "event": "string", "occurred_at": INSTANT},
    key=("patient", "event", "occurred_at"),
    known_at="occurred_at",
    expectations=(_IDENTIFIED, Expectation("expect_column_values_to_not_be_null", {"column": "event"})),
)

FOLLOWUP = Table(
    name="followup",
    columns={"patient": "string", "ended_at": INSTANT, "died": "float64"},
    key=("patient",),
    known_at="ended_at",
    expectations=(_IDENTIFIED, _in_set("died", 0, 1)),
)

TABLES = (PATIENTS, LABS, EVENTS, FOLLOWUP)
