"""Price catalogs over the network: asked for only if they changed, checked, limited, and never half there."""

from __future__ import annotations

import hashlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest

from deployments.cli.estate import app
from flows.adapters.price_refresh import LEDGER, Limits, refresh, remembered
from flows.core.errors import IntegrityError, TradewindError, Unavailable, UserError

HEADER = "InstanceType,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,GpuInfo,Region,AvailabilityZone,Price,SpotPrice\n"
CATALOG = (HEADER + "m5.large,2,8,,,,r1,,0.1,\n").encode()
OTHER = (HEADER + "m5.large,2,8,,,,r1,,0.2,\nm5.xlarge,4,16,,,,r1,,0.4,\n").encode()


@dataclass
class Shop:
    """A server on this machine that publishes catalogs; `behave` may do something else with a request."""

    files: dict[str, bytes] = field(default_factory=lambda: {"/aws/vms.csv": CATALOG})
    statuses: list[int] = field(default_factory=list)
    behave: Callable[[BaseHTTPRequestHandler], None] | None = None
    url: str = ""


def handler(shop: Shop) -> type[BaseHTTPRequestHandler]:
    """What answers for the shop."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if shop.behave is not None:
                shop.behave(self)
                return
            body = shop.files.get(self.path)
            tag = '"' + hashlib.sha256(body or b"").hexdigest()[:8] + '"'
            status = 404 if body is None else 304 if self.headers.get("If-None-Match") == tag else 200
            shop.statuses.append(status)
            self.send_response(status)
            self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(body) if body and status == 200 else 0))
            self.end_headers()
            if status == 200 and body:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


def serving(shop: Shop, context: ssl.SSLContext | None = None) -> Iterator[Shop]:
    """The shop, open."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(shop))
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    shop.url = f"{'http' if context is None else 'https'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield shop
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def shop() -> Iterator[Shop]:
    """A shop without TLS, which only this machine may use."""
    yield from serving(Shop())


