"""`tradewind new`: what it writes runs at once; what it cannot write it leaves alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.cli.new import SKELETON, write
from flows.adapters.catalog import load_catalog
from flows.adapters.settings import PROJECT_ROOT
from flows.adapters.workload_declarations import load_declaration
from flows.core.errors import UserError


def room(tmp_path: Path) -> tuple[Path, Path]:
    """An empty project and its declarations."""
    return tmp_path, tmp_path / "deployments"


def make(tmp_path: Path, name: str = "churn", **changes: str) -> list[Path]:
    root, deployments = room(tmp_path)
    return write(name, **{"home": "onprem-fra", "title": None, **changes}, root=root, deployments=deployments)  # type: ignore[arg-type]


def test_it_writes_a_workload_its_declarations_its_features_and_its_test(tmp_path: Path) -> None:
    """One folder, two declarations, one Feast module, one test."""
    written = {path.relative_to(tmp_path).as_posix() for path in make(tmp_path)}
    assert written >= {
        "flows/workloads/churn/__init__.py",
        "flows/workloads/churn/workload.py",
        "deployments/catalog/churn.yaml",
        "deployments/workloads/churn.yaml",
        "feature_repo/churn.py",
        "tests/workloads/test_churn.py",
    }


def test_no_placeholder_is_left(tmp_path: Path) -> None:
    """Every file is complete."""
    for path in make(tmp_path, title="Who leaves next month"):
        assert not [word for word in ("__NAME__", "__CLASS__", "__HOME__", "__TITLE__", "__TODAY__") if word in path.read_text()], path


def test_its_declarations_are_valid(tmp_path: Path) -> None:
    """The catalog gives every dataset a label, the declaration names the home that was asked for."""
    make(tmp_path, home="aws-eu-central-1")
    _, deployments = room(tmp_path)
    assert load_declaration(deployments / "workloads", "churn").home == "aws-eu-central-1"
    catalog = load_catalog(deployments / "catalog")
    assert {entry.name for entry in catalog.entries} == {
        f"churn-{kind}" for kind in ("raw", "quarantine", "features", "model", "predictions", "reports")
    }


@pytest.mark.parametrize(
    "title", ["2024", "true", "null", "1e5", "~", "- x", "* x", "*x", "&x", "!x", "%x", "@x", "`x`", "> x", "? x", "| x", " x"]
)
def test_a_title_is_text_whatever_it_looks_like(tmp_path: Path, title: str) -> None:
    """YAML would take it for a number, a list or an alias, and every command would then refuse the declaration."""
    make(tmp_path, title=title)
    assert load_declaration(room(tmp_path)[1] / "workloads", "churn").title == title


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of this project with one workload more."""
    root = tmp_path_factory.mktemp("grown") / "project"
    root.mkdir()
    for folder in ("flows", "feature_repo", "tests/workloads", "tests/feature_repo"):
        shutil.copytree(PROJECT_ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT_ROOT / "pyproject.toml", root)
    write("churn", home="onprem-fra", title=None, root=root, deployments=root / "deployments")
    yield root


@pytest.mark.parametrize(
    "arguments",
    [("tests/workloads", "-k", "churn"), ("tests/feature_repo/test_definitions.py", "-k", "churn")],
    ids=["its own test and the suite of all workloads", "the suite of the feature repository"],
)
def test_the_new_workload_passes_the_suites_of_all(grown: Path, arguments: tuple[str, ...]) -> None:
    """What was written works: interface, point-in-time rules, features, its own test."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(grown), "PYTHONSAFEPATH": "1", "HOME": str(grown)}
    done = subprocess.run(command, cwd=grown, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.parametrize("taken", ["deployments/catalog/churn.yaml", "flows/workloads/churn/mine.py"])
def test_nothing_is_overwritten(tmp_path: Path, taken: str) -> None:
    """One file of that name stops everything, and none is written."""
    path = tmp_path / taken
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(UserError, match="there is something here already"):
        make(tmp_path)
    assert path.read_text() == "mine"
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [path]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """A folder that cannot be made takes the files before it along."""
    (tmp_path / "tests").write_text("a file where a folder should be")
    with pytest.raises(OSError):
        make(tmp_path)
    assert [each.name for each in tmp_path.rglob("*") if each.is_file()] == ["tests"]


@pytest.mark.parametrize("name", ["my-model", "2nd", "class", "Churn", "a b", "../evil", "_x", "größe", "null", "true", "x" * 61, ""])
def test_a_name_that_python_cannot_import_is_refused(tmp_path: Path, name: str) -> None:
    """A workload is a package: its name is an identifier in lower case."""
    with pytest.raises(UserError, match="cannot name a workload"):
        make(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_a_refused_name_comes_with_one_that_works(tmp_path: Path) -> None:
    """The fix is a command to type."""
    with pytest.raises(UserError, match="`tradewind new my_model`"):
        make(tmp_path, "my-model")


def test_a_name_of_a_module_beside_the_workloads_is_refused(tmp_path: Path) -> None:
    """`registry` would hide the registry."""
    with pytest.raises(UserError, match="is taken"):
        make(tmp_path, "registry")


def test_every_module_beside_the_workloads_is_reserved() -> None:
    """A module that is added there is added to the list."""
    from deployments.cli.new import RESERVED

    assert {path.stem for path in (PROJECT_ROOT / "flows" / "workloads").glob("*.py")} - {"__init__"} <= set(RESERVED)


@pytest.mark.parametrize("title", ["two\nlines", 'a "quote"', "a: colon", "x" * 121])
def test_a_title_that_would_break_a_file_is_refused(tmp_path: Path, title: str) -> None:
    """Titles go into YAML and into docstrings."""
    with pytest.raises(UserError, match="title cannot be used"):
        make(tmp_path, title=title)


def test_the_skeletons_files_are_all_used(tmp_path: Path) -> None:
    """No template is forgotten."""
    assert len(make(tmp_path)) == len(list(SKELETON.rglob("*.template")))
