"""The declaration `security.yaml`: how long a proof holds, whose proofs are demanded, and how each site's are made."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from flows.adapters.declared import load_yaml, validate
from flows.core.errors import Problem, UserError
from flows.core.governance.proofs import Security

if TYPE_CHECKING:
    from flows.core.placement.model import Estate

SECURITY_FILE = "security.yaml"


def load_security(deployments: Path, estate: Estate) -> Security | None:
    """What a folder of declarations demands; None if it has no such file.

    Raises:
        UserError: it is malformed, or names a site that the estate does not have, or a pattern that fits none.
    """
    path = deployments / SECURITY_FILE
    if not path.exists():
        return None
    declared = load_yaml(path)
    found = validate(Security, declared)
    known = f"one of {', '.join(f'`{site.id}`' for site in estate.sites)}"
    problems: list[Problem] = [
        declared.problem(("sites", number, "site"), f"no site `{one.site}`", expected=known)
        for number, one in enumerate(found.sites)
        if one.site not in estate.site_by_id
    ]
    problems += [
        declared.problem(
            ("demands", number, "sites", place),
            f"`{pattern}` fits no site" if "*" in pattern else f"no site `{pattern}`",
            expected=f"{known}, or a pattern that fits one",
            fix="a demand that fits nothing demands nothing: correct it, or take it out",
        )
        for number, demand in enumerate(found.demands)
        for place, pattern in enumerate(demand.sites)
        if not any(fnmatchcase(site.id, pattern) for site in estate.sites)
    ]
    if problems:
        raise UserError(problems=problems)
    return found
