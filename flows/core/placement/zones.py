"""Time zones from the locked `tzdata` package alone, so that every machine knows the same daylight-saving rules."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from zoneinfo import ZoneInfo


@lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    return frozenset(resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8").split())


def known_zone(name: str) -> bool:
    """Whether the IANA database has a zone of this name."""
    return name in _names()


@lru_cache(maxsize=256)
def zone(name: str) -> ZoneInfo:
    """The zone's rules.

    Raises:
        KeyError: there is no such zone.
    """
    if not known_zone(name):
        raise KeyError(name)
    folder, _, file = f"tzdata/zoneinfo/{name}".rpartition("/")
    with resources.files("tzdata").joinpath(*folder.split("/")[1:], file).open("rb") as stream:
        return ZoneInfo.from_file(stream, key=name)
