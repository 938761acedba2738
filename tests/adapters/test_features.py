"""The feature store of one site: joins, the online store, what happens when something dies."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from flows.adapters.features import FEATURE_REPO, FeatureStoreAtSite
from flows.adapters.storage import SiteStorage
from flows.core.errors import GuardRefused, IntegrityError, Unavailable, UserError

SHOP = Path(__file__).parents[1] / "feature_repo" / "shop" / "shop.py"
DAY = timedelta(days=1)
START = datetime(2020, 1, 1, tzinfo=UTC)
AS_OF = START + 20 * DAY


def instants(*days: float) -> pd.Series:
    return pd.Series(pd.to_datetime([START + DAY * day for day in days], utc=True)).dt.as_unit("us")


def orders(*rows: tuple[str, float, float]) -> pd.DataFrame:
    """Rows of (customer, day, spent)."""
    return pd.DataFrame(
        {
            "customer": [row[0] for row in rows],
            "event_timestamp": instants(*(row[1] for row in rows)),
            "spent": [float(row[2]) for row in rows],
        }
    )


def profiles(*rows: tuple[str, float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"customer": [row[0] for row in rows], "event_timestamp": instants(*([0] * len(rows))), "age": [row[1] for row in rows]}
    )


def visits(*rows: tuple[str, float, float]) -> pd.DataFrame:
    """Entity rows of (customer, day, price)."""
    return pd.DataFrame(
        {
            "row_id": [f"v{place}" for place in range(len(rows))],
            "event_timestamp": instants(*(row[1] for row in rows)),
            "customer": [row[0] for row in rows],
            "price": [float(row[2]) for row in rows],
        }
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    folder.mkdir()
    shutil.copy(SHOP, folder / "shop.py")
    shutil.copy(FEATURE_REPO / "feature_store.embedded.yaml", folder)
    return folder


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    return {"orders": orders(("ada", 1, 10), ("ada", 8, 40), ("bob", 2, 5)), "profile": profiles(("ada", 36.0), ("bob", 50.0))}


@pytest.fixture
def store(tmp_path: Path, repository: Path, tables: dict[str, pd.DataFrame]) -> FeatureStoreAtSite:
    made = FeatureStoreAtSite(SiteStorage("here", tmp_path / "here"), "shop", repository=repository)
    made.write_sources(tables, AS_OF)
    made.apply()
    return made


def test_a_row_gets_the_newest_value_known_at_its_instant(store: FeatureStoreAtSite) -> None:
    """Ada's second order is known on day 8, so day 7 sees the first and day 9 the second."""
    frame = store.training_set(visits(("ada", 9, 1), ("ada", 7, 1), ("ada", 8, 1)), "shop_v1")
    assert frame["row_id"].tolist() == ["v0", "v1", "v2"]
    assert frame["spent"].tolist() == [40.0, 10.0, 40.0]


def test_a_value_older_than_the_ttl_is_null(store: FeatureStoreAtSite) -> None:
    """A view's ttl is 30 days; a view without one never ages."""
    frame = store.training_set(visits(("bob", 40, 1)), "shop_v1")
    assert frame["spent"].isna().all()
    assert frame["age"].tolist() == [50.0]


def test_a_row_known_after_as_of_is_not_written(store: FeatureStoreAtSite, tables: dict[str, pd.DataFrame]) -> None:
    """A planted future value reaches neither the source table nor a row that comes after it."""
    planted = pd.concat([tables["orders"], orders(("ada", 25, 666))])
    written = store.write_sources({**tables, "orders": planted}, AS_OF)
    assert written["orders"].future == 1
    assert store.training_set(visits(("ada", 26, 1)), "shop_v1")["spent"].tolist() == [40.0]
    store.materialize(AS_OF)
    assert store.online([{"customer": "ada", "price": 1.0}], "shop_v1")["spent"].tolist() == [40.0]


