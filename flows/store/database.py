"""The state database by URL: SQLite (WAL) or PostgreSQL, one schema, one kind of write transaction.

SQLite writers take their turns from the first statement (``BEGIN IMMEDIATE``, waiting up to 30 s); PostgreSQL runs at READ COMMITTED and
takes row and advisory locks where a module needs them. Opening is free: nothing is read before the first transaction.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

from sqlalchemy import Connection, Engine, create_engine, event, literal, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from flows.core.errors import IntegrityError, TradewindError, Unavailable, UserError
from flows.store import models_governance  # noqa: F401  its tables belong to the schema
from flows.store.models import Base

HEAD = "0003"
"""The schema revision that this code reads and writes: the newest file of ``migrations/versions``."""

LOCK_WAIT_SECONDS = 30
_WAL_TRIES = 300
READ, WRITE, MIGRATE = "read", "write", "migrate"
Row = TypeVar("Row", bound=Base)


class State:
    """The state database.

    Args:
        url: SQLAlchemy URL, ``sqlite:///<absolute path>`` or ``postgresql://…``.

    Raises:
        UserError: the URL cannot be read, or names another kind of database.
    """

    def __init__(self, url: str) -> None:
        self._url = _parse(url)
        self._engine: Engine | None = None
        self._pid = 0
        self._current = False

    @property
    def name(self) -> str:
        """The URL as people may see it: without its password."""
        return self._url.render_as_string(hide_password=True)

    def migrate(self) -> None:
        """Bring the schema to `HEAD`; any number of processes may call it at once, and a kill leaves the old schema or the new one.

        Raises:
            Unavailable: the database does not answer, or its folder cannot be written.
            UserError: a newer version of this project wrote it.
        """
        path = self._path
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise Unavailable(f"`{path.parent}` cannot be made: {error.strerror}", fix="choose another `TRADEWIND_HOME`") from error
        with _errors(self.name):
            if self._is_sqlite:
                _use_wal(self._connections(), self.name)
            with self._connections().connect().execution_options(mode=MIGRATE) as connection, connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _key("migrate")})
                found = _revision(connection)
                if found != HEAD:
                    _upgrade(connection, found, self.name)
        self._current = True

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Session]:
        """One write transaction: all of it is stored when the block ends, none of it when the block raises.

        Raises:
            Unavailable: the database does not answer, is locked for too long, full, or has no schema yet.
            UserError: its schema is older or newer than this code.
        """
        with self._session(WRITE) as session:
            yield session

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """One read transaction; a write in it is refused by the database. Raises as `transaction` does."""
        with self._session(READ) as session:
            yield session

    def close(self) -> None:
        """Close all connections; the next transaction opens new ones."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    @contextlib.contextmanager
    def _session(self, mode: str) -> Iterator[Session]:
        with _errors(self.name):
            if not self._current:
                self._check_schema()
            engine = self._connections().execution_options(
                mode=mode, **({"postgresql_readonly": True} if mode == READ and not self._is_sqlite else {})
            )
            with Session(engine, expire_on_commit=False) as session, session.begin():
                session.connection()  # the turn of a SQLite writer starts here, before anything is read
                yield session

    def _connections(self) -> Engine:
        """The engine of this process: a forked child must not share its parent's connections."""
        if self._engine is not None and self._pid != os.getpid():
            self._engine.dispose(close=False)
            self._engine = None
        if self._engine is None:
            self._engine, self._pid = _make_engine(self._url), os.getpid()
        return self._engine

    def _check_schema(self) -> None:
        path = self._path
        if path is not None and not path.exists():
            raise Unavailable(f"there is no state database at `{path}`", fix="`tradewind up` makes it")
        with self._connections().connect().execution_options(mode=READ) as connection:
            found = _revision(connection)
        if found is None:
            raise Unavailable(f"the state database `{self.name}` has no schema yet", fix="`tradewind up` makes it")
        if found != HEAD:
            raise UserError(
                f"the schema of the state database `{self.name}` is `{found}`",
                expected=f"`{HEAD}`",
                fix="`tradewind up` brings an older one up to date; for a newer one update this project",
            )
        self._current = True

    @property
    def _is_sqlite(self) -> bool:
        return self._url.get_backend_name() == "sqlite"

    @property
    def _path(self) -> Path | None:
        """The file of a SQLite database; None for one in memory and for PostgreSQL."""
        name = self._url.database
        return Path(name) if self._is_sqlite and name and name != ":memory:" and not name.startswith("file:") else None


