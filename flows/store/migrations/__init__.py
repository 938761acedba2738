"""Alembic migrations of the state database, run by `flows.store.database.State.migrate` alone."""
