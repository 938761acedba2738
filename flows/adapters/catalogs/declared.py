"""The declared bridges, `deployments/catalogs.yaml`, and the client behind each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flows.adapters.declared import load_yaml, validate
from flows.core.errors import UserError
from flows.core.governance.bridge import BridgeDeclaration, Bridges

if TYPE_CHECKING:
    from flows.adapters.catalogs.atlas import Atlas
    from flows.core.governance.labels import Catalog

BRIDGES_FILE = "catalogs.yaml"


def load_bridges(folder: Path, catalog: Catalog) -> tuple[BridgeDeclaration, ...]:
    """The bridges declared in the folder; none if there is no such file.

    Raises:
        UserError: everything that is wrong, each with its line.
    """
    path = folder / BRIDGES_FILE
    if not path.is_file():
        return ()
    document = load_yaml(path)
    bridges = validate(Bridges, document).bridges
    problems = [
        document.problem(("bridges", index, "entries", name), f"the catalog has no `{name}`", fix="declare the entry, or take the line out")
        for index, bridge in enumerate(bridges)
        for name in sorted(bridge.entries)
        if catalog.entry(name) is None
    ]
    if problems:
        raise UserError(problems=problems)
    return bridges


def connect(bridge: BridgeDeclaration) -> Atlas:
    """The client of a bridge.

    Raises:
        UserError: its credentials are not in the environment.
    """
    if bridge.kind == "purview":
        from flows.adapters.catalogs.purview import Purview

        return Purview(bridge)
    from flows.adapters.catalogs.atlas import Atlas

    return Atlas(bridge)
