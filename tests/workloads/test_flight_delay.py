"""Flights: instants, outcomes and features that know nothing of the future."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from flows.core.workload import EVENT_TIMESTAMP, LABEL, LABEL_AT, ROW_ID
from flows.workloads.flight_delay import features, source

YEAR_END = datetime(2014, 1, 10, tzinfo=UTC)


@pytest.fixture(scope="module")
def flights() -> pd.DataFrame:
    return source.flights()


@pytest.fixture(scope="module")
def arrivals() -> pd.DataFrame:
    return source.arrivals()


def test_the_whole_year_is_there(flights: pd.DataFrame) -> None:
    """All 336,776 scheduled departures of 2013, each with an id of its own."""
    assert len(flights) == 336_776
    assert flights[ROW_ID].is_unique


@pytest.mark.parametrize(
    ("row_id", "departure"),
    [
        ("20130101T1015-UA1545-EWR", "2013-01-01 05:15"),
        ("20130310T1000-", "2013-03-10 06:00"),
        ("20131103T1100-", "2013-11-03 06:00"),
    ],
)
def test_departures_are_utc_on_both_sides_of_a_clock_change(flights: pd.DataFrame, row_id: str, departure: str) -> None:
    """6 o'clock in New York is 10:00 UTC on the first day of summer time and 11:00 UTC on the first day of winter time."""
    rows = flights[flights[ROW_ID].str.startswith(row_id)]
    assert len(rows)
    assert (rows["scheduled_departure"].dt.tz_convert("America/New_York").dt.strftime("%Y-%m-%d %H:%M") == departure).all()


def test_an_arrival_is_known_only_after_it_happened(flights: pd.DataFrame, arrivals: pd.DataFrame) -> None:
    """The report of an arrival comes later than the latest flight of the year needed to arrive: 33 hours."""
    assert (arrivals["known_at"] - flights["scheduled_departure"] == source.ARRIVAL_LAG).all()
    longest = timedelta(minutes=float(arrivals["arr_delay"].max())) + timedelta(hours=12)
    assert longest < source.ARRIVAL_LAG


def test_cancelled_and_diverted_flights_never_get_a_label(flights: pd.DataFrame, arrivals: pd.DataFrame) -> None:
    """8,255 cancelled and 1,175 diverted flights stay without a label; the others have one by the next year."""
    assert arrivals["outcome"].value_counts().to_dict() == {"arrived": 327_346, "cancelled": 8_255, "diverted": 1_175}
    frame = features.examples({"flights": flights, "arrivals": arrivals}, YEAR_END)
    assert frame[LABEL].notna().sum() == 327_346


def test_a_flight_is_late_after_more_than_fifteen_minutes() -> None:
    """15 minutes is on time, 16 is late."""
    frame = features.examples(_raw([15.0, 16.0]), YEAR_END)
    assert frame[LABEL].tolist() == [0.0, 1.0]


def test_a_label_that_has_not_come_in_yet_is_missing() -> None:
    """One minute before the report neither the label nor its instant is there."""
    raw = _raw([40.0])
    reported = raw["arrivals"]["known_at"].iloc[0].to_pydatetime()
    before, after = features.examples(raw, reported - timedelta(minutes=1)), features.examples(raw, reported)
    assert before[[LABEL, LABEL_AT]].isna().all(axis=None)
    assert after[LABEL].tolist() == [1.0]


def test_a_carriers_week_counts_only_what_was_reported_by_its_end() -> None:
    """A delay reported one second after midnight belongs to the next day's row."""
    midnight = pd.Timestamp("2013-05-02", tz="UTC").as_unit("us")
    known_at = [midnight - pd.Timedelta("1h"), midnight, midnight + pd.Timedelta("1s")]
    arrivals = pd.DataFrame({"carrier": "UA", "arr_delay": [10.0, 20.0, 1000.0], "known_at": pd.Series(known_at).dt.as_unit("us")})
    recent = features.carrier_recent(arrivals).set_index(EVENT_TIMESTAMP)
    assert recent.loc[midnight, "mean_delay_7d"] == 15.0
    assert recent.loc[midnight, "late_share_7d"] == 0.5
    assert recent.loc[midnight + pd.Timedelta("1D"), "late_share_7d"] == pytest.approx(2 / 3, abs=1e-6)


def test_a_carriers_week_forgets_after_seven_days() -> None:
    """A report is in seven rows, the eighth day has none of it."""
    known_at = pd.to_datetime(["2013-05-01T12:00Z", "2013-05-12T12:00Z"]).as_unit("us")
    recent = features.carrier_recent(pd.DataFrame({"carrier": "UA", "arr_delay": [60.0, 0.0], "known_at": known_at}))
    days = recent[EVENT_TIMESTAMP].dt.strftime("%m-%d").tolist()
    assert days == ["05-02", "05-03", "05-04", "05-05", "05-06", "05-07", "05-08", "05-13"]


def test_weather_is_known_when_its_hour_is_over() -> None:
    """The row of the hour from 10:00 is stamped 11:00."""
    weather = source.weather()
    stamped = features.weather_hourly(weather)
    assert (weather["known_at"] - weather["hour"] == timedelta(hours=1)).all()
    assert stamped[EVENT_TIMESTAMP].min() == weather["hour"].min() + timedelta(hours=1)


def _raw(delays: list[float]) -> dict[str, pd.DataFrame]:
    count = len(delays)
    departure = pd.Series(pd.to_datetime(["2013-07-01T16:00Z"] * count)).dt.as_unit("us")
    ids = [f"flight-{number}" for number in range(count)]
    flights = pd.DataFrame(
        {
            ROW_ID: ids,
            "scheduled_departure": departure,
            "carrier": "UA",
            "flight": 1,
            "tailnum": None,
            "origin": "EWR",
            "dest": "ORD",
            "distance": 700.0,
            "sched_arr_time": 1830,
        }
    )
    arrivals = pd.DataFrame({ROW_ID: ids, "carrier": "UA", "arr_delay": delays, "known_at": departure + source.ARRIVAL_LAG})
    return {"flights": flights, "arrivals": arrivals}
