"""The materialize step on a small workload: what is in the frame, what is hidden, what stops it."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from flows.adapters.features import FEATURE_REPO
from flows.adapters.settings import Settings
from flows.adapters.storage import SiteStorage
from flows.core.errors import IntegrityError, Unavailable, UserError
from flows.core.governance.labels import Label
from flows.core.workload import DriftThresholds, ModelSpec, PromotionGate, Table, Windows
from flows.services.context import DatasetRef, StepContext, StepResult
from flows.services.materializing import materialize
from flows.store.database import State

SHOP = Path(__file__).parents[1] / "feature_repo" / "shop" / "shop.py"
DAY = timedelta(days=1)
START = datetime(2020, 1, 1, tzinfo=UTC)
INSTANT = "timestamp[us, tz=UTC]"


def instants(*days: float) -> pd.Series:
    return pd.Series(pd.to_datetime([START + DAY * day for day in days], utc=True)).dt.as_unit("us")


class Shop:
    """Will a visit end in an order? Known three days after it."""

    name = "shop"
    title = "Shop"
    tables = (
        Table(
            "visits",
            {"visit": "string", "at": INSTANT, "customer": "string", "price": "float64", "bought": "float64"},
            ("visit",),
            "at",
            "at",
        ),
        Table("orders", {"customer": "string", "at": INSTANT, "spent": "float64"}, ("customer", "at"), "at"),
        Table("people", {"customer": "string", "age": "float64", "city": "string"}, ("customer",)),
    )
    feature_service = "shop_v1"
    windows = Windows(train=30 * DAY, holdout=10 * DAY, score=5 * DAY, watch=10 * DAY)
    model = ModelSpec(numeric=("price", "spent", "share", "age"), categorical=("city",), slices=("city", "customer"))
    gate = PromotionGate()
    drift = DriftThresholds()

    def read(self, table: str, until: datetime) -> pd.DataFrame:
        """Never asked for: what ingest would have published is given."""
        raise AssertionError(f"materialize read `{table}` at its source")

    def feature_tables(self, raw: Mapping[str, pd.DataFrame]) -> Mapping[str, pd.DataFrame]:
        return {
            "orders": raw["orders"].rename(columns={"at": "event_timestamp"}),
            "profile": raw["people"].assign(event_timestamp=pd.Timestamp(START)),
        }

    def examples(self, raw: Mapping[str, pd.DataFrame], as_of: datetime) -> pd.DataFrame:
        frame = raw["visits"].merge(raw["people"][["customer", "city"]], on="customer", how="left")
        return frame.rename(columns={"visit": "row_id", "at": "event_timestamp", "bought": "label"}).assign(
            label_at=lambda rows: rows["event_timestamp"] + 3 * DAY
        )

    def estimator(self) -> Any:
        """Never asked for: nothing is trained."""
        raise AssertionError("materialize asked for an estimator")


def raw_tables() -> dict[str, pd.DataFrame]:
    days = [float(day) for day in range(100)]
    visits = pd.DataFrame({"visit": [f"v{day:03.0f}" for day in days], "at": instants(*days)})
    visits = visits.assign(customer=["ada", "bob"] * 50, price=2.0, bought=[0.0, 1.0] * 50)
    orders = pd.DataFrame(
        {"customer": ["ada", "bob"] * 10, "at": instants(*range(0, 100, 5)), "spent": [float(day) for day in range(1, 21)]}
    )
    return {
        "visits": visits,
        "orders": orders,
        "people": pd.DataFrame({"customer": ["ada", "bob"], "age": [36.0, 50.0], "city": ["Rome", None]}),
    }


Context = Callable[..., StepContext]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    folder.mkdir()
    shutil.copy(SHOP, folder / "shop.py")
    shutil.copy(FEATURE_REPO / "feature_store.embedded.yaml", folder)
    return folder


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """A context over published raw tables, by default the shop's as of day 90."""

    def make(
        raw: Mapping[str, pd.DataFrame] | None = None,
        *,
        day: float = 90,
        workload: Any = None,
        classification: str = "internal",
        site: str = "here",
    ) -> StepContext:
        storage = SiteStorage(site, tmp_path / site)
        with storage.draft("shop-raw") as draft:
            for name, frame in (raw or raw_tables()).items():
                (draft / name).mkdir()
                if name == "visits":
                    for month, rows in frame.groupby(frame["at"].dt.strftime("%Y-%m")):
                        rows.to_parquet(draft / name / f"{month}.parquet", index=False)
                else:
                    frame.to_parquet(draft / name / "all.parquet", index=False)
            landed = storage.publish("shop-raw", draft, {})
        return StepContext(
            settings=Settings(home=tmp_path),
            workload=workload or Shop(),
            step="materialize",
            site=site,
            pool=f"{site}-pool",
            storage=storage,
            state=State(f"sqlite:///{tmp_path / 'state.db'}"),
            as_of=START + DAY * day,
            intent_id="shop/materialize/2020-03/schedule",
            decision_id=None,
            inputs={"raw": DatasetRef("shop-raw", landed.version)},
            label=Label(classification=classification, residency="anywhere"),
        )

    return make


