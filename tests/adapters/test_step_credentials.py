"""A run's own credentials, asked for by AWS's real client at moto's server with rights enforced (see `tests/emulators/iam.py`)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from flows.adapters import step_credentials
from flows.adapters.bucket_credentials import arrow_options, environment
from flows.adapters.run_identity import TOKEN_FILE
from flows.adapters.settings import Settings, SiteConnection
from flows.adapters.step_credentials import RENEWED, acquire, current
from flows.adapters.storage import copy_version, site_storage
from flows.core.errors import GuardRefused, Unavailable, UserError
from flows.core.governance.session_policies import Root, policy_document, workload_reach
from tests.emulators.iam import ACCOUNT, REGION, EnforcingAws, enforcing_aws

BUCKET, THERE = "tradewind-eu", "tradewind-us"
OWN, OTHERS = "datasets/nafld-raw/v1/data.txt", "datasets/flight_delay-raw/v1/data.txt"
SITE, TO = "aws-eu-central-1", "aws-us-east-1"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/tradewind-eu-central-1-run"


@pytest.fixture(scope="module")
def aws() -> Iterator[EnforcingAws]:
    with enforcing_aws(session_policies=True) as found:
        for bucket in (BUCKET, THERE):
            found.bucket(bucket, OWN, OTHERS, "datasets/nafld-raw2/v1/data.txt", "artifacts/nafld/x", "secret.txt")
        yield found


@pytest.fixture(scope="module")
def site_role(aws: EnforcingAws) -> dict[str, str]:
    """What a container of the site's role has: all of the site's data, of every workload, and those of the next site."""
    everything = [{"Effect": "Allow", "Action": ["s3:*", "sts:*"], "Resource": "*"}]
    arn, keys = aws.role(ROLE.rpartition("/")[2], {"Version": "2012-10-17", "Statement": everything})
    assert arn == ROLE
    return keys


@pytest.fixture
def settings(aws: EnforcingAws, site_role: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Of a run on ECS: its role's credentials in the environment, rights enforced from now on."""
    for name in ("AWS_PROFILE", TOKEN_FILE, step_credentials.ROLE):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**site_role, "AWS_ENDPOINT_URL": aws.url, "AWS_REGION": REGION, "TRADEWIND_POOL": f"{SITE}-ecs"}.items():
        monkeypatch.setenv(name, value)
    aws.asked.clear()
    with aws.enforced():
        yield Settings(
            profile="cloud",
            home=tmp_path,
            sites={SITE: SiteConnection(url=f"s3://{BUCKET}"), TO: SiteConnection(url=f"s3://{THERE}")},
        )


def run(settings: Settings, step: str = "materialize", **more: Any) -> Any:
    return acquire(SITE, "nafld", step, settings, **{"intent": "nafld/x/2013-07-01/manual", "inputs": ["nafld-raw"], **more})


def denied(work: Callable[[], object]) -> None:
    with pytest.raises(Unavailable, match="refused this run"):
        work()


def test_a_role_of_one_workload_reaches_no_others_data(aws: EnforcingAws) -> None:
    """moto alone, without session policies: the policy that `tradewind access policy SITE WORKLOAD` prints, on a role of its own."""
    from botocore.exceptions import ClientError

    _, keys = aws.role("nafld-only", policy_document([workload_reach("nafld", Root(BUCKET))]))
    with aws.enforced():
        s3 = aws.client("s3", keys)
        assert s3.get_object(Bucket=BUCKET, Key=OWN)["Body"].read() == OWN.encode()
        s3.put_object(Bucket=BUCKET, Key="datasets/nafld-model/v1/x", Body=b"x")
        for work in (
            lambda: s3.get_object(Bucket=BUCKET, Key=OTHERS),
            lambda: s3.put_object(Bucket=BUCKET, Key=OTHERS, Body=b"x"),
            lambda: s3.delete_object(Bucket=BUCKET, Key=OTHERS),
            lambda: s3.get_object(Bucket=THERE, Key=OWN),
            lambda: s3.list_objects_v2(Bucket=THERE, Prefix="datasets/nafld-raw/"),
            lambda: s3.get_object(Bucket=BUCKET, Key="secret.txt"),
            lambda: s3.get_bucket_policy(Bucket=BUCKET),
            lambda: aws.client("iam", keys).list_roles(),
        ):
            with pytest.raises(ClientError, match=r"AccessDenied|Access Denied|not authorized|Forbidden"):
                work()


