"""One suite over every block type."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prefect.blocks.core import Block
from pydantic import SecretStr, ValidationError

from blocks import BLOCKS, FeatureStoreBlock, ModelRegistryBlock, SiteStorageBlock, StateDatabaseBlock

SECRET = "correct-horse-battery"
EXAMPLES: dict[type[Block], dict[str, Any]] = {
    SiteStorageBlock: {
        "profile": "cloud",
        "site": "aws-eu-central-1",
        "url": "s3://bucket/prefix",
        "kms_key": "alias/tradewind",
        "credentials": json.dumps({"key": SECRET}),
    },
    StateDatabaseBlock: {"url": f"postgresql+psycopg://tradewind:{SECRET}@db/tradewind"},
    ModelRegistryBlock: {"url": f"postgresql://mlflow:{SECRET}@db/mlflow", "token": SECRET},
    FeatureStoreBlock: {"site": "aws-eu-central-1", "online_url": f"redis://:{SECRET}@cache:6379"},
}

every_block = pytest.mark.parametrize("block_type", BLOCKS, ids=lambda block_type: block_type.__name__)


def test_every_block_has_an_example() -> None:
    """A new block type joins the suite."""
    assert set(EXAMPLES) == set(BLOCKS)


@every_block
def test_a_secret_is_shown_nowhere(block_type: type[Block]) -> None:
    """Neither repr nor str nor a plain dump of a block holds its secrets."""
    block = block_type(**EXAMPLES[block_type])
    assert SECRET not in f"{block!r} {block} {block.model_dump()} {block.model_dump_json()}"


@every_block
def test_what_was_put_in_comes_out(block_type: type[Block]) -> None:
    """Values survive a round trip through the form that the server keeps."""
    block = block_type(**EXAMPLES[block_type])
    kept = json.loads(block.model_dump_json(context={"include_secrets": True}))
    again = block_type.model_validate({name: kept[name] for name in block_type.model_fields})
    for name, value in EXAMPLES[block_type].items():
        found = getattr(again, name)
        assert (found.get_secret_value() if isinstance(found, SecretStr) else found) == value


@every_block
def test_a_missing_value_is_refused(block_type: type[Block]) -> None:
    """No block can be made without its connection."""
    with pytest.raises(ValidationError):
        block_type()


@every_block
def test_every_field_is_described(block_type: type[Block]) -> None:
    """The form in the UI has a help text for the block and each of its fields, ending with a full stop."""
    assert block_type.get_description()
    assert all((field.description or "").endswith(".") for field in block_type.model_fields.values())


@every_block
def test_the_slug_says_whose_it_is(block_type: type[Block]) -> None:
    """All block types of ours stand together in the UI's list."""
    assert block_type.get_block_type_slug().startswith("tradewind-")


@every_block
def test_a_block_has_no_logic(block_type: type[Block]) -> None:
    """A block holds values: no public method of its own."""
    own = {name for name, value in vars(block_type).items() if not name.startswith("_") and callable(value)}
    assert own <= {"model_post_init"}, "pydantic adds this one where a class has private attributes"


@pytest.mark.parametrize("url", ["/data/site", "http://bucket", "s4://bucket"])
def test_a_site_url_of_another_kind_is_refused(url: str) -> None:
    """A site's data rests on a disk, in S3 or in GCS."""
    with pytest.raises(ValidationError):
        SiteStorageBlock(profile="cloud", site="s", url=url)
