"""Which pools a worker host serves."""

from __future__ import annotations

from flows.adapters.settings import Settings


def pools_of(settings: Settings) -> dict[str, str]:
    """Each pool of the estate with its site, in the order of the file.

    Raises:
        UserError: the estate's files are wrong.
    """
    from flows.adapters.estate import load_estate

    return {pool.name: pool.site for pool in load_estate(settings.deployments / "estate").pools}
