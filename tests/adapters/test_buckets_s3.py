"""A site in an S3 bucket: whole or not at all, never changed, nothing sent twice; against moto's server (S3's protocol, no rights).

What AWS answers and moto does not (throttling, refused keys) is answered by the test's own door before moto, in S3's words.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.adapters import bucket_s3
from flows.adapters.buckets import PART, address, checked, filesystem, part_size, plain
from flows.adapters.settings import PROJECT_ROOT, Settings
from flows.adapters.storage import DatasetVersion, SiteStorage, copy_version, site_storage, version_of
from flows.adapters.subject_search import Subject
from flows.core.canonical import sha256_hex
from flows.core.errors import GuardRefused, IntegrityError, TradewindError, Unavailable, UserError
from flows.services.erasing_at_site import Found, Place, Serving, erase, find
from flows.store.database import State
from tests.emulators.s3 import S3, Asked, Fault, s3

KEY = "arn:aws:kms:eu-central-1:111122223333:key/0a1b2c3d"
HOME, AWAY = "aws-eu-central-1", "aws-eu-north-1"


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    """One server for all tests."""
    with s3() as found:
        yield found


@pytest.fixture
def aws(server: S3, request: pytest.FixtureRequest) -> Iterator[S3]:
    """The server without what earlier tests asked or let fail."""
    server.asked.clear()
    yield server
    server.fail = lambda _: None


@pytest.fixture
def declared(aws: S3, tmp_path: Path) -> Settings:
    """Two sites in buckets of the test's own, and one in a folder."""
    name = f"b{sha256_hex(str(tmp_path).encode())[:16]}"
    for site in ("home", "away"):
        aws.bucket(f"{name}-{site}")
    aws.asked.clear()
    sites = {
        HOME: aws.connection(f"s3://{name}-home/ml/site", kms_key=KEY),
        AWAY: aws.connection(f"s3://{name}-away"),
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
    """The same bytes have the same version in a bucket and in a folder, and come back as they were."""
    made = publish(site_storage(HOME, declared), rows=2)
    assert made == DatasetVersion("sales", publish(site_storage("onprem-fra", declared)).version, HOME, made.files, 6, {"rows": 2})
    folder = site_storage(HOME, declared).open("sales", made.version)
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.txt")} == {"day/one.txt": b"one", "two.txt": b"two"}


def test_every_object_names_the_customer_s_key_and_its_checksum(declared: Settings, aws: S3) -> None:
    """Files and manifest: SSE-KMS with the declared key, sha256 beside the object, all below the site's prefix."""
    publish(site_storage(HOME, declared))
    client, bucket = aws.client(), bucket_of(declared, HOME)
    keys = [one["Key"] for one in client.list_objects_v2(Bucket=bucket)["Contents"]]
    found = [client.head_object(Bucket=bucket, Key=key) for key in keys]
    assert len(keys) == 3 and all(key.startswith("ml/site/datasets/sales/") for key in keys)
    assert {(one["ServerSideEncryption"], one["SSEKMSKeyId"]) for one in found} == {("aws:kms", KEY)}
    assert all(len(one["Metadata"]["sha256"]) == 64 for one in found)


def test_a_version_without_its_manifest_is_not_there_and_is_finished_by_the_next_run(declared: Settings, aws: S3) -> None:
    """The manifest goes last; the second run sends it alone."""
    aws.fail = lambda one: (403, "AccessDenied") if one.method == "PUT" and one.path.endswith("manifest.json") else None
    with pytest.raises(Unavailable, match="refused this run"):
        publish(site_storage(HOME, declared))
    aws.fail = lambda _: None
    assert site_storage(HOME, declared).versions("sales") == []
    aws.asked.clear()
    made = publish(site_storage(HOME, declared))
    assert [Path(path).name for path in aws.sent("PUT")] == ["manifest.json"]
    assert site_storage(HOME, declared).versions("sales") == [made.version]


def test_two_runs_that_publish_at_once_agree_on_one(declared: Settings, aws: S3) -> None:
    """Both send, one manifest stays, and both are told of that one."""
    gate = threading.Barrier(2, timeout=30)

    def wait(one: Asked) -> None:
        if one.method == "PUT" and one.path.endswith("manifest.json"):
            gate.wait()

    aws.fail = wait
    found: list[DatasetVersion] = []
    threads = [threading.Thread(target=lambda n=n: found.append(publish(site_storage(HOME, declared), by=n))) for n in (1, 2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found[0] == found[1]
    assert site_storage(HOME, declared).describe("sales", found[0].version).facts == found[0].facts


def test_a_version_that_is_there_is_never_written_again(declared: Settings, aws: S3) -> None:
    """Not even with other facts."""
    publish(site_storage(HOME, declared), rows=1)
    aws.asked.clear()
    assert publish(site_storage(HOME, declared), rows=2).facts == {"rows": 1}
    assert aws.sent("PUT") == []


@pytest.mark.parametrize("damage", ["change", "delete"])
def test_a_corrupt_object_is_found_when_it_is_opened(declared: Settings, aws: S3, damage: str) -> None:
    """Changed under the same recorded checksum, or gone."""
    made = publish(site_storage(HOME, declared))
    where = {"Bucket": bucket_of(declared, HOME), "Key": f"ml/site/datasets/sales/{made.version}/two.txt"}
    if damage == "change":
        aws.client().put_object(**where, Body=b"2wo", Metadata={"sha256": made.files["two.txt"]})
    else:
        aws.client().delete_object(**where)
    with pytest.raises(IntegrityError, match=r"`two.txt` of `sales` version .* is missing or changed"):
        site_storage(HOME, declared).open("sales", made.version)
    for destination in (AWAY, "onprem-fra"):
        with pytest.raises(IntegrityError, match=r"two\.txt"):
            copy_version(site_storage(HOME, declared), site_storage(destination, declared), "sales", made.version)
        assert site_storage(destination, declared).versions("sales") == []


@pytest.mark.parametrize(("source", "destination"), [(HOME, "onprem-fra"), ("onprem-fra", HOME), (AWAY, HOME)])
def test_a_transfer_brings_the_same_version(declared: Settings, source: str, destination: str) -> None:
    """From bucket to folder, folder to bucket, bucket to bucket; a second one sends nothing."""
    made = publish(site_storage(source, declared), rows=2)
    sent: list[int] = []
    arrived = copy_version(site_storage(source, declared), site_storage(destination, declared), "sales", made.version, sent=sent.append)
    assert (arrived.version, arrived.files, arrived.facts, arrived.site) == (made.version, made.files, {"rows": 2}, destination)
    assert sum(sent) == made.bytes
    copy_version(site_storage(source, declared), site_storage(destination, declared), "sales", made.version, sent=sent.append)
    assert sum(sent) == made.bytes
    site_storage(destination, declared).open("sales", made.version)


def test_one_store_copies_what_it_vouches_for(declared: Settings, aws: S3) -> None:
    """Both buckets in one store, which keeps the sha256 of each object: no content passes through here."""
    made = publish(site_storage(HOME, declared))
    aws.asked.clear()
    copy_version(site_storage(HOME, declared), site_storage(AWAY, declared), "sales", made.version)
    assert [Path(path).name for path in aws.sent("GET", below=f"/{bucket_of(declared, HOME)}/")] == ["manifest.json"]
    assert site_storage(AWAY, declared).open("sales", made.version).is_dir()


def test_a_store_whose_checksum_differs_is_not_believed(declared: Settings, aws: S3) -> None:
    """An object that was changed with its checksum recorded as before is not copied but read, and found."""
    made = publish(site_storage(HOME, declared))
    key = f"ml/site/datasets/sales/{made.version}/two.txt"
    about = {"Metadata": {"sha256": made.files["two.txt"]}, "ChecksumAlgorithm": "SHA256"}
    aws.client().put_object(Bucket=bucket_of(declared, HOME), Key=key, Body=b"2wo", **about)
    with pytest.raises(IntegrityError, match=r"two\.txt"):
        copy_version(site_storage(HOME, declared), site_storage(AWAY, declared), "sales", made.version)


CHILD = """
import sys
from pathlib import Path
from flows.adapters.settings import Settings
from flows.adapters.storage import copy_version, site_storage
settings = Settings(home=Path(sys.argv[1]))
copy_version(site_storage("onprem-fra", settings), site_storage("aws-eu-central-1", settings), "sales", sys.argv[2])
"""


def test_a_transfer_killed_in_the_middle_goes_on_where_it_was(declared: Settings, aws: S3, tmp_path: Path) -> None:
    """Killed while the second part of the second object is under way: the next sends that part and what follows, nothing before."""
    big = os.urandom(2 * PART + 1000)
    made = publish(site_storage("onprem-fra", declared), {"a.bin": b"a" * 1000, "b.bin": big, "c.bin": b"c" * 1000})
    reached, go_on = threading.Event(), threading.Event()

    def hold(one: Asked) -> Fault | None:
        if one.method == "PUT" and "partNumber" in one.query and len([each for each in aws.asked if "partNumber" in each.query]) == 1:
            reached.set()
            go_on.wait(60)
            return 500, "InternalError"
        return None

    aws.fail = hold
    spoken = {name: {**one.public, **({"credentials": one.credentials.get_secret_value()} if one.credentials else {})}
              for name, one in declared.sites.items()}  # fmt: skip
    environment = {**os.environ, "TRADEWIND_PROFILE": "cloud", "TRADEWIND_SITES": json.dumps(spoken), "PYTHONPATH": str(PROJECT_ROOT)}
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), made.version], env=environment, cwd=PROJECT_ROOT)
    try:
        assert reached.wait(60)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        go_on.set()
    aws.fail = lambda _: None
    assert site_storage(HOME, declared).versions("sales") == []
    sent: list[int] = []
    copy_version(site_storage("onprem-fra", declared), site_storage(HOME, declared), "sales", made.version, sent=sent.append)
    assert sent == [0, PART + 1000, 1000]
    folder = site_storage(HOME, declared).open("sales", made.version)
    assert (folder / "b.bin").read_bytes() == big
    assert aws.client().list_multipart_uploads(Bucket=bucket_of(declared, HOME)).get("Uploads") is None


