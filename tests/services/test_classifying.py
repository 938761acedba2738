"""Columns at ingest: dropped or pseudonymised before anything is written, and a stop where one holds more than was declared."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from flows.adapters.settings import PROJECT_ROOT, Settings
from flows.adapters.storage import SiteStorage
from flows.adapters.workload_declarations import ColumnSteps
from flows.core.errors import UserError
from flows.core.governance.columns import checked_key, key_variable, pseudonym
from flows.core.governance.labels import Classification, Label
from flows.core.workload import Expectation, Table
from flows.services.classifying import ColumnRules, key_elsewhere, rules_of
from flows.services.context import StepContext, StepResult
from flows.services.ingesting import ingest
from flows.store import ledger
from flows.store.database import State
from tests.services.test_ingesting import MARCH, RESTRICTED, Shop

SECRET = "ada.lovelace"
KEY = checked_key("shop-raw", "k" * 64)
GUESTS = Table("guests", {"guest": "string", "email": "string", "room": "int64"}, key=("guest",))
ROOMY = Expectation("expect_column_values_to_be_between", {"column": "room", "min_value": 0, "max_value": 900}, "quarantine")


def guests() -> pd.DataFrame:
    """Forty guests who left an address."""
    names = [f"{SECRET}.{number}" for number in range(40)]
    return pd.DataFrame({"guest": names, "email": [f"{name}@example.com" for name in names], "room": range(40)})


class Hotel(Shop):
    """A workload of one table of people."""

    def __init__(self, *columns: str, rows: pd.DataFrame | None = None, types: dict[str, str] | None = None) -> None:
        kept = {name: kind for name, kind in GUESTS.columns.items() if name in (columns or GUESTS.columns)} | (types or {})
        key = ("guest",) if "guest" in kept else ("room",)
        super().__init__(tables=(replace(GUESTS, columns=kept, key=key, expectations=(ROOMY,)),))
        self.frame = guests() if rows is None else rows

    def read(self, table: str, until: object) -> pd.DataFrame:  # type: ignore[override]
        return self.frame.copy()


def context(folder: Path, workload: Shop, label: Label = RESTRICTED) -> StepContext:
    state = State(f"sqlite:///{folder / 'state.db'}")
    state.migrate()
    return StepContext(
        settings=Settings(home=folder),
        workload=workload,  # type: ignore[arg-type]
        step="ingest",
        site="here",
        pool="here-pool",
        storage=SiteStorage("here", folder / "sites" / "here"),
        state=state,
        as_of=MARCH,
        intent_id="shop/ingest/2013-03-10/manual",
        decision_id="d" * 64,
        inputs={},
        label=label,
    )


def rules(otherwise: str = "internal", *, drop: tuple[str, ...] = (), pseudonymise: tuple[str, ...] = (), **declared: str) -> ColumnRules:
    return ColumnRules(
        dataset="shop-raw",
        otherwise=Classification(otherwise),
        steps=ColumnSteps(drop=frozenset(drop), pseudonymise=frozenset(pseudonymise)),
        declared={f"guests.{name}": Classification(level) for name, level in declared.items()},
        key=KEY if pseudonymise else None,
    )


def landed(ctx: StepContext, result: StepResult) -> pd.DataFrame:
    (raw,) = [each for each in result.outputs if each.dataset == "shop-raw"]
    frame: pd.DataFrame = pq.read_table(ctx.storage.open("shop-raw", raw.version) / "guests" / "all.parquet").to_pandas()
    return frame


def written(folder: Path) -> bytes:
    """Every byte under the folder, Parquet unpacked."""
    found = b""
    for path in folder.rglob("*"):
        if path.is_file():
            found += pq.read_table(path).to_pandas().to_csv().encode() if path.suffix == ".parquet" else path.read_bytes()
    return found


def test_a_column_above_its_declared_class_stops_the_ingest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One message with column, kind, share and classes; no version of anything, no value at the site, in logs or in the state."""
    caplog.set_level("DEBUG")
    ctx = context(tmp_path, Hotel())
    with pytest.raises(UserError, match=r"`guests.email`: holds e-mail addresses \(in 100 % .*\), declared internal") as caught:
        ingest(ctx, rules=rules())
    assert [ctx.storage.versions(f"shop-{kind}") for kind in ("raw", "quarantine", "reports")] == [[], [], []]
    assert SECRET.encode() not in written(tmp_path)
    assert SECRET not in caplog.text and SECRET not in str(caught.value)


