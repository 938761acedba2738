"""Links, dots and forged records in a dataset: none brings a planted row to another site, or out under another dataset's name."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from flows.adapters.storage import MANIFEST, SiteStorage, copy_version, file_sha256
from flows.core.canonical import content_hash
from flows.core.errors import GuardRefused, IntegrityError, TradewindError
from tests.integration.scanner import traces

PLANTED = "planted-patient-000042"
MARK = re.compile(PLANTED.encode())


@pytest.fixture
def home(tmp_path: Path) -> SiteStorage:
    """Where the planted rows rest."""
    site = SiteStorage("onprem-fra", tmp_path / "onprem-fra")
    with site.draft("nafld-raw") as draft:
        (draft / "rows.txt").write_text(PLANTED)
        site.publish("nafld-raw", draft, {})
    return site


@pytest.fixture
def away(tmp_path: Path) -> SiteStorage:
    """A site where they may not be."""
    (tmp_path / "us").mkdir()
    return SiteStorage("aws-us-east-1", tmp_path / "us")


def rows_of(home: SiteStorage) -> Path:
    """The planted file."""
    return home.path("datasets", "nafld-raw", home.versions("nafld-raw")[0], "rows.txt")


def forged(site: SiteStorage, dataset: str, files: dict[str, str]) -> str:
    """A version whose record says what an intruder wrote, under the name that fits it."""
    version = content_hash(files)[:16]
    folder = site.root / "datasets" / dataset / version
    folder.mkdir(parents=True)
    body = {"dataset": dataset, "version": version, "files": files, "bytes": 1, "facts": {}}
    (folder / MANIFEST).write_text(json.dumps(body))
    return version


@pytest.mark.parametrize("what", ["a file", "a folder", "a folder in a folder"])
def test_a_link_in_a_draft_brings_nothing_in(home: SiteStorage, away: SiteStorage, what: str) -> None:
    """Publishing would have copied what the link leads to, under a checksum that fits."""
    with pytest.raises(GuardRefused, match="no plain file"), away.draft("flight_delay-raw") as draft:
        (draft / "in").mkdir()
        target = rows_of(home) if what == "a file" else rows_of(home).parent
        (draft / ("in" if "in a" in what else ".") / "linked").symlink_to(target)
        away.publish("flight_delay-raw", draft, {})
    assert away.versions("flight_delay-raw") == []
    assert traces(away.root, MARK) == []


def test_a_pipe_in_a_draft_is_refused(away: SiteStorage) -> None:
    """It would be filled by whoever waits at its other end."""
    with pytest.raises(GuardRefused, match="no plain file"), away.draft("flight_delay-raw") as draft:
        os.mkfifo(draft / "pipe")
        away.publish("flight_delay-raw", draft, {})


@pytest.mark.parametrize("how", ["symbolic", "hard"])
def test_a_link_in_a_published_version_is_not_read(home: SiteStorage, away: SiteStorage, how: str) -> None:
    """Planted after the version was published, in place of one of its files."""
    with away.draft("flight_delay-raw") as draft:
        (draft / "rows.txt").write_text("flights")
        made = away.publish("flight_delay-raw", draft, {})
    path = away.path("datasets", made.dataset, made.version, "rows.txt")
    path.unlink()
    path.symlink_to(rows_of(home)) if how == "symbolic" else os.link(rows_of(home), path)
    with pytest.raises((GuardRefused, IntegrityError)):
        away.open(made.dataset, made.version)


@pytest.mark.parametrize("up", [2, 4, 6])
def test_a_record_cannot_name_a_file_outside_its_version(home: SiteStorage, away: SiteStorage, up: int) -> None:
    """A transfer of public data would have carried the patients along, and left them where the checksum is compared last."""
    name = "../" * up + f"nafld-raw/{home.versions('nafld-raw')[0]}/rows.txt"
    version = forged(home, "flight_delay-raw", {name: file_sha256(rows_of(home))})
    with pytest.raises(GuardRefused, match="outside its folder"):
        copy_version(home, away, "flight_delay-raw", version)
    assert traces(away.root, MARK) == []


def test_a_record_cannot_name_an_absolute_file(home: SiteStorage, away: SiteStorage) -> None:
    """Nor one anywhere else."""
    version = forged(home, "flight_delay-raw", {str(rows_of(home)): file_sha256(rows_of(home))})
    with pytest.raises(GuardRefused, match="outside its folder"):
        copy_version(home, away, "flight_delay-raw", version)
    assert traces(away.root, MARK) == []


def test_a_reference_cannot_name_another_dataset(home: SiteStorage, away: SiteStorage) -> None:
    """Policy was asked about the name before the `@`; what is opened is under that name or nothing is."""
    version = home.versions("nafld-raw")[0]
    for dataset, other in (("flight_delay-raw", f"../nafld-raw/{version}"), ("flight_delay-raw/../nafld-raw", version), ("..", version)):
        home.path("datasets", "flight_delay-raw", "x").parent.mkdir(parents=True, exist_ok=True)
        with pytest.raises(GuardRefused, match="is a path"):
            copy_version(home, away, dataset, other)
    assert traces(away.root, MARK) == []


def test_a_version_under_another_name_is_not_what_was_published(home: SiteStorage, away: SiteStorage) -> None:
    """The patients' file put into a folder of the flights: its content does not give that version's name, and nothing stays there."""
    version = home.versions("nafld-raw")[0]
    folder = home.root / "datasets" / "flight_delay-raw" / ("0" * 16)
    folder.mkdir(parents=True)
    (folder / "rows.txt").write_bytes(rows_of(home).read_bytes())
    body = json.loads((rows_of(home).parent / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(body))
    assert body["version"] == version
    with pytest.raises(TradewindError):
        copy_version(home, away, "flight_delay-raw", "0" * 16)
    assert traces(away.root, MARK) == []


def test_the_same_scan_finds_an_allowed_copy(home: SiteStorage, away: SiteStorage) -> None:
    """So that finding nothing means something."""
    copy_version(home, away, "nafld-raw", home.versions("nafld-raw")[0])
    assert traces(away.root, MARK)
