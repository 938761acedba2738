"""Encryption in transit: real TLS handshakes, with the certificate verified as any client would, and PostgreSQL's own encryption.

Authorities are those of the system, or of `SSL_CERT_FILE` and `SSL_CERT_DIR`, so that a company's own can be named.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import ssl
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from flows.core.governance.proofs import TRANSIT, Finding, Outcome, judged
from flows.core.governance.proofs import Wrong as _Wrong

TIMEOUT = 5.0
"""Seconds for each connection."""
SECURE = ("https", "grpcs")
PORTS = {"https": 443, "http": 80}
STORES = ("postgresql", "postgres")


@dataclass(frozen=True, slots=True)
class Line:
    """One connection as it was found."""

    outcome: Outcome
    target: str
    observed: str
    expected: str = ""
    fix: str = ""


def transit(site: str, lines: tuple[Line, ...]) -> Finding:
    """One finding of all connections of a site: failed if one failed, else unchecked if one could not be looked at."""
    lines = tuple(dict.fromkeys(lines))
    facts = {line.target: line.observed for line in lines}
    failed = [line for line in lines if line.outcome == "failed"]
    unchecked = [line for line in lines if line.outcome == "unchecked"]
    if failed or not unchecked:
        wrong = [_Wrong(f"`{line.target}`: {line.observed}", line.expected, line.fix) for line in failed]
        told = "; ".join(f"`{line.target}`: {line.observed}" for line in lines)
        return judged(site, TRANSIT, wrong, told or "its runs talk to nothing outside", facts)
    told = "; ".join(f"`{line.target}`: {line.observed}" for line in unchecked)
    return Finding(site, TRANSIT, "unchecked", told, "an answer", "; ".join(dict.fromkeys(line.fix for line in unchecked)), facts)


def service(url: str, *, embedded: bool) -> Line:
    """How a service is reached: its URL as the settings have it. A file on this machine and, when embedded, the loopback are exempt."""
    parts = urlsplit(url)
    scheme, host = parts.scheme.partition("+")[0], parts.hostname or ""
    if scheme in ("sqlite", "file", ""):
        return Line("proved", scheme or "file", "exempt: a file of this machine")
    if scheme in STORES:
        return _postgres(url, embedded=embedded)
    port = parts.port or PORTS.get(scheme, 443)
    target = f"{scheme}://{host}:{port}"
    if embedded and loopback(host):
        return Line("proved", target, "exempt: the loopback of the embedded profile")
    if scheme not in SECURE:
        return Line("failed", target, f"not encrypted: `{scheme}`", "`https`", "serve it over TLS and name it by `https://…`")
    return endpoint(host, port)


def loopback(host: str) -> bool:
    """Whether a host is this machine by its own name; what a name resolves to is not asked."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def endpoint(host: str, port: int = 443) -> Line:
    """A handshake as a careful client makes it, then one as an old client would, which must be refused."""
    target, expected = f"{host}:{port}", "TLS 1.2 or newer and a certificate that verifies for this name"
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        with socket.create_connection((host, port), TIMEOUT) as plain, context.wrap_socket(plain, server_hostname=host) as secure:
            version = secure.version()
            certificate = secure.getpeercert() or {}
            print_ = hashlib.sha256(secure.getpeercert(binary_form=True) or b"").hexdigest()
    except ssl.SSLCertVerificationError as error:
        return Line(
            "failed", target, f"its certificate does not verify: {error.verify_message}".rstrip("."), expected, "renew or replace it"
        )
    except ssl.SSLError as error:
        why = (error.reason or str(error)).lower().replace("_", " ")
        return Line("failed", target, f"no TLS connection: {why}", expected, "let the server speak TLS 1.2 or newer")
    except OSError as error:
        return Line(
            "unchecked", target, f"does not answer: {error.strerror or error}", expected, "see that it runs and is reached from here"
        )
    old = _takes_old(host, port)
    if old:
        return Line("failed", target, f"also speaks {old}", "TLS 1.2 or newer only", "switch older versions off in the server")
    return Line("proved", target, f"{version}, valid until {certificate.get('notAfter', 'unknown')}, sha256 {print_[:16]}")


def _takes_old(host: str, port: int) -> str | None:
    """The version below 1.2 that the server agrees to; None if it refuses them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent or read here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")  # this client must not be the one who refuses
    try:
        with socket.create_connection((host, port), TIMEOUT) as plain, context.wrap_socket(plain, server_hostname=host) as secure:
            return secure.version()
    except OSError:
        return None


def _postgres(url: str, *, embedded: bool) -> Line:
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    host = parts.hostname or query.get("host", [""])[0]
    target = f"postgresql://{host or 'socket'}{f':{parts.port}' if parts.port else ''}"
    if not host or host.startswith("/"):
        return Line("proved", "postgresql://socket", "exempt: a socket of this machine")
    if embedded and loopback(host):
        return Line("proved", target, "exempt: the loopback of the embedded profile")
    mode = query.get("sslmode", ["prefer"])[0]
    if mode != "verify-full":
        fix = "write `?sslmode=verify-full` into the URL, with `sslrootcert` for an authority of your own"
        return Line("failed", target, f"`sslmode={mode}` does not prove who answers", "`sslmode=verify-full`", fix)
    return _asked(url, target)


def _asked(url: str, target: str) -> Line:
    """What PostgreSQL itself says of a connection that was made with these very settings."""
    try:
        import psycopg
    except ModuleNotFoundError:
        return Line("unchecked", target, "`psycopg` is not installed", "a driver", "install it")
    scheme, _, rest = url.partition("://")
    try:
        with psycopg.connect(f"{scheme.partition('+')[0]}://{rest}", connect_timeout=int(TIMEOUT)) as connection:
            query = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            row: Any = connection.execute(query).fetchone()
    except psycopg.OperationalError as error:
        told = str(error).strip().splitlines()[-1]
        if "certificate" in str(error).lower() or "ssl" in str(error).lower():
            return Line(
                "failed", target, f"no verified TLS connection: {told}", "TLS with a certificate that verifies", "renew or replace it"
            )
        return Line("unchecked", target, f"does not answer: {told}", "an answer", "see that it runs and is reached from here")
    version = row[1] if row and row[0] else None
    if version not in ("TLSv1.2", "TLSv1.3"):
        return Line(
            "failed", target, f"speaks {version or 'without TLS'}", "TLS 1.2 or newer", "set `ssl_min_protocol_version` in the server"
        )
    return Line("proved", target, f"{version}, sslmode=verify-full")


def endpoints(declared: tuple[str, ...]) -> Iterator[Line]:
    """Each declared `host` or `host:port`."""
    for one in declared:
        host, _, port = one.partition(":")
        yield endpoint(host, int(port or 443))
