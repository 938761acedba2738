"""Runs the migrations over the connection, and within the transaction, that `State.migrate` gives: all of them or none."""

from __future__ import annotations

from alembic import context

from flows.store.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()
