"""Steps at a site whose data is in an S3 bucket: against moto's server (S3's protocol, no rights), with real Feast, MLflow and records."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flows.adapters.settings import Settings
from flows.adapters.storage import site_storage
from flows.adapters.subject_search import Subject
from flows.core.errors import Unavailable
from flows.services import erasing_at_site
from flows.services.erasing_at_site import Place, Serving
from flows.services.local_run import acting_as
from flows.services.running import run_step
from flows.store import ledger, transfers
from flows.store.database import State
from tests.adversarial.test_transfers import ALLOWED, HOME, PLANTED, Estate, planted
from tests.emulators.s3 import S3, s3
from tests.services.bucket_world import BucketShop
from tests.tickets import keyed, sent


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    """One server for all tests."""
    with s3() as found:
        yield found


@pytest.fixture
def shop(server: S3, tmp_path: Path, empty_mlflow: Path) -> BucketShop:
    """A shop at a site in a bucket of its own."""
    url = f"s3://{server.bucket(f'shop-{abs(hash(tmp_path))}')}/site"
    return BucketShop(Settings(home=tmp_path / "home", sites={"here": server.connection(url)}), "here", tmp_path, empty_mlflow)


def keys(server: S3, shop: BucketShop) -> list[str]:
    bucket = shop.settings.sites["here"].url.split("/")[2]
    return [one["Key"] for one in server.client().list_objects_v2(Bucket=bucket).get("Contents", ())]


def test_a_workload_is_ingested_materialised_and_trained(shop: BucketShop, server: S3) -> None:
    """Data, features, model and MLflow's artifacts rest in the bucket, below the site's prefix; the home holds none of them."""
    shop.ingest()
    assert shop.materialize().numbers["online_rows"] == 4
    trained = shop.train()
    folders = {tuple(key.split("/")[:3]) for key in keys(server, shop)}
    assert folders == {
        ("site", "datasets", "shop-raw"),
        ("site", "datasets", "shop-reports"),
        ("site", "datasets", "shop-features"),
        ("site", "datasets", "shop-model"),
        ("site", "features", "shop"),
        ("site", "artifacts", "shop"),
    }
    assert any(key.endswith("roc.png") for key in keys(server, shop)) and any(key.endswith("MLmodel") for key in keys(server, shop))
    assert trained.numbers["model_version"] == "1"
    assert not (shop.settings.home / "sites").exists()


def test_a_second_run_finds_what_the_first_left(shop: BucketShop) -> None:
    """No row is checked again; registry and online store are those of before, so nothing is written to them twice."""
    shop.ingest()
    first = shop.materialize()
    again = shop.ingest()
    assert (again.numbers["rows_checked"], again.numbers["files_new"]) == (0, 0)
    second = shop.materialize()
    assert [one.version for one in second.outputs] == [one.version for one in first.outputs]
    assert (second.numbers["views_there_already"], second.numbers["online_rows"]) == (2, 0)


def test_links_lead_into_the_bucket(shop: BucketShop) -> None:
    """Data Docs and reports are named by their address there."""
    links = shop.ingest().links
    assert links and all(link.startswith(f"{shop.settings.sites['here'].url}/datasets/shop-reports/") for link in links.values())


def test_a_person_is_erased_from_a_bucket(shop: BucketShop) -> None:
    """Raw rows, features and the online store: nothing that holds the key is left, and the others' rows are."""
    shop.ingest()
    shop.materialize()
    place = Place(site_storage("here", shop.settings), "shop", shop.settings, shop.state, "shop/purge/x/here", shop.repository)
    subject = Subject("ada", frozenset({"customer"}), frozenset())
    before = erasing_at_site.find(place, subject)
    assert before.versions and before.files
    done = erasing_at_site.erase(place, subject, remove=(), artifacts=(), serving=Serving())
    assert done["features"]["online"] == "made again"
    left = erasing_at_site.find(Place(site_storage("here", shop.settings), *place_rest(place)), subject)
    assert (left.versions, left.files, left.elsewhere) == ({}, [], set())
    (raw,) = site_storage("here", shop.settings).versions("shop-raw")
    people = pd.read_parquet(site_storage("here", shop.settings).open("shop-raw", raw) / "people" / "all.parquet")
    assert people["customer"].tolist() == ["bob"]


def place_rest(place: Place) -> tuple[Any, ...]:
    return place.workload, place.settings, place.state, place.intent_id, place.repository


def test_a_bucket_that_is_down_ends_the_step_with_what_to_do(shop: BucketShop, server: S3) -> None:
    """Credentials that no longer hold, found by the first request."""
    server.fail = lambda one: (403, "InvalidAccessKeyId")
    try:
        with pytest.raises(Unavailable, match="the credentials for bucket"):
            shop.ingest()
    finally:
        server.fail = lambda _: None


@pytest.fixture
def estate(server: S3, tmp_path: Path) -> Estate:
    """The shipped declarations with two sites in buckets, and patients at home."""
    declared = shutil.copytree(Settings().deployments, tmp_path / "deployments", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    names = {site: server.bucket(f"{site}-{abs(hash(tmp_path))}") for site in (HOME, ALLOWED)}
    sites = {site: server.connection(f"s3://{name}/data") for site, name in names.items()}
    settings = keyed(Settings(home=tmp_path / "home", deployments=declared, sites=sites))
    state = State(settings.state_url)
    state.migrate()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tests.adversarial.test_transfers.SiteStorage", lambda site, _: site_storage(site, settings))
        return Estate(settings, state, planted(settings, state, "nafld-features"))


def test_a_transfer_between_buckets_is_recorded_and_costed(estate: Estate) -> None:
    """By the worker at the source, through every wall: bytes, USD of the egress table, and the ledger's row."""
    order = estate.order()
    result = estate_run(estate, order)
    moved = site_storage(ALLOWED, estate.settings).open(estate.ref.dataset, estate.ref.version)
    assert (moved / "rows.txt").read_text() == PLANTED
    with estate.state.reading() as tx:
        (row,) = transfers.recent(tx, dataset=estate.ref.dataset)
        kinds = [one.kind for one in ledger.rows(tx)]
    chosen = estate.placed()["chosen"]
    assert (row.source, row.destination, row.bytes) == (HOME, ALLOWED, len(PLANTED))
    assert float(row.usd) == pytest.approx(float(chosen["usd"]["egress"]))
    assert result["numbers"]["bytes_sent"] == len(PLANTED)
    assert "transfer" in kinds


def estate_run(estate: Estate, order: Any) -> dict[str, Any]:
    pool = f"{HOME}-k8s"
    with acting_as(HOME, pool):
        return run_step(sent(estate.settings, order, pool), settings=estate.settings)
