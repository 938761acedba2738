"""Drift as data: how far predictions and inputs moved, what labels say of it, and the verdict."""

from flows.core.drift.measures import population_stability_index
from flows.core.drift.verdict import DriftNumbers, DriftVerdict, Finding, judge_drift

__all__ = ["DriftNumbers", "DriftVerdict", "Finding", "judge_drift", "population_stability_index"]
