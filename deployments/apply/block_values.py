"""The block documents that a profile wants, from settings and the environment: where secrets come from, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from deployments.apply.model import Kind, Resource

if TYPE_CHECKING:
    from prefect.blocks.core import Block

    from deployments.apply.options import ApplyOptions
    from flows.adapters.settings import Settings

STATE = "tradewind-state"
MODELS = "tradewind-models"
SITE = "tradewind-site-"
FEATURES = "tradewind-features-"


def blocks(settings: Settings, options: ApplyOptions, sites: Iterable[str]) -> tuple[Resource, ...]:
    """The state database, the model registry, and each data site's storage and features where its connection is known."""
    from blocks import ModelRegistryBlock, StateDatabaseBlock

    wanted: list[tuple[str, Block]] = [
        (STATE, StateDatabaseBlock(url=settings.state_url)),
        (MODELS, ModelRegistryBlock(url=settings.tracking_url)),
    ]
    for site in sites:
        wanted += _site_blocks(settings, options, site)
    return tuple(resource(name, block) for name, block in wanted)


def names_of_sites(sites: Iterable[str]) -> frozenset[tuple[Kind, str]]:
    """Blocks that a platform team may have made by other means: apply leaves them where it has no connection to write."""
    from blocks import FeatureStoreBlock, SiteStorageBlock

    prefixes = (f"{SiteStorageBlock.get_block_type_slug()}/{SITE}", f"{FeatureStoreBlock.get_block_type_slug()}/{FEATURES}")
    return frozenset(("block", prefix + site) for site in sites for prefix in prefixes)


def _site_blocks(settings: Settings, options: ApplyOptions, site: str) -> Iterator[tuple[str, Block]]:
    from blocks import FeatureStoreBlock, SiteStorageBlock

    connection = options.sites.get(site)
    if connection is not None:
        yield (
            SITE + site,
            SiteStorageBlock(
                profile=settings.profile, site=site, url=connection.url, kms_key=connection.kms_key, credentials=connection.credentials
            ),
        )
        if connection.online_url is not None:
            yield FEATURES + site, FeatureStoreBlock(site=site, online_url=connection.online_url)
    elif settings.profile == "embedded":
        yield SITE + site, SiteStorageBlock(profile="embedded", site=site, url=settings.site_folder(site).resolve().as_uri())


def resource(name: str, block: Block) -> Resource:
    """A block as a resource, named `type/name`: its values as JSON, its type and schema, the names of its secret fields."""
    dumped = json.loads(block.model_dump_json(context={"include_secrets": True}))
    values = {name: dumped[name] for name in type(block).model_fields}
    secret = {name for name, field in type(block).model_fields.items() if "SecretStr" in str(field.annotation)}
    slug = block.get_block_type_slug()
    fields = {**values, "block_type": slug, "block_schema": block._calculate_schema_checksum()}
    return Resource("block", f"{slug}/{name}", fields, secret=frozenset(secret))
