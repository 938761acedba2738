"""A fresh, migrated state database for each test: SQLite, and PostgreSQL where its programs are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.store.database import State

NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)


def _programs() -> Path | None:
    """The newest folder that holds PostgreSQL's `initdb`."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def _account() -> str | None:
    """Who may own a cluster: `initdb` refuses root. None: this process itself."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The folder of a private cluster's socket; it listens on no port."""
    pytest.importorskip("psycopg", reason="the PostgreSQL driver is not installed")
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL programs are installed (initdb)")
    account = _account()
    if account is None and os.geteuid() == 0:
        pytest.skip("PostgreSQL does not run as root, and there is no account `postgres` or `nobody`")
    folder = Path(tempfile.mkdtemp(prefix="tw-pg-", dir="/tmp"))
    if account:
        shutil.chown(folder, account)
    who: dict[str, str | list[str]] = {"user": account, "group": pwd.getpwnam(account).pw_gid, "extra_groups": []} if account else {}
    options = ["--auth=trust", "--username=tradewind", "--encoding=UTF8", "--no-locale", "--no-sync"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    subprocess.run(
        [programs / "initdb", "-D", folder / "data", *options], check=True, capture_output=True, cwd=folder, env=environment, **who
    )
    settings = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off", "-c", "max_connections=60"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [programs / "postgres", "-D", folder / "data", *settings], stdout=log, stderr=log, cwd=folder, env=environment, **who
        )
    try:
        ready = [programs / "pg_isready", "-h", folder, "-U", "tradewind", "-d", "postgres", "-t", "1"]
        for _ in range(100):
            if subprocess.run(ready, capture_output=True).returncode == 0:
                break
            if server.poll() is not None:
                pytest.fail(f"PostgreSQL did not start: {(folder / 'log').read_text()}")
            time.sleep(0.1)
        yield str(folder)
    finally:
        server.send_signal(signal.SIGQUIT)  # stop at once: nothing of it is kept
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database that holds nothing yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'home' / 'state.db'}"
    import psycopg

    folder = request.getfixturevalue("postgres")
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(host=folder, user="tradewind", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
    return f"postgresql://tradewind@/postgres?host={folder}&options=-csearch_path%3D{name}"


@pytest.fixture
def state(url: str) -> Iterator[State]:
    """A migrated state database."""
    made = State(url)
    made.migrate()
    yield made
    made.close()
