"""Feature tables and examples of flight_delay; every row carries the instant it became known."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from flows.core.workload import EVENT_TIMESTAMP, LABEL, LABEL_AT, ROW_ID

if TYPE_CHECKING:
    import pandas as pd

LATE_MINUTES = 15.0
RECENT = timedelta(days=7)
AIRPORT_TIME = "America/New_York"
STATIC_SINCE = "2012-01-01"
"""Facts without a date of their own count as known before the first flight."""


def weather_hourly(weather: pd.DataFrame) -> pd.DataFrame:
    """Join key `origin`: the last full hour's weather, known when the hour is over; the year of the source starts at its first hour."""
    columns = ["origin", "temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib"]
    frame = weather[[*columns, "known_at"]].rename(columns={"known_at": EVENT_TIMESTAMP})
    return frame.sort_values([EVENT_TIMESTAMP, "origin"], ignore_index=True)


def plane_facts(planes: pd.DataFrame) -> pd.DataFrame:
    """Join key `tailnum`: year built, seats, engines."""
    import pandas as pd

    frame = planes[["tailnum", "year", "seats", "engines"]].rename(columns={"year": "built"})
    numbers = {name: frame[name].astype("float64") for name in ("built", "seats", "engines")}
    return frame.assign(**numbers, **{EVENT_TIMESTAMP: pd.Timestamp(STATIC_SINCE, tz="UTC").as_unit("us")})


def carrier_recent(arrivals: pd.DataFrame) -> pd.DataFrame:
    """Join key `carrier`: mean delay (minutes) and late share of the arrivals reported in seven days, stamped at the last day's end (UTC).

    A day's row counts reports up to its end and none after it, so that no flight sees its own outcome.
    """
    import pandas as pd

    landed = arrivals[arrivals["arr_delay"].notna()]
    day_end = landed["known_at"].dt.ceil("D")
    daily = (
        landed.assign(day_end=day_end, late=(landed["arr_delay"] > LATE_MINUTES).astype("float64"), one=1.0)
        .groupby(["carrier", "day_end"])[["arr_delay", "late", "one"]]
        .sum()
    )
    if daily.empty:
        return pd.DataFrame(
            {"carrier": [], "mean_delay_7d": [], "late_share_7d": [], EVENT_TIMESTAMP: pd.to_datetime([], utc=True).as_unit("us")}
        )
    days = pd.date_range(day_end.min(), day_end.max(), freq="D").as_unit("us")
    carriers = daily.index.get_level_values("carrier").unique()
    grid = pd.MultiIndex.from_product([carriers, days], names=["carrier", "day_end"])
    rolled = daily.reindex(grid, fill_value=0.0).groupby(level="carrier").rolling(RECENT.days, min_periods=1).sum().droplevel(0)
    rolled = rolled[rolled["one"] > 0].reset_index()
    return pd.DataFrame(
        {
            "carrier": rolled["carrier"],
            "mean_delay_7d": (rolled["arr_delay"] / rolled["one"]).round(6),
            "late_share_7d": (rolled["late"] / rolled["one"]).round(6),
            EVENT_TIMESTAMP: rolled["day_end"],
        }
    ).sort_values([EVENT_TIMESTAMP, "carrier"], ignore_index=True)


def examples(raw: Mapping[str, pd.DataFrame], as_of: datetime) -> pd.DataFrame:
    """One row per scheduled departure up to `as_of`.

    A cancelled or diverted flight has a forecast but never a label; a late one is 1, more than 15 minutes after schedule.
    No calendar position (month, day of the year) is among the features: a model would only learn the year by heart.
    """
    import pandas as pd

    flights = raw["flights"]
    flights = flights[flights["scheduled_departure"] <= pd.Timestamp(as_of)]
    outcome = raw["arrivals"].loc[lambda rows: rows["arr_delay"].notna(), [ROW_ID, "arr_delay", "known_at"]]
    frame = flights.merge(outcome, on=ROW_ID, how="left", validate="one_to_one")
    known = frame["known_at"] <= pd.Timestamp(as_of)
    local = frame["scheduled_departure"].dt.tz_convert(AIRPORT_TIME)
    arrival = frame["sched_arr_time"]
    return pd.DataFrame(
        {
            ROW_ID: frame[ROW_ID],
            EVENT_TIMESTAMP: frame["scheduled_departure"],
            "carrier": frame["carrier"],
            "origin": frame["origin"],
            "dest": frame["dest"],
            "tailnum": frame["tailnum"].fillna("unknown"),
            "distance": frame["distance"],
            "scheduled_hour": (local.dt.hour + local.dt.minute / 60).round(4),
            "weekday": local.dt.weekday.astype("float64"),
            "arrival_hour": (arrival // 100 + arrival % 100 / 60).round(4),
            LABEL: (frame["arr_delay"] > LATE_MINUTES).astype("float64").where(known),
            LABEL_AT: frame["known_at"].where(known),
        }
    )
