"""The online feature store of one site."""

from __future__ import annotations

from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field, SecretStr


class FeatureStoreBlock(Block):
    """The connection to the online store of one site."""

    _block_type_name: ClassVar[str] = "Tradewind Feature Store"
    _block_type_slug: ClassVar[str] = "tradewind-feature-store"
    _description: ClassVar[str] = "The online feature store of one Tradewind site: features never leave the site they were made at."

    site: str = Field(min_length=1, description="The site whose features are served here.")
    online_url: SecretStr = Field(description="Connection string of the online store, `redis://…` or `sqlite:///…`.")
