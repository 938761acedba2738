"""What a step of restricted data says aloud: log lines, prints, warnings, errors. A planted value gets into none of what control reads."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows.adapters.settings import Settings
from flows.core.errors import GuardRefused, IntegrityError, TradewindError, UserError
from flows.services import placing
from flows.services.context import DatasetRef, StepContext, StepResult
from flows.services.discretion import own
from flows.services.local_run import acting_as
from flows.services.running import StepOrder, run_step
from flows.services.stepping import STALE_AFTER
from flows.store import ledger, outbox, runs
from flows.store.database import State
from tests.integration.scanner import traces
from tests.services.tiny import publish, tiny_steps
from tests.tickets import keyed, sent

PLANTED = "planted-patient-000042"
MARK = re.compile(PLANTED.encode())
AT = datetime(2013, 7, 1, tzinfo=UTC)


def talkative(ctx: StepContext) -> StepResult:
    """A step whose workload tells a row in every way that does not end it."""
    sys.stdout.write(f"{PLANTED}\n")
    sys.stderr.write(f"{PLANTED}\n")
    warnings.warn(PLANTED, stacklevel=1)
    os.write(1, PLANTED.encode())
    os.write(2, PLANTED.encode())
    subprocess.run([sys.executable, "-c", f"import sys; print({PLANTED!r}); print({PLANTED!r}, file=sys.stderr)"], check=True)
    for name in ("flows", f"flows.{ctx.step}", "flows.workloads.nafld", "sklearn", "root", PLANTED):
        log = logging.getLogger(name)
        log.warning(PLANTED, stacklevel=2)
        log.warning("a row", extra={"row": PLANTED}, stack_info=True)
        log.handle(logging.makeLogRecord({"name": name, "msg": PLANTED, "pathname": own_file(), "levelno": logging.ERROR}))
        log.error("row %s", PLANTED)
        log.warning(PLANTED)
        try:
            raise ValueError(PLANTED)
        except ValueError:
            log.exception("cannot read it")
    return publish(ctx)


def own_file() -> str:
    """A source file of the project's own, for a record that claims to be from there."""
    from flows.services import ingesting

    return str(ingesting.__file__)


def _raising(make: Callable[[], BaseException]) -> Callable[[StepContext], StepResult]:
    def step(_ctx: StepContext) -> StepResult:
        try:
            raise KeyError(PLANTED)
        except KeyError as cause:
            raise make() from cause

    return step


ERRORS: dict[str, Callable[[], BaseException]] = {
    "value": lambda: ValueError(PLANTED),
    "user": lambda: UserError(f"`{PLANTED}` is missing"),
    "guard": lambda: GuardRefused(PLANTED),
    "os": lambda: FileNotFoundError(2, "No such file or directory", f"/rows/{PLANTED}"),
    "os text": lambda: OSError(PLANTED),
    "exit": lambda: SystemExit(PLANTED),
    "unicode": lambda: UnicodeDecodeError("utf-8", PLANTED.encode(), 0, 1, PLANTED),
}
raise_value, raise_user, raise_guard, raise_os, raise_os_text, raise_exit, raise_unicode = (_raising(make) for make in ERRORS.values())


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = keyed(Settings(home=tmp_path / "home"))
    State(found.state_url).migrate()
    return found


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Logging and output are as they were, whatever a step did."""
    before = (logging.Logger.callHandlers, sys.stdout, sys.stderr, os.fstat(1).st_ino, os.fstat(2).st_ino)
    yield
    assert (logging.Logger.callHandlers, sys.stdout, sys.stderr, os.fstat(1).st_ino, os.fstat(2).st_ino) == before


def run(settings: Settings, step: str, workload: str = "nafld") -> dict[str, Any]:
    """Place, send and run an ingest in this process, its work replaced by a step of this module."""
    intent = f"{workload}/ingest/2013-07-01/manual"
    state = State(settings.state_url)
    decision = placing.place_step(state, settings, placing.PlaceOrder(workload, "ingest", intent, {}, "scheduler"), at=datetime.now(UTC))
    with state.transaction() as tx:
        outbox.ensure(tx, outbox.Intent.of(workload, "ingest", "2013-07-01", "manual", due_at=AT))
        outbox.claim(tx, intent, owner="run", at=datetime.now(UTC), stale_after=STALE_AFTER)
    chosen = decision["chosen"]
    order = StepOrder("ingest", workload, AT, intent, decision["decision_id"], {}, "run-1")
    with tiny_steps(ingest=f"{__name__}:{step}"), acting_as(chosen["site"], chosen["pool"]):
        return run_step(sent(settings, order, chosen["pool"]), settings=settings)


def outside(settings: Settings) -> list[Path]:
    """Files of the whole home with the planted value, the patients' own site left out."""
    own_site = settings.site_folder("onprem-fra")
    return [path for path in traces(settings.home, MARK) if own_site not in path.parents]


