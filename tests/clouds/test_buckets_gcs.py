"""A site in a Google Cloud Storage bucket: against the real fake-gcs-server (Google's JSON protocol, real generations, no rights, no keys).

What it does not do (a refused token, a throttled request) is answered by a proxy of the test's own before it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from flows.adapters import bucket_gcs
from flows.adapters.buckets import PART
from flows.adapters.settings import PROJECT_ROOT, Settings
from flows.adapters.storage import DatasetVersion, SiteStorage, copy_version, site_storage
from flows.core.errors import IntegrityError, TradewindError, Unavailable, UserError
from tests.emulators.gcs import Gcs, gcs
from tests.emulators.s3 import s3
from tests.services.bucket_world import BucketShop
from tests.services.conftest import empty_mlflow  # noqa: F401  the fixture

pytestmark = pytest.mark.clouds

HOME, AWAY = "gcp-europe-west4", "gcp-europe-west6"
KEY = "projects/tradewind-example/locations/europe-west4/keyRings/ml/cryptoKeys/data"


class Door(ThreadingHTTPServer):
    """Passes requests on to fake-gcs-server; `fail` may answer one in its place."""

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.behind, self.url = behind, f"http://127.0.0.1:{self.server_port}"
        self.asked: list[tuple[str, str]] = []
        self.fail: Any = lambda method, path: None


class _Passing(BaseHTTPRequestHandler):
    server: Door

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.fail(self.command, self.path)
        self.server.asked.append((self.command, self.path))
        if fault is not None:
            status, reason = fault
            content = json.dumps({"error": {"code": status, "message": reason}}).encode()
            headers = {"Content-Type": "application/json"}
        else:
            skipped = {"host", "content-length", "accept-encoding"}
            sent = {name: value for name, value in self.headers.items() if name.lower() not in skipped}
            path = self.path.replace("versions=True", "versions=true")  # Google takes Python's spelling, fake-gcs-server does not
            answer = httpx.request(self.command, self.server.behind + path, headers=sent, content=body, timeout=60)
            status, content = answer.status_code, answer.content
            dropped = {"content-length", "transfer-encoding", "content-encoding", "connection"}
            headers = {
                name: value.replace(self.server.behind, self.server.url)
                for name, value in answer.headers.items()
                if name.lower() not in dropped
            }
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gcs]:
    """One server for all tests."""
    with gcs(tmp_path_factory.mktemp("gcs")) as found:
        yield found


@pytest.fixture
def door(server: Gcs) -> Iterator[Door]:
    """The way to it."""
    with way_to(server) as found:
        yield found


@contextmanager
def way_to(server: Gcs) -> Iterator[Door]:
    """A door before a server."""
    found = Door(server.url)
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture
def declared(server: Gcs, door: Door, tmp_path: Path) -> Settings:
    """Two sites in buckets of the test's own, and one in a folder."""
    name = f"b-{abs(hash(tmp_path))}"
    for site in ("home", "away"):
        server.bucket(f"{name}-{site}")
    sites = {
        HOME: {"url": f"gs://{name}-home/ml/site", "endpoint": door.url, "kms_key": KEY},
        AWAY: {"url": f"gs://{name}-away", "endpoint": door.url},
        "onprem-fra": {"url": (tmp_path / "fra").as_uri()},
    }
    return Settings(home=tmp_path, profile="cloud", sites=sites)  # type: ignore[arg-type]


def bucket_of(settings: Settings, site: str) -> str:
    return settings.sites[site].url.partition("://")[2].partition("/")[0]


def publish(site: SiteStorage, files: dict[str, bytes] | None = None, **facts: Any) -> DatasetVersion:
    with site.draft("sales") as draft:
        for name, content in (files or {"day/one.txt": b"one", "two.txt": b"two"}).items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_bytes(content)
        return site.publish("sales", draft, facts)


def test_a_version_is_opened_by_another_run_under_its_folder_s_name(declared: Settings) -> None:
    """The same bytes have the same version as in a folder, and come back as they were."""
    made = publish(site_storage(HOME, declared), rows=2)
    assert made == DatasetVersion("sales", publish(site_storage("onprem-fra", declared)).version, HOME, made.files, 6, {"rows": 2})
    folder = site_storage(HOME, declared).open("sales", made.version)
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.txt")} == {"day/one.txt": b"one", "two.txt": b"two"}


def test_every_write_names_the_customer_s_key(declared: Settings, door: Door) -> None:
    """Google takes it as a parameter of the upload."""
    publish(site_storage(HOME, declared))
    uploads = [path for method, path in door.asked if method == "POST" and "/upload/" in path]
    assert len(uploads) == 3 and all(f"kmsKeyName={KEY.replace('/', '%2F')}" in path for path in uploads)


