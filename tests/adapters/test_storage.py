"""A site's storage is a wall, a version is its content, and nothing half-written is ever there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.adapters.storage import DatasetVersion, SiteStorage, copy_version
from flows.core.errors import GuardRefused, IntegrityError, Unavailable, UserError


@pytest.fixture
def site(tmp_path: Path) -> SiteStorage:
    return SiteStorage("onprem-fra", tmp_path / "sites" / "onprem-fra")


@pytest.fixture
def other(tmp_path: Path) -> SiteStorage:
    return SiteStorage("aws-eu-central-1", tmp_path / "sites" / "aws-eu-central-1")


def publish(site: SiteStorage, text: str = "one", **facts: object) -> DatasetVersion:
    with site.draft("ehr") as draft:
        (draft / "part").mkdir()
        (draft / "part" / "a.txt").write_text(text)
        return site.publish("ehr", draft, facts)


@pytest.mark.parametrize("parts", [("..", "aws-eu-central-1", "x"), ("/etc/passwd",), ("datasets", "..", "..", "other")])
def test_no_path_leads_out_of_the_site(site: SiteStorage, parts: tuple[str, ...]) -> None:
    """Neither dots nor an absolute path."""
    with pytest.raises(GuardRefused, match="is not under site `onprem-fra`"):
        site.path(*parts)


@given(parts=st.lists(st.sampled_from(["..", ".", "a", "b", "/", "/tmp", "a/../../b"]), min_size=1, max_size=6))
def test_whatever_is_asked_for_lies_inside_or_is_refused(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    """Any mixture of words, dots and slashes."""
    site = SiteStorage("s", tmp_path_factory.getbasetemp() / "wall" / "s")
    try:
        found = site.path(*parts)
    except GuardRefused:
        return
    assert found == site.root or site.root in found.parents


def test_a_link_out_of_the_site_is_refused(site: SiteStorage, other: SiteStorage) -> None:
    """A symbolic link is where it points to."""
    secret = publish(other)
    link = site.path("datasets", "ehr", "x").parent / secret.version
    link.symlink_to(other.path("datasets", "ehr", secret.version))
    with pytest.raises(GuardRefused):
        site.open("ehr", secret.version)


def test_the_same_content_is_the_same_version(site: SiteStorage) -> None:
    """Facts do not name a version; a re-run lands on what is there."""
    first, second = publish(site, rows=1), publish(site, rows=2)
    assert first == second
    assert site.versions("ehr") == [first.version]


def test_other_content_is_another_version(site: SiteStorage) -> None:
    """Both stay."""
    assert sorted([publish(site, "one").version, publish(site, "two").version]) == site.versions("ehr")


def test_what_is_not_published_is_gone(site: SiteStorage) -> None:
    """A step that fails leaves nothing behind."""
    with pytest.raises(RuntimeError), site.draft("ehr") as draft:
        (draft / "half.txt").write_text("half")
        raise RuntimeError
    assert [path for path in site.root.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_changed_or_missing_file_is_seen(site: SiteStorage, damage: str) -> None:
    """Opening compares every checksum first."""
    version = publish(site)
    path = site.path("datasets", "ehr", version.version, "part", "a.txt")
    path.unlink()
    if damage == "change":
        path.write_text("two")
    with pytest.raises(IntegrityError, match=r"`part/a\.txt` of `ehr`"):
        site.open("ehr", version.version)


def test_a_version_that_is_not_here_is_told(site: SiteStorage) -> None:
    """With what would bring it."""
    with pytest.raises(UserError, match="does not rest at site `onprem-fra`"):
        site.open("ehr", "0" * 16)


def test_a_copy_has_its_own_bytes_and_the_same_version(site: SiteStorage, other: SiteStorage) -> None:
    """Checksums are equal, the files are not the same ones; a second copy does nothing."""
    version = publish(site, rows=7)
    arrived = copy_version(site, other, "ehr", version.version)
    assert (arrived.version, arrived.files, arrived.facts, arrived.site) == (version.version, version.files, {"rows": 7}, other.site)
    paths = [each.open("ehr", version.version) / "part" / "a.txt" for each in (site, other)]
    assert paths[0].stat().st_ino != paths[1].stat().st_ino
    assert copy_version(site, other, "ehr", version.version) == arrived


def test_a_damaged_source_is_not_copied(site: SiteStorage, other: SiteStorage) -> None:
    """Nothing arrives of what is not what was published."""
    version = publish(site)
    path = site.path("datasets", "ehr", version.version, "part", "a.txt")
    path.unlink()
    path.write_text("other")
    with pytest.raises(IntegrityError):
        copy_version(site, other, "ehr", version.version)
    assert other.versions("ehr") == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_leaves_nothing(tiny_disk: Path) -> None:
    """The message says what to do; once there is room the same step works."""
    site = SiteStorage("small", tiny_disk / "site")
    with pytest.raises(Unavailable, match="no space left"), site.draft("ehr") as draft:
        (draft / "big.bin").write_bytes(b"x" * 200_000)
    assert [path for path in tiny_disk.rglob("*") if path.is_file()] == []
    assert publish(site).version