def test_an_upload_that_another_run_finishes_meanwhile_is_done(declared: Settings, aws: S3) -> None:
    """Both send the parts of one upload; the slower finds it gone and the whole object there."""
    source = site_storage("onprem-fra", declared)
    made = publish(source, {"big.bin": b"a" * (2 * PART + 1000)})

    def other(one: Asked) -> Fault | None:
        if one.method == "PUT" and "partNumber" in one.query:
            aws.fail = lambda _: None
            copy_version(source, site_storage(HOME, declared), "sales", made.version)
            return 404, "NoSuchUpload"  # moto fails with 500
        return None

    aws.fail = other
    assert copy_version(source, site_storage(HOME, declared), "sales", made.version).version == made.version
    assert site_storage(HOME, declared).versions("sales") == [made.version]
    assert (site_storage(HOME, declared).open("sales", made.version) / "big.bin").stat().st_size == 2 * PART + 1000


def test_a_removal_that_is_cut_short_leaves_no_version_that_seems_whole(declared: Settings, aws: S3) -> None:
    """S3 deletes many objects at once, in no order: the manifest goes in a request of its own, before them."""
    made = publish(site_storage(HOME, declared))
    aws.asked.clear()

    def second(one: Asked) -> Fault | None:
        batch = one.method == "POST" and "delete" in one.query
        return (403, "AccessDenied") if batch and any(each.method == "POST" for each in aws.asked) else None

    aws.fail = second
    with pytest.raises(Unavailable, match="refused this run"):
        site_storage(HOME, declared).remove("sales", made.version)
    aws.fail = lambda _: None
    assert site_storage(HOME, declared).versions("sales") == []
    left = [one["Key"] for one in aws.client().list_objects_v2(Bucket=bucket_of(declared, HOME))["Contents"]]
    assert sorted(Path(key).name for key in left) == ["one.txt", "two.txt"]


