"""Governance: who may, who approved, what was reviewed, proved and erased."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables, an area at a time."""
    _approvals()
    _placement()
    _identity()
    _reviews()
    _checkpoints()
    _imported_labels()
    _proofs()


def _approvals() -> None:
    """Promotions that wait for a person, and what was said about them."""
    op.create_table(
        "approval_requests",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("intent_id", sa.String(1024), nullable=False),
        sa.Column("workload", sa.String(255), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("dataset", sa.String(1024), nullable=False),
        sa.Column("verdict", sa.String(64), nullable=False),
        sa.Column("parties", sa.Text(), nullable=False),
        sa.Column("links", sa.Text(), nullable=False),
        sa.Column("looks", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lifecycle_id", sa.String(1024)),
        sa.Column("run_id", sa.String(255)),
        sa.Column("closed_at", sa.DateTime(timezone=True)),
    )
    op.create_index("approval_requests_by_intent", "approval_requests", ["intent_id"])
    op.create_index("approval_requests_by_lifecycle", "approval_requests", ["lifecycle_id"])
    op.create_table(
        "approvals",
        sa.Column("request_id", sa.String(64), sa.ForeignKey("approval_requests.id"), primary_key=True),
        sa.Column("approver", sa.String(64), nullable=False),
        sa.Column("roles", sa.Text(), nullable=False),
        sa.Column("how", sa.String(16), nullable=False),
        sa.Column("approved", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ledger_seq", BIG, nullable=False),
    )


def _placement() -> None:
    """Joint plans, and a number for each decision by which two of one second keep their order."""
    op.add_column("decisions", sa.Column("number", BIG, nullable=True))
    last = "rowid" if op.get_bind().dialect.name == "sqlite" else "id"
    op.execute(
        "UPDATE decisions SET number = ranked.place FROM "
        f"(SELECT id, row_number() OVER (ORDER BY at, decided_at, {last}) AS place FROM decisions) AS ranked WHERE ranked.id = decisions.id"
    )
    op.create_index("decisions_by_number", "decisions", ["number"], unique=True)
    op.create_table(
        "plans",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("intent_id", sa.String(1024), nullable=False),
        sa.Column("workload", sa.String(255), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("number", BIG, nullable=False),
        sa.Column("documents", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
    )
    op.create_index("plans_by_number", "plans", ["number"], unique=True)
    op.create_index("plans_by_intent", "plans", ["intent_id"])


def _checkpoints() -> None:
    op.create_table(
        "checkpoint_files",
        sa.Column("origin", sa.String(64), primary_key=True),
        sa.Column("size", BIG, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("seq", BIG, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )


def _identity() -> None:
    """What control signed, and what may be used once: tickets and requests."""
    op.create_table(
        "signatures",
        sa.Column("subject", sa.String(1024), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("key", sa.String(16), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "ticket_uses",
        sa.Column("nonce", sa.String(64), primary_key=True),
        sa.Column("intent_id", sa.String(1024), nullable=False),
        sa.Column("run_id", sa.String(1024), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "run_requests",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("principal", sa.String(64), nullable=False),
        sa.Column("roles", sa.Text(), nullable=False),
        sa.Column("parameters", sa.String(64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_by", sa.String(1024)),
    )


def _reviews() -> None:
    """Access reviews: what was found of each grant, and what people attested."""
    op.create_table(
        "reviews",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sources", sa.Text(), nullable=False),
        sa.Column("rules", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
    )
    op.create_table(
        "review_grants",
        sa.Column("review", sa.String(64), sa.ForeignKey("reviews.id"), primary_key=True),
        sa.Column("grant_id", sa.String(64), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
    )
    op.create_table(
        "attestations",
        sa.Column("number", BIG, primary_key=True, autoincrement=True),
        sa.Column("grant_id", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("review", sa.String(64), sa.ForeignKey("reviews.id"), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("principal", sa.String(255), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.String(10)),
    )
    op.create_index("attestations_by_grant", "attestations", ["grant_id", "number"])


def _imported_labels() -> None:
    """What bridges last said of datasets."""
    op.create_table(
        "imported_labels",
        sa.Column("bridge", sa.String(255), primary_key=True),
        sa.Column("dataset", sa.String(255), primary_key=True),
        sa.Column("label", sa.Text()),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )


def _proofs() -> None:
    """What each site proved of its security."""
    op.create_table(
        "security_proofs",
        sa.Column("site", sa.String(255), primary_key=True),
        sa.Column("check_name", sa.String(64), primary_key=True),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("valid_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("evidence", sa.String(64), nullable=False),
    )
