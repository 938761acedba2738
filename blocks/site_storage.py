"""Where the data of one site rests, and what opens it."""

from __future__ import annotations

from typing import ClassVar, Literal

from prefect.blocks.core import Block
from pydantic import Field, SecretStr


class SiteStorageBlock(Block):
    """The storage of one site: its root, its key and its credentials."""

    _block_type_name: ClassVar[str] = "Tradewind Site Storage"
    _block_type_slug: ClassVar[str] = "tradewind-site-storage"
    _description: ClassVar[str] = "The root, the key and the credentials of the data of one Tradewind site."

    profile: Literal["embedded", "cloud"] = Field(description="The profile this storage belongs to.")
    site: str = Field(min_length=1, description="The site whose data rests here; a step opens no other.")
    url: str = Field(pattern=r"^(file|s3|gs)://", description="The root of the site's data, `file://`, `s3://` or `gs://`.")
    kms_key: str | None = Field(default=None, description="Reference of the customer-managed key that encrypts the data, never the key.")
    credentials: SecretStr | None = Field(
        default=None, description="Credentials of the storage as JSON; left out where the worker has an identity of its own."
    )