def test_a_stop_is_in_the_ledger_without_a_value(tmp_path: Path) -> None:
    """Who audits sees which column, which kind, which share, which classes; nothing of a person."""
    ctx = context(tmp_path, Hotel())
    with pytest.raises(UserError):
        ingest(ctx, rules=rules())
    with ctx.state.reading() as tx:
        (row,) = ledger.rows(tx, kind="classification")
    assert row.body["passed"] is False
    assert row.body["columns"] == [
        {"column": "guests.email", "kind": "e-mail addresses", "share": 1.0, "needs": "confidential", "declared": "internal"}
    ]
    assert SECRET not in str(row.body)


def test_a_stop_keeps_the_version_before(tmp_path: Path) -> None:
    """What was landed while the source was clean stays as it was."""
    clean = Hotel(rows=guests().assign(email="none given"))
    before = ingest(context(tmp_path, clean), rules=rules())
    ctx = context(tmp_path, Hotel())
    with pytest.raises(UserError):
        ingest(ctx, rules=rules())
    assert ctx.storage.versions("shop-raw") == [each.version for each in before.outputs if each.dataset == "shop-raw"]


@pytest.mark.parametrize(
    "declared", [rules("confidential"), rules("restricted", email="confidential")], ids=["by the dataset's label", "column by column"]
)
def test_a_column_within_its_declared_class_lands(tmp_path: Path, declared: ColumnRules) -> None:
    """Undeclared columns count as the dataset's own label; what was found is a fact of the version."""
    ctx = context(tmp_path, Hotel())
    result = ingest(ctx, rules=declared)
    assert len(landed(ctx, result)) == 40
    facts = next(each.facts for each in result.outputs if each.dataset == "shop-raw")
    assert facts["schema"] == {"guests": dict(GUESTS.columns)}
    assert [(each["column"], each["kind"]) for each in facts["personal_data"]] == [("guests.email", "e-mail addresses")]


def test_a_column_declared_below_what_it_holds_stops_in_a_restricted_dataset(tmp_path: Path) -> None:
    """A column's own class is what counts, however strict the label of the rest is."""
    with pytest.raises(UserError, match=r"`guests.email`.*declared internal"):
        ingest(context(tmp_path, Hotel()), rules=rules("restricted", email="internal"))


def test_a_dropped_column_is_never_written(tmp_path: Path) -> None:
    """Not in raw, not in the quarantine, not in a report: it is gone before anything is looked at."""
    rows = guests()
    rows.loc[3, "room"] = 4711
    ctx = context(tmp_path, Hotel("room", rows=rows))
    result = ingest(ctx, rules=rules(drop=("guests.email", "guests.guest")))
    assert list(landed(ctx, result).columns) == ["room"]
    assert result.numbers["quarantined"] == 1
    assert SECRET.encode() not in written(tmp_path)


def test_pseudonyms_replace_values_and_are_stable(tmp_path: Path) -> None:
    """The same key gives the same pseudonyms in another place, so joins with what is there already still work."""
    declared = rules(drop=("guests.email",), pseudonymise=("guests.guest",))
    first, second = context(tmp_path / "a", Hotel("guest", "room")), context(tmp_path / "b", Hotel("guest", "room"))
    made = landed(first, ingest(first, rules=declared))
    assert set(made["guest"]) == {pseudonym(KEY, value) for value in guests()["guest"]}
    assert landed(second, ingest(second, rules=declared)).equals(made)
    assert SECRET.encode() not in written(tmp_path)


def test_pseudonyms_are_not_judged(tmp_path: Path) -> None:
    """After it the column's class is as declared: a pseudonym under the name of a person's number lands in an internal dataset."""
    rows = guests().rename(columns={"guest": "patient_id"}).drop(columns="email")
    ctx = context(tmp_path, Hotel("room", rows=rows, types={"patient_id": "string"}))
    with pytest.raises(UserError, match="identifiers of people"):
        ingest(ctx, rules=rules())
    assert len(landed(ctx, ingest(ctx, rules=rules(pseudonymise=("guests.patient_id",))))) == 40


