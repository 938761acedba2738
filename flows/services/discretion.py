"""Above `internal`, nothing that a step's data says leaves its site by the way of a log line, a print, a warning or an error's words.

What the project's own modules write about a run holds counts and names of columns, never values. Everything else that runs in a step, a
workload's own code and the libraries below it, may quote a row; Prefect's logs, the state database and the worker's output are in control.
What is not shown there is kept where the data is: an error with its causes is a file at the site, and the message names it.
"""

from __future__ import annotations

import ast
import contextlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from threading import Lock
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from flows.adapters.storage import SiteStorage
from flows.core import errors
from flows.core.errors import IntegrityError, Problem, TradewindError
from flows.services.frames import INTERNAL

if TYPE_CHECKING:
    from flows.services.context import StepContext

ROOT = Path(__file__).parents[2]
OWN = str(ROOT / "flows") + os.sep
WORKLOADS = OWN + "workloads" + os.sep
KEPT = 10
"""Failures of a workload whose words a site keeps; the oldest goes first."""
HIDDEN = "may quote rows and is not shown"


@contextmanager
def discreet(ctx: StepContext) -> Iterator[None]:
    """Let a step say only what the project's own modules say; data that is `internal` or less may be quoted.

    Raises:
        TradewindError: of the same kind, `IntegrityError` if it had none, in place of an error whose words are not the project's own: its
            type and the workload's line are told, and its words if they stand in the source as they are; its causes never.
    """
    if ctx.label.level <= INTERNAL:
        yield
        return
    with quiet(f"`{ctx.step}` of `{ctx.workload.name}`", keep=lambda error: _keep(ctx, error)):
        yield


@contextmanager
def quiet(who: str, *, keep: Callable[[BaseException], str | None] = lambda _: None, fix: str | None = None) -> Iterator[None]:
    """As `discreet`, whatever the label; `keep` puts an error's words where the data is and says where, `fix` is for errors without a kind.

    Raises:
        TradewindError: as `discreet`.
    """
    with _hush():
        try:
            yield
        except BaseException as error:
            if isinstance(error, MemoryError) or not isinstance(error, Exception | SystemExit):  # it goes on as it is, without a word
                error.args, error.__cause__, error.__context__ = (), None, None
                raise
            told = _told(error, who, keep, fix)
        else:
            return
    told.__context__ = None
    raise told from None


def own(path: str) -> bool:
    """Whether a source file is the project's own, and no workload's."""
    return path.startswith(OWN) and not path.startswith(WORKLOADS)


def _told(error: BaseException, who: str, keep: Callable[[BaseException], str | None], fix: str | None) -> TradewindError:
    """The error as control may know it."""
    frames = list(_frames(error.__traceback__))
    if isinstance(error, TradewindError) and frames and own(frames[-1][0]):
        error.__notes__ = []
        return error
    kind = next((each for each in type(error).__mro__ if each.__module__ == errors.__name__), IntegrityError)
    os_words = f" ({os.strerror(error.errno)})" if isinstance(error, OSError) and error.errno else ""
    theirs = [(path, line) for path, line in frames if path.startswith(OWN) and path != __file__ and Path(path).is_file()]
    place = f" at `{Path(theirs[-1][0]).relative_to(ROOT)}:{theirs[-1][1]}`" if theirs else ""
    written = _written(frames[-1][0]) if frames else frozenset()
    kept = keep(error)
    fix = f"read it at the data's site: `{kept}`" if kept else fix or "run it at the data's site with a copy you may read"
    problems = error.problems if isinstance(error, TradewindError) else (Problem(str(error)),)
    about = f"{who} failed with {type(error).__name__}{os_words}{place}"
    shown = [_shown(problem, written, about, fix) for problem in problems]
    return kind(problems=dict.fromkeys(shown))  # type: ignore[no-any-return]


def _shown(problem: Problem, written: frozenset[str], about: str, fix: str) -> Problem:
    """A problem with those of its words that stand in the source, which no row put there."""
    what, expected, own_fix = (text if text in written else None for text in (problem.what, problem.expected, problem.fix))
    return Problem(f"{about}: {what}" if what else f"{about}; its message {HIDDEN}", expected=expected, fix=own_fix or fix)