def test_rows_that_share_entity_and_instant_all_come_back(store: FeatureStoreAtSite) -> None:
    """Two visits of one customer at one instant are two rows, each with its own request features."""
    frame = store.training_set(visits(("ada", 9, 4), ("ada", 9, 8), ("ada", 9, 4)), "shop_v1")
    assert frame["row_id"].tolist() == ["v0", "v1", "v2"]
    assert frame["share"].tolist() == [0.1, 0.2, 0.1]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_join_agrees_with_a_search_by_hand(store: FeatureStoreAtSite, tables: dict[str, pd.DataFrame], seed: int) -> None:
    """On random orders and visits, ties of the instant and edges of the ttl included, each row gets what a plain search finds."""
    draw = random.Random(seed)
    bought = sorted({(draw.choice("abcd"), float(draw.randrange(60))) for _ in range(80)})
    placed = [(customer, day, float(number)) for number, (customer, day) in enumerate(bought)]
    seen = [(draw.choice("abcde"), float(draw.randrange(100)), 1.0) for _ in range(300)]
    store.write_sources({**tables, "orders": orders(*placed)}, START + 200 * DAY)

    def search(customer: str, day: float) -> float | None:
        known = [(when, spent) for who, when, spent in placed if who == customer and day - 30 <= when <= day]
        return max(known)[1] if known else None

    found = store.training_set(visits(*seen), "shop_v1")["spent"]
    assert [None if pd.isna(value) else value for value in found] == [search(customer, day) for customer, day, _ in seen]


def test_ids_that_repeat_are_an_integrity_error(store: FeatureStoreAtSite) -> None:
    """Rows in = rows out is checked by id, not by count alone."""
    entity_frame = visits(("ada", 9, 1), ("ada", 9, 2)).assign(row_id="same")
    with pytest.raises(IntegrityError, match="2 rows, 1 of them distinct"):
        store.training_set(entity_frame, "shop_v1")


def test_of_source_rows_that_share_entity_and_instant_the_last_counts(store: FeatureStoreAtSite, tables: dict[str, pd.DataFrame]) -> None:
    """A join must not choose between them at random."""
    doubled = pd.concat([tables["orders"], orders(("ada", 8, 41))])
    assert store.write_sources({**tables, "orders": doubled}, AS_OF)["orders"].doubles == 1
    assert store.training_set(visits(("ada", 9, 1)), "shop_v1")["spent"].tolist() == [41.0]


def test_a_transformation_gives_the_same_offline_and_online(store: FeatureStoreAtSite) -> None:
    """One function serves the training set and the online store."""
    store.materialize(AS_OF)
    offline = store.training_set(visits(("ada", 20, 3), ("bob", 20, 7)), "shop_v1")["share"].tolist()
    online = store.online([{"customer": "ada", "price": 3.0}, {"customer": "bob", "price": 7.0}], "shop_v1")["share"].tolist()
    assert offline == online == [3 / 40, 7 / 5]


def test_an_unknown_entity_is_null_online(store: FeatureStoreAtSite) -> None:
    """Nothing is invented for a customer who was never seen."""
    store.materialize(AS_OF)
    assert store.online([{"customer": "eve", "price": 3.0}], "shop_v1")[["spent", "age"]].isna().all(axis=None)


def test_a_second_materialisation_writes_only_what_is_new(store: FeatureStoreAtSite, tables: dict[str, pd.DataFrame]) -> None:
    """It begins where the view ended, and newer values replace older ones."""
    store.write_sources(tables, START + 5 * DAY)
    first = {each.view: each for each in store.materialize(START + 5 * DAY)}
    assert first["orders"].entities == 2
    store.write_sources(tables, AS_OF)
    second = {each.view: each for each in store.materialize(AS_OF)}
    assert (second["orders"].since, second["orders"].entities) == (START + 5 * DAY, 1)
    assert store.online([{"customer": "ada", "price": 1.0}], "shop_v1")["spent"].tolist() == [40.0]


def test_an_earlier_as_of_never_takes_the_online_store_back(store: FeatureStoreAtSite, tables: dict[str, pd.DataFrame]) -> None:
    """A backfill of the past leaves newer values alone."""
    store.materialize(AS_OF)
    store.write_sources(tables, START + 5 * DAY)
    assert all(each.done for each in store.materialize(START + 5 * DAY))
    assert store.online([{"customer": "ada", "price": 1.0}], "shop_v1")["spent"].tolist() == [40.0]


def test_a_materialisation_killed_between_views_goes_on_with_the_next(store: FeatureStoreAtSite, repository: Path) -> None:
    """The process dies after the first view; the next call finishes the second and does not redo the first."""
    script = """
import os, sys
from datetime import datetime
from pathlib import Path
from flows.adapters.features import FeatureStoreAtSite
from flows.adapters.storage import SiteStorage
root, repository, until = sys.argv[1:]
store = FeatureStoreAtSite(SiteStorage("here", Path(root)), "shop", repository=Path(repository))
store.materialize(datetime.fromisoformat(until), on_view=lambda view: os._exit(9))
"""
    root = store.folder.parents[1]
    killed = subprocess.run([sys.executable, "-c", script, str(root), str(repository), AS_OF.isoformat()], check=False, capture_output=True)
    assert killed.returncode == 9, killed.stderr.decode()
    resumed = FeatureStoreAtSite(SiteStorage("here", root), "shop", repository=repository)
    assert {each.view: each.done for each in resumed.materialize(AS_OF)} == {"orders": True, "profile": False}
    assert resumed.online([{"customer": "ada", "price": 1.0}], "shop_v1")[["spent", "age"]].to_numpy().tolist() == [[40.0, 36.0]]


