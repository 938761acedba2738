"""The `tradewind` command: one place where its words come together and where a mistake becomes one message."""

from __future__ import annotations

import errno
import os
import signal
import sys
from types import FrameType

import typer

from deployments.cli import (
    access,
    apply,
    approve,
    catalog,
    costs,
    erase,
    estate,
    ledger,
    models,
    move,
    new,
    place,
    policy,
    replay,
    report,
    review,
    run,
    site,
    stack,
    sweep,
)
from flows.core.errors import Problem, TradewindError, UserError

USERS = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EROFS)
"""What is wrong with a path that a user named, wherever a command looks at it first."""

app = typer.Typer(
    name="tradewind",
    help="Decide for every step of a machine-learning pipeline where it may run, where it should run and when, and run it there.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    run.demo,
    stack.up,
    stack.down,
    stack.status,
    stack.doctor,
    apply.apply,
    run.run,
    run.backfill,
    models.rollback,
    move.move,
    approve.approve,
    erase.erase,
    erase.retention,
    new.new,
    place.place,
    place.explain,
    replay.replay,
    sweep.sweep,
):
    app.command()(command)
for name, group in (
    ("access", access),
    ("estate", estate),
    ("policy", policy),
    ("catalog", catalog),
    ("ledger", ledger),
    ("costs", costs),
    ("site", site),
    ("review", review),
    ("report", report),
):
    app.add_typer(group.app, name=name)


def _end(number: int, _frame: FrameType | None) -> None:
    """Unwind on SIGTERM as on Ctrl-C, so that what the command started is stopped."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background by a shell
        raise SystemExit(128 + number)
    signal.raise_signal(signal.SIGINT)


def main() -> None:
    """Run the command; a user's mistake ends in one message and the exit code of its kind, Ctrl-C and SIGTERM in 130."""
    from flows.adapters.settings import unknown_variables

    signal.signal(signal.SIGTERM, _end)
    try:
        for problem in unknown_variables():
            print(f"tradewind: warning: {problem}", file=sys.stderr)  # noqa: T201 - the message of the command
        app()
    except TradewindError as error:
        for problem in error.problems:
            print(f"tradewind: {problem}", file=sys.stderr)  # noqa: T201 - the message of the command
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("tradewind: interrupted", file=sys.stderr)  # noqa: T201 - the message of the command
        sys.exit(130)
    except BrokenPipeError:
        os._exit(0)
    except OSError as error:
        if error.filename is None or error.errno not in USERS:
            raise
        problem = Problem(str(error.strerror).lower(), file=str(error.filename), fix="name another one")
        print(f"tradewind: {problem}", file=sys.stderr)  # noqa: T201 - the message of the command
        sys.exit(UserError.exit_code)


if __name__ == "__main__":
    main()
