"""A fresh, migrated state database for each test: SQLite, and PostgreSQL where its programs are installed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.store.database import State
from tests.emulators import postgres as emulator

NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The folder of a private cluster's socket; it listens on no port."""
    pytest.importorskip("psycopg", reason="the PostgreSQL driver is not installed")
    if why := emulator.missing():
        pytest.skip(why)
    with emulator.server() as folder:
        yield folder


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