def test_a_view_whose_columns_changed_is_written_anew(store: FeatureStoreAtSite, repository: Path, tables: dict[str, pd.DataFrame]) -> None:
    """A column added later is filled for the time before it, too."""
    store.materialize(AS_OF)
    module = repository / "shop.py"
    module.write_text(
        module.read_text().replace(
            'Field(name="age", dtype=Float64)', 'Field(name="age", dtype=Float64), Field(name="height", dtype=Float64)'
        )
    )
    changed = FeatureStoreAtSite(SiteStorage("here", store.folder.parents[1]), "shop", repository=repository)
    changed.write_sources({**tables, "profile": tables["profile"].assign(height=1.8)}, AS_OF)
    changed.apply()
    assert {each.view: each.done for each in changed.materialize(AS_OF)} == {"orders": True, "profile": False}
    assert changed.online([{"customer": "ada", "price": 1.0}], "shop_v1")["height"].tolist() == [1.8]
    assert changed.service_version("shop_v1") != store.service_version("shop_v1")


@pytest.mark.parametrize("left", [b"", b"\x0a\xff\xff"], ids=["empty", "torn"])
def test_a_registry_that_was_half_written_is_made_again(store: FeatureStoreAtSite, repository: Path, left: bytes) -> None:
    """Feast writes its registry in place, so a kill can tear it."""
    store.materialize(AS_OF)
    (store.folder / "registry.db").write_bytes(left)
    again = FeatureStoreAtSite(SiteStorage("here", store.folder.parents[1]), "shop", repository=repository)
    again.apply()
    assert not any(each.done for each in again.materialize(AS_OF))
    assert again.online([{"customer": "bob", "price": 1.0}], "shop_v1")["spent"].tolist() == [5.0]


def test_an_online_store_that_was_lost_is_filled_again(store: FeatureStoreAtSite, repository: Path) -> None:
    """The registry's record of what was written says nothing about a file that is gone."""
    store.materialize(AS_OF)
    (store.folder / "online.db").unlink()
    again = FeatureStoreAtSite(SiteStorage("here", store.folder.parents[1]), "shop", repository=repository)
    again.apply()
    again.materialize(AS_OF)
    assert again.online([{"customer": "bob", "price": 1.0}], "shop_v1")["spent"].tolist() == [5.0]


def test_a_table_without_rows_gives_nulls(store: FeatureStoreAtSite, tables: dict[str, pd.DataFrame]) -> None:
    """Early in the data's time nothing is known yet: the join holds, the view is stale, the online store stays empty."""
    nothing = pd.DataFrame({"customer": [], "spent": [], "event_timestamp": instants()})
    store.write_sources({**tables, "orders": nothing}, AS_OF)
    frame = store.training_set(visits(("ada", 9, 1)), "shop_v1")
    assert frame["spent"].isna().all()
    assert frame["age"].tolist() == [36.0]
    assert {each.view: each.stale for each in store.freshness(AS_OF)} == {"orders": True, "profile": False}
    assert {each.view: each.entities for each in store.materialize(AS_OF)} == {"orders": 0, "profile": 2}


def test_freshness_compares_the_newest_row_with_the_ttl(store: FeatureStoreAtSite) -> None:
    """At day 50 the newest order is 42 days old, more than its 30 days."""
    found = {each.view: each for each in store.freshness(START + 50 * DAY)}
    assert (found["orders"].age, found["orders"].stale) == (42 * DAY, True)
    assert (found["profile"].ttl, found["profile"].stale) == (None, False)
    assert not any(each.stale for each in store.freshness(AS_OF))


def test_two_runs_do_not_use_the_same_features_at_once(store: FeatureStoreAtSite) -> None:
    """The second waits, then says what is the matter."""
    with store.exclusive(), pytest.raises(Unavailable, match="another run"), store.exclusive(seconds=0.2):
        pass


