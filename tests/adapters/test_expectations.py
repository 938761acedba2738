"""Suites: which rows are refused, what stops, and reports that tell no value they may not tell."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from flows.adapters.expectations import Checked, check, suite_hash, write_docs
from flows.core.errors import UserError
from flows.core.workload import Expectation, Table

AS_OF = datetime(2013, 3, 15, tzinfo=UTC)
BETWEEN = Expectation("expect_column_values_to_be_between", {"column": "age", "min_value": 0, "max_value": 120}, "quarantine")
NAMED = Expectation("expect_column_values_to_not_be_null", {"column": "who"})


def people(*expectations: Expectation) -> Table:
    return Table("people", {"who": "string", "age": "float64"}, key=("who",), expectations=expectations)


def frame(**changes: list[object]) -> pd.DataFrame:
    return pd.DataFrame({"who": ["secret-anna", "secret-bo", "secret-cy"], "age": [31.0, 4711.0, 52.0], **changes})


def pages(checked: Checked, folder: Path, *, samples: bool) -> str:
    folder.mkdir()
    write_docs([checked], folder, as_of=AS_OF, samples=samples)
    return "".join(page.read_text() for page in sorted(folder.rglob("*.html")))


def test_a_row_that_fails_is_named_with_its_reason() -> None:
    """The position of the row and the expectation it failed, so that it can be moved aside."""
    checked = check(people(BETWEEN, NAMED), frame())
    assert checked.passed
    assert list(checked.reasons) == [1]
    assert checked.reasons[1] == "expect_column_values_to_be_between of `age` (min_value=0, max_value=120)"


def test_a_row_that_fails_twice_keeps_both_reasons() -> None:
    """Nothing is lost: all reasons, in the suite's order."""
    even = Expectation("expect_column_values_to_be_in_set", {"column": "age", "value_set": [31.0, 52.0]}, "quarantine")
    assert check(people(BETWEEN, even), frame()).reasons[1].count("expect_") == 2


def test_an_expectation_that_stops_counts_its_rows() -> None:
    """A missing name stops the suite; how many rows is told, which is not."""
    checked = check(people(NAMED), frame(who=["secret-anna", None, None]))
    assert not checked.passed
    assert (checked.stops[0].bad_rows, checked.stops[0].rows) == (2, 3)


def test_an_expectation_about_the_table_can_stop() -> None:
    """Too few rows is nobody's row in particular."""
    checked = check(people(Expectation("expect_table_row_count_to_be_between", {"min_value": 10})), frame())
    assert checked.stops[0].bad_rows is None


def test_an_expectation_that_cannot_be_checked_stops() -> None:
    """A text is neither above nor below a number and raises inside the library: that is a stop, never a pass."""
    wrong = Expectation("expect_column_values_to_be_between", {"column": "who", "min_value": 0, "max_value": 1}, "quarantine")
    checked = check(people(wrong), frame())
    assert checked.stops and checked.stops[0].why


def test_an_unknown_expectation_is_a_mistake_in_the_suite() -> None:
    """The message names table and expectation."""
    with pytest.raises(UserError, match="`people` has a wrong expectation `expect_the_impossible`"):
        check(people(Expectation("expect_the_impossible", {})), frame())


def test_only_rows_can_be_quarantined() -> None:
    """A table-level expectation has no rows to move aside."""
    with pytest.raises(UserError, match="cannot quarantine"):
        check(people(Expectation("expect_table_row_count_to_be_between", {"min_value": 10}, "quarantine")), frame())


def test_a_report_without_samples_holds_no_value_of_the_data(tmp_path: Path) -> None:
    """Counts are there, neither the refused value nor any name is; the same report with samples has the value."""
    checked = check(people(BETWEEN, NAMED), frame())
    silent, open_ = pages(checked, tmp_path / "silent", samples=False), pages(checked, tmp_path / "open", samples=True)
    assert "33.3" in silent
    assert "4711" not in silent and "secret" not in silent
    assert "4711" in open_


def test_a_report_of_a_failed_pattern_holds_no_value_of_the_data(tmp_path: Path) -> None:
    """Refused texts are as secret as refused numbers."""
    checked = check(people(Expectation("expect_column_values_to_match_regex", {"column": "who", "regex": "^x"})), frame())
    assert "secret" not in pages(checked, tmp_path / "silent", samples=False)


def test_the_same_check_gives_the_same_report(tmp_path: Path) -> None:
    """No clock and no random name: a report's version is its content's."""
    first, second = (pages(check(people(BETWEEN), frame()), tmp_path / name, samples=True) for name in ("first", "second"))
    assert first == second


def test_nothing_is_reported_to_anyone_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Usage statistics are off; no progress bar, no log line, no temporary folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    caplog.set_level(logging.INFO)
    check(people(BETWEEN), frame())
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name.startswith("great_expectations")]
    assert not list(tmp_path.iterdir())


def test_a_changed_suite_has_another_hash() -> None:
    """Rows must be checked again when a bound or a consequence changes."""
    stops = Expectation(BETWEEN.type, BETWEEN.arguments, "stop")
    assert len({suite_hash(people(BETWEEN)), suite_hash(people(stops)), suite_hash(people(BETWEEN, NAMED))}) == 3
