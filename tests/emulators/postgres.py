"""A private PostgreSQL: real server, a socket in a folder of its own, no port."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER = "tradewind"


def missing() -> str | None:
    """Why none can be started here, or None."""
    if programs() is None:
        return "no PostgreSQL programs are installed (initdb)"
    if os.geteuid() == 0 and account() is None:
        return "PostgreSQL does not run as root, and there is no account `postgres` or `nobody`"
    return None


def programs() -> Path | None:
    """The newest folder that holds PostgreSQL's `initdb`."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def account() -> str | None:
    """Who may own a cluster: `initdb` refuses root. None: this process itself."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


@contextmanager
def server() -> Iterator[str]:
    """A running one: the folder of its socket, where `USER` may do everything without a password.

    Raises:
        RuntimeError: it did not start, or cannot be started here (see `missing`).
    """
    found, owner = programs(), account()
    if found is None or missing():
        raise RuntimeError(missing())
    folder = Path(tempfile.mkdtemp(prefix="tw-pg-", dir="/tmp"))
    if owner:
        shutil.chown(folder, owner)
    who: dict[str, str | int | list[str]] = {"user": owner, "group": pwd.getpwnam(owner).pw_gid, "extra_groups": []} if owner else {}
    options = ["--auth=trust", f"--username={USER}", "--encoding=UTF8", "--no-locale", "--no-sync"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    subprocess.run(
        [found / "initdb", "-D", folder / "data", *options],
        check=True, capture_output=True, cwd=folder, env=environment, **who,  # type: ignore[call-overload]
    )  # fmt: skip
    settings = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off", "-c", "max_connections=60"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [found / "postgres", "-D", folder / "data", *settings],
            stdout=log, stderr=log, cwd=folder, env=environment, **who,  # type: ignore[call-overload]
        )  # fmt: skip
    try:
        ready = [found / "pg_isready", "-h", folder, "-U", USER, "-d", "postgres", "-t", "1"]
        for _ in range(100):
            if subprocess.run(ready, capture_output=True, check=False).returncode == 0:
                break
            if process.poll() is not None:
                raise RuntimeError(f"PostgreSQL did not start: {(folder / 'log').read_text()}")
            time.sleep(0.1)
        yield str(folder)
    finally:
        process.send_signal(signal.SIGQUIT)  # stop at once: nothing of it is kept
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
