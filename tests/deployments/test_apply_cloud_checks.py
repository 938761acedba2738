"""What `apply --check` and `doctor` find in the clouds before anything runs.

AWS is moto's server on the loopback: the real client and wire protocol; moto enforces no rights here. Google Cloud is a local server
written from the published references of its interfaces, asked by Google's own client of credentials; it is not Google's.
"""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
import typer
from typer.testing import CliRunner

from deployments.apply import checks_aws, checks_gcp
from deployments.apply.cloud_checks import Found, Looked, bucket_of, examine, keys
from deployments.apply.options import ApplyOptions, SiteConnection
from deployments.cli.stack import _print_findings
from deployments.local import doctor
from flows.adapters import signing
from flows.adapters.estate import read_estate
from flows.adapters.settings import PROJECT_ROOT, Settings

boto3 = pytest.importorskip("boto3", reason="the AWS client is not installed")
pytest.importorskip("moto.server", reason="moto's server is not installed")

AWS, GCP = "aws-eu-central-1", "gcp-europe-west4"
ACCOUNT = "123456789012"
"""The account that moto gives everyone."""
REGION = "eu-central-1"
CLUSTER = f"tradewind-{REGION}"
ACCESS = "tradewind-eu-central-1-access"
BUCKET = "tradewind-data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the declarations, of moto's account."""
    copied = Path(shutil.copytree(PROJECT_ROOT / "deployments", tmp_path / "deployments", ignore=shutil.ignore_patterns("__pycache__")))
    for name in ("sites.yaml", "pools.yaml"):
        path = copied / "estate" / name
        path.write_text(path.read_text().replace("111122223333", ACCOUNT))
    return copied


def looked(folder: Path, site: str, bucket: str | None = BUCKET) -> Looked:
    """One site of the copy."""
    files = read_estate(folder / "estate")
    return Looked(files, files.estate.site_by_id[site], bucket)


def wrong(found: list[Found]) -> dict[str, Found]:
    """What must be put right, by check; none twice."""
    bad = [one for one in found if one.result == "wrong"]
    assert len({one.check for one in bad}) == len(bad), bad
    return {one.check.partition(" ")[2]: one for one in bad}


@pytest.fixture
def aws(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A moto server that has all that the site at Frankfurt stands on; the declarations, with its subnet."""
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    try:
        import httpx

        httpx.post(f"http://{host}:{port}/moto-api/reset", timeout=60).raise_for_status()
        iam, ecs, ec2, s3 = (boto3.client(name, region_name=REGION) for name in ("iam", "ecs", "ec2", "s3"))
        for role in (f"{CLUSTER}-run", f"{CLUSTER}-start", ACCESS):
            iam.create_role(RoleName=role, AssumeRolePolicyDocument="{}")
        ecs.create_cluster(clusterName=CLUSTER, capacityProviders=[f"{CLUSTER}-on-demand", f"{CLUSTER}-spot"])
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
        path = folder / "estate" / "pools.yaml"
        path.write_text(path.read_text().replace("subnet-0a1b2c3d4e5f60718", subnet))
        yield folder
    finally:
        server.stop()


def test_a_site_as_declared_is_well(aws: Path) -> None:
    """Each thing was looked at, and none is wrong."""
    found = list(checks_aws.look(looked(aws, AWS)))
    assert {one.result for one in found} == {"ok"}, found
    assert {one.check.partition(" ")[2] for one in found} == {"credentials", "roles", "clusters", "subnets", "bucket", "machine types"}


def test_a_missing_role_is_told_with_its_pool(aws: Path) -> None:
    """Each pool that takes it is named, with its line."""
    boto3.client("iam", region_name=REGION).delete_role(RoleName=f"{CLUSTER}-start")
    found = wrong(list(checks_aws.look(looked(aws, AWS))))["roles"]
    assert f"`execution_role` of `{AWS}-ecs` is no role: `arn:aws:iam::{ACCOUNT}:role/{CLUSTER}-start`" in str(found)
    assert "pools.yaml:" in str(found)
    assert "fix: make it" in str(found)


def test_a_missing_access_role_is_told_with_its_site(aws: Path) -> None:
    """Runs elsewhere would be refused at the door, after they had waited for their machines."""
    boto3.client("iam", region_name=REGION).delete_role(RoleName=ACCESS)
    found = wrong(list(checks_aws.look(looked(aws, AWS))))["roles"]
    assert f"`access_role` of `{AWS}` is no role: `arn:aws:iam::{ACCOUNT}:role/{ACCESS}`" in str(found)
    assert "sites.yaml:" in str(found)


def test_a_missing_cluster_is_told(aws: Path) -> None:
    """In the site's region, whatever there is elsewhere."""
    boto3.client("ecs", region_name=REGION).delete_cluster(cluster=CLUSTER)
    boto3.client("ecs", region_name="us-east-1").create_cluster(clusterName=CLUSTER)
    assert f"runs on cluster `{CLUSTER}`, which is not active in `{REGION}`" in str(
        wrong(list(checks_aws.look(looked(aws, AWS))))["clusters"]
    )


def test_a_cluster_without_its_spot_capacity_is_told(aws: Path) -> None:
    """The template names a capacity provider for each way to buy."""
    client = boto3.client("ecs", region_name=REGION)
    client.delete_cluster(cluster=CLUSTER)
    client.create_cluster(clusterName=CLUSTER, capacityProviders=[f"{CLUSTER}-on-demand"])
    assert f"has no capacity provider `{CLUSTER}-spot`" in str(wrong(list(checks_aws.look(looked(aws, AWS))))["clusters"])


def test_a_bucket_in_another_region_is_told(aws: Path) -> None:
    """Data would leave the region, and its residency."""
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="elsewhere")
    found = str(wrong(list(checks_aws.look(looked(aws, AWS, "elsewhere"))))["bucket"])
    assert f"bucket `elsewhere` is in `us-east-1`; expected `{REGION}`" in found
    assert "there is no bucket `none-such`" in str(wrong(list(checks_aws.look(looked(aws, AWS, "none-such"))))["bucket"])


