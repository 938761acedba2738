"""The state database: ledger, outbox, decisions, costs."""

from __future__ import annotations

from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field, SecretStr


class StateDatabaseBlock(Block):
    """The connection to the state database."""

    _block_type_name: ClassVar[str] = "Tradewind State Database"
    _block_type_slug: ClassVar[str] = "tradewind-state-database"
    _description: ClassVar[str] = "The SQLAlchemy URL of the database that holds Tradewind's ledger, outbox, decisions and costs."

    url: SecretStr = Field(description="SQLAlchemy URL, `sqlite:///…` or `postgresql+psycopg://…`, with its user and password.")
