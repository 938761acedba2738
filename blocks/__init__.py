"""Typed Prefect blocks: connections and secrets, no logic. Loaded only in flow files and passed on as values."""

from blocks.feature_store import FeatureStoreBlock
from blocks.model_registry import ModelRegistryBlock
from blocks.site_storage import SiteStorageBlock
from blocks.state_database import StateDatabaseBlock

BLOCKS = (SiteStorageBlock, StateDatabaseBlock, ModelRegistryBlock, FeatureStoreBlock)
"""Every block type of Tradewind, in the order a reader meets them."""

__all__ = ["BLOCKS", "FeatureStoreBlock", "ModelRegistryBlock", "SiteStorageBlock", "StateDatabaseBlock"]
