"""A small Feast repository for tests: two views of a customer, one transformation, one service."""

import os
from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, String

FOLDER = f"{os.environ.get('TRADEWIND_FEATURES', '.')}/shop"


def _source(table: str) -> FileSource:
    return FileSource(name=table, path=f"{FOLDER}/{table}.parquet", timestamp_field="event_timestamp")


customer = Entity(name="customer", join_keys=["customer"], value_type=ValueType.STRING)
orders = FeatureView(
    name="orders",
    entities=[customer],
    ttl=timedelta(days=30),
    schema=[Field(name="customer", dtype=String), Field(name="spent", dtype=Float64)],
    source=_source("orders"),
)
profile = FeatureView(
    name="profile",
    entities=[customer],
    ttl=timedelta(0),
    schema=[Field(name="customer", dtype=String), Field(name="age", dtype=Float64)],
    source=_source("profile"),
)
basket = RequestSource(name="basket", schema=[Field(name="price", dtype=Float64)])


@on_demand_feature_view(sources=[orders, basket], schema=[Field(name="share", dtype=Float64)], mode="pandas")
def shares(inputs: pd.DataFrame) -> pd.DataFrame:
    """The basket's price as a share of what was spent so far."""
    return pd.DataFrame({"share": inputs["price"] / inputs["spent"]})


shop_v1 = FeatureService(name="shop_v1", features=[orders, profile, shares])