def test_a_run_reads_its_inputs_and_nothing_beside_them(settings: Settings) -> None:
    """The role could read all of the bucket; the run's session cannot, nor list it."""
    with run(settings):
        bucket = site_storage(SITE, settings).bucket  # type: ignore[attr-defined]
        assert bucket.read(OWN)[0] == OWN.encode()
        for key in (OTHERS, "datasets/nafld-raw2/v1/data.txt", "artifacts/nafld/x", "secret.txt"):
            denied(lambda key=key: bucket.read(key))  # type: ignore[misc]
        denied(lambda: list(bucket.list("datasets/")))
        denied(lambda: list(bucket.list("")))
        assert [held.key for held in bucket.list("datasets/nafld-raw/")] == [OWN]


def test_a_run_publishes_what_its_step_makes_and_cannot_change_its_inputs(settings: Settings) -> None:
    """`materialize` writes `nafld-features`; `nafld-raw`, which it reads, stays as it is."""
    with run(settings):
        storage = site_storage(SITE, settings)
        with storage.draft("nafld-features") as draft:
            (draft / "f.txt").write_text("made")
            made = storage.publish("nafld-features", draft, {})
        assert (site_storage(SITE, settings).open("nafld-features", made.version) / "f.txt").read_text() == "made"
        denied(lambda: storage.bucket.swap(OWN, b"changed", tag=None))  # type: ignore[attr-defined]
        denied(lambda: storage.bucket.delete([OWN]))  # type: ignore[attr-defined]


def test_a_training_removes_the_checkpoints_that_it_wrote(settings: Settings) -> None:
    """They are versions of its model; one is kept at a time, and none once the model is published. What it learns from it cannot remove."""
    with run(settings, "train"):
        storage = site_storage(SITE, settings)
        with storage.draft("nafld-model") as draft:
            (draft / "checkpoint.pickle").write_bytes(b"half a model")
            made = storage.publish("nafld-model", draft, {"done": 10})
        storage.remove("nafld-model", made.version)
        assert site_storage(SITE, settings).versions("nafld-model") == []
        denied(lambda: storage.bucket.delete([OWN]))  # type: ignore[attr-defined]


def test_an_object_that_is_not_there_is_absent_though_s3_says_denied(settings: Settings) -> None:
    """To a role that may list below some prefixes only, S3 answers 403 where it would answer 404; the list below the prefix tells."""
    from botocore.exceptions import ClientError

    with run(settings):
        bucket = site_storage(SITE, settings).bucket  # type: ignore[attr-defined]
        refusal = ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, "HeadObject")
        assert bucket._absent(refusal, "datasets/nafld-raw/v2/manifest.json") and not bucket._absent(refusal, OWN)
        with pytest.raises(ClientError, match="AccessDenied"):
            bucket._absent(refusal, OTHERS)


def test_a_transfer_writes_at_its_destination_and_nowhere_else(settings: Settings) -> None:
    """It reads at its own site, writes what it was sent with there, and nothing else at either."""
    with acquire(SITE, "nafld", "ingest", settings, intent="i"):
        storage = site_storage(SITE, settings)
        with storage.draft("nafld-raw") as draft:
            (draft / "f.txt").write_text("made")
            made = storage.publish("nafld-raw", draft, {})
    with run(settings, "transfer", destination=TO) as held:
        here, there = site_storage(SITE, settings), site_storage(TO, settings)
        assert copy_version(here, there, "nafld-raw", made.version).version == made.version
        denied(lambda: here.bucket.swap("datasets/nafld-raw/v/x", b"x", tag=None))  # type: ignore[attr-defined]
        denied(lambda: there.bucket.swap("datasets/nafld-model/v/x", b"x", tag=None))  # type: ignore[attr-defined]
        denied(lambda: there.bucket.read(OTHERS))  # type: ignore[attr-defined]
        assert [one["sites"] for one in held.public] == [[SITE, TO]]


def test_a_site_that_the_run_did_not_ask_for_is_not_opened(settings: Settings) -> None:
    """Not even with what the machine itself has."""
    with run(settings), pytest.raises(GuardRefused, match="asked for no credentials of `s3://tradewind-us`"):
        site_storage(TO, settings)


