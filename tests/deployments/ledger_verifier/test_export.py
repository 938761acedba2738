"""An export of the ledger and the verifier inside it, run as an auditor runs it: alone, with nothing of this project."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from deployments.ledger_verifier import verify_ledger
from flows.adapters import signing
from flows.adapters.settings import Settings
from flows.core.canonical import canonical_json
from flows.core.errors import UserError
from flows.services import checkpointing
from flows.services.ledger_export import Export, export
from flows.store import ledger
from flows.store.database import State
from tests.store.ledgers import NAME, checkpointed, flipped, grow, keyed, spoiled_lines, when

VERIFIER = Path(verify_ledger.__file__)
PROBE = """
import runpy, sys
sys.argv = ["verify", {folder!r}]
try:
    runpy.run_path({file!r}, run_name="__main__")
except SystemExit as end:
    assert not end.code
assert not {{"flows", "deployments", "rfc8785", "pydantic", "sqlalchemy"}} & set(sys.modules)
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[tuple[State, Settings]]:
    """Twelve rows, all covered by three signed checkpoints, and a thirteenth that no checkpoint covers."""
    settings = keyed(tmp_path / "home")
    state = State(settings.state_url)
    state.migrate()
    checkpointed(state, settings)
    grow(state, 1, start=12)
    yield state, settings
    state.close()


def made(home: tuple[State, Settings], out: Path, **chosen: object) -> Export:
    """An export."""
    state, settings = home
    return export(state, settings.anchors, out, VERIFIER, at=when(1000), **chosen)  # type: ignore[arg-type]


def alone(folder: Path, *arguments: str, python: tuple[str, ...] = ("-I",)) -> tuple[int, str]:
    """Exit code and output of the export's own verifier, in a fresh interpreter that sees nothing of this project."""
    command = [sys.executable, *python, str(folder / VERIFIER.name), *arguments]
    ended = subprocess.run(command, cwd="/", env={}, capture_output=True, text=True, timeout=60)
    assert not ended.stderr
    return ended.returncode, ended.stdout


def holds(folder: Path, *pinned: Path) -> str | None:
    """What the verifier names in this very process, None if all holds: for the many."""
    try:
        with redirect_stdout(StringIO()):
            verify_ledger.verify(folder, *(pinned or (None,)))
    except (verify_ledger.Bad, UnicodeDecodeError) as error:
        return str(error)
    return None