def leftovers(folder: Path) -> list[str]:
    """Every file of the folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_catalog_is_fetched_with_its_checksum(shop: Shop, tmp_path: Path) -> None:
    """Bytes as published, in the folder that the import reads."""
    (got,) = refresh(shop.url, tmp_path, ["aws"])
    assert (got.status, got.rows, got.bytes, got.sha256) == ("new", 1, len(CATALOG), hashlib.sha256(CATALOG).hexdigest())
    assert (tmp_path / "aws" / "vms.csv").read_bytes() == CATALOG
    assert leftovers(tmp_path) == [LEDGER, "aws/vms.csv"]


def test_what_did_not_change_is_not_fetched_again(shop: Shop, tmp_path: Path) -> None:
    """The server answers 304 to the ETag."""
    refresh(shop.url, tmp_path, ["aws"])
    (got,) = refresh(shop.url, tmp_path, ["aws"])
    assert (got.status, got.rows, shop.statuses) == ("unchanged", 1, [200, 304])


def test_what_changed_takes_the_place_of_the_old(shop: Shop, tmp_path: Path) -> None:
    """With its own ETag."""
    refresh(shop.url, tmp_path, ["aws"])
    shop.files["/aws/vms.csv"] = OTHER
    assert [refresh(shop.url, tmp_path, ["aws"])[0].status for _ in range(2)] == ["new", "unchanged"]
    assert (tmp_path / "aws" / "vms.csv").read_bytes() == OTHER


@pytest.mark.parametrize("spoil", ["file", "gone", "ledger", "address"])
def test_an_etag_counts_only_for_the_very_bytes_it_came_with(shop: Shop, tmp_path: Path, spoil: str) -> None:
    """A file changed by hand, a lost file, an unreadable memory, another address: fetched anew."""
    refresh(shop.url, tmp_path, ["aws"])
    if spoil == "file":
        (tmp_path / "aws" / "vms.csv").write_bytes(OTHER)
    elif spoil == "gone":
        (tmp_path / "aws" / "vms.csv").unlink()
    elif spoil == "ledger":
        (tmp_path / LEDGER).write_text("[1")
    shop.files["/v9/aws/vms.csv"] = CATALOG
    (got,) = refresh(f"{shop.url}/v9" if spoil == "address" else shop.url, tmp_path, ["aws"])
    assert (got.status, shop.statuses) == ("new", [200, 200])
    assert (tmp_path / "aws" / "vms.csv").read_bytes() == CATALOG and remembered(tmp_path)["aws"].sha256 == got.sha256


def test_a_checksum_that_was_told_must_fit(shop: Shop, tmp_path: Path) -> None:
    """Else what was here stays."""
    refresh(shop.url, tmp_path, ["aws"], checksums={"aws": hashlib.sha256(CATALOG).hexdigest().upper()})
    with pytest.raises(IntegrityError, match="sha256"):
        refresh(shop.url, tmp_path, ["aws"], checksums={"aws": "0" * 64})
    assert (tmp_path / "aws" / "vms.csv").read_bytes() == CATALOG and leftovers(tmp_path) == [LEDGER, "aws/vms.csv"]


def endless(answer: BaseHTTPRequestHandler) -> None:
    """Rows without end."""
    answer.send_response(200)
    answer.end_headers()
    try:
        while True:
            answer.wfile.write(b"m,1,1,,,,r,,1,\n" * 1000)
    except OSError:
        answer.close_connection = True


def dripping(answer: BaseHTTPRequestHandler) -> None:
    """A byte now and then: no read ever times out."""
    answer.send_response(200)
    answer.end_headers()
    try:
        for _ in range(200):
            answer.wfile.write(b"x")
            time.sleep(0.02)
    except OSError:
        answer.close_connection = True


def silent(answer: BaseHTTPRequestHandler) -> None:
    """No word for a while."""
    time.sleep(0.6)
    answer.close_connection = True


def cut(answer: BaseHTTPRequestHandler) -> None:
    """Half of what was promised."""
    answer.send_response(200)
    answer.send_header("Content-Length", str(2 * len(CATALOG)))
    answer.end_headers()
    answer.wfile.write(CATALOG)
    answer.close_connection = True


def page(answer: BaseHTTPRequestHandler) -> None:
    """A login page instead of a catalog."""
    answer.send_response(200)
    answer.end_headers()
    answer.wfile.write(b"<html><body>please log in</body></html>")


def empty(answer: BaseHTTPRequestHandler) -> None:
    """A header and nothing below."""
    answer.send_response(200)
    answer.end_headers()
    answer.wfile.write(HEADER.encode())


def away(answer: BaseHTTPRequestHandler) -> None:
    """A redirect to where bytes can be changed on the way."""
    answer.send_response(302)
    answer.send_header("Location", "http://prices.example.com/vms.csv")
    answer.end_headers()


def around(answer: BaseHTTPRequestHandler) -> None:
    """A redirect to itself."""
    answer.send_response(302)
    answer.send_header("Location", answer.path)
    answer.end_headers()


def broken(answer: BaseHTTPRequestHandler) -> None:
    """A server in trouble."""
    answer.send_response(503)
    answer.end_headers()


@pytest.mark.parametrize(
    ("behave", "error", "told"),
    [
        (endless, Unavailable, "more than 100,000 bytes"),
        (dripping, Unavailable, "not done within 0.3 s"),
        (silent, Unavailable, "no answer within 0.3 s"),
        (cut, Unavailable, "no answer"),
        (page, UserError, "not a price catalog: no column"),
        (empty, UserError, "the catalog has no rows"),
        (away, UserError, "is not encrypted"),
        (around, Unavailable, "more than 5 redirects"),
        (broken, Unavailable, "the server answers 503"),
    ],
)
def test_a_bad_answer_leaves_what_was_here(
    shop: Shop, tmp_path: Path, behave: Callable[[BaseHTTPRequestHandler], None], error: type[TradewindError], told: str
) -> None:
    """One clear message that names the address; no part of it on disk."""
    refresh(shop.url, tmp_path, ["aws"])
    shop.behave = behave
    with pytest.raises(error, match=told) as caught:
        refresh(shop.url, tmp_path, ["aws"], limits=Limits(seconds=0.3 if behave in (dripping, silent) else 30, max_bytes=100_000))
    assert "http" in str(caught.value)
    assert (tmp_path / "aws" / "vms.csv").read_bytes() == CATALOG and leftovers(tmp_path) == [LEDGER, "aws/vms.csv"]


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://prices.example.com", "is not encrypted"),
        ("ftp://127.0.0.1", "is not encrypted"),
        ("prices.example.com", "names no server"),
        ("https://", "names no server"),
        ("", "names no server"),
        ("http://[", "is not encrypted"),
    ],
)
def test_only_https_is_asked(tmp_path: Path, url: str, what: str) -> None:
    """Before anything is sent."""
    with pytest.raises(UserError, match=f"{what}.*https://"):
        refresh(url, tmp_path, ["aws"])
    assert leftovers(tmp_path) == []


def test_a_catalog_that_is_not_published_is_told(shop: Shop, tmp_path: Path) -> None:
    """The clouds before it are there."""
    with pytest.raises(Unavailable, match="404"):
        refresh(shop.url, tmp_path, ["aws", "gcp"])
    assert leftovers(tmp_path) == [LEDGER, "aws/vms.csv"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of this machine, which no authority signed."""
    x509 = pytest.importorskip("cryptography.x509", reason="makes the server's certificate")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name, now = ec.generate_private_key(ec.SECP256R1()), x509.Name([]), datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    signed = builder.add_extension(names, critical=True).sign(key, hashes.SHA256())
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path


