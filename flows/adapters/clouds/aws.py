"""A client of AWS with bounds, and its errors in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flows.core.errors import Unavailable

CONNECT_SECONDS, READ_SECONDS, TRIES = 5, 20, 3


def client(service: str, region: str) -> Any:
    """A client with the credentials of now; each question ends within about a minute."""
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]

    retries = {"total_max_attempts": TRIES, "mode": "standard"}
    bounded = Config(connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries=retries)
    return boto3.session.Session(region_name=region).client(service, config=bounded)


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Tell AWS's errors as `Unavailable`."""
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise Unavailable(f"{what}: {error}", fix="renew the credentials, or see health.aws.amazon.com") from error