def test_the_manifest_is_written_only_where_there_is_none(declared: Settings, door: Door) -> None:
    """Two runs publish at once: one manifest stays, and both are told of that one."""
    gate = threading.Barrier(2, timeout=30)

    def wait(method: str, path: str) -> None:
        if "ifGenerationMatch=0" in path:
            gate.wait()

    door.fail = wait
    found: list[DatasetVersion] = []
    threads = [threading.Thread(target=lambda n=n: found.append(publish(site_storage(HOME, declared), by=n))) for n in (1, 2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found[0] == found[1]


def test_a_corrupt_object_is_found(declared: Settings, server: Gcs) -> None:
    """When it is opened, and when it is transferred; nothing arrives."""
    made = publish(site_storage(HOME, declared))
    key = f"ml/site/datasets/sales/{made.version}/two.txt".replace("/", "%2F")
    httpx.post(
        f"{server.url}/upload/storage/v1/b/{bucket_of(declared, HOME)}/o?uploadType=media&name={key}", content=b"2wo"
    ).raise_for_status()
    with pytest.raises(IntegrityError, match=r"`two.txt` of `sales` version .* is missing or changed"):
        site_storage(HOME, declared).open("sales", made.version)
    with pytest.raises(IntegrityError, match=r"two\.txt"):
        copy_version(site_storage(HOME, declared), site_storage(AWAY, declared), "sales", made.version)
    assert site_storage(AWAY, declared).versions("sales") == []


@pytest.mark.parametrize(("source", "destination"), [(HOME, "onprem-fra"), ("onprem-fra", HOME), (HOME, AWAY)])
def test_a_transfer_brings_the_same_version(declared: Settings, source: str, destination: str) -> None:
    """Between bucket and folder, and two buckets; of an object of several pieces, too; a second one sends nothing."""
    made = publish(site_storage(source, declared), {"big.bin": os.urandom(PART + 7), "small.txt": b"s"})
    sent: list[int] = []
    for _ in range(2):
        copy_version(site_storage(source, declared), site_storage(destination, declared), "sales", made.version, sent=sent.append)
    assert sum(sent) == made.bytes
    site_storage(destination, declared).open("sales", made.version)


def test_a_version_goes_from_amazon_to_google(declared: Settings) -> None:
    """Two clouds, two protocols, one version."""
    with s3() as amazon:
        amazon.bucket("data-of-amazon")
        sites = {**declared.sites, "aws-eu-central-1": amazon.connection("s3://data-of-amazon/site")}
        both = declared.model_copy(update={"sites": sites})
        made = publish(site_storage("aws-eu-central-1", both))
        arrived = copy_version(site_storage("aws-eu-central-1", both), site_storage(HOME, both), "sales", made.version)
        assert arrived.files == made.files
        assert (site_storage(HOME, both).open("sales", made.version) / "two.txt").read_bytes() == b"two"


CHILD = """
import sys
from pathlib import Path
from flows.adapters.settings import Settings
from flows.adapters.storage import copy_version, site_storage
settings = Settings(home=Path(sys.argv[1]))
copy_version(site_storage("onprem-fra", settings), site_storage("gcp-europe-west4", settings), "sales", sys.argv[2])
"""


def test_a_transfer_killed_in_the_middle_goes_on_with_what_is_missing(declared: Settings, door: Door, tmp_path: Path) -> None:
    """Killed while the second object is under way: the next sends that one and what follows."""
    made = publish(site_storage("onprem-fra", declared), {"a.bin": b"a" * 1000, "b.bin": os.urandom(PART + 7), "c.bin": b"c" * 1000})
    reached, go_on = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> tuple[int, str] | None:
        if method == "PUT" and not reached.is_set():
            reached.set()
            go_on.wait(60)
            return 503, "stopped by the test"
        return None

    door.fail = hold
    spoken = json.dumps({name: one.public for name, one in declared.sites.items()})
    environment = {**os.environ, "TRADEWIND_PROFILE": "cloud", "TRADEWIND_SITES": spoken, "PYTHONPATH": str(PROJECT_ROOT)}
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), made.version], env=environment, cwd=PROJECT_ROOT)
    try:
        assert reached.wait(60)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        go_on.set()
    door.fail = lambda method, path: None
    assert site_storage(HOME, declared).versions("sales") == []
    sent: list[int] = []
    copy_version(site_storage("onprem-fra", declared), site_storage(HOME, declared), "sales", made.version, sent=sent.append)
    assert sent == [0, PART + 7, 1000]
    site_storage(HOME, declared).open("sales", made.version)


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        ((401, "Invalid Credentials"), Unavailable, "the credentials for bucket .* renew its keys"),
        ((403, "does not have storage.objects.create access"), Unavailable, "refused this run"),
        ((400, "Cloud KMS key is disabled"), UserError, "cannot use its key.*correct the site's `kms_key`"),
        ((404, "The specified bucket does not exist."), UserError, "there is no bucket .*correct the site's `url`"),
    ],
)
def test_what_is_wrong_is_one_message_with_what_to_do(
    declared: Settings, door: Door, fault: tuple[int, str], kind: type[TradewindError], told: str
) -> None:
    """Whatever Google refuses an upload with."""
    door.fail = lambda method, path: fault if method == "POST" else None
    with pytest.raises(kind, match=rf"(?s){told}") as caught:
        publish(site_storage(HOME, declared))
    assert len(caught.value.problems) == 1


