"""Features of flight_delay: the last hour's weather, a carrier's recent week, a plane's plain facts."""

from __future__ import annotations

import os
from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, String

FOLDER = f"{os.environ.get('TRADEWIND_FEATURES', '.')}/flight_delay"


def _source(table: str) -> FileSource:
    return FileSource(name=table, path=f"{FOLDER}/{table}.parquet", timestamp_field="event_timestamp")


airport = Entity(name="airport", join_keys=["origin"], value_type=ValueType.STRING, description="airport of departure, IATA code")
carrier = Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING, description="airline, two-letter code")
plane = Entity(name="plane", join_keys=["tailnum"], value_type=ValueType.STRING, description="one aircraft, by its tail number")

weather_hourly = FeatureView(
    name="weather_hourly",
    description="the last full hour's weather at the airport of departure; °F, %, mph, inches, millibars, miles",
    entities=[airport],
    # a forecast from weather older than this is no better than none
    ttl=timedelta(hours=6),
    schema=[
        Field(name="origin", dtype=String),
        Field(name="temp", dtype=Float64),
        Field(name="dewp", dtype=Float64),
        Field(name="humid", dtype=Float64),
        Field(name="wind_speed", dtype=Float64),
        Field(name="precip", dtype=Float64),
        Field(name="pressure", dtype=Float64),
        Field(name="visib", dtype=Float64),
    ],
    source=_source("weather_hourly"),
)

carrier_recent = FeatureView(
    name="carrier_recent",
    description="mean delay (minutes) and late share of the carrier's arrivals reported in the last seven days",
    entities=[carrier],
    ttl=timedelta(days=7),
    schema=[Field(name="carrier", dtype=String), Field(name="mean_delay_7d", dtype=Float64), Field(name="late_share_7d", dtype=Float64)],
    source=_source("carrier_recent"),
)

plane_facts = FeatureView(
    name="plane_facts",
    description="year built, seats, engines: they do not age",
    entities=[plane],
    ttl=timedelta(0),
    schema=[
        Field(name="tailnum", dtype=String),
        Field(name="built", dtype=Float64),
        Field(name="seats", dtype=Float64),
        Field(name="engines", dtype=Float64),
    ],
    source=_source("plane_facts"),
)


@on_demand_feature_view(
    sources=[weather_hourly],
    schema=[Field(name="dew_spread", dtype=Float64)],
    mode="pandas",
    description="temperature minus dew point, °F: close to zero there is fog or low cloud",
)
def weather_derived(inputs: pd.DataFrame) -> pd.DataFrame:
    """`dew_spread` of each row, shape (n_rows, 1)."""
    derived = pd.DataFrame(index=inputs.index)
    derived["dew_spread"] = inputs["temp"].astype("float64") - inputs["dewp"].astype("float64")
    return derived


flight_delay_v1 = FeatureService(
    name="flight_delay_v1",
    description="what is known of a flight at its scheduled departure",
    features=[weather_hourly, carrier_recent, plane_facts, weather_derived],
)
