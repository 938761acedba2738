"""Great Expectations: which rows a suite refuses, what a suite stops, and its Data Docs without what may not be told.

Written against great_expectations 1.24. An ephemeral context lives for one call: nothing is kept outside the folder a caller names,
no usage is reported, no progress bar is drawn.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.core.canonical import content_hash
from flows.core.errors import UserError
from flows.core.workload import Expectation, Table

if TYPE_CHECKING:
    import pandas as pd

COUNTS = frozenset(
    {
        "element_count",
        "missing_count",
        "missing_percent",
        "unexpected_count",
        "unexpected_percent",
        "unexpected_percent_nonmissing",
        "unexpected_percent_total",
    }
)
"""What a report may always tell of an expectation's result: how many, never which."""
SAMPLES = frozenset({"partial_unexpected_list", "partial_unexpected_counts"})
"""A few refused values: told only of data that people of the organisation may see."""
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
ORNAMENTS = ("static/fonts", "static/images/glossary_scroller.gif", "static/images/validation_failed_unexpected_values.gif")
"""Three megabytes of GX's own tutorial pictures and fonts, left out of each report."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One expectation that did not hold, in `bad_rows` of `rows` (None: it is not about rows); `why` if it could not be checked."""

    expectation: Expectation
    bad_rows: int | None
    rows: int
    why: str | None = None

    @property
    def told(self) -> str:
        """The expectation and its arguments, without any value of the data."""
        given = dict(self.expectation.arguments)
        column = given.pop("column", None)
        arguments = ", ".join(f"{name}={value}" for name, value in given.items())
        return f"{self.expectation.type}{f' of `{column}`' if column else ''}{f' ({arguments})' if arguments else ''}"


@dataclass(frozen=True, slots=True)
class Checked:
    """What a suite says of a frame: `reasons` maps a row's position to why it is quarantined; `stops` are failures that land nothing."""

    table: str
    rows: int
    reasons: Mapping[int, str]
    stops: tuple[Failure, ...]
    quarantining: tuple[Failure, ...]
    result: Any
    suite: Any

    @property
    def passed(self) -> bool:
        """Whether nothing stops."""
        return not self.stops


def suite_hash(table: Table) -> str:
    """Names everything a check of the table depends on but the rows: its columns, its key and its suite."""
    suite = [{"type": each.type, "arguments": dict(each.arguments), "on_failure": each.on_failure} for each in table.expectations]
    return content_hash({"columns": dict(table.columns), "key": list(table.key), "suite": suite})


def check(table: Table, frame: pd.DataFrame) -> Checked:
    """Validate a frame of shape (n_rows, n_columns), its index 0..n_rows-1, against the table's suite.

    Raises:
        UserError: the suite itself is wrong: an unknown expectation, a wrong argument, a quarantine that is not about rows.
    """
    gx = _great_expectations()
    context = _context(gx)
    suite = context.suites.add(gx.ExpectationSuite(name=table.name))
    for expectation in table.expectations:
        suite.add_expectation(_implementation(table, expectation))
    batch = context.data_sources.add_pandas("rows").add_dataframe_asset(table.name).add_batch_definition_whole_dataframe("all")
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=table.name, data=batch, suite=suite))
    outcome = definition.run(batch_parameters={"dataframe": frame}, result_format="COMPLETE")

    reasons: dict[int, list[str]] = {}
    stops: list[Failure] = []
    quarantining: list[Failure] = []
    for expectation, found in _paired(table, outcome.results):
        if found.success:
            continue
        failure, positions = _failure(expectation, found, len(frame))
        if expectation.on_failure == "stop" or failure.why:
            stops.append(failure)
            continue
        if positions is None:
            raise UserError(
                f"`{expectation.type}` of table `{table.name}` is not about single rows and cannot quarantine",
                expected="a row-level expectation, or `stop`",
            )
        quarantining.append(failure)
        for position in positions:
            reasons.setdefault(position, []).append(failure.told)
    return Checked(
        table=table.name,
        rows=len(frame),
        reasons={position: "; ".join(each) for position, each in sorted(reasons.items())},
        stops=tuple(stops),
        quarantining=tuple(quarantining),
        result=outcome,
        suite=suite,
    )


