"""One suite over every module of the Feast repository: no leak, no lost row, one value offline and online, agreement with its workload."""

from __future__ import annotations

import ast
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from flows.adapters.features import FEATURE_REPO, FeatureStoreAtSite
from flows.adapters.storage import SiteStorage
from flows.core.workload import ROW_ID, Workload
from flows.workloads import registry

MODULES = sorted(path.stem for path in FEATURE_REPO.glob("*.py") if path.stem != "__init__")
HOUR = timedelta(hours=1)
EVENT = datetime(2020, 1, 1, 12, tzinfo=UTC)
KEY = "k"


def instants(*moments: datetime) -> pd.Series:
    return pd.Series(pd.to_datetime(list(moments), utc=True)).dt.as_unit("us")


def values(field: Any, place: int) -> list[Any]:
    """What a feature is two hours before the event, one hour before it, and an hour after it."""
    return ["old", f"known {place}", "planted"] if "String" in str(field.dtype) else [0.0, 3.0 + 2.0 * place, 1e9]


def history(view: Any) -> pd.DataFrame:
    """Three rows of one entity; the last is known only after the event."""
    keys = {column.name: KEY for column in view.entity_columns}
    known = {field.name: values(field, place) for place, field in enumerate(view.features)}
    return pd.DataFrame({"event_timestamp": instants(EVENT - 2 * HOUR, EVENT - HOUR, EVENT + HOUR), **keys, **known})


@pytest.fixture(params=MODULES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FeatureStoreAtSite:
    made = FeatureStoreAtSite(SiteStorage("here", tmp_path), request.param)
    # the planted values are in the files: only the join stands between them and the event
    made.write_sources({view.batch_source.name: history(view) for view in made._views}, EVENT + 24 * HOUR)
    made.apply()
    return made


def service_of(store: FeatureStoreAtSite) -> str:
    return registry.load(store.workload).feature_service


def entity_frame(store: FeatureStoreAtSite, *, rows: int = 1) -> pd.DataFrame:
    keys = dict.fromkeys(store.inputs(service_of(store)), KEY)
    return pd.DataFrame({ROW_ID: [f"r{place}" for place in range(rows)], "event_timestamp": instants(*[EVENT] * rows), **keys})


def test_no_view_tells_a_row_what_was_known_after_it(store: FeatureStoreAtSite) -> None:
    """In every view, the value an hour after the event is planted; the one an hour before it is joined."""
    frame = store.training_set(entity_frame(store), service_of(store)).iloc[0]
    for view in store._views:
        assert [frame[field.name] for field in view.features] == [values(field, place)[1] for place, field in enumerate(view.features)]


def test_rows_in_are_rows_out_when_they_share_entity_and_instant(store: FeatureStoreAtSite) -> None:
    """Five equal rows with ids of their own are five rows with equal features."""
    frame = store.training_set(entity_frame(store, rows=5), service_of(store))
    assert frame[ROW_ID].tolist() == ["r0", "r1", "r2", "r3", "r4"]
    assert len(frame.drop(columns=ROW_ID).drop_duplicates()) == 1


def test_features_are_the_same_offline_and_online(store: FeatureStoreAtSite) -> None:
    """The online store, brought up to the event, gives what the training set has, on-demand features included."""
    service = service_of(store)
    store.materialize(EVENT)
    online = store.online([dict.fromkeys(store.inputs(service), KEY)], service).iloc[0]
    offline = store.training_set(entity_frame(store), service).iloc[0]
    outputs = store.outputs(service)
    assert outputs
    assert {name: online[name] for name in outputs} == {name: offline[name] for name in outputs}


@pytest.mark.parametrize(
    ("module", "feature", "expected"), [("flight_delay", "dew_spread", 3.0 - 5.0), ("nafld", "diagnoses", 3.0 + 5 + 7 + 9)]
)
def test_an_on_demand_feature_is_what_its_description_says(tmp_path: Path, module: str, feature: str, expected: float) -> None:
    """Temperature minus dew point; the number of groups of diagnoses."""
    made = FeatureStoreAtSite(SiteStorage("here", tmp_path), module)
    made.write_sources({view.batch_source.name: history(view) for view in made._views}, EVENT)
    made.apply()
    assert made.training_set(entity_frame(made), service_of(made))[feature].tolist() == [expected]


@pytest.mark.parametrize("module", MODULES)
def test_module_and_workload_agree(tmp_path: Path, module: str) -> None:
    """Every source table is one the workload makes, with its columns; every model feature comes from the service or the examples."""
    workload: Workload = registry.load(module)
    early = {"flight_delay": datetime(2013, 1, 20, tzinfo=UTC), "nafld": datetime(2003, 1, 1, tzinfo=UTC)}
    as_of = early.get(module, datetime(2030, 1, 1, tzinfo=UTC))
    raw = {table.name: workload.read(table.name, as_of) for table in workload.tables}
    store = FeatureStoreAtSite(SiteStorage("here", tmp_path), module)
    tables, examples = workload.feature_tables(raw), workload.examples(raw, as_of)
    assert set(store.write_sources(tables, as_of)) == set(tables)
    assert set(store.inputs(workload.feature_service)) <= set(examples)
    assert set(workload.model.features) <= set(store.outputs(workload.feature_service)) | set(examples)


@pytest.mark.parametrize("path", sorted(FEATURE_REPO.glob("*.py")), ids=lambda path: path.name)
def test_the_repository_imports_nothing_of_ours(path: Path) -> None:
    """A plain Feast repository works without the rest of the project."""
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [each.name for each in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= {"__future__", "os", "datetime", "pandas", "feast"}


def test_both_profiles_name_the_same_stores_of_one_workload() -> None:
    """One project a workload, DuckDB over the source files, only newest rows online; nothing in the files is a secret or a host."""
    profiles = {name: yaml.safe_load((FEATURE_REPO / f"feature_store.{name}.yaml").read_text()) for name in ("embedded", "cloud")}
    assert {each["project"] for each in profiles.values()} == {"${TRADEWIND_WORKLOAD}"}
    assert {each["offline_store"]["type"] for each in profiles.values()} == {"duckdb"}
    assert all(each["materialization"]["pull_latest_features"] for each in profiles.values())
    assert profiles["cloud"]["online_store"]["connection_string"] == "${TRADEWIND_FEAST_REDIS}"
    assert profiles["cloud"]["registry"]["path"] == "${TRADEWIND_FEAST_REGISTRY}"