def test_every_way_to_the_bucket_takes_the_runs_own(settings: Settings, site_role: dict[str, str]) -> None:
    """Arrow's filesystem and MLflow's variables, too; after the run the role's are back, and within it nobody prints a secret."""
    with run(settings) as held:
        connection = settings.sites[SITE]
        secret = held.held(connection).get_frozen_credentials().secret_key
        assert arrow_options(connection)["secret_key"] == environment(connection)["AWS_SECRET_ACCESS_KEY"] == secret
        assert secret != site_role["AWS_SECRET_ACCESS_KEY"]
        told = f"{held!r} {held.by_site[SITE]!r} {json.dumps(held.public)}"
        assert secret not in told and held.held(connection).get_frozen_credentials().token not in told
        assert current() is held
    assert current() is None


def test_a_session_is_named_tagged_and_short(settings: Settings, aws: EnforcingAws) -> None:
    """Who, what and until when: an hour at most, the step's own deadline if that is earlier, never less than AWS gives."""
    for until, seconds in ((None, 3600), (timedelta(hours=9), 3600), (timedelta(minutes=30), 1799), (timedelta(minutes=1), 900)):
        with run(settings, until=None if until is None else datetime.now(UTC) + until) as held:
            (given,) = held.public
        assert abs((datetime.fromisoformat(given["expires_at"]) - datetime.now(UTC)).total_seconds() - seconds) < 30
    asked = aws.asked[0]
    assert asked["role_arn"] == ROLE and asked["role_session_name"].startswith("materialize-nafld-")
    assert given == {"sites": [SITE], "how": "assume-role", "policy": given["policy"], "expires_at": given["expires_at"]}


