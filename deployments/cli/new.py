"""`tradewind new`: a third workload as a working skeleton with its declarations, features and test."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from flows.core.errors import Problem, UserError

SKELETON = Path(__file__).resolve().parent / "skeleton"
SUFFIX = ".template"
RESERVED = ("estimators", "registry", "sources", "skeleton")
"""Modules beside the workloads, whose names are taken."""
NO_TEXT = ("null", "true", "false")
"""What YAML takes for something else."""
MOST_LETTERS = 60


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the workload: lower-case letters, digits and `_`.")],
    home: Annotated[str, typer.Option(metavar="SITE", help="The site where its data lives.")] = "onprem-fra",
    title: Annotated[str | None, typer.Option(help="What it forecasts, in one line.")] = None,
) -> None:
    """Write a new workload that runs, with its label, its features and its test; nothing that is there is overwritten."""
    from flows.adapters.estate import load_estate
    from flows.adapters.settings import PROJECT_ROOT, Settings

    deployments = Settings().deployments
    sites = sorted(site.id for site in load_estate(deployments / "estate").sites if site.id != "control")
    if home not in sites:
        raise UserError(f"there is no data site `{home}`", field="--home", expected=f"one of {', '.join(f'`{site}`' for site in sites)}")
    for path in write(name, home=home, title=title, root=PROJECT_ROOT, deployments=deployments):
        typer.echo(f"wrote {path}")
    typer.echo(f"\ntry it: tradewind run {name} --local --as-of 2013-06-01 --sample 2000")
    typer.echo(f"test it: pytest tests/workloads -k {name}")
    typer.echo(f"then ask compliance for the label in {deployments / 'catalog' / f'{name}.yaml'}")


def write(name: str, *, home: str, title: str | None, root: Path, deployments: Path) -> list[Path]:
    """Write the skeleton under the project's root and return its files; either all of them are written or none.

    Raises:
        UserError: the name cannot be used, or a file is there already.
    """
    _require_usable(name)
    words = {
        "__NAME__": name,
        "__CLASS__": "".join(part.capitalize() for part in name.split("_")),
        "__HOME__": home,
        "__TITLE__": title or name.replace("_", " ").capitalize(),
        "__TODAY__": f"{datetime.now(UTC):%Y-%m-%dT00:00:00Z}",
    }
    _require_one_line(words["__TITLE__"])
    files = {target: _render(template, words) for template, target in _targets(name, root, deployments).items()}
    taken = [path for path in (root / "flows" / "workloads" / name, *files) if path.exists()]
    if taken:
        raise UserError(
            problems=[
                Problem("there is something here already", file=str(path), fix="choose another name, or remove it first") for path in taken
            ]
        )
    written: list[Path] = []
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            written.append(path)
            with path.open("x", encoding="utf-8") as stream:
                stream.write(text)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return written


def _targets(name: str, root: Path, deployments: Path) -> dict[Path, Path]:
    """Where each template goes."""
    single = {
        "catalog.yaml": deployments / "catalog" / f"{name}.yaml",
        "declaration.yaml": deployments / "workloads" / f"{name}.yaml",
        "feature_repo.py": root / "feature_repo" / f"{name}.py",
        "test.py": root / "tests" / "workloads" / f"test_{name}.py",
    }
    folder = root / "flows" / "workloads" / name
    package = {path: folder / path.name.removesuffix(SUFFIX) for path in sorted((SKELETON / "workload").glob(f"*{SUFFIX}"))}
    return package | {SKELETON / f"{template}{SUFFIX}": target for template, target in single.items()}


def _render(template: Path, words: Mapping[str, str]) -> str:
    text = template.read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _require_usable(name: str) -> None:
    taken = keyword.iskeyword(name) or name in NO_TEXT or len(name) > MOST_LETTERS
    usable = name.isidentifier() and name.isascii() and name == name.lower() and not name.startswith("_") and not taken
    if not usable:
        suggestion = "".join(each if each.isascii() and each.isalnum() else "_" for each in name.lower()).strip("_")[:MOST_LETTERS]
        usable_suggestion = suggestion.isidentifier() and not keyword.iskeyword(suggestion) and suggestion != name
        raise UserError(
            f"`{name}` cannot name a workload",
            expected=f"a python identifier of up to {MOST_LETTERS} lower-case letters, digits and `_`, no keyword of python or yaml",
            fix=f"`tradewind new {suggestion}`" if usable_suggestion else None,
        )
    if name in RESERVED:
        raise UserError(f"the name `{name}` is taken by a module of flows/workloads", fix="choose another name")


def _require_one_line(title: str) -> None:
    if not title.isprintable() or any(each in title for each in "\"'\\:#{}[]") or not 0 < len(title) <= 120:
        raise UserError(
            "the title cannot be used", field="--title", expected="one line of up to 120 characters without quotes, `:`, `#` or brackets"
        )
