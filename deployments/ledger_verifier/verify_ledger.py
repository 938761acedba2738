"""Verify an export of Tradewind's ledger: `python -I verify_ledger.py [FOLDER] [--key FILE]`.

Needs Python 3.9 or newer and nothing else; signatures are checked if the package `cryptography` is installed, and it says so if not.
Exit 0: everything holds. Exit 5: something does not, and the first thing is named. Exit 2: there is no export to read.

A row's hash is the sha256 of the RFC 8785 JSON of {at, body, kind, prev_hash, principal, seq}; prev_hash is the hash of the row before,
64 zeros for row 1. A checkpoint is an Ed25519 signature over the RFC 8785 JSON of {at, hash, previous, seq}: the hash of row seq, and
the sha256 of the line before it in the file of checkpoints, 64 zeros on line 1. An entry {hash, seq} is an anchor that nobody signed.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
ROWS = "rows.jsonl"
CHECKPOINTS = "ledger-anchors.jsonl"
KEYS = "signing-keys.jsonl"
GENESIS = "0" * 64
ROW_FIELDS = {"at", "body", "hash", "kind", "prev_hash", "principal", "seq"}
SIGNED = {"at", "hash", "key", "previous", "seq", "signature"}
UNSIGNED = {"hash", "seq"}

Signatures = Callable[[bytes, str, str], "str | None"]


class Bad(Exception):
    """Something in the export is not what was recorded."""


def canonical(value: Any) -> bytes:
    """RFC 8785 JSON of a value without fractions or keys beyond ASCII: all that the chain itself is made of."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8", "surrogateescape")


def sha256(data: bytes) -> str:
    """Lower-case hexadecimal sha256."""
    return hashlib.sha256(data).hexdigest()


def row_hash(row: dict[str, Any]) -> str:
    """What a row must hash to; its body is canonical JSON text already."""
    json.loads(row["body"])
    at, kind, before, who = (canonical(row[name]) for name in ("at", "kind", "prev_hash", "principal"))
    body, seq = row["body"].encode("utf-8"), str(row["seq"]).encode()
    parts = (b'{"at":', at, b',"body":', body, b',"kind":', kind, b',"prev_hash":', before, b',"principal":', who, b',"seq":', seq, b"}")
    return sha256(b"".join(parts))


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; every one must have its end."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.endswith(b"\n"):
                raise Bad(f"{path.name}:{number}: the last line has no end")
            yield number, line[:-1]