def test_a_run_that_outlives_its_session_gets_the_next(settings: Settings, aws: EnforcingAws) -> None:
    """Minutes before the end the same policy is asked for again; the bucket that is open goes on."""
    with run(settings) as held:
        bucket = site_storage(SITE, settings).bucket  # type: ignore[attr-defined]
        own = held.held(settings.sites[SITE])
        before = own.get_frozen_credentials().token
        own._expiry_time = datetime.now(UTC) + timedelta(seconds=RENEWED // 2 - 1)
        assert bucket.read(OWN) is not None
        assert own.get_frozen_credentials().token != before
        assert len(aws.asked) == 2 and aws.asked[0]["policy"] == aws.asked[1]["policy"]


def test_a_token_file_is_exchanged_without_any_key(
    settings: Settings, aws: EnforcingAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Kubernetes: the projected token and the role that the platform names; the same policy. moto does not look at the token."""
    (tmp_path / "token").write_text("projected\n")
    monkeypatch.setenv(TOKEN_FILE, str(tmp_path / "token"))
    monkeypatch.setenv(step_credentials.ROLE, ROLE)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    from moto import settings as moto_settings

    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(moto_settings, "INITIAL_NO_AUTH_ACTION_COUNT", float("inf"))  # it takes no request without a signature
            held = stack.enter_context(run(settings))
        assert [one["how"] for one in held.public] == ["web-identity"]
        bucket = site_storage(SITE, settings).bucket  # type: ignore[attr-defined]
        assert bucket.read(OWN) is not None
        denied(lambda: bucket.read(OTHERS))


@pytest.fixture
def without_keys(settings: Settings) -> Iterator[None]:
    """As a container of another cloud: nothing of AWS's but where its server is. Nothing is enforced: moto would take no token."""
    from moto import settings as moto_settings

    with pytest.MonkeyPatch.context() as patched:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            patched.delenv(name)
        patched.setattr(moto_settings, "INITIAL_NO_AUTH_ACTION_COUNT", float("inf"))
        yield


def access_role(site: str) -> str:
    """What the shipped estate declares."""
    return f"arn:aws:iam::{ACCOUNT}:role/tradewind-{site.removeprefix('aws-')}-access"


@pytest.mark.usefixtures("without_keys")
def test_a_transfer_from_the_cluster_asks_each_store_as_the_estate_says(
    settings: Settings, aws: EnforcingAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pod's token, as the pool's template mounts it: at the cluster's own store for one role, at AWS for the destination's."""
    (tmp_path / "token").write_text("projected\n")
    monkeypatch.setenv(TOKEN_FILE, str(tmp_path / "token"))
    monkeypatch.setenv("TRADEWIND_POOL", "onprem-fra-k8s")
    own = SiteConnection(url=f"s3://{BUCKET}", endpoint=aws.url)
    sites = settings.model_copy(update={"sites": {"onprem-fra": own, TO: settings.sites[TO]}})
    with acquire("onprem-fra", "nafld", "transfer", sites, intent="i", inputs=["nafld-raw"], destination=TO) as held:
        assert held is not None
        assert [(one["sites"], one["how"]) for one in held.public] == [(["onprem-fra"], "web-identity"), ([TO], "web-identity")]
        here, there = site_storage("onprem-fra", sites), site_storage(TO, sites)
        assert here.bucket.read(OWN)[0] == OWN.encode()  # type: ignore[attr-defined]
        assert there.bucket.swap("datasets/nafld-raw/v9/x", b"x", tag=None)  # type: ignore[attr-defined]
    assert [one["role_arn"] for one in aws.asked] == [access_role("onprem-fra"), access_role(TO)]


@pytest.mark.usefixtures("without_keys")
def test_a_run_at_google_brings_its_own_token_to_aws(
    settings: Settings, aws: EnforcingAws, metadata: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An identity token from the metadata server, by Google's library, for the audience that the pool declares; each time a new one."""
    monkeypatch.setenv("TRADEWIND_POOL", "gcp-europe-west4-vertex")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    sites = settings.model_copy(update={"sites": {"gcp-europe-west4": SiteConnection(url="gs://tradewind-nl"), SITE: settings.sites[SITE]}})
    with acquire("gcp-europe-west4", "nafld", "transfer", sites, intent="i", inputs=["nafld-raw"], destination=SITE) as held:
        assert held is not None
        assert [(one["sites"], one["how"]) for one in held.public] == [(["gcp-europe-west4"], "ambient"), ([SITE], "web-identity")]
        session = held.held(sites.sites[SITE])
        session._expiry_time = datetime.now(UTC) + timedelta(seconds=RENEWED // 2 - 1)
        assert session.get_frozen_credentials().secret_key
    assert [one["role_arn"] for one in aws.asked] == [access_role(SITE)] * 2
    assert metadata == [("sts.amazonaws.com", "Google")] * 2


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """A metadata server as a container at Google has it; the audience and flavour of each request for an identity."""
    import jwt
    from google.auth.compute_engine import _metadata

    asked: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            kind, found = "application/json", json.dumps({"email": "run@tradewind-example.iam.gserviceaccount.com"}).encode()
            if url.path == "/computeMetadata/v1/instance/service-accounts/default/identity":
                (audience,) = parse_qs(url.query)["audience"]
                asked.append((audience, self.headers["Metadata-Flavor"]))
                says = {"iss": "https://accounts.google.com", "aud": audience, "sub": "1", "exp": int(time.time()) + 3600}
                kind, found = "application/text", jwt.encode(says, "k" * 32).encode()
            self.send_response(200)
            self.send_header("Metadata-Flavor", "Google")
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(found)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    here = f"127.0.0.1:{server.server_port}"
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", here)
    monkeypatch.setenv("GCE_METADATA_IP", here)
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("broken", ["unreachable", "refused", "no keys"])
def test_without_an_answer_nothing_is_opened(settings: Settings, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """One message that says which step was given nothing and what to do; nobody falls back to the role itself."""
    if broken == "unreachable":
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9")
    elif broken == "refused":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    else:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with pytest.raises(Unavailable, match=f"`materialize` of `nafld` was given no credentials for `{SITE}`") as caught, run(settings):
        pytest.fail("the run went on")
    assert current() is None and len(caught.value.problems) == 1


def test_a_pool_without_a_role_gets_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to narrow."""
    monkeypatch.setenv("TRADEWIND_POOL", "control")
    with pytest.raises(UserError, match="no role is known for the data"), run(settings):
        pytest.fail("the run went on")


def test_where_a_store_gives_nothing_short_lived_the_record_says_so(settings: Settings) -> None:
    """An on-prem store with declared keys and no token file: those keys, and `ambient` on record."""
    secret = json.dumps({"access_key": "declared", "secret_key": "declared"})
    own = SiteConnection.model_validate({"url": "s3://onprem", "endpoint": "http://127.0.0.1:9", "credentials": secret})
    with acquire("onprem-fra", "nafld", "train", settings.model_copy(update={"sites": {"onprem-fra": own}}), intent="i") as held:
        assert held is not None
        assert held.public == [{"sites": ["onprem-fra"], "how": "ambient", "policy": None, "expires_at": None}]
        assert environment(own)["AWS_ACCESS_KEY_ID"] == "declared"


def test_in_the_embedded_profile_nobody_is_asked(tmp_path: Path, aws: EnforcingAws) -> None:
    """Sites are folders of this machine."""
    aws.asked.clear()
    with acquire("onprem-fra", "nafld", "train", Settings(home=tmp_path), intent="i") as held:
        assert held is None and current() is None
    assert not aws.asked
