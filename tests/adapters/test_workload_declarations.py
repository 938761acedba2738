"""How workloads are declared: a step's own words over the defaults, and names that must exist."""

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import get_args

import pytest

from flows.adapters.workload_declarations import Told, load_declaration, load_declarations
from flows.core.errors import UserError

TEXT = """
name: demo
title: A demo
owner: team
home: a
timezone: Europe/Berlin
schedules:
  - {name: nightly, cron: "0 5 * * *"}
  - {name: often, interval_hours: 0.5, timezone: UTC, active: true}
defaults: {resources: {cpus: 4, memory_gib: 8}, budget_usd: 5}
steps:
  train: {budget_usd: 20, interruptible: true}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "demo.yaml").write_text(TEXT)
    return tmp_path


def test_a_step_says_what_differs(folder: Path) -> None:
    """What it leaves out comes from the defaults."""
    declaration = load_declaration(folder, "demo")
    assert declaration.step("train").budget_usd == 20
    assert declaration.step("train").resources.cpus == 4
    assert declaration.step("score").budget_usd == Decimal(5)
    assert declaration.step("train").interruptible and not declaration.step("score").interruptible


def test_a_schedule_counts_in_its_zone(folder: Path) -> None:
    """Its own zone, else the workload's; an interval is a span."""
    declaration = load_declaration(folder, "demo")
    nightly, often = declaration.schedules
    assert (declaration.schedule_zone(nightly), nightly.interval) == ("Europe/Berlin", None)
    assert (declaration.schedule_zone(often), often.interval) == ("UTC", timedelta(minutes=30))


def test_an_unknown_workload_is_told_with_the_known_ones(folder: Path) -> None:
    """The message lists what there is."""
    with pytest.raises(UserError, match=r"no workload `dmeo`.*`demo`"):
        load_declaration(folder, "dmeo")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("  train:", "  trian:", "trian"),
        ('"0 5 * * *"', '"0 5 * *"', "five fields"),
        ('"0 5 * * *"', '"61 25 32 13 9"', "bad minute"),
        ('"0 5 * * *"', '"0 2 30 2 *"', "never starts: bad day-of-month"),
        ("interval_hours: 0.5", "interval_hours: 1e-9", "less than a minute"),
        ("active: true", "parameters: {asof: x}", "did you mean `as_of`"),
        ("budget_usd: 5", "keep_days: 99999999", "less than or equal to 36500"),
        ("budget_usd: 5", "window_hours: 9000", "less than or equal to 8784"),
        ("interval_hours: 0.5, ", "", "either `cron` or `interval_hours`"),
        ("Europe/Berlin", "Europe/Berlim", "IANA"),
        ("name: demo", "name: demmo", "in the file of `demo`"),
        ("name: often", "name: nightly", "declared twice"),
        ("budget_usd: 20", "budgt_usd: 20", "did you mean `budget_usd`"),
        ("owner: team\n", "", "`owner` is missing"),
    ],
)
def test_a_mistake_is_told(folder: Path, old: str, new: str, told: str) -> None:
    """Each with the words of the file."""
    (folder / "demo.yaml").write_text(TEXT.replace(old, new, 1))
    with pytest.raises(UserError, match=told):
        load_declarations(folder)


@pytest.mark.parametrize(
    ("old", "new", "line", "field"),
    [
        ("name: often", "name: nightly", 9, "schedules[1].name"),
        ("{budget_usd: 20,", "{columns: {}, budget_usd: 20,", 12, "steps.train.columns"),
    ],
)
def test_a_mistake_of_the_whole_is_told_where_it_lies(folder: Path, old: str, new: str, line: int, field: str) -> None:
    """Not at the first line of the file."""
    (folder / "demo.yaml").write_text(TEXT.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        load_declarations(folder)
    assert [(problem.line, problem.field) for problem in caught.value.problems] == [(line, field)]


def test_a_schedule_may_set_what_the_lifecycle_takes() -> None:
    """All but the workload, which the deployment says."""
    from flows.lifecycle import lifecycle

    assert {"workload", *get_args(Told)} == set(lifecycle.parameters.properties)


def test_columns_are_dropped_and_pseudonymised_at_ingest(folder: Path) -> None:
    """By `table.column`; other steps have no say over columns."""
    steps = "steps:\n  ingest: {columns: {drop: [guests.email], pseudonymise: [guests.id]}}\n"
    (folder / "demo.yaml").write_text(TEXT.replace("steps:\n", steps, 1))
    columns = load_declaration(folder, "demo").step("ingest").columns
    assert (columns.drop, columns.pseudonymise) == ({"guests.email"}, {"guests.id"})
    assert load_declaration(folder, "demo").step("train").columns.drop == frozenset()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("  score: {columns: {drop: [guests.email]}}", "`columns` under `score`"),
        ("  ingest: {columns: {drop: [guests.id], pseudonymise: [guests.id]}}", "`guests.id` is to be dropped and pseudonymised"),
        ("  ingest: {columns: {drop: [email]}}", "table.column|pattern"),
        ("  ingest: {columns: {dorp: [guests.email]}}", "did you mean `drop`"),
    ],
    ids=["another step", "both", "no table", "a typo"],
)
def test_a_mistake_in_the_steps_of_columns_is_told(folder: Path, text: str, told: str) -> None:
    """A typo would leave a personal column in the data: nothing of it passes."""
    (folder / "demo.yaml").write_text(TEXT.replace("steps:\n", f"steps:\n{text}\n", 1))
    with pytest.raises(UserError, match=told):
        load_declarations(folder)