def _written(path: str) -> frozenset[str]:
    """The texts in one of the project's source files, workloads included; none of any other file."""
    if not path.startswith(OWN):
        return frozenset()
    try:
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return frozenset()
    return frozenset(node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value)


def _frames(trace: TracebackType | None) -> Iterator[tuple[str, int]]:
    """File and line of each call, the one that raised last."""
    while trace is not None:
        yield trace.tb_frame.f_code.co_filename, trace.tb_lineno
        trace = trace.tb_next


def _keep(ctx: StepContext, error: BaseException) -> str | None:
    """Write an error with its causes to a file at the site, for those who may read there; returns its place under the site's folder."""
    if type(ctx.storage) is not SiteStorage:  # what is written beside a bucket ends with this run
        return None
    name = re.sub(r"\W+", "-", f"{ctx.intent_id}-{ctx.decision_id or ''}"[:100]) + ".txt"
    try:
        path = ctx.storage.path("failures", ctx.workload.name, name)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8", errors="replace") as file:
            file.writelines(traceback.format_exception(error))
        for old in sorted(path.parent.glob("*.txt"), key=lambda each: each.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
    except (OSError, TradewindError):  # a full disk may be what failed
        return None
    return f"failures/{ctx.workload.name}/{name}"


class _Hush:
    """Silence for the whole process while any step asks for it: threads that a library starts belong to no step."""

    def __init__(self) -> None:
        self._lock, self._inside, self._undo = Lock(), 0, ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._inside == 0:
                self._begin()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._undo.close()

    def _begin(self) -> None:
        with ExitStack() as undo:
            _hold_handlers(undo)
            nowhere = undo.enter_context(Path(os.devnull).open("w"))
            for stream in (1, 2):
                _redirect(stream, nowhere.fileno(), undo)
            undo.enter_context(redirect_stdout(nowhere))
            undo.enter_context(redirect_stderr(nowhere))
            before = logging.Logger.callHandlers
            undo.callback(setattr, logging.Logger, "callHandlers", before)
            logging.Logger.callHandlers = lambda self, record: before(self, _heard(record))  # type: ignore[method-assign]
            self._undo = undo.pop_all()


_hush = _Hush()


def _redirect(stream: int, nowhere: int, undo: ExitStack) -> None:
    """What compiled code and child processes write goes the same way as what is printed."""
    try:
        kept = os.dup(stream)
    except OSError:  # a daemon has closed it
        return
    undo.callback(os.close, kept)
    undo.callback(os.dup2, kept, stream)
    for name in ("stdout", "stderr"):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            getattr(sys, f"__{name}__").flush()
    os.dup2(nowhere, stream)


def _hold_handlers(undo: ExitStack) -> None:
    """Let the log handlers that write to this process's output go on doing so, past the redirection."""
    loggers = [logging.getLogger(), *(each for each in logging.Logger.manager.loggerDict.values() if isinstance(each, logging.Logger))]
    handlers = {handler for logger in loggers for handler in logger.handlers if isinstance(handler, logging.StreamHandler)}
    for handler in handlers:
        try:
            number = handler.stream.fileno()
        except (OSError, ValueError, AttributeError):
            continue
        # the handler of last resort has no stream of its own: what it says is not kept
        if number in (1, 2) and not isinstance(getattr(type(handler), "stream", None), property):
            beside = undo.enter_context(os.fdopen(os.dup(number), "w", encoding="utf-8", errors="replace", buffering=1))
            undo.callback(handler.setStream, handler.setStream(beside))


def _heard(record: logging.LogRecord) -> logging.LogRecord:
    """The record, if one of the project's own modules wrote it; else one that tells only that there was a line."""
    if own(_caller(sys._getframe(2))):
        record.exc_info, record.exc_text, record.stack_info = None, None, None
        return record
    known = next((name for name in (record.name, record.name.partition(".")[0]) if name in sys.modules or name == "root"), "unknown")
    return logging.LogRecord(known, record.levelno, "", 0, "a line of `%s` is not shown: it may quote rows", (known,), None)


def _caller(frame: FrameType | None) -> str:
    """The source file that called logging: where a record says it is from, whoever made it chose."""
    here = logging.__file__
    while frame is not None and frame.f_code.co_filename == here:
        frame = frame.f_back
    return frame.f_code.co_filename if frame is not None else ""
