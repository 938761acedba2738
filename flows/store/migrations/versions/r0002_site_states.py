"""Sites that take nothing new, and pools that cool down after a run failed there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make both tables; a site or pool without a row is as before: open, and cool."""
    op.create_table(
        "site_states",
        sa.Column("site", sa.String(255), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("principal", sa.String(255), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "cool_downs",
        sa.Column("pool", sa.String(255), primary_key=True),
        sa.Column("intent_id", sa.String(1024), primary_key=True),
        sa.Column("until_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("cool_downs_by_time", "cool_downs", ["until_at"])
