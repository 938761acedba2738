"""The first schema. There is no way back: a ledger is not dropped."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "alias_moves",
        sa.Column("number", BIG, primary_key=True, autoincrement=True),
        sa.Column("workload", sa.String(255), nullable=False),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("version", sa.String(255), nullable=False),
        sa.Column("previous", sa.String(255), nullable=True),
        sa.Column("intent_id", sa.String(1024), nullable=False),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.UniqueConstraint("workload", "alias", "intent_id", "version"),
    )
    op.create_index("alias_moves_by_alias", "alias_moves", ["workload", "alias", "number"])
    op.create_table(
        "aliases",
        sa.Column("workload", sa.String(255), primary_key=True),
        sa.Column("alias", sa.String(64), primary_key=True),
        sa.Column("version", sa.String(255), nullable=False),
        sa.Column("previous", sa.String(255), nullable=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("intent_id", sa.String(1024), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "costs",
        sa.Column("number", BIG, primary_key=True, autoincrement=True),
        sa.Column("run_id", sa.String(1024), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("decision_id", sa.String(64), nullable=True),
        sa.Column("workload", sa.String(255), nullable=False),
        sa.Column("step", sa.String(255), nullable=False),
        sa.Column("pool", sa.String(255), nullable=False),
        sa.Column("site", sa.String(255), nullable=False),
        sa.Column("usd_compute", sa.BigInteger(), nullable=False),
        sa.Column("usd_egress", sa.BigInteger(), nullable=False),
        sa.Column("usd_storage", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("kg_co2", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("run_id", "kind"),
    )
    op.create_index("costs_by_time", "costs", ["at"])
    op.create_table(
        "decisions",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("workload", sa.String(255), nullable=True),
        sa.Column("step", sa.String(255), nullable=True),
        sa.Column("intent_id", sa.String(1024), nullable=True),
        sa.Column("pool", sa.String(255), nullable=True),
        sa.Column("site", sa.String(255), nullable=True),
        sa.Column("usd_total", sa.BigInteger(), nullable=True),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
    )
    op.create_index("decisions_by_intent", "decisions", ["intent_id"])
    op.create_index("decisions_by_workload", "decisions", ["workload", "at"])
    op.create_table(
        "documents",
        sa.Column("hash", sa.String(64), primary_key=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "intents",
        sa.Column("id", sa.String(1024), primary_key=True),
        sa.Column("workload", sa.String(255), nullable=False),
        sa.Column("step", sa.String(255), nullable=False),
        sa.Column("window", sa.String(1024), nullable=False),
        sa.Column("cause", sa.String(1024), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(1024), nullable=True),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
    )
    op.create_index("intents_due", "intents", ["state", "due_at"])
    op.create_table(
        "ledger",
        sa.Column("seq", BIG, primary_key=True, autoincrement=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(255), nullable=False),
        sa.Column("principal", sa.String(255), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("prev_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_index("ledger_by_kind", "ledger", ["kind", "seq"])
    op.create_table(
        "principals",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(1024), nullable=True, unique=True),
    )
    op.create_table(
        "replicas",
        sa.Column("dataset", sa.String(255), primary_key=True),
        sa.Column("version", sa.String(64), primary_key=True),
        sa.Column("site", sa.String(255), primary_key=True),
        sa.Column("bytes", BIG, nullable=False),
        sa.Column("files", sa.Text(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=True),
        sa.Column("intent_id", sa.String(1024), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "reservations",
        sa.Column("intent_id", sa.String(1024), primary_key=True),
        sa.Column("pool", sa.String(255), nullable=False),
        sa.Column("use", sa.Text(), nullable=False),
        sa.Column("from_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("reservations_by_time", "reservations", ["until_at", "from_at"])
    op.create_table(
        "runs",
        sa.Column("id", sa.String(1024), primary_key=True),
        sa.Column("workload", sa.String(255), nullable=False),
        sa.Column("step", sa.String(255), nullable=False),
        sa.Column("pool", sa.String(255), nullable=False),
        sa.Column("site", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("intent_id", sa.String(1024), nullable=True),
        sa.Column("decision_id", sa.String(64), nullable=True),
    )
    op.create_index("runs_by_intent", "runs", ["intent_id"])
    op.create_index("runs_by_time", "runs", ["started_at"])
    op.create_table(
        "transfers",
        sa.Column("number", BIG, primary_key=True, autoincrement=True),
        sa.Column("dataset", sa.String(255), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("source", sa.String(255), nullable=False),
        sa.Column("destination", sa.String(255), nullable=False),
        sa.Column("bytes", BIG, nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("usd", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.String(1024), nullable=False),
        sa.Column("intent_id", sa.String(1024), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cause", sa.String(1024), nullable=False),
        sa.UniqueConstraint("run_id", "dataset", "version", "source", "destination"),
    )
    op.create_index("transfers_by_time", "transfers", ["at"])
    op.create_table(
        "verdicts",
        sa.Column("id", sa.String(1024), primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("workload", sa.String(255), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("intent_id", sa.String(1024), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("verdicts_by_workload", "verdicts", ["workload", "kind", "as_of"])
    op.create_table(
        "decision_inputs",
        sa.Column("decision_id", sa.String(64), sa.ForeignKey("decisions.id"), primary_key=True),
        sa.Column("kind", sa.String(64), primary_key=True),
        sa.Column("document", sa.String(64), sa.ForeignKey("documents.hash"), nullable=False),
        sa.Column("declared", sa.String(1024), nullable=False),
    )
    op.create_index("decision_inputs_by_declared", "decision_inputs", ["declared"])