def test_https_is_spoken_to_a_server_whose_certificate_is_trusted_and_to_no_other(certificate: Path, tmp_path: Path) -> None:
    """The same server, with and without trust in its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    for shop in serving(Shop(), context):
        with pytest.raises(Unavailable, match="certificate"):
            refresh(shop.url, tmp_path, ["aws"])
        (got,) = refresh(shop.url, tmp_path, ["aws"], verify=ssl.create_default_context(cafile=str(certificate)))
        assert got.status == "new"


def test_the_command_says_what_became_of_each_catalog(shop: Shop, tmp_path: Path) -> None:
    """A line a cloud."""
    from typer.testing import CliRunner

    arguments = ["refresh", "--url", shop.url, "--into", str(tmp_path), "--cloud", "aws"]
    told = [CliRunner().invoke(app, arguments).output for _ in range(2)]
    assert told[0].startswith("aws: new, 1 rows") and told[1].startswith("aws: unchanged, 1 rows")


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (("--cloud", "oracle"), "no cloud `oracle`"),
        (("--sha256", "aws=12"), "is no checksum"),
        (("--sha256", f"amazon={'0' * 64}"), "the catalog of `amazon` is not fetched; expected one of `aws`"),
        (("--cloud", "aws", "--sha256", f"azure={'0' * 64}"), "the catalog of `azure` is not fetched; expected one of `aws`"),
        (("--sha256", f"aws={'0' * 64}", "--sha256", f"aws={hashlib.sha256(CATALOG).hexdigest()}"), "`aws` has two checksums"),
    ],
)
def test_a_wrong_option_is_refused(shop: Shop, tmp_path: Path, option: tuple[str, ...], told: str) -> None:
    """Before anything is fetched: a checksum that is left aside would let bytes pass that nobody has checked."""
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, ["refresh", "--url", shop.url, "--into", str(tmp_path), *option])
    assert isinstance(result.exception, UserError) and told in str(result.exception) and shop.statuses == []


@pytest.mark.parametrize("option", [("--timeout", "inf"), ("--max-mb", "inf"), ("--max-mb", "1e300"), ("--timeout", "nan")])
def test_a_limit_that_limits_nothing_is_refused(shop: Shop, tmp_path: Path, option: tuple[str, str]) -> None:
    """The option's own range says so."""
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, ["refresh", "--url", shop.url, "--into", str(tmp_path), *option])
    assert isinstance(result.exception, SystemExit) and result.exit_code == 2 and shop.statuses == []