def write_docs(checks: Sequence[Checked], folder: Path, *, as_of: datetime, samples: bool) -> Path:
    """Write Data Docs of the checks under `folder` and return the index page.

    Without `samples` a page tells counts only: no refused value, no row, no observed value but a number of rows. The pages name
    `as_of` as their time, so that the same checks give the same bytes.
    """
    gx = _great_expectations()
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.resource_identifiers import ExpectationSuiteIdentifier, ValidationResultIdentifier

    context = _context(gx)
    context.add_data_docs_site(
        site_name="docs",
        site_config={
            "class_name": "SiteBuilder",
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
        },
    )
    run = RunIdentifier(run_name="ingest", run_time=as_of)
    for each in checks:
        told = _without_values(each.result, samples=samples)
        told.meta = {**_meta(told.meta), "run_id": run, "validation_time": as_of.isoformat()}
        suite = gx.ExpectationSuite(name=each.table, expectations=[item.configuration for item in each.suite.expectations])
        for item in suite.expectations:
            item.id = None
        context.suites.add(suite)
        key = ValidationResultIdentifier(ExpectationSuiteIdentifier(each.table), run_id=run, batch_identifier=each.table)
        context.validation_results_store.add(key, told)
    context.build_data_docs(site_names=["docs"])
    _settle(folder)
    return folder / "index.html"


def _great_expectations() -> Any:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    # its own progress lines say nothing of the data; the second module sets a level of its own when it is imported
    for name in ("great_expectations", "great_expectations.data_context.types.base"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return gx


def _context(gx: Any) -> Any:
    context = gx.get_context(mode="ephemeral")
    # an ephemeral context makes a temporary folder for pages nobody asked for, and leaves it behind
    for site in list(context.variables.data_docs_sites or {}):
        shutil.rmtree(context.variables.data_docs_sites[site]["store_backend"]["base_directory"], ignore_errors=True)
        context.delete_data_docs_site(site)
    context.variables.progress_bars = {"globally": False, "profilers": False, "metric_calculations": False}
    return context


def _implementation(table: Table, expectation: Expectation) -> Any:
    from great_expectations.exceptions import GreatExpectationsError
    from great_expectations.expectations.registry import get_expectation_impl

    try:
        return get_expectation_impl(expectation.type)(**expectation.arguments)
    except (GreatExpectationsError, ValueError, TypeError) as error:
        raise UserError(
            f"the suite of table `{table.name}` has a wrong expectation `{expectation.type}`: {error}",
            expected="a Great Expectations type in snake case with its arguments",
            fix="see the gallery of expectations of Great Expectations 1.24",
        ) from error


def _paired(table: Table, results: Sequence[Any]) -> list[tuple[Expectation, Any]]:
    """Each declared expectation with its result: GX may give the results in another order."""
    left = list(results)
    pairs = []
    for expectation in table.expectations:
        for found in left:
            config = found.expectation_config
            if config.type == expectation.type and all(config.kwargs.get(name) == value for name, value in expectation.arguments.items()):
                left.remove(found)
                pairs.append((expectation, found))
                break
        else:
            raise UserError(
                f"table `{table.name}` has `{expectation.type}` twice, or its result is missing", expected="each expectation once"
            )
    return pairs


def _failure(expectation: Expectation, found: Any, rows: int) -> tuple[Failure, list[int] | None]:
    """The failure and the positions of the rows that caused it, None if it is not about rows."""
    info = found.exception_info or {}
    infos = [info] if "raised_exception" in info else list(info.values())
    if any(each.get("raised_exception") for each in infos):
        return Failure(expectation, None, rows, why="it could not be checked; is the argument of the column's type?"), None
    positions = found.result.get("unexpected_index_list")
    count = found.result.get("unexpected_count")
    return Failure(expectation, None if count is None else int(count), rows), None if positions is None else [
        int(each) for each in positions
    ]


def _without_values(result: Any, *, samples: bool) -> Any:
    """A copy of a suite's result that holds counts, and a few refused values if `samples`."""
    import copy

    told = copy.copy(result)
    told.results = []
    keep = COUNTS | SAMPLES if samples else COUNTS
    for each in result.results:
        found = copy.copy(each)
        found.result = {name: value for name, value in each.result.items() if name in keep}
        observed = each.result.get("observed_value")
        if each.expectation_config.type.startswith("expect_table_row_count") and isinstance(observed, int):
            found.result["observed_value"] = observed
        found.exception_info = {"raised_exception": False, "exception_traceback": None, "exception_message": None}
        found.expectation_config = copy.copy(each.expectation_config)
        found.expectation_config.id = None
        told.results.append(found)
    return told


def _meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Only what does not change from run to run, and no identifier of a batch."""
    return {"great_expectations_version": meta.get("great_expectations_version")}


def _settle(folder: Path) -> None:
    """Drop ornaments, the build's own time stamps and its random element names."""
    for name in ORNAMENTS:
        found = folder / name
        if found.is_dir():
            shutil.rmtree(found)
        else:
            found.unlink(missing_ok=True)
    for page in folder.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        text = re.sub(r"\?d=\d{8}T\d{6}\.\d+Z", "", text)
        for number, name in enumerate(dict.fromkeys(re.findall(UUID, text)), start=1):
            text = text.replace(name, str(number))
        page.write_text(text, encoding="utf-8")
