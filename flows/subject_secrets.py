"""The orchestrator's secrets that an erasure needs: a person's key for as long as a request takes, and the key of all references."""

from __future__ import annotations

import secrets

from prefect.blocks.system import Secret

from flows.services.erased_rows import KEY_SECRET


def fetch(name: str) -> str | None:
    """The value of a secret; None if there is none. Not from within an event loop."""
    try:
        found: Secret[str] = Secret.load(name, _sync=True)
    except ValueError:
        return None
    return str(found.get())


def keep(name: str, value: str) -> None:
    """Store a secret, over what it held before."""
    Secret(value=value).save(name, overwrite=True, _sync=True)  # not `Secret[str]`, which is a block type of another name


def forget(name: str) -> None:
    """Delete a secret; nothing happens if there is none."""
    try:
        Secret.delete(name, _sync=True)
    except ValueError:
        return


def reference_key() -> str:
    """The key of all references, made at its first use."""
    if (found := fetch(KEY_SECRET)) is None:
        found = secrets.token_hex(32)
        keep(KEY_SECRET, found)
    return found
