"""Invented patients of `nafld` at real sites: versions on disk and on record, secrets, a dispatcher that runs site tasks here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from flows.adapters.feature_tables import to_arrow, write_parquet
from flows.adapters.features import FEATURE_REPO
from flows.adapters.settings import Settings
from flows.adapters.storage import SiteStorage, copy_version
from flows.core.canonical import instant
from flows.services import site_tasks
from flows.services.context import DatasetRef
from flows.services.declarations import Declarations
from flows.services.dispatching import Outcome
from flows.services.local_run import acting_as
from flows.store import replicas
from flows.store.database import State

HOME, AWAY = "onprem-fra", "aws-eu-central-1"
AS_OF = datetime(2014, 7, 1, tzinfo=UTC)
MADE = datetime(2026, 1, 5, tzinfo=UTC)


def patient(number: int) -> str:
    """The key of an invented patient."""
    return f"nafld-patient-{number:06d}"


@dataclass
class Sites:
    """Runs each task here under the identity of its site; `die` ends the process before a task so often."""

    settings: Settings
    secrets: dict[str, str] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    die: int = 0
    repository: Path = FEATURE_REPO

    async def run(self, deployment: str, parameters: Mapping[str, Any], *, key: str) -> Outcome:
        """See `flows.services.dispatching.Dispatcher`."""
        if self.die:
            self.die -= 1
            raise KeyboardInterrupt
        _, _, pool = deployment.partition("/")
        self.ran.append(f"{deployment} {key}")
        order = site_tasks.SiteOrder(parameters["workload"], parameters["task_id"], key, parameters["ticket"])
        with acting_as(Declarations.load(self.settings).estate.pool_by_name[pool].site, pool):
            try:
                site_tasks.run(order, settings=self.settings, fetch=self.secrets.get, repository=self.repository)
            except Exception as error:  # noqa: BLE001 - a run fails with whatever it failed with
                return Outcome(key, succeeded=False, state="Failed", message=str(error))
        return Outcome(key, succeeded=True, state="Completed")


@dataclass
class Clinic:
    """What rests where."""

    settings: Settings
    state: State

    def storage(self, site: str = HOME) -> SiteStorage:
        """The data of a site."""
        return SiteStorage(site, self.settings.site_folder(site))

    def publish(
        self, kind: str, files: Mapping[str, pd.DataFrame | str], facts: Mapping[str, Any], *, site: str = HOME, at: datetime = MADE
    ) -> DatasetRef:
        """A version of tables and texts, on disk and on record."""
        storage = self.storage(site)
        with storage.draft(f"nafld-{kind}") as draft:
            for name, content in files.items():
                path = draft / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, str):
                    path.write_text(content)
                else:
                    write_parquet(to_arrow(content), path)
            made = storage.publish(f"nafld-{kind}", draft, facts)
        self.record(DatasetRef(made.dataset, made.version), site, at=at)
        return DatasetRef(made.dataset, made.version)

    def record(self, ref: DatasetRef, site: str, *, at: datetime = MADE) -> None:
        """Write down that a version rests at a site."""
        found = self.storage(site).describe(ref.dataset, ref.version)
        facts = {"as_of": instant(AS_OF), **found.facts}
        with self.state.transaction() as tx:
            replicas.add(
                tx, dataset=ref.dataset, version=ref.version, site=site, bytes=found.bytes, files=found.files, facts=facts,
                intent_id=None, at=at,
            )  # fmt: skip

    def copy(self, ref: DatasetRef, to: str = AWAY) -> None:
        """The same version at another site."""
        copy_version(self.storage(), self.storage(to), ref.dataset, ref.version)
        self.record(ref, to)

    def raw(self, people: Iterable[int], *, quarantined: Iterable[int] = (), **where: Any) -> DatasetRef:
        """Raw tables of these people, and what was put aside of others."""
        aside = None
        if quarantined := list(quarantined):
            bad = rows(quarantined).assign(reason="bmi")
            aside = self.publish("quarantine", {"patients/all.parquet": bad}, {"rows": len(bad)}, **where)
        frame = rows(people)
        labs = pd.concat([frame[["patient"]].assign(test=test, value=1.5) for test in ("hdl", "sbp")], ignore_index=True)
        parts = {
            "patients/all": {"fingerprint": "f" * 32, "rows": len(frame), "quarantined": len(quarantined)},
            "labs/all": {"fingerprint": "e" * 32, "rows": len(labs), "quarantined": 0},
        }
        record = {"parts": parts, "quarantine": aside.version if aside else None}
        files = {"patients/all.parquet": frame, "labs/all.parquet": labs, "ingest.json": json.dumps(record)}
        facts = {"rows": {"patients": len(frame), "labs": len(labs)}, "quarantined": len(quarantined), "reports": None}
        return self.publish("raw", files, facts, **where)

    def features(self, people: Iterable[int], raw: DatasetRef | None = None, **where: Any) -> DatasetRef:
        """A training frame of these people."""
        frame = rows(people).rename(columns={"patient": "row_id"}).assign(label=[float(n % 2) for n in people])
        facts = {"as_of": instant(AS_OF), "rows": len(frame), "labelled": len(frame), "raw": str(raw)}
        return self.publish("features", {"features.parquet": frame}, facts, **where)

    def versions(self, kind: str, site: str = HOME) -> list[str]:
        """The versions of a kind that rest at a site."""
        return self.storage(site).versions(f"nafld-{kind}")

    def table(self, kind: str, name: str, site: str = HOME) -> pd.DataFrame:
        """A table of the one version of a kind at a site."""
        (version,) = self.versions(kind, site)
        return pd.read_parquet(self.storage(site).open(f"nafld-{kind}", version) / name)


def rows(people: Iterable[int]) -> pd.DataFrame:
    """A row a person."""
    numbers = list(people)
    moments = pd.Series(pd.to_datetime([MADE - timedelta(days=n) for n in numbers], utc=True)).dt.as_unit("us")
    return pd.DataFrame({"patient": [patient(n) for n in numbers], "bmi": [20.0 + n for n in numbers], "event_timestamp": moments})
