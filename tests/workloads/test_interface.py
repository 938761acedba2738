"""What every workload promises the flows: one suite over all of them."""

from __future__ import annotations

import functools
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from flows.adapters.raw_tables import key_problems, schema_problems
from flows.core.workload import EVENT_TIMESTAMP, LABEL, LABEL_AT, ROW_ID, Workload
from flows.workloads.registry import load, names

AS_OF = datetime(2013, 3, 15, tzinfo=UTC)
EARLIER = AS_OF - timedelta(days=20, hours=7)
WORKLOADS = pytest.mark.parametrize("name", names())


@functools.cache
def raw(name: str, until: datetime = AS_OF) -> dict[str, pd.DataFrame]:
    workload = load(name)
    return {table.name: workload.read(table.name, until) for table in workload.tables}


@functools.cache
def examples(name: str, until: datetime = AS_OF) -> pd.DataFrame:
    return load(name).examples(raw(name, until), until)


@WORKLOADS
def test_it_has_every_part_of_the_interface(name: str) -> None:
    """The registry gives an object with all of `Workload`, named like its folder."""
    workload = load(name)
    assert isinstance(workload, Workload)
    assert workload.name == name
    assert workload.tables and workload.model.features and workload.feature_service


@WORKLOADS
def test_importing_it_loads_no_heavy_library(name: str) -> None:
    """A process that only looks at a declaration pays for neither pandas nor scikit-learn."""
    heavy = ("pandas", "sklearn", "pyarrow", "feast", "mlflow")
    code = (
        f"import sys; from flows.workloads.registry import load; load({name!r}); print([each for each in {heavy} if each in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@WORKLOADS
def test_its_tables_have_the_declared_schema_and_keys(name: str) -> None:
    """What `read` gives is what the table declares: columns, types, a unique key."""
    for table in load(name).tables:
        frame = raw(name)[table.name]
        assert len(frame)
        assert schema_problems(table, frame) == []
        assert key_problems(table, frame) == []


@WORKLOADS
def test_its_suites_are_ones_that_great_expectations_knows(name: str) -> None:
    """Every expectation of every table can be checked, and none stops the shipped data."""
    from flows.adapters.expectations import check

    for table in load(name).tables:
        checked = check(table, raw(name, EARLIER)[table.name].head(2000))
        assert checked.passed, [failure.told for failure in checked.stops]


@WORKLOADS
def test_it_reads_nothing_known_later(name: str) -> None:
    """No row of a table became known after the instant asked for."""
    for table in load(name).tables:
        if table.known_at is not None:
            assert raw(name, EARLIER)[table.name][table.known_at].max() <= pd.Timestamp(EARLIER)


@WORKLOADS
def test_what_was_known_once_stays_as_it_was(name: str) -> None:
    """Reading later adds rows and changes none."""
    for table in load(name).tables:
        if table.known_at is None:
            continue
        order = list(table.key)
        later = raw(name)[table.name].loc[lambda rows, at=table.known_at: rows[at] <= pd.Timestamp(EARLIER)]
        earlier = raw(name, EARLIER)[table.name]
        pd.testing.assert_frame_equal(
            later.sort_values(order, ignore_index=True), earlier.sort_values(order, ignore_index=True), check_dtype=False
        )


@WORKLOADS
def test_its_feature_tables_carry_the_instant_they_became_known(name: str) -> None:
    """Each feature table has an aware UTC `event_timestamp` in microseconds, in every row, none after the raw data's end."""
    tables = load(name).feature_tables(raw(name))
    assert tables
    for table, frame in tables.items():
        assert len(frame), table
        assert str(frame[EVENT_TIMESTAMP].dtype) == "datetime64[us, UTC]", table
        assert frame[EVENT_TIMESTAMP].notna().all(), table


@WORKLOADS
def test_no_feature_looks_ahead(name: str) -> None:
    """Feature rows up to an instant are the same whether or not anything later is known."""
    workload = load(name)
    then, now = workload.feature_tables(raw(name, EARLIER)), workload.feature_tables(raw(name))
    for table, frame in now.items():
        keys = [column for column in frame.columns if not pd.api.types.is_float_dtype(frame[column])]

        def known(rows: pd.DataFrame, keys: list[str] = keys) -> pd.DataFrame:
            return rows[rows[EVENT_TIMESTAMP] <= pd.Timestamp(EARLIER)].sort_values(keys, ignore_index=True)

        pd.testing.assert_frame_equal(known(frame), known(then[table]))


@WORKLOADS
def test_its_examples_are_unique_and_not_after_as_of(name: str) -> None:
    """One row per prediction, with an id of its own, made for an instant that has come."""
    frame = examples(name)
    assert frame[ROW_ID].is_unique and frame[ROW_ID].notna().all()
    assert frame[EVENT_TIMESTAMP].max() <= pd.Timestamp(AS_OF)
    assert str(frame[EVENT_TIMESTAMP].dtype) == "datetime64[us, UTC]"


@WORKLOADS
def test_a_label_is_there_only_once_it_is_known(name: str) -> None:
    """Labels are 0 or 1, come with the instant they became known, after the prediction and not after `as_of`."""
    frame = examples(name)
    known = frame[LABEL].notna()
    assert set(frame.loc[known, LABEL].unique()) == {0.0, 1.0}
    assert (known == frame[LABEL_AT].notna()).all()
    assert (frame.loc[known, LABEL_AT] <= pd.Timestamp(AS_OF)).all()
    assert (frame.loc[known, LABEL_AT] > frame.loc[known, EVENT_TIMESTAMP]).all()
    assert not known.all()


@WORKLOADS
def test_examples_do_not_look_ahead(name: str) -> None:
    """Request features of an example are the same whenever they are made; a label never turns around."""
    now = examples(name).set_index(ROW_ID)
    then = examples(name, EARLIER).set_index(ROW_ID)
    both = now.loc[then.index]
    request = [column for column in now.columns if column not in (LABEL, LABEL_AT)]
    pd.testing.assert_frame_equal(both[request], then[request])
    settled = then[LABEL].notna()
    assert (both.loc[settled, LABEL] == then.loc[settled, LABEL]).all()


@WORKLOADS
def test_its_windows_hold_both_classes(name: str) -> None:
    """At the suite's instant the training and the holdout window both hold rows of either label."""
    workload, frame = load(name), examples(name)
    border = pd.Timestamp(AS_OF - workload.windows.holdout)
    labelled = frame[frame[LABEL].notna() & (frame[EVENT_TIMESTAMP] >= border - workload.windows.train)]
    assert labelled.loc[labelled[EVENT_TIMESTAMP] >= border, LABEL].nunique() == 2
    assert labelled.loc[labelled[EVENT_TIMESTAMP] < border, LABEL].nunique() == 2


@WORKLOADS
def test_its_estimator_is_repeatable(name: str) -> None:
    """Two estimators fitted on the same rows give the same probabilities, missing values and new categories included."""
    spec = load(name).model
    draw = np.random.default_rng(1)
    frame = pd.DataFrame({column: draw.normal(size=300) for column in spec.numeric})
    for column in spec.categorical:
        frame[column] = draw.choice(["a", "b", "c"], size=300)
    label = (frame[spec.numeric[0]] + draw.normal(size=300) > 0).astype(float)
    frame.loc[::7, spec.numeric[0]] = np.nan
    unseen = frame.assign(**dict.fromkeys(spec.categorical, "new"))
    first, second = (load(name).estimator().fit(frame, label).predict_proba(unseen) for _ in range(2))
    assert first.shape == (300, 2)
    np.testing.assert_array_equal(first, second)