def test_another_key_lands_another_version(tmp_path: Path) -> None:
    """A rotated key makes every file of the column new; nothing of both keys is ever mixed in one version."""
    declared = rules(drop=("guests.email",), pseudonymise=("guests.guest",))
    ctx = context(tmp_path, Hotel("guest", "room"))
    ingest(ctx, rules=declared)
    rotated = ingest(ctx, rules=replace(declared, key=checked_key("shop-raw", "n" * 64)))
    assert rotated.numbers["files_new"] == 1
    assert len(ctx.storage.versions("shop-raw")) == 2


@pytest.mark.parametrize(
    ("workload", "declared", "told"),
    [
        (Hotel(), rules(drop=("guests.emial",)), r"`guests.emial`.*the source has no such column"),
        (Hotel(), rules(drop=("guests.email",)), r"`guests.email`: the column is dropped and declared"),
        (Hotel(), rules("restricted", pseudonymise=("guests.room",)), r"`guests.room`: pseudonyms are text, the table declares `int64`"),
    ],
    ids=["a typo", "dropped and declared", "of another type"],
)
def test_steps_that_do_not_fit_the_table_are_told(tmp_path: Path, workload: Shop, declared: ColumnRules, told: str) -> None:
    """A step that would do nothing, or something else than meant, lands nothing."""
    ctx = context(tmp_path, workload)
    with pytest.raises(UserError, match=told):
        ingest(ctx, rules=declared)
    assert ctx.storage.versions("shop-raw") == []


@pytest.fixture
def declared_shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Declarations with a `shop` whose guests are pseudonymised, and no key in the environment."""
    folder = tmp_path / "deployments"
    shutil.copytree(PROJECT_ROOT / "deployments", folder, ignore=shutil.ignore_patterns("*.py", "__pycache__", "skeleton"))
    catalog = (folder / "catalog" / "nafld.yaml").read_text().replace("nafld", "shop")
    label = "label: {classification: restricted, regimes: [gdpr, hipaa], residency: [EU]}"
    assert label in catalog
    (folder / "catalog" / "shop.yaml").write_text(catalog.replace(label, f"{label}\n    columns: {{guests.email: confidential}}"))
    workload = (folder / "workloads" / "nafld.yaml").read_text().replace("name: nafld", "name: shop")
    steps = "  ingest:\n    columns: {pseudonymise: [guests.guest]}\n"
    (folder / "workloads" / "shop.yaml").write_text(workload.replace("  ingest:\n", steps))
    monkeypatch.delenv(key_variable("shop-raw"), raising=False)
    yield Settings(home=tmp_path, deployments=folder)


def test_a_missing_key_stops_before_any_data_is_read(tmp_path: Path, declared_shop: Settings) -> None:
    """One message with the variable and the secret; the source was not touched."""

    class Untouched(Hotel):
        def read(self, table: str, until: object) -> pd.DataFrame:  # type: ignore[override]
            raise AssertionError("the source was read")

    ctx = replace(context(tmp_path, Untouched()), settings=declared_shop)
    with pytest.raises(UserError, match="no key for the pseudonyms of `shop-raw`; nothing was read"):
        ingest(ctx)


def test_rules_come_from_declarations_and_the_key_from_the_environment(
    tmp_path: Path, declared_shop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps from the workload, classes and label from the catalog; the key is in no text of the rules."""
    assert key_elsewhere("shop", declared_shop) == ("TRADEWIND_PSEUDONYM_KEY_SHOP_RAW", "pseudonym-key-shop-raw")
    monkeypatch.setenv(key_variable("shop-raw"), "z" * 40)
    found = rules_of(replace(context(tmp_path, Hotel()), settings=declared_shop))
    assert found.steps.pseudonymise == {"guests.guest"}
    assert found.declared == {"guests.email": Classification.CONFIDENTIAL}
    assert found.otherwise is Classification.RESTRICTED
    assert found.key == b"z" * 40 and "z" * 40 not in repr(found)
    assert key_elsewhere("shop", declared_shop) is None


def test_shipped_workloads_pseudonymise_nothing() -> None:
    """They need no key to run."""
    assert [key_elsewhere(name, Settings()) for name in ("nafld", "flight_delay")] == [None, None]


def test_columns_of_an_unknown_table_are_told(tmp_path: Path, declared_shop: Settings) -> None:
    """The catalog names `guests.email`; a workload without such a table is not what was declared."""
    with pytest.raises(UserError, match=r"`shop` has no table of the column `guests"):
        rules_of(replace(context(tmp_path, Shop()), settings=declared_shop))
