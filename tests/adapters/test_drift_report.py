"""Evidently's report through our adapter: numbers, page, and what the page must not show."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from flows.adapters.drift_report import DriftReport, drift_report
from flows.core.errors import UserError

NUMERIC, CATEGORICAL = ("sales", "noise", "flag"), ("kind",)


def frame(rows: int, *, shift: float = 0.0, books: float = 0.5, seed: int = 1) -> pd.DataFrame:
    """Rows of three numbers and a kind."""
    generator = np.random.default_rng(seed)
    kind = np.where(generator.random(rows) < books, "books", "bakery").astype(object)
    numbers = {
        "sales": generator.normal(shift, 1, rows),
        "noise": generator.normal(size=rows),
        "flag": generator.integers(0, 2, rows) * 1.0,
    }
    return pd.DataFrame({**numbers, "kind": kind})


def report(reference: pd.DataFrame, current: pd.DataFrame, *, show_rows: bool = True, numeric: tuple[str, ...] = NUMERIC) -> DriftReport:
    """A report with the defaults of these tests."""
    return drift_report(reference, current, numeric=numeric, categorical=CATEGORICAL, seed=1, show_rows=show_rows)


def numbers_in(page: str) -> set[str]:
    """All numbers with a fraction, without their sign."""
    return set(re.findall(r"\d+\.\d+(?:e-?\d+)?", page))


@pytest.mark.parametrize("show_rows", [True, False])
def test_what_moved_is_named_and_what_did_not_is_not(show_rows: bool) -> None:
    """A number and a kind that moved are found, with and without coarsening."""
    found = report(frame(3000), frame(3000, shift=0.5, books=0.9, seed=2), show_rows=show_rows)
    assert found.drifted == ("kind", "sales")
    assert set(found.scores) == {*NUMERIC, *CATEGORICAL} and found.scores["noise"] < 0.1


def test_the_same_rows_and_seed_give_the_same_numbers() -> None:
    """The sample is seeded, and at most 5,000 rows of each side."""
    before, after = frame(7000), frame(9000, shift=0.1, seed=2)
    one, two = report(before, after), report(before, after)
    assert one.scores == two.scores and one.rows == (5000, 5000)


def test_coarsening_hardly_changes_the_numbers() -> None:
    """The verdict of restricted data is made of nearly the same scores."""
    before, after = frame(4000), frame(4000, shift=0.3, seed=2)
    open_scores, coarse_scores = report(before, after).scores, report(before, after, show_rows=False).scores
    assert open_scores == pytest.approx(coarse_scores, abs=0.03)


@pytest.mark.parametrize("rows", [60, 5000])
def test_a_coarse_page_shows_no_value_of_a_row(rows: int) -> None:
    """Neither an outlier, nor a rare category, nor any exact number is in it; in an open page of as few rows the search finds them."""
    after = frame(rows, seed=2)
    after.loc[0, "sales"] = 987654.321
    after.loc[1, "kind"] = "the only lighthouse"
    values = {repr(abs(value)) for name in ("sales", "noise") for value in after[name].tolist()}
    page = report(frame(rows), after, show_rows=False).html
    assert "987654" not in page and "lighthouse" not in page and not values & numbers_in(page)
    if rows == 60:
        page = report(frame(rows), after, show_rows=True).html
        assert "lighthouse" in page and values & numbers_in(page)


def test_the_page_loads_nothing_from_elsewhere() -> None:
    """It opens at a site without a way out."""
    page = report(frame(100), frame(100, seed=2)).html
    assert '<script src="http' not in page and '<link href="http' not in page


def test_a_column_without_values_is_skipped_and_named() -> None:
    """An empty column is no reason to make no report."""
    after = frame(200, seed=2).assign(noise=np.nan)
    found = report(frame(200), after)
    assert found.skipped == ("noise",) and "noise" not in found.scores


def test_missing_values_are_compared_too() -> None:
    """A category that is often missing now has moved."""
    after = frame(2000, seed=2)
    after.loc[::2, "kind"] = None
    assert "kind" in report(frame(2000), after).drifted


def test_a_constant_column_does_not_move() -> None:
    """No variation is no drift, and no division by zero."""
    found = report(frame(200).assign(flag=1.0), frame(200, seed=2).assign(flag=1.0), show_rows=False)
    assert found.scores["flag"] == 0.0


def test_too_few_rows_are_refused() -> None:
    """A report on a handful of rows would be one on persons."""
    with pytest.raises(UserError, match="at least 50 rows"):
        report(frame(49), frame(2000, seed=2))