def test_a_missing_subnet_is_told(aws: Path) -> None:
    """One of another region is missing here."""
    path = aws / "estate" / "pools.yaml"
    text = path.read_text()
    at = text.index(f"- name: {AWS}-ecs")
    path.write_text(text[:at] + text[at:].replace("subnets: [subnet-", "subnets: [subnet-00000000000000000, subnet-", 1))
    assert "`subnet-00000000000000000`, which is not in" in str(wrong(list(checks_aws.look(looked(aws, AWS))))["subnets"])


def test_a_machine_type_that_is_not_offered_is_told_with_its_row(aws: Path) -> None:
    """An offer that nobody can rent would be chosen, and fail."""
    with (aws / "estate" / "offers.csv").open("a") as offers:
        offers.write(f"{AWS},c6a.999xlarge,,,4,8,0.2,,{REGION},x86_64,,12,assumed,2026-11-24\n")
    found = str(wrong(list(checks_aws.look(looked(aws, AWS))))["machine types"])
    assert f"`c6a.999xlarge` is not offered in `{REGION}`" in found
    assert "offers.csv:" in found


def test_credentials_of_another_account_are_told_and_nothing_else_is_asked(aws: Path) -> None:
    """All other answers would be about the wrong account."""
    path = aws / "estate" / "sites.yaml"
    path.write_text(path.read_text().replace(ACCOUNT, "999999999999"))
    (found,) = checks_aws.look(looked(aws, AWS))
    assert f"those of account `{ACCOUNT}`; expected `999999999999`" in str(found)


