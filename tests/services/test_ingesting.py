"""Ingest: what lands, what is moved aside, what stops, and that nothing is done twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from flows.adapters.raw_tables import read_parquet
from flows.adapters.settings import Settings
from flows.adapters.storage import SiteStorage
from flows.core.errors import GuardRefused, IntegrityError, TradewindError, UserError
from flows.core.governance.labels import Label
from flows.core.workload import Expectation, Table
from flows.services.context import StepContext, StepResult
from flows.services.ingesting import ingest

INTERNAL = Label.model_validate({"classification": "internal", "residency": "anywhere"})
RESTRICTED = Label.model_validate({"classification": "restricted", "regimes": ["gdpr"], "residency": ["EU"]})
MARCH, APRIL = datetime(2013, 3, 10, tzinfo=UTC), datetime(2013, 4, 10, tzinfo=UTC)
RANGE = Expectation("expect_column_values_to_be_between", {"column": "pieces", "min_value": 0, "max_value": 100}, "quarantine")
NAMED = Expectation("expect_column_values_to_not_be_null", {"column": "shop"})
SALES = Table(
    "sales",
    {"id": "string", "sold_at": "timestamp[us, tz=UTC]", "shop": "string", "pieces": "float64"},
    key=("id",),
    known_at="sold_at",
    partition_by="sold_at",
    expectations=(RANGE, NAMED),
)
SHOPS = Table("shops", {"shop": "string", "city": "string"}, key=("shop",))


def sales() -> pd.DataFrame:
    """A sale a day from 1 January to 30 April 2013."""
    moments = pd.Series(pd.date_range("2013-01-01", "2013-04-30", freq="D", tz="UTC")).dt.as_unit("us")
    return pd.DataFrame({"id": moments.dt.strftime("secret-sale-%m%d"), "sold_at": moments, "shop": "north", "pieces": 5.0})


@dataclass
class Shop:
    """A workload as far as ingest sees it; `source` may be anything `read` can fail on."""

    rows: Any = field(default_factory=sales)
    tables: tuple[Table, ...] = (SALES, SHOPS)
    name: str = "shop"

    def read(self, table: str, until: datetime) -> pd.DataFrame:
        if table == "shops":
            return pd.DataFrame({"shop": ["north"], "city": ["Oslo"]})
        found: pd.DataFrame = self.rows() if callable(self.rows) else self.rows
        return found


def context(folder: Path, workload: Shop, as_of: datetime = MARCH, label: Label = INTERNAL) -> StepContext:
    return StepContext(
        settings=Settings(home=folder),
        workload=workload,  # type: ignore[arg-type]
        step="ingest",
        site="here",
        pool="here-pool",
        storage=SiteStorage("here", folder / "sites" / "here"),
        state=None,  # type: ignore[arg-type]
        as_of=as_of,
        intent_id="shop/ingest/2013-03-10/manual",
        decision_id=None,
        inputs={},
        label=label,
    )


def version(result: StepResult, kind: str) -> Any:
    return next((each for each in result.outputs if each.dataset == f"shop-{kind}"), None)


def folder(ctx: StepContext, result: StepResult, kind: str) -> Path:
    return ctx.storage.open(f"shop-{kind}", version(result, kind).version)


def spoiled(place: int, **values: Any) -> pd.DataFrame:
    frame = sales()
    for name, value in values.items():
        frame.loc[place, name] = value
    return frame


def test_rows_known_by_then_land_by_month(tmp_path: Path) -> None:
    """January, February and ten days of March; a table without months in one file; nothing later."""
    ctx = context(tmp_path, Shop())
    result = ingest(ctx)
    files = sorted(path.relative_to(folder(ctx, result, "raw")).as_posix() for path in folder(ctx, result, "raw").rglob("*.parquet"))
    assert files == ["sales/2013-01.parquet", "sales/2013-02.parquet", "sales/2013-03.parquet", "shops/all.parquet"]
    march = pq.read_table(folder(ctx, result, "raw") / "sales" / "2013-03.parquet")
    assert march.column("sold_at").to_pylist()[-1] == MARCH
    assert str(march.schema.field("sold_at").type) == "timestamp[us, tz=UTC]"
    assert result.numbers["rows_by_table"] == {"sales": 69, "shops": 1}


def test_a_second_run_lands_on_the_same_version_and_checks_nothing(tmp_path: Path) -> None:
    """Done is done: no row is validated again, no report is written, the version is the first one's."""
    first = ingest(context(tmp_path, Shop()))
    second = ingest(context(tmp_path, Shop()))
    assert version(second, "raw").version == version(first, "raw").version
    assert (second.numbers["rows_checked"], second.numbers["files_new"]) == (0, 0)
    assert version(second, "reports") is None
    assert second.links == first.links