def test_a_throttled_request_is_made_again(declared: Settings, door: Door) -> None:
    """The first upload is answered `429`."""
    door.fail = lambda method, path: (429, "rateLimitExceeded") if method == "POST" and len(uploads(door)) < 1 else None
    made = publish(site_storage(HOME, declared), {"one.txt": b"1"})
    assert len(uploads(door)) == 3
    assert site_storage(HOME, declared).versions("sales") == [made.version]


def uploads(door: Door) -> list[str]:
    return [path for method, path in door.asked if method == "POST"]


def test_a_store_that_only_throttles_is_given_up(declared: Settings, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a bounded time."""
    monkeypatch.setattr(bucket_gcs, "CALL", {"timeout": (5, 60), "retry": bucket_gcs.DEFAULT_RETRY.with_timeout(2)})
    door.fail = lambda method, path: (429, "rateLimitExceeded") if method == "POST" else None
    with pytest.raises(Unavailable, match="did not answer"):
        publish(site_storage(HOME, declared), {"one.txt": b"1"})


def test_of_two_runs_in_a_shared_folder_the_slower_is_told_and_changes_nothing(declared: Settings) -> None:
    """Compare and set by generation."""
    first, second = site_storage(HOME, declared), site_storage(HOME, declared)
    with pytest.raises(Unavailable, match="another run has changed `features/shop`"), second.shared("features", "shop") as slow:
        slow.mkdir(parents=True)
        (slow / "online.db").write_text("slow")
        with first.shared("features", "shop") as fast:
            fast.mkdir(parents=True)
            (fast / "online.db").write_text("fast")
    assert [path.read_text() for name, path in first.files("features", "shop") if name.endswith("online.db")] == ["fast"]


def test_what_is_removed_is_gone(declared: Settings, server: Gcs) -> None:
    """Every object of the version, none of another."""
    home = site_storage(HOME, declared)
    made, other = publish(home), publish(home, {"three.txt": b"3"})
    home.remove("sales", made.version)
    assert home.versions("sales") == [other.version]
    assert all(other.version in name for name, _ in server.objects(bucket_of(declared, HOME)))


def test_what_a_bucket_keeps_of_deleted_and_overwritten_objects_is_read_and_asked_to_go_alone(tmp_path: Path) -> None:
    """Each earlier version with its own content, and its own generation; fake-gcs-server itself deletes no generation but the last."""
    with gcs(tmp_path, versions=True) as server, way_to(server) as door:
        server.bucket("kept", versions=True)
        sites = {HOME: {"url": "gs://kept/ml", "endpoint": door.url}}
        home = site_storage(HOME, Settings(home=tmp_path, profile="cloud", sites=sites))  # type: ignore[arg-type]
        client = storage.Client(project="-", credentials=AnonymousCredentials(), client_options={"api_endpoint": server.url})
        bucket = client.bucket("kept")
        for name, bodies in {"features/shop/a": ["1", None], "features/shop/b": ["1", "2"], "features/other": ["1", None]}.items():
            for body in bodies:
                blob = bucket.blob(f"ml/{name}")
                _ = blob.delete() if body is None else blob.upload_from_string(body)
        kept = [(name, version, path.read_text()) for name, version, path in home.earlier("features", "shop")]
        assert [(name, text) for name, _, text in kept] == [("features/shop/a", "1"), ("features/shop/b", "1")]
        door.asked.clear()
        for name, version, _ in kept:
            home.forget(name, version)
        asked = [dict(parse_qsl(urlsplit(path).query)) for method, path in door.asked if method == "DELETE"]
        assert [one["generation"] for one in asked] == [version for _, version, _ in kept]


def test_arrow_reads_a_footer_without_the_file(declared: Settings, server: Gcs) -> None:
    """Columns of a version that was not fetched; Arrow's client asks the server itself, not the door."""
    straight = declared.sites[HOME].model_copy(update={"endpoint": server.url})
    declared = declared.model_copy(update={"sites": {HOME: straight}})
    home = site_storage(HOME, declared)
    with home.draft("sales") as draft:
        pq.write_table(pa.table({"n": [1, 2]}), draft / "sales.parquet")
        made = home.publish("sales", draft, {})
    assert pq.read_schema(site_storage(HOME, declared).readable("sales", made.version, "sales.parquet")).names == ["n"]


def test_a_workload_is_ingested_materialised_and_trained(
    server: Gcs,
    tmp_path: Path,
    empty_mlflow: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Data, features, model and MLflow's artifacts rest in the bucket, below the site's prefix."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test")
    server.bucket("shop-of-google")
    settings = Settings(home=tmp_path / "home", sites={"here": {"url": "gs://shop-of-google/site"}})  # type: ignore[dict-item]
    shop = BucketShop(settings, "here", tmp_path, empty_mlflow)
    shop.ingest()
    shop.materialize()
    assert shop.materialize().numbers["views_there_already"] == 2
    assert shop.train().numbers["model_version"] == "1"
    names = [name for name, _ in server.objects("shop-of-google")]
    assert {name.split("/")[1] for name in names} == {"datasets", "features", "artifacts"}
    assert any(name.endswith("MLmodel") and name.startswith("site/artifacts/") for name in names)