def frame_of(ctx: StepContext, result: StepResult) -> pd.DataFrame:
    (made,) = result.outputs
    return pd.read_parquet(ctx.storage.open(made.dataset, made.version) / "features.parquet")


def test_the_frame_has_the_model_s_columns_in_order(context: Context, repository: Path) -> None:
    """Ids, instants, features, slices that are no features, the label and when it was known."""
    ctx = context()
    result = materialize(ctx, repository=repository)
    frame = frame_of(ctx, result)
    assert frame.columns.tolist() == [
        *("row_id", "event_timestamp", "price", "spent", "share", "age", "city", "customer", "label", "label_at"),
    ]
    assert result.outputs[0].dataset == "shop-features"
    last = frame.iloc[-1]
    assert (last["row_id"], last["spent"], last["share"], last["age"], last["city"]) == ("v090", 19.0, 2 / 19, 36.0, "Rome")


def test_only_rows_that_a_window_can_reach_are_joined(context: Context, repository: Path) -> None:
    """Forty days of training and holdout before the newest label, which is three days old, and a week of margin."""
    ctx = context()
    result = materialize(ctx, repository=repository)
    frame = frame_of(ctx, result)
    assert frame["event_timestamp"].min() == START + (90 - 3 - 40 - 7) * DAY
    assert result.numbers["rows_in"] == result.numbers["rows_out"] == len(frame) == 51
    assert result.numbers["examples"] == 91


def test_a_label_that_arrives_after_as_of_is_hidden_with_its_instant(context: Context, repository: Path) -> None:
    """Visits of the last three days have no label yet."""
    ctx = context()
    frame = frame_of(ctx, materialize(ctx, repository=repository)).set_index("row_id")
    assert frame.loc["v087", "label"] == 1.0
    assert frame.loc[["v088", "v089", "v090"], ["label", "label_at"]].isna().all(axis=None)


def test_nothing_landed_after_as_of_changes_the_frame(context: Context, repository: Path) -> None:
    """Raw data that holds later rows gives the same bytes as raw data that ends at `as_of`."""
    whole, until = raw_tables(), pd.Timestamp(START + 90 * DAY)
    cut = {name: frame[frame["at"] <= until] if "at" in frame else frame for name, frame in whole.items()}
    assert len(cut["visits"]) < len(whole["visits"])
    planted = {**whole, "orders": whole["orders"].assign(spent=whole["orders"]["spent"].where(whole["orders"]["at"] <= until, 1e9))}
    results = [materialize(context(raw, site=site), repository=repository) for site, raw in (("one", planted), ("two", cut))]
    assert results[0].outputs[0].version == results[1].outputs[0].version


def test_the_same_inputs_give_the_same_bytes(context: Context, repository: Path) -> None:
    """Shuffled source rows and another process's hash seed make no difference, so a re-run lands on the version that is there."""
    shuffled = {name: frame.sample(frac=1.0, random_state=7) for name, frame in raw_tables().items()}
    first = materialize(context(site="one"), repository=repository).outputs[0]
    second = materialize(context(shuffled, site="two"), repository=repository).outputs[0]
    assert first.files == second.files


def test_the_file_has_microsecond_utc_instants_and_no_pandas_metadata(context: Context, repository: Path) -> None:
    """Any engine reads it alike."""
    ctx = context()
    (made,) = materialize(ctx, repository=repository).outputs
    schema = pq.read_schema(ctx.storage.open(made.dataset, made.version) / "features.parquet")
    assert {str(schema.field(name).type) for name in ("event_timestamp", "label_at")} == {INSTANT}
    assert schema.metadata is None
    assert str(schema.field("city").type) == "string"


def test_a_second_run_finds_the_online_store_there(context: Context, repository: Path) -> None:
    """Nothing is done twice; a later `as_of` writes only the entities with news."""
    first = materialize(context(day=91), repository=repository).numbers
    assert (first["views"], first["views_there_already"], first["online_rows"]) == (2, 0, 4)
    again = materialize(context(day=91), repository=repository).numbers
    assert (again["views_there_already"], again["online_rows"]) == (2, 0)
    later = materialize(context(day=96), repository=repository).numbers
    assert (later["views_there_already"], later["online_rows"]) == (0, 1)


def test_what_was_made_is_told_in_numbers_and_facts(context: Context, repository: Path) -> None:
    """Feature-service version, raw version and freshness are on record."""
    ctx = context()
    result = materialize(ctx, repository=repository)
    (made,) = result.outputs
    assert made.facts["raw"] == str(ctx.inputs["raw"])
    assert made.facts["feature_service_version"] == result.numbers["feature_service_version"]
    assert (made.facts["rows"], made.facts["labelled"]) == (51, 48)
    assert result.numbers["freshness"]["orders"] == {"newest": "2020-03-31T00:00:00Z", "age_hours": 0.0, "ttl_hours": 720.0, "stale": False}
    assert "51 rows of 5 features by `shop_v1`" in result.summary


