"""`python -m deployments.local.prefect_server --port N`: Prefect's server in one process, on SQLite under PREFECT_HOME.

`prefect server start` loads everything twice. And the server opens most write transactions as readers: as soon as another writer
commits in between, SQLite answers `database is locked` at once instead of waiting, which a dozen workers provoke all the time.
Here every transaction that the server begins on purpose takes its turn from the first statement (`BEGIN IMMEDIATE`).
"""

from __future__ import annotations

import argparse
from typing import Any


def main() -> None:
    """Bring the database to the newest schema, then serve API and UI on the loopback address until told to stop."""
    parser = argparse.ArgumentParser(prog="prefect_server")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    import uvicorn
    from prefect.server.api.server import create_app

    take_turns()
    uvicorn.run(create_app(final=True), host="127.0.0.1", port=arguments.port, log_level="warning", access_log=False)


def take_turns() -> None:
    """Make SQLite writers of this process wait for each other."""
    from prefect.server.database.configurations import AioSqliteConfiguration

    begin = AioSqliteConfiguration.begin_transaction

    def begin_immediately(self: AioSqliteConfiguration, session: Any, with_for_update: bool = True) -> Any:
        return begin(self, session, with_for_update=True)

    AioSqliteConfiguration.begin_transaction = begin_immediately  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