def entry_of(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """A line's JSON object, whose bytes must be the only ones that say it."""
    try:
        found = json.loads(line)
        same = isinstance(found, dict) and json.dumps(found, sort_keys=True, separators=(",", ":")).encode() == line
    except (ValueError, RecursionError):
        same = False
    if not same:
        raise Bad(f"{path.name}:{number}: this line cannot be read")
    return dict(found)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, and every file as it lists it."""
    text = (folder / MANIFEST).read_bytes()
    try:
        manifest = json.loads(text)
        given = {name: manifest[name] for name in manifest if name != "digest"}
        whole = manifest["digest"] == sha256(canonical(given)) and text == json.dumps(manifest, indent=1, sort_keys=True).encode() + b"\n"
    except (ValueError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        raise Bad(f"{MANIFEST}: it is not the one that was written")
    for name, digest in sorted(manifest["files"].items()):
        path = folder / name
        if not path.is_file():
            raise Bad(f"{name}: it is missing")
        if sha256(path.read_bytes()) != digest:
            raise Bad(f"{name}: it is not the file that was exported{_first_bad(path)}")
    return dict(manifest)


def _first_bad(path: Path) -> str:
    """Where, if it is the file of rows: for a person who looks."""
    if path.name != ROWS:
        return ""
    try:
        for number, line in lines(path):
            row = entry_of(path, number, line)
            if set(row) != ROW_FIELDS or row_hash(row) != row["hash"]:
                return f"; line {number} does not have the hash that was recorded with it"
    except (Bad, ValueError, AttributeError, TypeError) as error:
        return f"; {error}"
    return ""


def read_rows(folder: Path, manifest: dict[str, Any]) -> dict[int, str]:
    """Row number to hash, every row checked against its hash and its neighbour."""
    path = folder / ROWS
    found: dict[int, str] = {}
    last, before = manifest["first"] - 1, manifest["prev_hash"]
    if manifest["first"] == 1 and manifest["kind"] is None and before != GENESIS:
        raise Bad("row 1 does not begin the chain")
    for number, line in lines(path):
        row = entry_of(path, number, line)
        try:
            if set(row) != ROW_FIELDS or row_hash(row) != row["hash"]:
                raise Bad(f"row {row.get('seq')} is bad: its content does not have the hash that was recorded with it")
        except (ValueError, AttributeError, TypeError):
            raise Bad(f"row {row.get('seq')} is bad: its content cannot be read") from None
        seq = row["seq"]
        if manifest["kind"] is not None:
            if row["kind"] != manifest["kind"]:
                raise Bad(f"row {seq} is of another kind")
            if seq <= last:
                raise Bad(f"row {seq} is out of order")
        elif seq != last + 1:
            raise Bad(f"row {last + 1} is bad: row {seq} is in its place")
        if seq == last + 1 and before is not None and row["prev_hash"] != before:
            raise Bad(f"row {seq} is bad: its `prev_hash` is not the hash of the row before it")
        found[seq] = before = row["hash"]
        last = seq
    if len(found) != manifest["rows"] or last != manifest["last"]:
        raise Bad(f"{manifest['rows']} rows up to {manifest['last']} were exported, {len(found)} up to {last} are here")
    return found


def keys_of(path: Path) -> dict[str, str]:
    """Key id to base64 public key: lines as they are enrolled, or base64, one key a line."""
    found = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if line.strip():
            try:
                key = json.loads(line)["public_key"] if line.lstrip().startswith("{") else line.strip()
                raw = base64.b64decode(key, validate=True)
            except (ValueError, KeyError, TypeError):
                raise Bad(f"{path.name}:{number}: this line is no public key") from None
            found[sha256(raw)[:16]] = key
    return found


def signatures(keys: dict[str, str]) -> Signatures | None:
    """How to check a signature; None if `cryptography` is not installed."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        return None

    def check(payload: bytes, key: str, value: str) -> str | None:
        if key not in keys:
            return f"it is signed with key `{key}`, which is not trusted"
        try:
            Ed25519PublicKey.from_public_bytes(base64.b64decode(keys[key])).verify(base64.b64decode(value), payload)
        except (InvalidSignature, ValueError):
            return "its signature does not hold"
        return None

    return check


def read_checkpoints(folder: Path, check: Signatures | None) -> list[dict[str, Any]]:
    """Every line of the file of checkpoints, in order."""
    path = folder / CHECKPOINTS
    found: list[dict[str, Any]] = []
    previous = GENESIS
    for number, line in lines(path):
        entry = entry_of(path, number, line)
        if set(entry) not in (SIGNED, UNSIGNED) or not isinstance(entry["seq"], int):
            raise Bad(f"{path.name}:{number}: this line is no anchor")
        if "signature" in entry:
            if entry["previous"] != previous:
                raise Bad(f"{path.name}:{number}: the line before it is not the one that was there when it was signed")
            payload = canonical({name: entry[name] for name in ("at", "hash", "previous", "seq")})
            why = check(payload, entry["key"], entry["signature"]) if check else None
            if why:
                raise Bad(f"{path.name}:{number}: {why}")
        repeats = bool(found) and entry["seq"] == found[-1]["seq"] and "signature" in entry and "signature" not in found[-1]
        if found and entry["seq"] <= found[-1]["seq"] and not repeats:
            raise Bad(f"{path.name}:{number}: it names row {entry['seq']} after row {found[-1]['seq']}")
        found.append(entry)
        previous = sha256(line)
    return found


def verify(folder: Path, pinned: Path | None) -> list[str]:
    """What holds, for people.

    Raises:
        Bad: the first thing that does not.
    """
    manifest = read_manifest(folder)
    rows = read_rows(folder, manifest)
    check = signatures(keys_of(pinned or folder / KEYS))
    checkpoints = read_checkpoints(folder, check)
    trusted = [one for one in checkpoints if "signature" in one or pinned is None]
    whole = manifest["since"] is None and manifest["until"] is None and manifest["kind"] is None
    covered = 0
    for one in trusted:
        if one["seq"] in rows and rows[one["seq"]] != one["hash"]:
            raise Bad(f"row {one['seq']} is bad: its hash is not the anchored one, rows after {covered} were written anew")
        if whole and one["seq"] > manifest["last"]:
            raise Bad(f"row {manifest['last'] + 1} is missing: a checkpoint covers row {one['seq']}")
        if one["seq"] in rows:
            covered = one["seq"]
    return list(_told(manifest, checkpoints, trusted, check is not None, pinned is not None))


def _told(
    manifest: dict[str, Any], checkpoints: list[dict[str, Any]], trusted: list[dict[str, Any]], checked: bool, pinned: bool
) -> Iterator[str]:
    first, last = manifest["first"], manifest["last"]
    if manifest["kind"] is not None:
        yield f"{manifest['rows']} rows of kind `{manifest['kind']}` have their hashes; whether one is missing cannot be told from these"
    elif not manifest["rows"]:
        yield "no row was exported"
    elif first == 1:
        yield f"{manifest['rows']} rows hold, from the first one on"
    else:
        yield f"partial: rows {first} to {last} hold, if row {first - 1} has the hash {manifest['prev_hash']}; the rows before are not here"
    covered = max((one["seq"] for one in trusted), default=0)
    if manifest["kind"] is None and manifest["rows"]:
        if covered >= last:
            yield f"rows up to {last} are covered by checkpoints"
        else:
            yield f"no checkpoint covers rows {max(covered + 1, first)} to {last}"
    signed = [one for one in checkpoints if "signature" in one]
    if signed:
        yield f"{len(signed)} signed checkpoints, the last at {signed[-1]['at']}"
    if len(signed) < len(checkpoints):
        yield f"note: {len(checkpoints) - len(signed)} anchors carry no signature" + ("; they were not counted" if pinned else "")
    if not checked:
        yield "WARNING: no signature was checked, the package `cryptography` is not installed"
    elif signed and not pinned:
        yield "note: the public keys are those of the export itself; give your own with --key"


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Verify an export of Tradewind's ledger.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent, help="left out: where this file is")
    parser.add_argument("--key", type=Path, help="file of the public keys to trust, in place of the export's own")
    given = parser.parse_args()
    try:
        for line in verify(given.folder, given.key):
            print(line)  # noqa: T201 - a command's output
    except Bad as error:
        print(error)  # noqa: T201 - a command's output
        return 5
    except (OSError, UnicodeDecodeError) as error:
        print(f"the export cannot be read: {error}", file=sys.stderr)  # noqa: T201 - a command's output
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
