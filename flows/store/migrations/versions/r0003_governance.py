"""Governance: who may, who approved, what was reviewed, proved and erased."""

from __future__ import annotations

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables, an area at a time."""