def serialize(tx: Session, name: str) -> None:
    """Let one transaction at a time go on beyond this point of the same name; the others wait until it ends.

    SQLite writers take turns anyway; PostgreSQL takes an advisory lock that ends with the transaction.
    """
    if tx.get_bind().dialect.name == "postgresql":
        tx.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _key(name)})


def insert_new(tx: Session, model: type[Base], values: Mapping[str, Any]) -> bool:
    """Insert a row unless one with the same key is there; whether it was inserted."""
    tx.flush()
    make: Any = postgresql.insert if tx.get_bind().dialect.name == "postgresql" else sqlite.insert
    statement = make(model.__table__).values(**values).on_conflict_do_nothing().returning(literal(1))
    return tx.execute(statement).first() is not None


def locked(tx: Session, model: type[Row], key: Any) -> Row | None:
    """The row of a key as it is now, held until the transaction ends; None if there is none."""
    return tx.get(model, key, with_for_update=True, populate_existing=True)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except ArgumentError:
        raise UserError(
            "the state database's URL cannot be read", field="TRADEWIND_DATABASE_URL", expected="`sqlite:///<path>` or `postgresql://…`"
        ) from None
    if backend not in ("sqlite", "postgresql"):
        raise UserError(
            f"`{backend}` cannot hold the state", field="TRADEWIND_DATABASE_URL", expected="`sqlite:///<path>` or `postgresql://…`"
        )
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


def _make_engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        memory = {"poolclass": StaticPool} if url.database in (None, "", ":memory:") else {}
        engine = create_engine(url, connect_args={"timeout": LOCK_WAIT_SECONDS, "check_same_thread": False}, **memory)
        event.listen(engine, "connect", _sqlite_connect)
        event.listen(engine, "begin", _sqlite_begin)
        return engine
    try:
        engine = create_engine(url, isolation_level="READ COMMITTED", pool_pre_ping=True, connect_args={"connect_timeout": 10})
    except ModuleNotFoundError:
        raise UserError("the PostgreSQL driver is not installed", field="TRADEWIND_DATABASE_URL", fix="install `psycopg[binary]`") from None
    event.listen(engine, "connect", _postgresql_connect)
    return engine


def _sqlite_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions by itself
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute(f"PRAGMA busy_timeout = {LOCK_WAIT_SECONDS * 1000}")
    cursor.close()


def _sqlite_begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get("mode") == READ
    connection.exec_driver_sql(f"PRAGMA query_only = {'ON' if reads else 'OFF'}")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _postgresql_connect(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{LOCK_WAIT_SECONDS}s'")
        cursor.execute("SET timezone = 'UTC'")
    connection.commit()


def _use_wal(engine: Engine, name: str) -> None:
    """Switch the file to write-ahead logging, which it then keeps. Unlike a transaction the switch does not wait for other processes."""
    raw = engine.raw_connection()
    try:
        for attempt in range(_WAL_TRIES):
            try:
                raw.cursor().execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if attempt + 1 == _WAL_TRIES or "locked" not in str(error):
                    raise _told(name, error) from error
                time.sleep(LOCK_WAIT_SECONDS / _WAL_TRIES)
            except sqlite3.DatabaseError as error:
                raise _told(name, error) from error
    finally:
        raw.close()


def _revision(connection: Connection) -> str | None:
    """The schema revision that the database names, None if it has none."""
    if not connection.dialect.has_table(connection, "alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(connection: Connection, found: str | None, name: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, HEAD)
    except CommandError:
        raise UserError(
            f"the schema of the state database `{name}` is `{found}`, which this version does not know",
            expected=f"`{HEAD}` or older",
            fix="update this project",
        ) from None


def _key(name: str) -> int:
    """The number of an advisory lock."""
    return (crc32(b"tradewind") << 31) ^ crc32(name.encode())


@contextlib.contextmanager
def _errors(name: str) -> Iterator[None]:
    """Tell what the database or its disk says as our own errors."""
    try:
        yield
    except OperationalError as error:
        raise _told(name, error.orig or error) from error
    except DatabaseError as error:
        if isinstance(error.orig, sqlite3.DatabaseError) and type(error.orig) is sqlite3.DatabaseError:
            raise _told(name, error.orig) from error
        raise


def _told(name: str, error: BaseException) -> TradewindError:
    """The database's own words, first line, as one of our errors."""
    words = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if type(error) is sqlite3.DatabaseError:  # no subclass: the file is not what it should be
        return IntegrityError(f"`{name}` is not a whole database: {words}", fix="put a backup in its place, or move the file away")
    return Unavailable(
        f"the state database `{name}` did not answer: {words}", fix="see that it runs, is not locked and has room, then try again"
    )
