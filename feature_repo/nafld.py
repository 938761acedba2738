"""Features of nafld: what is known of a person, the latest laboratory values, the diagnoses so far."""

from __future__ import annotations

import os
from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, String

FOLDER = f"{os.environ.get('TRADEWIND_FEATURES', '.')}/nafld"
KEY = Field(name="patient", dtype=String)


def _source(table: str) -> FileSource:
    return FileSource(name=table, path=f"{FOLDER}/{table}.parquet", timestamp_field="event_timestamp")


def _numbers(*names: str) -> list[Field]:
    return [Field(name=name, dtype=Float64) for name in names]


patient = Entity(name="patient", join_keys=["patient"], value_type=ValueType.STRING, description="one person, by study number")

demographics = FeatureView(
    name="demographics",
    description="age (years), male (0, 1), weight (kg), height (cm), bmi (kg/m²), as recorded at the index date",
    entities=[patient],
    ttl=timedelta(0),
    schema=[KEY, *_numbers("age", "male", "weight", "height", "bmi")],
    source=_source("demographics"),
)

labs = FeatureView(
    name="labs",
    description="latest HDL cholesterol (mg/dl), systolic pressure (mmHg), FIB-4 score and smoking (0, 1)",
    entities=[patient],
    # older values say little of a person today; the study took one a year or so
    ttl=timedelta(days=1826),
    schema=[KEY, *_numbers("hdl", "sbp", "fib4", "smoke")],
    source=_source("labs"),
)

history = FeatureView(
    name="history",
    description="1 for each group of diagnoses made so far; null for a person without any",
    entities=[patient],
    ttl=timedelta(0),
    schema=[KEY, *_numbers("had_htn", "had_dyslipidemia", "had_nafld", "had_cardiac")],
    source=_source("history"),
)


@on_demand_feature_view(
    sources=[history],
    schema=_numbers("diagnoses"),
    mode="pandas",
    description="number of groups of diagnoses made so far, 0 for a person without any",
)
def burden(inputs: pd.DataFrame) -> pd.DataFrame:
    """`diagnoses` of each row, shape (n_rows, 1)."""
    groups = ["had_htn", "had_dyslipidemia", "had_nafld", "had_cardiac"]
    derived = pd.DataFrame(index=inputs.index)
    derived["diagnoses"] = inputs[groups].astype("float64").fillna(0.0).sum(axis=1)
    return derived


nafld_v1 = FeatureService(
    name="nafld_v1",
    description="what is known of a person at the index date",
    features=[demographics, labs, history, burden],
)