def test_nothing_that_a_restricted_step_says_is_heard(
    settings: Settings, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither printed nor warned nor logged, under whichever logger's name; that there was a line is told."""
    run(settings, "talkative")
    heard = capfd.readouterr()
    assert PLANTED not in heard.out + heard.err + caplog.text
    assert PLANTED not in str([vars(record) for record in caplog.records])
    assert "is not shown: it may quote rows" in caplog.text
    assert outside(settings) == []


def test_a_step_of_public_data_is_heard(settings: Settings, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """The same step where rows may be quoted, so that hearing nothing means something."""
    run(settings, "talkative", "flight_delay")
    heard = capfd.readouterr()
    assert heard.out.count(PLANTED) == 3 and heard.err.count(PLANTED) >= 3 and PLANTED in caplog.text
    assert PLANTED in str([vars(record) for record in caplog.records])


@pytest.mark.parametrize("kind", ERRORS)
def test_no_error_of_a_restricted_step_quotes_a_row(settings: Settings, kind: str) -> None:
    """Not its message, not its cause, not its traceback as Prefect logs it, not the record of the run, its intent or the ledger."""
    with pytest.raises(TradewindError) as caught:
        run(settings, f"raise_{kind.replace(' ', '_')}")
    assert PLANTED not in "".join(traceback.format_exception(caught.value))
    state = State(settings.state_url)
    with state.reading() as tx:
        (failed,) = runs.recent(tx)
        intent = outbox.get(tx, "nafld/ingest/2013-07-01/manual")
        told = [failed.error, intent and intent.error, *(str(row.body) for row in ledger.rows(tx))]
    assert failed.state == "failed" and "failed with" in str(failed.error)
    assert PLANTED not in str(told)
    state.close()
    assert outside(settings) == []


def test_the_kind_of_an_error_is_kept(settings: Settings) -> None:
    """A user's mistake is still one: it is not tried again."""
    with pytest.raises(UserError):
        run(settings, "raise_user")


def test_an_error_of_public_data_is_told(settings: Settings) -> None:
    """So that silence means something."""
    with pytest.raises(ValueError, match=PLANTED):
        run(settings, "raise_value", "flight_delay")


def test_only_the_projects_own_modules_are_trusted() -> None:
    """A workload's are users' code, whatever their logger is called."""
    from flows.services import ingesting
    from flows.workloads.nafld import source

    assert own(str(ingesting.__file__))
    assert not own(str(source.__file__)) and not own(__file__) and not own(logging.__file__)


def test_a_run_of_another_site_finds_nothing_of_the_patients(settings: Settings) -> None:
    """A step at a second site gets a storage that opens no path of the first one, however it is asked."""
    from flows.adapters.storage import SiteStorage

    secret = settings.site_folder("onprem-fra") / "datasets" / "x.txt"
    secret.parent.mkdir(parents=True)
    secret.write_text(PLANTED)
    away = SiteStorage("aws-us-east-1", settings.site_folder("aws-us-east-1"))
    for parts in (("..", "onprem-fra", "datasets", "x.txt"), (str(secret),)):
        with pytest.raises(GuardRefused):
            away.path(*parts)


def test_an_integrity_error_of_our_own_is_told_in_full(settings: Settings) -> None:
    """What the project itself says holds no value, and people need it."""
    with pytest.raises(IntegrityError, match="is not what control sent"):
        run(settings, "exchanged")


def exchanged(ctx: StepContext) -> StepResult:
    """A step that opens what control did not send."""

    with ctx.storage.draft("nafld-raw") as draft:
        (draft / "x").write_text("x")
        made = ctx.storage.publish("nafld-raw", draft, {})
    replace(ctx, inputs={"raw": DatasetRef("nafld-raw", made.version)}, manifests={}).open("raw")
    raise AssertionError


def badly_read(ctx: StepContext) -> StepResult:
    """A step whose file is none that Parquet can read; its library says what is in it."""
    from unittest import mock

    import pyarrow as pa

    from flows.services.frames import read_parquet

    with ctx.storage.draft("nafld-raw") as draft:
        (draft / "x").write_text("x")
        made = ctx.storage.publish("nafld-raw", draft, {})
    given = replace(ctx, inputs={"raw": DatasetRef("nafld-raw", made.version)}, manifests=None)
    error = pa.ArrowInvalid(PLANTED)
    error.add_note(PLANTED)
    with mock.patch("pyarrow.parquet.read_table", side_effect=error):
        read_parquet(given, "raw", "x")
    raise AssertionError


def test_an_error_of_our_own_leaves_its_cause_behind(settings: Settings) -> None:
    """Its words are told, those of the library below it are not; where rows may be quoted both are."""
    with pytest.raises(IntegrityError, match="is no Parquet file") as caught:
        run(settings, "badly_read")
    assert PLANTED not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    with pytest.raises(IntegrityError) as public:
        run(settings, "badly_read", "flight_delay")
    assert PLANTED in "".join(traceback.format_exception(public.value))


class TestAWorkloadsMistake:
    """What its people need to put it right, without a row."""

    @pytest.fixture
    def workload(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder that counts as the project's, with a workload's module in it."""
        from flows.services import discretion

        monkeypatch.setattr(discretion, "ROOT", tmp_path)
        monkeypatch.setattr(discretion, "OWN", f"{tmp_path}{os.sep}flows{os.sep}")
        monkeypatch.setattr(discretion, "WORKLOADS", f"{tmp_path}{os.sep}flows{os.sep}workloads{os.sep}")
        path = tmp_path / "flows" / "workloads" / "clinic.py"
        path.parent.mkdir(parents=True)
        return path

    def told(self, path: Path, source: str, *, claimed: str | None = None) -> TradewindError:
        """The error that control knows, of a module with this text; `claimed` is what stands on disk instead."""
        from flows.services.discretion import quiet

        path.write_text(source if claimed is None else claimed)
        with pytest.raises(TradewindError) as caught, quiet("`ingest` of `clinic`"):
            exec(compile(source, str(path), "exec"), {"UserError": UserError, "row": PLANTED})
        assert PLANTED not in "".join(traceback.format_exception(caught.value))
        return caught.value

    def test_words_that_stand_in_the_source_are_told_with_their_line(self, workload: Path) -> None:
        """No row put them there."""
        source = '\nraise UserError("the extract has no weights", expected="kilograms", fix="ask the ward " "for them")\n'
        made = self.told(workload, source)
        assert isinstance(made, UserError)
        (problem,) = made.problems
        assert problem.what == "`ingest` of `clinic` failed with UserError at `flows/workloads/clinic.py:2`: the extract has no weights"
        assert (problem.expected, problem.fix) == ("kilograms", "ask the ward for them")

    def test_words_that_were_put_together_are_not(self, workload: Path) -> None:
        """The fix is, if it stands there as it is."""
        (problem,) = self.told(workload, 'raise UserError(f"no weight of {row}", expected=row, fix="ask the ward")').problems
        assert "its message may quote rows and is not shown" in problem.what
        assert (problem.expected, problem.fix) == (None, "ask the ward")

    @pytest.mark.parametrize("claimed", ["", "x = (", "raise UserError('another')"])
    def test_words_of_code_that_was_made_of_a_row_are_not(self, workload: Path, claimed: str) -> None:
        """It says it is the workload's, and the workload's file says something else."""
        (problem,) = self.told(workload, f"raise UserError({PLANTED!r})", claimed=claimed).problems
        assert "is not shown" in problem.what

    def test_a_line_below_which_a_library_failed_is_told(self, workload: Path) -> None:
        """With the library's type of error, and not its words."""
        (problem,) = self.told(workload, "import json\n\njson.loads(row)\n").problems
        assert problem.what.startswith("`ingest` of `clinic` failed with JSONDecodeError at `flows/workloads/clinic.py:3`; its message")


def test_an_errors_words_are_kept_where_the_data_is(settings: Settings) -> None:
    """With its causes, for those who may read there; control's message names the file, and only the newest ones stay."""
    from flows.services.discretion import KEPT

    for _ in range(2):
        with pytest.raises(TradewindError, match=r"read it at the data's site: `failures/nafld/\S+\.txt`") as caught:
            run(settings, "raise_value")
    name = re.findall(r"`(failures/\S+)`", str(caught.value))[0]
    path = settings.site_folder("onprem-fra") / name
    assert PLANTED in path.read_text() and "KeyError" in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    for number in range(KEPT + 3):
        older = path.with_name(f"{number}.txt")
        older.touch()
        os.utime(older, (number, number))
    with pytest.raises(TradewindError):
        run(settings, "raise_value")
    assert len(list(path.parent.iterdir())) == KEPT and path.exists()


def test_two_steps_at_once_are_both_silent_to_their_end(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """Whichever ends first: the other one's lines stay unheard, and then everything is as it was."""
    from flows.services.discretion import quiet

    first_inside, second_inside, first_done = (threading.Event() for _ in range(3))

    def first() -> None:
        with quiet("first"):
            first_inside.set()
            assert second_inside.wait(10)
        first_done.set()

    thread = threading.Thread(target=first)
    thread.start()
    assert first_inside.wait(10)
    with quiet("second"):
        second_inside.set()
        assert first_done.wait(10)
        sys.stdout.write(PLANTED)
        os.write(2, PLANTED.encode())
        logging.getLogger("sklearn").error(PLANTED)
    thread.join()
    heard = capfd.readouterr()
    assert PLANTED not in heard.out + heard.err + caplog.text
    sys.stdout.write("heard")
    os.write(2, b"heard")
    assert capfd.readouterr() == ("heard", "heard")


def test_our_own_lines_are_still_on_the_workers_output(capfd: pytest.CaptureFixture[str]) -> None:
    """A handler that wrote to it before the step goes on, past the silence."""
    from flows.services.discretion import quiet
    from flows.services.frames import require_classes

    handler = logging.StreamHandler(os.fdopen(os.dup(2), "w"))
    handler.setStream(os.fdopen(2, "w", closefd=False, buffering=1))
    log = logging.getLogger("flows.test")
    log.addHandler(handler)
    assert logging.lastResort is not None
    log.addHandler(logging.lastResort)  # as some libraries do
    own_code = compile("log.warning('12 rows')", str(require_classes.__code__.co_filename), "exec")
    try:
        with quiet("train"):
            exec(own_code, {"log": log})
            log.warning(PLANTED)
    finally:
        log.removeHandler(handler)
        log.removeHandler(logging.lastResort)
    heard = capfd.readouterr().err
    assert "12 rows" in heard and "a line of `flows` is not shown" in heard and PLANTED not in heard


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_goes_on_without_a_word(kind: type[BaseException]) -> None:
    """It is still what it was, to whoever waits for it."""
    from flows.services.discretion import quiet

    with pytest.raises(kind) as caught, quiet("train"):
        try:
            raise ValueError(PLANTED)
        except ValueError:
            raise kind(PLANTED)  # noqa: B904  the cause is what must not be told
    assert PLANTED not in "".join(traceback.format_exception(caught.value))
