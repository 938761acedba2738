"""What a step knows of itself while it runs at a site, and what it hands back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.adapters.settings import Settings
from flows.adapters.storage import DatasetVersion, SiteStorage
from flows.core.canonical import content_hash
from flows.core.errors import IntegrityError, UserError
from flows.core.governance.labels import Label
from flows.core.workload import Workload

if TYPE_CHECKING:
    from flows.store.database import State


@dataclass(frozen=True, slots=True)
class DatasetRef:
    """One version of a dataset, written `dataset@version`."""

    dataset: str
    version: str

    def __str__(self) -> str:
        return f"{self.dataset}@{self.version}"

    @classmethod
    def parse(cls, text: str) -> DatasetRef:
        """Read `dataset@version`.

        Raises:
            UserError: the text has another form.
        """
        dataset, separator, version = text.partition("@")
        if not (dataset and separator and version):
            raise UserError(f"`{text}` names no dataset version", expected="`dataset@version`")
        return cls(dataset, version)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step made: dataset versions, numbers for people and gates, links to reports, one line of summary."""

    outputs: tuple[DatasetVersion, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    summary: str = ""


@dataclass(frozen=True)
class StepContext:
    """One step of one workload at one site: everything it may touch."""

    settings: Settings
    workload: Workload
    step: str
    site: str
    pool: str
    storage: SiteStorage
    state: State
    as_of: datetime
    intent_id: str
    decision_id: str | None
    inputs: Mapping[str, DatasetRef]
    label: Label
    manifests: Mapping[str, str] | None = None
    """sha256 of the files of each input, `dataset@version`, as control signed them; None: no ticket sent this step."""

    def dataset(self, kind: str) -> str:
        """The catalog name of one of the workload's datasets: raw, quarantine, features, model, predictions, reports."""
        return f"{self.workload.name}-{kind}"

    def open(self, role: str) -> Path:
        """The folder of an input's version at this site, its checksums verified.

        Raises:
            UserError: the step was given no such input, or it does not rest here.
            IntegrityError: a file is missing or changed, or the files are not those that control sent the step with.
        """
        ref = self.sent(role)
        return self.storage.open(ref.dataset, ref.version)

    def sent(self, role: str) -> DatasetRef:
        """An input as control sent it, its record here compared with what control signed; its files are not opened.

        Raises:
            UserError: as `open`.
            IntegrityError: as `open`.
        """
        ref = self.inputs.get(role)
        if ref is None:
            raise UserError(f"`{self.step}` of `{self.workload.name}` was given no `{role}`", fix="run the steps before it first")
        if self.manifests is not None and self.manifests.get(str(ref)) != self.manifest(ref):
            raise IntegrityError(
                f"`{ref}` at `{self.site}` is not what control sent", fix="remove the version's folder and bring it there anew"
            )
        return ref

    def manifest(self, ref: DatasetRef) -> str:
        """sha256 of the map of a version's files to their checksums, as it rests here."""
        return content_hash(dict(self.storage.describe(ref.dataset, ref.version).files))

    @property
    def log(self) -> logging.Logger:
        """Progress lines for people; never the contents of rows."""
        return logging.getLogger(f"flows.{self.step}")