def test_a_whole_export_holds_alone(home: tuple[State, Settings], tmp_path: Path) -> None:
    """Rows, window and signatures, by an interpreter without this project; nothing but its own file is imported from here."""
    done = made(home, tmp_path / "out")
    assert (done.rows, done.first, done.last) == (13, 1, 13)
    code, out = alone(tmp_path / "out")
    assert code == 0, out
    assert out.splitlines()[:3] == [
        "13 rows hold, from the first one on",
        "no checkpoint covers rows 13 to 13",
        "3 signed checkpoints, the last at 2026-01-05T08:05:00.000300Z",
    ]
    probe = PROBE.format(folder=str(tmp_path / "out"), file=str(tmp_path / "out" / VERIFIER.name))
    ended = subprocess.run([sys.executable, "-I", "-c", probe], cwd="/", env={}, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


def test_without_the_signature_package_it_says_so(home: tuple[State, Settings], tmp_path: Path) -> None:
    """With the standard library alone the chain is checked, and the missing part is told."""
    made(home, tmp_path / "out")
    code, out = alone(tmp_path / "out", python=("-I", "-S"))
    assert code == 0 and "13 rows hold" in out
    assert "WARNING: no signature was checked" in out


def test_an_export_holds_what_rests_and_no_name(home: tuple[State, Settings], tmp_path: Path) -> None:
    """Every row's fields are those of the database; principals are opaque."""
    done = made(home, tmp_path / "out")
    with home[0].reading() as tx:
        stored = [(row.seq, row.hash, row.prev_hash, row.kind, row.principal, row.body) for row in ledger.rows(tx)]
    lines = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    names = ("seq", "hash", "prev_hash", "kind", "principal")
    assert [(*(line[name] for name in names), json.loads(line["body"])) for line in lines] == stored
    assert not any(NAME.encode() in path.read_bytes() for path in done.folder.iterdir())
    manifest = json.loads((done.folder / "manifest.json").read_text())
    assert manifest.pop("digest") == done.digest == hashlib.sha256(canonical_json(manifest)).hexdigest()


def test_a_partial_export_verifies_from_its_first_row_and_says_so(home: tuple[State, Settings], tmp_path: Path) -> None:
    """By time, nothing in between left out; the hash that everything before it must have is told."""
    done = made(home, tmp_path / "out", since=when(5), until=when(9))
    assert (done.first, done.last, done.rows) == (4, 9, 6), "row 4 is that of the key, which came later than its time"
    with home[0].reading() as tx:
        before = ledger.rows(tx)[done.first - 2]
    code, out = alone(tmp_path / "out")
    assert code == 0
    assert out.startswith(f"partial: rows {done.first} to {done.last} hold, if row {before.seq} has the hash {before.hash}")


def test_an_export_of_one_kind_says_what_it_cannot_tell(home: tuple[State, Settings], tmp_path: Path) -> None:
    """Hashes hold; whether a row is missing cannot be told."""
    made(home, tmp_path / "out", kind="transfer")
    code, out = alone(tmp_path / "out")
    assert code == 0 and "whether one is missing cannot be told" in out
    with pytest.raises(UserError, match="no kind"):
        made(home, tmp_path / "other", kind="gossip")


def test_an_empty_export_holds(home: tuple[State, Settings], tmp_path: Path) -> None:
    """Nothing stored since: no row, no fault."""
    made(home, tmp_path / "out", since=when(5000))
    assert alone(tmp_path / "out") == (0, alone(tmp_path / "out")[1])
    assert "no row was exported" in alone(tmp_path / "out")[1]


def test_a_folder_that_holds_something_is_refused(home: tuple[State, Settings], tmp_path: Path) -> None:
    """An export is never mixed with another."""
    made(home, tmp_path / "out")
    with pytest.raises(UserError, match="not empty"):
        made(home, tmp_path / "out")


def test_every_byte_of_an_export_counts(home: tuple[State, Settings], tmp_path: Path) -> None:
    """A changed byte, a line taken out, doubled or exchanged, a cut: of any file; and a file that is gone."""
    folder = made(home, tmp_path / "out").folder
    assert holds(folder) is None
    for name in ("rows.jsonl", "ledger-anchors.jsonl", "signing-keys.jsonl", "manifest.json", "kinds.json", VERIFIER.name):
        path = folder / name
        whole = path.read_bytes()
        many = [*flipped(whole, (0x01,)), *spoiled_lines(whole)] if name != VERIFIER.name else list(flipped(whole, (0x01,)))[::97]
        for what, text in many[:: 7 if name == "rows.jsonl" else 1] if len(many) > 2000 else many:
            path.write_bytes(text)
            assert holds(folder) is not None, f"{name}, {what}"
        path.unlink()
        assert alone_or_gone(folder, name) != 0
        path.write_bytes(whole)
    assert holds(folder) is None


def alone_or_gone(folder: Path, name: str) -> int:
    """The exit code when a file is missing; a verifier that is gone itself is no longer run."""
    return 5 if name == VERIFIER.name and holds(folder) else alone(folder)[0] if name != "manifest.json" else 2


@pytest.mark.parametrize("seq", range(1, 14))
@pytest.mark.parametrize("how", ["change", "remove", "swap", "double"])
def test_one_who_writes_manifest_and_files_anew_is_stopped_by_the_chain(
    home: tuple[State, Settings], tmp_path: Path, seq: int, how: str
) -> None:
    """With all sums of the manifest made to fit, the chain names the row; a last row that no checkpoint covers can only be cut off."""
    folder = made(home, tmp_path / "out").folder
    path = folder / "rows.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    if how == "change":
        row = json.loads(lines[seq - 1])
        row["body"] = '{"n":99}'
        lines[seq - 1] = json.dumps(row, sort_keys=True, separators=(",", ":")) + "\n"
    elif how == "remove":
        del lines[seq - 1]
    elif how == "double":
        lines.insert(seq - 1, lines[seq - 1])
    else:
        lines[seq - 1], lines[seq % 13] = lines[seq % 13], lines[seq - 1]
    path.write_text("".join(lines))
    reseal(folder, rows=len(lines), last=json.loads(lines[-1])["seq"])
    found = holds(folder)
    if how == "remove" and seq == 13:
        assert found is None
    else:
        assert found is not None and "row" in found


def test_one_who_writes_the_whole_chain_anew_is_stopped_by_the_signatures(home: tuple[State, Settings], tmp_path: Path) -> None:
    """New hashes all along do not fit the checkpoints; new checkpoints do not fit the auditor's key."""
    settings = home[1]
    assert settings.signing_key is not None
    other = (State(f"sqlite:///{tmp_path / 'forged' / 'state.db'}"), keyed(tmp_path / "forged"))
    other[0].migrate()
    checkpointed(*other)
    folder = made(other, tmp_path / "out").folder
    assert holds(folder) is None
    key = tmp_path / "pinned"
    key.write_text(signing.signer(settings.signing_key.get_secret_value()).public_key + "\n")
    assert "not trusted" in str(holds(folder, key))
    code, out = alone(folder, "--key", str(key))
    assert code == 5 and "not trusted" in out
    genuine = made(home, tmp_path / "genuine").folder
    assert alone(genuine, "--key", str(key))[0] == 0
    shutil.copy(genuine / "ledger-anchors.jsonl", folder)
    shutil.copy(genuine / "signing-keys.jsonl", folder)
    reseal(folder)
    assert "not the anchored one" in str(holds(folder))
    other[0].close()


def test_old_anchors_without_signatures_are_told(tmp_path: Path) -> None:
    """They count, but not for one who pins keys."""
    settings = Settings(home=tmp_path / "home")
    state = State(settings.state_url)
    state.migrate()
    grow(state, 3)
    checkpointing.checkpoint(state, settings, at=when(10))
    folder = made((state, settings), tmp_path / "out").folder
    assert "1 anchors carry no signature" in alone(folder)[1]
    key = tmp_path / "pinned"
    key.write_text(signing.signer(signing.new_key()).public_key)
    code, out = alone(folder, "--key", str(key))
    assert code == 0 and "they were not counted" in out and "no checkpoint covers rows 1 to 3" in out
    state.close()


def reseal(folder: Path, **changed: int) -> None:
    """Make the manifest fit what lies there, as one would who wants it to."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) | changed
    del manifest["digest"]
    manifest["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in manifest["files"]}
    manifest["digest"] = hashlib.sha256(canonical_json(manifest)).hexdigest()
    path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