def test_a_stale_view_warns(context: Context, repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Orders that stopped more than a ttl ago are counted and named."""
    raw = raw_tables()
    raw["orders"] = raw["orders"].head(8)
    with caplog.at_level(logging.WARNING):
        result = materialize(context(raw), repository=repository)
    assert result.numbers["stale_views"] == 1
    assert "view orders is older than its ttl" in caplog.text
    assert "stale: orders" in result.summary


def test_a_stale_view_stops_the_step_where_its_tag_says_so(context: Context, repository: Path) -> None:
    """Nothing is published then."""
    module = repository / "shop.py"
    module.write_text(module.read_text().replace("ttl=timedelta(days=30),", 'ttl=timedelta(days=30), tags={"stale": "error"},'))
    raw = raw_tables()
    raw["orders"] = raw["orders"].head(8)
    ctx = context(raw)
    with pytest.raises(Unavailable, match=r"`orders` \(ttl 30 days"):
        materialize(ctx, repository=repository)
    assert ctx.storage.versions("shop-features") == []


class Foresight(Shop):
    """A workload that gives examples of the future."""

    def examples(self, raw: Mapping[str, pd.DataFrame], as_of: datetime) -> pd.DataFrame:
        found = super().examples(raw, as_of)
        return found.assign(event_timestamp=found["event_timestamp"] + DAY)


class Doubled(Shop):
    """A workload whose ids repeat."""

    def examples(self, raw: Mapping[str, pd.DataFrame], as_of: datetime) -> pd.DataFrame:
        return super().examples(raw, as_of).assign(row_id="same")


@pytest.mark.parametrize(("workload", "message"), [(Foresight(), "1 rows after"), (Doubled(), "`row_id` of their own")])
def test_examples_that_break_the_interface_are_refused(context: Context, repository: Path, workload: Shop, message: str) -> None:
    """An example after `as_of`, an id given twice."""
    with pytest.raises(IntegrityError, match=message):
        materialize(context(workload=workload), repository=repository)


class Unknown(Shop):
    """A model that wants a feature that nobody makes."""

    model = ModelSpec(numeric=("price", "mood"))


def test_a_feature_that_nobody_makes_is_named(context: Context, repository: Path) -> None:
    """The message says what does not fit, before any join."""
    with pytest.raises(UserError, match="neither `shop_v1` nor `examples` has `mood`"):
        materialize(context(workload=Unknown()), repository=repository)


def test_an_as_of_before_all_data_is_a_user_error(context: Context, repository: Path) -> None:
    """There is nothing to join yet."""
    with pytest.raises(UserError, match="no example"):
        materialize(context(day=-3), repository=repository)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.pop("people"), "no table `people`"),
        (lambda raw: raw.update(orders=raw["orders"].drop(columns="spent")), "`orders` lacks `spent`"),
    ],
)
def test_raw_data_without_a_table_or_column_is_a_user_error(
    context: Context, repository: Path, change: Callable[[dict[str, pd.DataFrame]], object], message: str
) -> None:
    """The message names the table, and the column."""
    raw = raw_tables()
    change(raw)
    with pytest.raises(UserError, match=message):
        materialize(context(raw), repository=repository)


class Careless(Shop):
    """A workload whose own code quotes a row when it fails."""

    def feature_tables(self, raw: Mapping[str, pd.DataFrame]) -> Mapping[str, pd.DataFrame]:
        raise ValueError(f"cannot convert {raw['people']['city'][0]}")


def test_above_internal_no_message_quotes_a_row(context: Context, repository: Path) -> None:
    """Logs and run states rest in control: of another's error only the type is told on."""
    with pytest.raises(IntegrityError, match="ValueError") as told:
        materialize(context(workload=Careless(), classification="restricted"), repository=repository)
    assert "Rome" not in str(told.value)
    assert told.value.__suppress_context__
    with pytest.raises(ValueError, match="Rome"):
        materialize(context(workload=Careless()), repository=repository)


def test_above_internal_no_instant_of_a_row_is_told(context: Context, repository: Path) -> None:
    """Numbers go to control: a restricted view says whether it is stale, not when its newest person was seen."""
    shown = materialize(context(), repository=repository)
    hidden = materialize(context(classification="restricted"), repository=repository)
    assert "2020-03-31" in str(shown.numbers)
    assert "2020-0" not in str(hidden.numbers)
    assert hidden.numbers["freshness"]["orders"] == {"ttl_hours": 720.0, "stale": False}


def test_a_changed_raw_file_is_found_before_anything_is_read(context: Context, repository: Path) -> None:
    """Checksums are compared when the input is opened."""
    ctx = context()
    path = ctx.open("raw") / "people" / "all.parquet"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(IntegrityError, match="changed"):
        materialize(ctx, repository=repository)


def test_without_an_input_the_step_says_so(context: Context, repository: Path) -> None:
    """Materialize needs `raw`."""
    with pytest.raises(UserError, match="`raw`"):
        materialize(dataclasses.replace(context(), inputs={}), repository=repository)


def test_importing_the_step_loads_no_heavy_library() -> None:
    """A worker pays for Feast and pandas only in the step that uses them."""
    script = "import sys, flows.services.materializing; print(sorted({'feast', 'pandas', 'ibis', 'duckdb', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
