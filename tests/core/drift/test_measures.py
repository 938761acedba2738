"""The population stability index."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.core.drift import population_stability_index

values = st.lists(st.floats(0, 1), min_size=1, max_size=50)


@given(values)
def test_a_distribution_has_no_distance_from_itself(rows: list[float]) -> None:
    """Equal shares give zero."""
    assert population_stability_index(rows, rows) == pytest.approx(0.0, abs=1e-12)


@given(values, values)
def test_it_is_never_negative_and_always_finite(before: list[float], after: list[float]) -> None:
    """Empty bins do not make it infinite."""
    found = population_stability_index(before, after)
    assert 0 <= found < 100


def test_two_samples_of_one_distribution_are_near() -> None:
    """Chance alone stays far below the usual threshold of 0.1."""
    generator = np.random.default_rng(1)
    assert population_stability_index(generator.random(5000), generator.random(5000)) < 0.02


def test_a_shift_is_seen_and_a_larger_one_more() -> None:
    """The index grows with the distance."""
    generator = np.random.default_rng(1)
    before = generator.normal(size=5000)
    small, large = (population_stability_index(before, generator.normal(shift, size=5000)) for shift in (0.3, 1.0))
    assert 0.05 < small < 0.25 < large


def test_no_finite_value_is_an_error() -> None:
    """A side of nulls cannot be compared."""
    with pytest.raises(ValueError, match="finite"):
        population_stability_index([float("nan")], [0.1])
