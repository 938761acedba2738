"""The model registry and tracking server."""

from __future__ import annotations

from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field, SecretStr


class ModelRegistryBlock(Block):
    """The connection to MLflow."""

    _block_type_name: ClassVar[str] = "Tradewind Model Registry"
    _block_type_slug: ClassVar[str] = "tradewind-model-registry"
    _description: ClassVar[str] = "The MLflow server that tracks Tradewind's runs and holds its model versions and aliases."

    url: SecretStr = Field(description="MLflow tracking and registry URI; a database URI may hold a password.")
    token: SecretStr | None = Field(default=None, description="Bearer token of the MLflow server, if it asks for one.")
