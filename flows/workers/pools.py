"""Which pools a worker host serves."""

from __future__ import annotations

from flows.adapters.settings import Settings


def pools_of(settings: Settings) -> dict[str, str]:
    """Each pool of the estate with its site, in the order of the file; in the cloud profile only those of type `process`, as `control`.

    Raises:
        UserError: the estate's files are wrong.
    """
    from flows.adapters.estate import load_estate

    pools = load_estate(settings.deployments / "estate").pools
    return {pool.name: pool.site for pool in pools if settings.profile == "embedded" or pool.type == "process"}