def test_a_large_object_that_was_changed_leaves_nothing_at_the_destination(declared: Settings, aws: S3) -> None:
    """What was sent of it before its end showed the change is taken back: no part of it stays there, unseen and billed."""
    source = site_storage("onprem-fra", declared)
    made = publish(source, {"big.bin": b"a" * (2 * PART + 1000)})
    with (source.path("datasets", "sales", made.version) / "big.bin").open("r+b") as stream:
        stream.write(b"b")
    with pytest.raises(IntegrityError, match=r"big\.bin"):
        copy_version(source, site_storage(HOME, declared), "sales", made.version)
    client, bucket = aws.client(), bucket_of(declared, HOME)
    assert client.list_multipart_uploads(Bucket=bucket).get("Uploads") is None
    assert client.list_objects_v2(Bucket=bucket).get("Contents") is None


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        ((403, "InvalidAccessKeyId"), Unavailable, "the credentials for bucket .* renew its keys"),
        ((400, "ExpiredToken"), Unavailable, "the credentials for bucket .* renew its keys"),
        ((403, "AccessDenied"), Unavailable, "refused this run.*run's role may read, write and list"),
        ((400, "KMS.NotFoundException"), UserError, "cannot use its key.*correct the site's `kms_key`"),
        ((501, "NotImplemented"), UserError, "no conditional writes.*`If-None-Match`"),
        ((404, "NoSuchBucket"), UserError, "there is no bucket .*correct the site's `url`"),
    ],
)
def test_what_is_wrong_is_one_message_with_what_to_do(
    declared: Settings, aws: S3, fault: Fault, kind: type[TradewindError], told: str
) -> None:
    """Whatever S3 refuses a put with."""
    aws.fail = lambda one: fault if one.method == "PUT" else None
    with pytest.raises(kind, match=rf"(?s){told}") as caught:
        publish(site_storage(HOME, declared))
    assert len(caught.value.problems) == 1
    assert "testing" not in str(caught.value)


