"""The declaration of access reviews, `access.yaml`: which sources, who may have what, how often, and exceptions with their last days."""

from __future__ import annotations

from pathlib import Path

from flows.adapters.declared import load_yaml, validate
from flows.core.governance.access import Access

ACCESS_FILE = "access.yaml"


def load_access(deployments: Path) -> Access:
    """What a folder of declarations says of access.

    Raises:
        UserError: there is no such file, or it is malformed.
    """
    return validate(Access, load_yaml(deployments / ACCESS_FILE))