def test_the_process_is_left_as_it_was(store: FeatureStoreAtSite) -> None:
    """Neither the working folder nor the environment changes, and every file lies under the site."""
    before = Path.cwd(), dict(os.environ)
    store.apply()
    store.training_set(visits(("ada", 9, 1)), "shop_v1")
    assert (Path.cwd(), dict(os.environ)) == before
    assert {path.name for path in store.folder.iterdir()} == {"orders.parquet", "profile.parquet", "registry.db", "online.db"}


def test_a_view_may_read_only_under_its_site(tmp_path: Path, repository: Path) -> None:
    """A path of its own in a definition is refused before anything is read."""
    module = repository / "shop.py"
    module.write_text(module.read_text().replace('f"{FOLDER}/{table}.parquet"', 'f"/elsewhere/{table}.parquet"'))
    with pytest.raises(UserError, match="no table of this site"):
        FeatureStoreAtSite(SiteStorage("here", tmp_path / "here"), "shop", repository=repository).apply()
    with pytest.raises(GuardRefused):
        FeatureStoreAtSite(SiteStorage("here", tmp_path / "here"), "../../elsewhere/shop", repository=repository)


def test_names_that_do_not_fit_are_told_with_what_there_is(
    store: FeatureStoreAtSite, tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    """A missing table, column, service or module each gives one clear message."""
    with pytest.raises(UserError, match=r"`profile`, which `feature_tables` does not make"):
        store.write_sources({"orders": tables["orders"]}, AS_OF)
    with pytest.raises(UserError, match=r"`orders` lacks `spent`"):
        store.write_sources({**tables, "orders": tables["orders"].drop(columns="spent")}, AS_OF)
    with pytest.raises(UserError, match=r"time zone"):
        store.write_sources({**tables, "orders": tables["orders"].assign(event_timestamp=datetime(2020, 1, 1))}, AS_OF)  # noqa: DTZ001
    with pytest.raises(UserError, match=r"no service `shop_v2`(.|\n)*`shop_v1`"):
        store.training_set(visits(("ada", 9, 1)), "shop_v2")
    with pytest.raises(UserError, match=r"no `bakery.py`"):
        FeatureStoreAtSite(SiteStorage("here", tmp_path / "here"), "bakery", repository=store._module.parent)


def test_the_local_time_zone_changes_nothing(store: FeatureStoreAtSite, repository: Path) -> None:
    """Instants are UTC in files, joins and the online store, wherever the worker stands."""
    script = """
import sys
from datetime import datetime
from pathlib import Path
import pandas as pd
from flows.adapters.features import FeatureStoreAtSite
from flows.adapters.storage import SiteStorage
root, repository, until = sys.argv[1:]
store = FeatureStoreAtSite(SiteStorage("here", Path(root)), "shop", repository=Path(repository))
at = pd.to_datetime([datetime.fromisoformat("2020-01-08T23:59:59+00:00"), datetime.fromisoformat("2020-01-09T00:00:00+00:00")], utc=True)
frame = pd.DataFrame({"row_id": ["a", "b"], "event_timestamp": at.as_unit("us"), "customer": "ada", "price": 1.0})
print(store.training_set(frame, "shop_v1")["spent"].tolist())
store.materialize(datetime.fromisoformat(until))
print(store.online([{"customer": "ada", "price": 1.0}], "shop_v1")["spent"].tolist())
"""
    arguments = [sys.executable, "-c", script, str(store.folder.parents[1]), str(repository), "2020-01-08T23:59:59+00:00"]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, env={**os.environ, "TZ": "America/New_York"})
    assert done.stdout.split("\n")[:2] == ["[10.0, 40.0]", "[10.0]"], done.stderr


def test_nothing_goes_over_the_network(store: FeatureStoreAtSite, repository: Path) -> None:
    """No usage data, no extension download: a fresh process opens no connection at all."""
    script = """
import sys
opened = []
sys.addaudithook(lambda event, arguments: opened.append(arguments) if event in ("socket.connect", "socket.getaddrinfo") else None)
from datetime import datetime
from pathlib import Path
from flows.adapters.features import FeatureStoreAtSite
from flows.adapters.storage import SiteStorage
root, repository, until = sys.argv[1:]
store = FeatureStoreAtSite(SiteStorage("here", Path(root)), "shop", repository=Path(repository))
store.apply()
store.materialize(datetime.fromisoformat(until))
print(len(opened))
"""
    arguments = [sys.executable, "-c", script, str(store.folder.parents[1]), str(repository), AS_OF.isoformat()]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert done.stdout.strip() == "0", done.stderr