def test_no_credentials_are_told(aws: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the way to get some."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    (found,) = checks_aws.look(looked(aws, AWS))
    assert found.result == "wrong"
    assert "no credentials for AWS" in str(found)


def test_aws_that_does_not_answer_is_unknown_not_well(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of the site then."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    (found,) = checks_aws.look(looked(folder, AWS))
    assert found.result == "unknown"
    assert "could not check: AWS does not answer" in str(found)


class Local:
    """A local server: answers by path, and what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, str, str]] = {}
        self.url = ""

    def put(self, path: str, body: Any, status: int = 200, kind: str = "application/json") -> None:
        """What a path answers from now on."""
        self.answers[path] = (status, kind, body if isinstance(body, str) else json.dumps(body))


@pytest.fixture
def local() -> Iterator[Local]:
    """The server of one test."""
    made = Local()

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlparse(self.path)
            page = parse_qs(url.query).get("pageToken", [""])[0]
            self._answer(f"{url.path}?{page}" if page else url.path)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._answer(self.path)

        def _answer(self, path: str) -> None:
            status, kind, text = made.answers.get(path, (404, "application/json", "{}"))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


ERROR = "<ErrorResponse><Error><Type>Sender</Type><Code>{}</Code><Message>no</Message></Error><RequestId>1</RequestId></ErrorResponse>"


@pytest.mark.parametrize(("code", "result"), [("ExpiredToken", "wrong"), ("InvalidClientTokenId", "wrong"), ("AccessDenied", "unknown")])
def test_expired_credentials_are_told_once(folder: Path, local: Local, monkeypatch: pytest.MonkeyPatch, code: str, result: str) -> None:
    """One message, not one for each thing that could not be read with them; the answer is AWS's own, from a local server."""
    local.put("/", ERROR.format(code), 403, "text/xml")
    monkeypatch.setenv("AWS_ENDPOINT_URL", local.url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    (found,) = checks_aws.look(looked(folder, AWS))
    assert found.result == result
    assert code in str(found)
    assert found.problem.fix


PROJECT, ROLE = "tradewind-example", "tradewind-run@tradewind-example.iam.gserviceaccount.com"
GUEST = "tradewind-europe-west4-access@tradewind-example.iam.gserviceaccount.com"
TYPES = ("e2-standard-4", "n1-standard-4", "n1-standard-8", "g2-standard-8", "a2-highgpu-1g")
MACHINES = f"/compute/v1/projects/{PROJECT}/aggregated/machineTypes"


@pytest.fixture
def gcp(local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Local:
    """A server that has all that the site in the Netherlands stands on, and a service account's key made for this test."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account", "project_id": PROJECT, "private_key_id": "1", "private_key": key.decode(), "client_id": "1",
        "client_email": f"check@{PROJECT}.iam.gserviceaccount.com", "token_uri": f"{local.url}/token",
    }  # fmt: skip
    path = tmp_path / "key.json"
    path.write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    local.put("/token", {"access_token": "short", "expires_in": 3600, "token_type": "Bearer"})
    local.put(f"/v3/projects/{PROJECT}", {"projectId": PROJECT, "state": "ACTIVE"})
    for role in (ROLE, GUEST):
        local.put(f"/v1/projects/-/serviceAccounts/{role}", {"email": role})
    local.put(f"/storage/v1/b/{BUCKET}", {"name": BUCKET, "location": "EUROPE-WEST4"})
    elsewhere = {"zones/us-central1-a": {"machineTypes": [{"name": "n1-standard-4"}]}}
    local.put(MACHINES, {"items": elsewhere, "nextPageToken": "2"})
    local.put(f"{MACHINES}?2", {"items": {"zones/europe-west4-a": {"machineTypes": [{"name": name} for name in TYPES]}}})
    return local


def google(folder: Path, server: Local, site: str = GCP) -> list[Found]:
    """What Google's site looks like through the local server."""
    return list(checks_gcp.look(looked(folder, site), dict.fromkeys(checks_gcp.ENDPOINTS, server.url)))


def test_a_google_site_as_declared_is_well(folder: Path, gcp: Local) -> None:
    """Each thing was looked at, page by page where there are pages."""
    found = google(folder, gcp)
    assert {one.result for one in found} == {"ok"}, found
    assert {one.check.partition(" ")[2] for one in found} == {"credentials", "project", "roles", "bucket", "machine types"}


@pytest.mark.parametrize(
    ("path", "body", "check", "told"),
    [
        (f"/v3/projects/{PROJECT}", {"state": "DELETE_REQUESTED"}, "project", f"no active project `{PROJECT}`"),
        (
            f"/v1/projects/-/serviceAccounts/{ROLE}",
            {"disabled": True},
            "roles",
            f"`role` of `{GCP}-vertex` is no service account: `{ROLE}`",
        ),
        (
            f"/v1/projects/-/serviceAccounts/{GUEST}",
            {"disabled": True},
            "roles",
            f"`access_role` of `{GCP}` is no service account: `{GUEST}`",
        ),
        (f"/storage/v1/b/{BUCKET}", {"location": "US-CENTRAL1"}, "bucket", "is in `us-central1`; expected `europe-west4`"),
        (
            f"{MACHINES}?2",
            {"items": {"zones/europe-west4-a": {"machineTypes": [{"name": n} for n in TYPES[1:]]}}},
            "machine types",
            TYPES[0],
        ),
    ],
    ids=["project", "role", "access role", "bucket", "machine type"],
)
def test_what_google_lacks_is_told(folder: Path, gcp: Local, path: str, body: Any, check: str, told: str) -> None:
    """One message, with its line and a fix."""
    gcp.put(path, body)
    (found,) = wrong(google(folder, gcp)).values()
    assert found.check == f"{GCP} {check}"
    assert told in str(found)
    assert found.problem.line
    assert found.problem.fix


def test_a_missing_subnet_of_cloud_run_is_told(folder: Path, gcp: Local) -> None:
    """Of another region it is missing here."""
    found = str(wrong(google(folder, gcp, "gcp-europe-west6"))["subnets"])
    assert "subnet `tradewind-europe-west6`, which is not in `europe-west6`" in found


def test_google_s_refusal_of_the_credentials_is_told_once(folder: Path, gcp: Local) -> None:
    """Expired or withdrawn: the token is asked for at the check, not at the first run."""
    gcp.put("/token", {"error": "invalid_grant", "error_description": "account not found"}, 400)
    (found,) = google(folder, gcp)
    assert found.result == "wrong"
    assert "have expired or are not valid: invalid_grant" in str(found)


def test_what_google_does_not_show_is_unknown(folder: Path, gcp: Local) -> None:
    """No right to look is no proof that it is there."""
    gcp.put(f"/v3/projects/{PROJECT}", {"error": {"code": 403}}, 403)
    found = {one.check.partition(" ")[2]: one for one in google(folder, gcp)}
    assert found["project"].result == "unknown"
    assert "could not check: Google answered 403" in str(found["project"])
    assert found["roles"].result == "ok"


def test_a_site_s_bucket_is_that_of_its_connection() -> None:
    """Folders of the embedded profile have none."""
    options = ApplyOptions(sites={AWS: SiteConnection(url="s3://data/ml"), "onprem-fra": SiteConnection(url="file:///data")})
    assert [bucket_of(options, site) for site in (AWS, "onprem-fra", GCP)] == ["data", None, None]


@pytest.fixture
def only_aws(aws: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same estate with the Google sites' cloud named as one that is not looked at."""
    path = aws / "estate" / "sites.yaml"
    path.write_text(path.read_text().replace("cloud: gcp", "cloud: elsewhere"))
    return aws


def test_every_cloud_site_with_a_pool_is_looked_at(only_aws: Path) -> None:
    """Control is nobody's to tell, the data centre is its cluster's."""
    found = examine(Settings(profile="cloud", deployments=only_aws), ApplyOptions())
    assert {one.check.partition(" ")[0] for one in found} == {
        "signing",
        "onprem-fra",
        "aws-us-east-1",
        "aws-eu-central-1",
        "aws-eu-north-1",
    }


def test_a_missing_public_key_of_control_is_told(tmp_path: Path) -> None:
    """Without one every run would refuse its ticket; one that is enrolled, or given, will do."""
    key = signing.signer(signing.new_key()).public_key
    assert keys(Settings(profile="cloud", home=tmp_path)).result == "wrong"
    assert keys(Settings(profile="cloud", home=tmp_path, public_keys=key)).result == "ok"
    signing.enroll(tmp_path / "anchors", key, at=datetime.now(UTC))
    assert keys(Settings(profile="cloud", home=tmp_path)).result == "ok"


def test_doctor_tells_the_same_in_the_cloud_profile_only(only_aws: Path, tmp_path: Path) -> None:
    """A missing role is a problem with a fix; the embedded profile asks no cloud."""
    clouds: Callable[[Settings], Iterator[doctor.Finding]] = doctor._clouds
    boto3.client("iam", region_name=REGION).delete_role(RoleName=f"{CLUSTER}-start")
    found = [one for one in clouds(Settings(profile="cloud", deployments=only_aws, home=tmp_path)) if one.check == f"{AWS} roles"]
    assert [(one.ok, "is no role" in one.found, bool(one.fix)) for one in found] == [(False, True, True)]
    assert list(clouds(Settings(deployments=only_aws, home=tmp_path))) == []


def test_what_doctor_cannot_look_at_is_neither_well_nor_a_problem(
    only_aws: Path, tmp_path: Path, local: Local, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named, and does not end the command with 1."""
    local.put("/", ERROR.format("AccessDenied"), 403, "text/xml")
    monkeypatch.setenv("AWS_ENDPOINT_URL", local.url)
    settings = Settings(profile="cloud", deployments=only_aws, home=tmp_path)
    (found,) = [one for one in doctor._clouds(settings) if one.check == f"{AWS} credentials"]
    assert (found.ok, found.known, found.word) == (True, False, "UNKNOWN")
    _print_findings([found])
    told = capsys.readouterr().out
    assert f"UNKNOWN  {AWS} credentials: could not check: AWS answered `AccessDenied`" in told
    assert "no problem, but 1 could not be looked at" in told


def test_doctor_tells_a_template_that_does_not_fit(only_aws: Path, tmp_path: Path) -> None:
    """Before any cloud is asked."""
    path = only_aws / "estate" / "pools.yaml"
    path.write_text(path.read_text().replace("    security_groups: ", "    security_group: ", 1))
    found = list(doctor._told(doctor._clouds, Settings(profile="cloud", deployments=only_aws, home=tmp_path)))
    assert [one.ok for one in found] == [False]


def test_apply_check_ends_in_1_if_a_cloud_lacks_something(only_aws: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the Prefect server has all that is declared; what is well is not printed."""
    import deployments.apply
    from deployments.apply.model import Diff
    from deployments.cli.apply import apply as command

    monkeypatch.setattr(deployments.apply, "apply", lambda settings, check: Diff())
    monkeypatch.setenv("TRADEWIND_PROFILE", "cloud")
    monkeypatch.setenv("TRADEWIND_DEPLOYMENTS", str(only_aws))
    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, ["--check"])
    assert done.exit_code == 1
    assert "PROBLEM  aws-us-east-1 clusters: " in done.output
    assert f"{AWS} " not in done.output
    told = json.loads(CliRunner().invoke(app, ["--check", "--json"]).output)
    assert {one["check"]: one["result"] for one in told["clouds"]}[f"{AWS} credentials"] == "ok"
