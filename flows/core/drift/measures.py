"""How far a distribution moved: the population stability index. Pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 10


def population_stability_index(reference: ArrayLike, current: ArrayLike, bins: int = BINS) -> float:
    """PSI of `current` against `reference` over the reference's quantile bins: 0 for equal shares, no upper bound; shapes (n,), (m,).

    Rule of thumb: below 0.1 stable, above 0.25 moved. Each bin counts half a row more on both sides, so that an empty one stays finite.
    Values that are not finite are left out.
    Source: Siddiqi 2006, Credit Risk Scorecards; its distribution: Yurdakul and Naranjo 2020, doi 10.21314/JRMV.2020.227.

    Raises:
        ValueError: a side has no finite value.
    """
    before, after = _finite(reference), _finite(current)
    edges = np.unique(np.quantile(before, np.linspace(0.0, 1.0, bins + 1)[1:-1]))
    expected, actual = _shares(before, edges), _shares(after, edges)
    return float(np.sum((actual - expected) * np.log(actual / expected)))


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    found = np.asarray(values, dtype=np.float64).ravel()
    found = found[np.isfinite(found)]
    if not found.size:
        raise ValueError("a distribution needs at least one finite value")
    return found


def _shares(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=edges.size + 1) + 0.5
    return np.asarray(counts / counts.sum(), dtype=np.float64)