def test_the_version_does_not_depend_on_what_was_there_before(tmp_path: Path) -> None:
    """April after March, or April alone: the same content, the same version."""
    ingest(context(tmp_path / "grown", Shop()))
    grown = ingest(context(tmp_path / "grown", Shop(), APRIL))
    alone = ingest(context(tmp_path / "alone", Shop(), APRIL))
    assert version(grown, "raw").version == version(alone, "raw").version


def test_unchanged_months_are_linked_and_not_checked_again(tmp_path: Path) -> None:
    """Only March, which grew, and April are new; January is the same file on disk."""
    before, after = context(tmp_path, Shop()), context(tmp_path, Shop(), APRIL)
    first, second = ingest(before), ingest(after)
    assert second.numbers["files_new"] == 2
    assert second.numbers["rows_checked"] == 41
    january = "sales/2013-01.parquet"
    assert (folder(before, first, "raw") / january).samefile(folder(after, second, "raw") / january)


def test_a_changed_row_makes_its_month_new(tmp_path: Path) -> None:
    """A correction in January is checked and written; February is linked."""
    ingest(context(tmp_path, Shop()))
    result = ingest(context(tmp_path, Shop(rows=spoiled(3, pieces=6.0))))
    assert result.numbers["files_new"] == 1


def test_a_damaged_earlier_file_is_written_anew(tmp_path: Path) -> None:
    """A link to bytes that are not what was published would spread the damage."""
    ctx = context(tmp_path, Shop())
    path = folder(ctx, ingest(ctx), "raw") / "sales" / "2013-01.parquet"
    path.chmod(0o644)
    path.write_bytes(b"rotten")
    result = ingest(context(tmp_path, Shop(), APRIL))
    assert len(pq.read_table(folder(ctx, result, "raw") / "sales" / "2013-01.parquet")) == 31


def test_a_bad_row_is_moved_aside_with_its_reason(tmp_path: Path) -> None:
    """The good rows land, the bad one lies in the same place of the quarantine and says why."""
    ctx = context(tmp_path, Shop(rows=spoiled(3, pieces=4711.0)))
    result = ingest(ctx)
    aside = pq.read_table(folder(ctx, result, "quarantine") / "sales" / "2013-01.parquet").to_pylist()
    assert [(row["id"], row["pieces"]) for row in aside] == [("secret-sale-0104", 4711.0)]
    assert aside[0]["reason"].startswith("expect_column_values_to_be_between of `pieces`")
    assert result.numbers["rows_by_table"]["sales"] == 68
    assert result.numbers["quarantined"] == 1


def test_quarantined_rows_of_unchanged_months_stay_in_the_quarantine(tmp_path: Path) -> None:
    """A month that is linked brings its quarantined rows along."""
    rows = spoiled(3, pieces=4711.0)
    ingest(context(tmp_path, Shop(rows=rows)))
    result = ingest(context(tmp_path, Shop(rows=rows), APRIL))
    assert result.numbers["quarantined"] == 1
    assert list(version(result, "quarantine").files) == ["sales/2013-01.parquet"]


def test_an_expectation_that_stops_lands_nothing(tmp_path: Path) -> None:
    """One sale without a shop: a message with table, column and count, a report, and not one file of data."""
    ctx = context(tmp_path, Shop(rows=spoiled(3, shop=None)))
    with pytest.raises(UserError, match=r"`sales`: 1 of 69 fail expect_column_values_to_not_be_null of `shop`"):
        ingest(ctx)
    assert ctx.storage.versions("shop-raw") == []
    assert ctx.storage.versions("shop-quarantine") == []
    assert len(ctx.storage.versions("shop-reports")) == 1


def test_a_changed_schema_lands_nothing(tmp_path: Path) -> None:
    """The message names table, column, what was expected and what was found."""
    ctx = context(tmp_path, Shop(rows=sales().assign(pieces="five")))
    with pytest.raises(UserError, match=r"`sales.pieces`: the type is `string`; expected `float64`"):
        ingest(ctx)
    assert ctx.storage.versions("shop-raw") == []