def test_a_bucket_that_cannot_be_reached_is_told(declared: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens at the endpoint."""
    monkeypatch.setattr(bucket_s3, "ATTEMPTS", 1)
    nobody = declared.sites[HOME].model_copy(update={"endpoint": "http://127.0.0.1:9"})
    settings = declared.model_copy(update={"sites": {HOME: nobody}})
    with pytest.raises(Unavailable, match=r"(?s)did not answer: Could not connect.*fix: try again later"):
        site_storage(HOME, settings).versions("sales")


def test_a_throttled_request_is_made_again(declared: Settings, aws: S3) -> None:
    """Each object's first two puts are answered `SlowDown`."""
    seen: dict[str, int] = {}

    def slow(one: Asked) -> Fault | None:
        if one.method != "PUT":
            return None
        seen[one.path] = seen.get(one.path, 0) + 1
        return (503, "SlowDown") if seen[one.path] < 3 else None

    aws.fail = slow
    publish(site_storage(HOME, declared), {"one.txt": b"1"})
    assert sorted(seen.values()) == [3, 3]


def test_a_store_that_only_throttles_is_given_up(declared: Settings, aws: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a bounded number of attempts."""
    monkeypatch.setattr(bucket_s3, "ATTEMPTS", 2)
    aws.fail = lambda one: (503, "SlowDown") if one.method == "PUT" else None
    with pytest.raises(Unavailable, match="did not answer: SlowDown"):
        publish(site_storage(HOME, declared), {"one.txt": b"1"})
    assert len(aws.sent("PUT")) == 2


def test_an_object_replaced_while_it_is_read_is_told(declared: Settings, aws: S3) -> None:
    """A read keeps to the object that it began with."""
    home: Any = site_storage(HOME, declared)
    made = publish(home)
    content = home.content(made, "two.txt")
    aws.client().put_object(Bucket=bucket_of(declared, HOME), Key=f"ml/site/datasets/sales/{made.version}/two.txt", Body=b"x" * 3)
    with pytest.raises(Unavailable, match="was replaced while it was read"):
        list(content.chunks(PART))


def test_what_is_removed_leaves_no_earlier_version_behind(declared: Settings, aws: S3) -> None:
    """A bucket that keeps versions keeps none of what was removed."""
    client, bucket = aws.client(), bucket_of(declared, HOME)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    home = site_storage(HOME, declared)
    made, other = publish(home), publish(home, {"three.txt": b"3"})
    # somebody's plain delete in the console only hides an object
    client.delete_object(Bucket=bucket, Key=f"ml/site/datasets/sales/{made.version}/two.txt")
    home.remove("sales", made.version)
    left = client.list_object_versions(Bucket=bucket)
    assert {one["Key"].split("/")[4] for one in left["Versions"]} == {other.version} and "DeleteMarkers" not in left
    assert home.versions("sales") == [other.version]


def test_an_erasure_finds_a_person_in_what_the_bucket_keeps_of_deleted_and_overwritten_files(declared: Settings, aws: S3) -> None:
    """That version goes, and no other; a search before it says where, and one after it finds nothing."""
    client, bucket = aws.client(), bucket_of(declared, HOME)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for name, bodies in {
        "datasets/nafld-raw/v1/hidden.csv": [b"nafld-patient-7,1", None],
        "artifacts/nafld/run/notes.txt": [b"of nafld-patient-7", b"of nobody"],
        "features/nafld/deleted.txt": [b"nafld-patient-8", None],
        "datasets/other-raw/v1/hidden.csv": [b"nafld-patient-7", None],
    }.items():
        for body in bodies:
            where = {"Bucket": bucket, "Key": f"ml/site/{name}"}
            _ = client.delete_object(**where) if body is None else client.put_object(**where, Body=body)
    state = State(declared.state_url)
    state.migrate()
    place = Place(site_storage(HOME, declared), "nafld", declared, state, "nafld/purge/test/here")
    person = Subject("nafld-patient-7", frozenset({"patient"}))
    names = ["artifacts/nafld/run/notes.txt", "datasets/nafld-raw/v1/hidden.csv"]
    assert find(place, person).to_json()["files"] == names
    assert erase(place, person, remove=(), artifacts=(), serving=Serving())["files_removed"] == 2
    assert find(place, person).to_json() == {**Found().to_json(), "scanned": find(place, person).scanned}
    left = client.list_object_versions(Bucket=bucket)["Versions"]
    kept = [one["Key"].removeprefix("ml/site/") for one in left]
    assert kept == ["artifacts/nafld/run/notes.txt", "datasets/other-raw/v1/hidden.csv", "features/nafld/deleted.txt"]
    assert client.get_object(Bucket=bucket, Key="ml/site/artifacts/nafld/run/notes.txt")["Body"].read() == b"of nobody"


def test_a_shared_folder_is_kept_from_run_to_run(declared: Settings, aws: S3) -> None:
    """What changed is written back, what did not is not sent, what is gone is deleted."""
    with site_storage(HOME, declared).shared("features", "shop") as folder:
        folder.mkdir(parents=True)
        (folder / "registry.db").write_text("1")
        (folder / "online.db").write_text("1")
        (folder / ".lock").write_text("")
    aws.asked.clear()
    with site_storage(HOME, declared).shared("features", "shop") as folder:
        assert {path.name: path.read_text() for path in folder.iterdir()} == {"registry.db": "1", "online.db": "1"}
        (folder / "online.db").write_text("2")
    assert [Path(path).name for path in aws.sent("PUT")] == ["online.db", "head.json"]
    files = {name.split("/")[-1]: path.read_text() for name, path in site_storage(HOME, declared).files("features", "shop")}
    assert (files["registry.db"], files["online.db"], len(files)) == ("1", "2", 3)


def test_of_two_runs_in_a_shared_folder_the_slower_is_told_and_changes_nothing(declared: Settings) -> None:
    """Compare and set."""
    first, second = site_storage(HOME, declared), site_storage(HOME, declared)
    with pytest.raises(Unavailable, match="another run has changed `features/shop`"), second.shared("features", "shop") as slow:
        slow.mkdir(parents=True)
        (slow / "online.db").write_text("slow")
        with first.shared("features", "shop") as fast:
            fast.mkdir(parents=True)
            (fast / "online.db").write_text("fast")
    assert [path.read_text() for name, path in first.files("features", "shop") if name.endswith("online.db")] == ["fast"]


@pytest.mark.parametrize("file", ["../../planted", "/tmp/planted", "a/b", "..", ".hidden", ""])
def test_a_shared_folder_names_no_file_outside(declared: Settings, aws: S3, tmp_path: Path, file: str) -> None:
    """Whoever may write at the site writes nothing elsewhere on the machines that read it."""
    key = "ml/site/features/shop/head.json"
    aws.client().put_object(Bucket=bucket_of(declared, HOME), Key=key, Body=json.dumps({file: {"key": "x", "sha256": "0" * 64}}).encode())
    with (
        pytest.raises(IntegrityError, match=r"`features/shop/head.json` at .* names"),
        site_storage(HOME, declared).shared("features", "shop"),
    ):
        pytest.fail("it was taken")
    assert not list(tmp_path.rglob("planted"))


def test_arrow_reads_a_footer_without_the_file(declared: Settings, aws: S3) -> None:
    """Columns of a version that was not fetched."""
    home = site_storage(HOME, declared)
    with home.draft("sales") as draft:
        pq.write_table(pa.table({"n": [1, 2]}), draft / "sales.parquet")
        made = home.publish("sales", draft, {})
    assert pq.read_schema(site_storage(HOME, declared).readable("sales", made.version, "sales.parquet")).names == ["n"]
    with pytest.raises(GuardRefused, match="below no declared site"):
        filesystem("s3://elsewhere/x", declared)


def test_the_cloud_profile_needs_a_root_for_each_site(tmp_path: Path) -> None:
    """No folder is made up in its place."""
    with pytest.raises(UserError, match="site `aws-eu-central-1` has no root for its data"):
        site_storage(HOME, Settings(home=tmp_path, profile="cloud"))


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "s3://key:word@bucket", "gs://bucket/../other"])
def test_an_address_that_names_no_bucket_is_refused(url: str) -> None:
    """Before anything is asked."""
    with pytest.raises(UserError, match="names no bucket"):
        address(url)


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b c", "datasets"]), max_size=4))
def test_no_key_leaves_the_prefix(parts: list[str]) -> None:
    """A key is taken as it is, or refused."""
    key = "/".join(parts)
    if any(part in ("", ".", "..") for part in key.rstrip("/").split("/")) and key:
        with pytest.raises(GuardRefused):
            plain(key, "s")
    else:
        assert plain(key, "s") == key


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.binary(max_size=50), st.integers(1, 20), st.integers(0, 60))
def test_pieces_are_passed_on_whole_or_end_in_an_error(content: bytes, size: int, flipped: int) -> None:
    """The last piece is held back until the whole was compared."""

    def pieces(of: bytes) -> Iterator[bytes]:
        return (of[start : start + size] for start in range(0, len(of), size))

    about: dict[str, Any] = {"size": len(content), "sha256": sha256_hex(content), "what": "it"}
    assert b"".join(checked(pieces(content), **about)) == content
    other = bytearray(content)
    if flipped < len(content):
        other[flipped] ^= 1
    elif content:
        other.pop()
    else:
        other.append(0)
    passed: list[bytes] = []
    with pytest.raises(IntegrityError):
        passed.extend(checked(pieces(bytes(other)), **about))
    assert sum(map(len, passed)) < max(len(content), 1)


@given(st.integers(0, 5 * 2**40))
def test_an_object_of_any_size_fits_in_s3_s_parts(size: int) -> None:
    """At most 10,000 of them."""
    assert -(-size // part_size(size)) <= 10_000


def test_a_version_s_name_follows_from_its_files() -> None:
    """The same as in a folder."""
    assert version_of({"b": "2", "a": "1"}) == version_of({"a": "1", "b": "2"})
