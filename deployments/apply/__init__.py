"""Declarations made real in Prefect, idempotently: blocks, pools, deployments, automations, schedules."""

from deployments.apply.applying import apply, apply_all
from deployments.apply.model import Diff
from deployments.apply.options import ApplyOptions

__all__ = ["ApplyOptions", "Diff", "apply", "apply_all"]
