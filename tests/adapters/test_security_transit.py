"""Encryption in transit, against real TLS servers on the loopback with certificates that are made here, and a real PostgreSQL."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from flows.adapters.security import transit
from flows.adapters.security.transit import Line

NOW = datetime.now(UTC)
Key = ec.EllipticCurvePrivateKey


class Authority:
    """A certificate authority of one test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        made = self._builder(self.name, self.key).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        usage = dict.fromkeys(
            ("key_encipherment", "content_commitment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
        )
        made = made.add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **usage), critical=True)
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
        self.file = folder / "authority.pem"
        self.file.write_bytes(made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key: Key, days: tuple[int, int] = (-10, 10)) -> x509.CertificateBuilder:
        start, end = (NOW + timedelta(days=each) for each in days)
        found = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
        return found.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)

    def certificate(self, *, host: str = "127.0.0.1", days: tuple[int, int] = (-1, 5), own: bool = False) -> Path:
        """A file with a key and its certificate; `own`: signed by itself."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        names = [x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host)]
        made = self._builder(subject, key, days).add_extension(x509.SubjectAlternativeName(names), critical=False)
        if own:
            made = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
            made = made.serial_number(1).not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=5))
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        else:
            made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        path = self.folder / f"{host}-{days[1]}-{own}.pem"
        secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path.write_bytes(secret + made.sign(key if own else self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """An authority that clients of this test trust, as they would a company's own."""
    made = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.file))
    return made


Serve = Callable[..., int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a TLS server with a certificate and a range of versions; its port."""
    with contextlib.ExitStack() as stack:

        def start(certificate: Path, least: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2, most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> int:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version, context.maximum_version = least, most
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.load_cert_chain(certificate)
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.settimeout(10)

            def answer() -> None:
                for _ in range(4):
                    with contextlib.suppress(OSError):
                        plain, _ = listener.accept()
                        plain.settimeout(5)
                        with plain, context.wrap_socket(plain, server_side=True) as secure:
                            secure.recv(1)

            threading.Thread(target=answer, daemon=True).start()
            return int(listener.getsockname()[1])

        yield start


def told(authority: Authority, serve: Serve, **wanted: object) -> Line:
    certificate = {key: wanted.pop(key) for key in ("host", "days", "own") if key in wanted}
    return transit.endpoint("127.0.0.1", serve(authority.certificate(**certificate), **wanted))  # type: ignore[arg-type]


def test_a_good_server_is_proved(authority: Authority, serve: Serve) -> None:
    """TLS 1.3 with a certificate that verifies; the version and the last day are told."""
    line = told(authority, serve)
    assert line.outcome == "proved"
    assert line.observed.startswith("TLSv1.3, valid until ")


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"days": (-5, -1)}, "its certificate does not verify: certificate has expired"),
        ({"own": True}, "its certificate does not verify: self-signed certificate"),
        ({"host": "other.example"}, "its certificate does not verify: IP address mismatch, certificate is not valid for '127.0.0.1'"),
    ],
)
def test_a_certificate_that_does_not_verify(authority: Authority, serve: Serve, wanted: dict[str, object], why: str) -> None:
    """Expired, signed by itself, for another name: each is told as what it is."""
    line = told(authority, serve, **wanted)
    assert (line.outcome, line.observed, line.fix) == ("failed", why, "renew or replace it")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_a_server_that_speaks_old_versions_only(authority: Authority, serve: Serve, version: ssl.TLSVersion) -> None:
    """A client that wants TLS 1.2 gets no connection."""
    line = told(authority, serve, least=version, most=version)
    assert line.outcome == "failed"
    assert line.observed.startswith("no TLS connection: ") and "version" in line.observed


def test_a_server_that_also_speaks_an_old_version(authority: Authority, serve: Serve) -> None:
    """The connection of a careful client is good, yet another one can be talked down."""
    line = told(authority, serve, least=ssl.TLSVersion.TLSv1_1)
    assert (line.outcome, line.observed) == ("failed", "also speaks TLSv1.1")


def test_a_server_without_tls_and_one_that_is_not_there(authority: Authority) -> None:
    """The first failed, the second could not be looked at: only the first says something about its encryption."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            plain, _ = listener.accept()
            with plain:
                plain.recv(100)
                plain.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        assert transit.endpoint("127.0.0.1", listener.getsockname()[1]).outcome == "failed"
        gone = listener.getsockname()[1]
    line = transit.endpoint("127.0.0.1", gone)
    assert line.outcome == "unchecked" and line.observed.startswith("does not answer")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:4200/api", "http://localhost:5000", "http://[::1]:5000", "postgresql://tw@127.0.0.1/state"]
)
def test_the_loopback_is_exempt_in_the_embedded_profile_only(url: str) -> None:
    """And it says so; in the cloud profile the same address fails."""
    exempt = transit.service(url, embedded=True)
    assert (exempt.outcome, exempt.observed) == ("proved", "exempt: the loopback of the embedded profile")
    assert transit.service(url, embedded=False).outcome == "failed"