def test_a_changed_schema_after_a_good_run_keeps_the_good_version(tmp_path: Path) -> None:
    """What was landed stays; the next good source goes on from there."""
    ctx = context(tmp_path, Shop())
    landed = version(ingest(ctx), "raw").version
    with pytest.raises(UserError, match="the column is missing"):
        ingest(context(tmp_path, Shop(rows=sales().drop(columns="shop"))))
    assert ctx.storage.versions("shop-raw") == [landed]


def test_repeated_keys_stop(tmp_path: Path) -> None:
    """A source that repeats itself would count twice."""
    with pytest.raises(UserError, match="120 of 240 rows repeat a key"):
        ingest(context(tmp_path, Shop(rows=pd.concat([sales(), sales()]))))


@pytest.mark.parametrize("rows", [sales().head(0), sales().tail(5)], ids=["empty", "nothing known yet"])
def test_a_table_without_a_row_is_told(tmp_path: Path, rows: pd.DataFrame) -> None:
    """An empty source, and one whose rows are all known later, have nothing to land."""
    with pytest.raises(UserError, match="table `sales` of `shop` has no row known at 2013-03-10T00:00:00Z"):
        ingest(context(tmp_path, Shop(rows=rows)))


def test_a_suite_that_refuses_every_row_stops(tmp_path: Path) -> None:
    """A table of which nothing is good is no table."""
    ctx = context(tmp_path, Shop(rows=sales().assign(pieces=-1.0)))
    with pytest.raises(UserError, match="every row of table `sales` was quarantined"):
        ingest(ctx)
    assert ctx.storage.versions("shop-raw") == []


@pytest.mark.parametrize("content", [b"", b"PAR1 broken"], ids=["empty", "corrupt"])
def test_a_source_file_that_cannot_be_read_is_told(tmp_path: Path, content: bytes) -> None:
    """An empty and a corrupt Parquet file give one clear message each, nothing half-written."""
    path = tmp_path / "source.parquet"
    path.write_bytes(content)
    ctx = context(tmp_path, Shop(rows=lambda: read_parquet(path)))
    with pytest.raises(IntegrityError, match=r"source\.parquet"):
        ingest(ctx)
    assert ctx.storage.versions("shop-raw") == []


def test_a_failing_reader_is_told_in_one_line(tmp_path: Path) -> None:
    """Whatever a workload's own code raises comes out as a message with the table's name."""
    with pytest.raises(TradewindError, match=r"the source of table `sales` of `shop` cannot be read: ValueError: bad cell 4711"):
        ingest(context(tmp_path, Shop(rows=_fails)))


def test_a_failing_reader_of_restricted_data_quotes_nothing(tmp_path: Path) -> None:
    """A library's message may hold a value of a row: above `internal` only its type is told, and no cause hangs on it."""
    with pytest.raises(TradewindError) as caught:
        ingest(context(tmp_path, Shop(rows=_fails), label=RESTRICTED))
    assert "4711" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize(("label", "told"), [(INTERNAL, True), (RESTRICTED, False)], ids=["internal", "restricted"])
def test_reports_show_refused_values_only_up_to_internal(tmp_path: Path, label: Label, told: bool) -> None:
    """Data Docs lie at the site, linked from the result; of restricted data they hold counts alone."""
    ctx = context(tmp_path, Shop(rows=spoiled(3, pieces=4711.0)), label=label)
    result = ingest(ctx)
    reports = folder(ctx, result, "reports")
    text = "".join(page.read_text() for page in reports.rglob("*.html"))
    assert result.links["data docs"] == (reports / "ingest" / "index.html").as_uri()
    assert ("4711" in text) is told
    assert "secret-sale" not in text


def test_no_row_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Progress lines tell counts."""
    caplog.set_level("INFO")
    ingest(context(tmp_path, Shop(rows=spoiled(3, pieces=4711.0)), label=RESTRICTED))
    assert "checked 69 rows" in caplog.text
    assert "secret-sale" not in caplog.text and "4711" not in caplog.text


def test_a_link_out_of_the_site_is_refused(tmp_path: Path) -> None:
    """A dataset folder that leads to another site's data is not written through."""
    ctx = context(tmp_path, Shop())
    elsewhere = tmp_path / "sites" / "there"
    elsewhere.mkdir(parents=True)
    target = ctx.storage.path("datasets", "shop-raw", "x").parent
    target.rmdir()
    target.symlink_to(elsewhere)
    with pytest.raises(GuardRefused):
        ingest(ctx)
    assert not list(elsewhere.iterdir())


def _fails() -> pd.DataFrame:
    raise ValueError("bad cell 4711")