def test_a_host_that_only_looks_like_the_loopback_is_not_exempt() -> None:
    """Names count as they are written."""
    line = transit.service("http://localhost.example.org/api", embedded=True)
    assert (line.outcome, line.observed) == ("failed", "not encrypted: `http`")


def test_a_url_with_a_password_is_told_without_it() -> None:
    """The finding goes to logs and screens."""
    line = transit.service("http://ada:pass-of-ada@mlflow.example.org/", embedded=False)
    assert "pass-of-ada" not in str(line) and line.target == "http://mlflow.example.org:80"


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca", None])
def test_postgresql_without_a_verified_name_fails(mode: str | None) -> None:
    """Anything below `verify-full` lets another server answer; left out, it is `prefer`."""
    query = f"?sslmode={mode}" if mode else ""
    line = transit.service(f"postgresql+psycopg://tw:pw@db.example.org:5433/state{query}", embedded=False)
    assert (line.outcome, line.target) == ("failed", "postgresql://db.example.org:5433")
    assert line.observed == f"`sslmode={mode or 'prefer'}` does not prove who answers"


def test_one_finding_tells_all_connections() -> None:
    """One that failed decides, then one that could not be looked at."""
    good, bad, gone = (
        Line("proved", "a:1", "TLSv1.3"),
        Line("failed", "b:1", "speaks none", "TLS", "switch it on"),
        Line("unchecked", "c:1", "gone", "", "see"),
    )
    assert transit.transit("s", (good,)).outcome == "proved"
    assert transit.transit("s", (good, gone)).outcome == "unchecked"
    found = transit.transit("s", (good, bad, gone))
    assert (found.outcome, found.observed, found.expected, found.fix) == ("failed", "`b:1`: speaks none", "TLS", "switch it on")


@pytest.fixture
def tls_postgres(authority: Authority, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[Path], str]]:
    """A real PostgreSQL that listens on the loopback with a certificate."""
    import os
    import pwd
    import shutil
    import signal
    import subprocess
    import tempfile
    import time

    from tests.emulators import postgres

    programs = postgres.programs()
    if programs is None:
        pytest.skip("no PostgreSQL programs are installed (initdb)")
    account = postgres.account()
    folder = Path(tempfile.mkdtemp(prefix="tw-pgs-", dir="/tmp"))
    who = {"user": account, "group": pwd.getpwnam(account).pw_gid, "extra_groups": []} if account else {}
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    servers: list[subprocess.Popen[bytes]] = []

    def start(certificate: Path) -> str:
        shutil.copy(certificate, folder / "server.pem")
        (folder / "server.pem").chmod(0o600)
        if account:
            shutil.chown(folder, account)
            shutil.chown(folder / "server.pem", account)
        common = {"cwd": folder, "env": environment, **who}
        options = ["--auth=trust", "--username=tw", "--encoding=UTF8", "--no-locale", "--no-sync"]
        subprocess.run([programs / "initdb", "-D", folder / "data", *options], check=True, capture_output=True, **common)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pem = folder / "server.pem"
        wanted = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": folder,
            "fsync": "off",
            "ssl": "on",
            "ssl_cert_file": pem,
            "ssl_key_file": pem,
        }
        flags = [word for name, value in wanted.items() for word in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            servers.append(subprocess.Popen([programs / "postgres", "-D", folder / "data", *flags], stdout=log, stderr=log, **common))
        for _ in range(100):
            ready = [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-U", "tw", "-d", "postgres", "-t", "1"]
            if subprocess.run(ready, capture_output=True).returncode == 0:
                break
            time.sleep(0.1)
        else:
            pytest.fail((folder / "log").read_text())
        return f"postgresql+psycopg://tw@127.0.0.1:{port}/postgres?sslmode=verify-full&sslrootcert={authority.file}"

    yield start
    for server in servers:
        server.send_signal(signal.SIGQUIT)
        server.wait(30)
    shutil.rmtree(folder, ignore_errors=True)


def test_postgresql_with_a_verified_certificate_is_proved(authority: Authority, tls_postgres: Callable[[Path], str]) -> None:
    """The server itself says that this very connection is encrypted."""
    line = transit.service(tls_postgres(authority.certificate()), embedded=False)
    assert (line.outcome, line.observed) == ("proved", "TLSv1.3, sslmode=verify-full")


def test_postgresql_with_the_certificate_of_another_host_fails(authority: Authority, tls_postgres: Callable[[Path], str]) -> None:
    """`verify-full` refuses it, and the finding says why."""
    line = transit.service(tls_postgres(authority.certificate(host="other.example")), embedded=False)
    assert line.outcome == "failed" and line.observed.startswith("no verified TLS connection: ")
