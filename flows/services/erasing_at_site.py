"""An erasure's work at one site: find a person's rows, write every version again without them, look at every byte once more.

The disk says what is left to do, not the record: a call after a kill finds what still holds the key and goes on with that. What is
written does not depend on the site, so that the copies of one version become copies of one version again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.adapters import subject_search
from flows.adapters.features import FEATURE_REPO, FeatureStoreAtSite, feast_profile
from flows.core.errors import IntegrityError
from flows.core.planning import OUTPUTS
from flows.core.workload import LABEL
from flows.services.context import DatasetRef
from flows.services.ingesting import RECORD
from flows.store import replicas

if TYPE_CHECKING:
    from flows.adapters.settings import Settings
    from flows.adapters.storage import DatasetVersion, SiteStorage
    from flows.adapters.subject_search import Subject
    from flows.store.database import State

KINDS = tuple(dict.fromkeys(kind for kinds in OUTPUTS.values() for kind in kinds))
"""The kinds of datasets that a workload makes, each in the order in which one is made of the ones before it."""
TABULAR = ("quarantine", "raw", "features", "predictions")
"""Kinds whose rows can be taken out, in the order in which one is made of the ones before it."""
ERASED_FROM = "erased_from"
"""The fact of a version that names the one it was made from, by leaving rows out."""
ONLINE = ("registry.db", "online.db")


@dataclass(frozen=True)
class Place:
    """Where the work is done, for which workload."""

    storage: SiteStorage
    workload: str
    settings: Settings
    state: State
    intent_id: str
    repository: Path = FEATURE_REPO


@dataclass(frozen=True)
class Serving:
    """What must stay until a retrain has replaced it: model versions, and folders of artifacts below the workload's own."""

    models: frozenset[str] = frozenset()
    artifacts: frozenset[str] = frozenset()

    def covers(self, parts: tuple[str, ...]) -> bool:
        """Whether a path under the site's root is part of a serving model."""
        if parts[0] == "datasets" and len(parts) > 2:
            return f"{parts[1]}@{parts[2]}" in self.models
        return parts[0] == "artifacts" and any("/".join(parts[2:]).startswith(f"{folder}/") for folder in self.artifacts)


@dataclass
class Found:
    """What of the subject rests at a site: rows by version (0: a file that is no table holds the key), and single files.

    `earlier` has (name, version) of what a bucket keeps of the workload's files that were deleted or overwritten,
    `elsewhere` names datasets and folders of other workloads that hold the key, `waiting` those of a model that still serves.
    """

    versions: dict[str, int] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    earlier: list[tuple[str, str]] = field(default_factory=list)
    elsewhere: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)
    scanned: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The finding as its intent keeps it."""
        files = {"files": sorted([*self.files, *(name for name, _ in self.earlier)])}
        lists = {**files, "elsewhere": sorted(self.elsewhere), "waiting": sorted(self.waiting)}
        return {"versions": dict(sorted(self.versions.items())), **lists, "scanned": self.scanned}


def find(place: Place, subject: Subject, serving: Serving | None = None) -> Found:
    """Look at every byte of every file of the site, archives and tables unpacked."""
    found = Found()
    sha256, files, size = subject_search.digest(_looked_at(place, subject, serving or Serving(), found))
    found.scanned = {"sha256": sha256, "files": files, "bytes": size}
    return found


def _looked_at(place: Place, subject: Subject, serving: Serving, found: Found) -> Iterator[tuple[str, Path]]:
    """Each file of the site once it was searched, what it holds noted in `found`."""
    for name, path in place.storage.files():
        try:
            rows = subject_search.rows_of(path, subject) if subject_search.is_table(path) else 0
            hit = rows > 0 or subject_search.holds(path, subject)
        except FileNotFoundError:  # a run beside this one removed its own scratch file
            continue
        if hit:
            _note(found, place.workload, tuple(name.split("/")), rows, serving)
        yield name, path
    own = [("datasets", f"{place.workload}-{kind}") for kind in KINDS]
    for folder in (*own, ("artifacts", place.workload), ("features", place.workload)):
        for name, version, path in place.storage.earlier(*folder):
            if subject_search.holds(path, subject):
                found.earlier.append((name, version))
            yield f"{name}@{version}", path


def _note(found: Found, workload: str, parts: tuple[str, ...], rows: int, serving: Serving) -> None:
    own = _owner(parts, workload)
    if not own:
        found.elsewhere.add("/".join(parts[:2]))
    elif serving.covers(parts):
        found.waiting.add("/".join(parts[1:3]).replace("/", "@", 1) if parts[0] == "datasets" else "/".join(parts[:2]))
    elif parts[0] == "datasets" and len(parts) > 3 and not parts[2].startswith("."):
        name = f"{parts[1]}@{parts[2]}"
        found.versions[name] = found.versions.get(name, 0) + rows
    else:
        found.files.append("/".join(parts))


def _owner(parts: tuple[str, ...], workload: str) -> bool:
    """Whether a path is the workload's, or nobody's, such as what a dead run left in the site's scratch folder."""
    if parts[0] == "datasets" and len(parts) > 1:
        return parts[1] in {f"{workload}-{kind}" for kind in KINDS}
    return parts[0] not in ("features", "artifacts") or (len(parts) > 1 and parts[1] == workload)


def erase(place: Place, subject: Subject, *, remove: Collection[str], artifacts: Collection[str], serving: Serving) -> dict[str, Any]:
    """Take the subject's rows out of every version and out of the features, online too; remove what cannot be edited.

    Args:
        place: where.
        subject: who.
        remove: versions of models and reports that control says were made from the subject's rows.
        artifacts: folders of the registry's artifacts that go with them, below the workload's own.
        serving: what stays until a retrain has replaced it.

    Raises:
        Unavailable: the features are in use, or the disk is full.
    """
    storage, rewritten, removed = place.storage, dict[str, str](), set[str]()
    for kind in TABULAR:
        dataset = f"{place.workload}-{kind}"
        for version in storage.versions(dataset):
            if not _holds(storage, DatasetRef(dataset, version), subject):
                continue
            made = _rewritten(place, subject, dataset, version)
            _replace(place, DatasetRef(dataset, version), made)
            if made is None:
                removed.add(f"{dataset}@{version}")
            else:
                rewritten[f"{dataset}@{version}"] = f"{dataset}@{made.version}"
    for kind in ("model", "reports"):
        dataset = f"{place.workload}-{kind}"
        for version in storage.versions(dataset):
            name = f"{dataset}@{version}"
            if name not in serving.models and (name in remove or _holds(storage, DatasetRef(dataset, version), subject)):
                _replace(place, DatasetRef(dataset, version), None)
                removed.add(name)
    for folder in artifacts:
        storage.delete("artifacts", place.workload, folder)
    features = _features(place, subject)
    left = find(place, subject, serving)
    for name in left.files:
        storage.unlink(name)
    for name, version in left.earlier:
        storage.forget(name, version)
    for name in left.versions:  # a folder that a kill left without its manifest
        ref = DatasetRef.parse(name)
        if ref.version not in storage.versions(ref.dataset):
            storage.remove(ref.dataset, ref.version)
    return {"rewritten": rewritten, "removed": sorted(removed), "features": features, "files_removed": len(left.files) + len(left.earlier)}


def remove(place: Place, versions: Iterable[str], artifacts: Iterable[str] = ()) -> list[str]:
    """Remove versions that rest here, `dataset@version`, and folders of artifacts; returns the versions that did."""
    gone = []
    for name in versions:
        ref = DatasetRef.parse(name)
        if ref.version in place.storage.versions(ref.dataset):
            gone.append(name)
        _replace(place, ref, None)
    for folder in artifacts:
        place.storage.delete("artifacts", place.workload, folder)
    features = f"{place.workload}-features"
    if any(name.startswith(f"{features}@") for name in gone) and not place.storage.versions(features):
        # what the features were made of, and the newest of them online, are as old as the last version that is gone
        place.storage.delete("features", place.workload)
    return gone


def _holds(storage: SiteStorage, version: DatasetRef, subject: Subject) -> bool:
    return any(subject_search.holds(path, subject) for _, path in storage.files("datasets", version.dataset, version.version))


def _rewritten(place: Place, subject: Subject, dataset: str, version: str) -> DatasetVersion | None:
    """The version without the subject's rows; None if no row is left, or a file that is no table holds the key."""
    storage = place.storage
    old, folder = storage.describe(dataset, version), storage.open(dataset, version, verify=False)
    counts: dict[str, int] = {}
    with storage.draft(dataset) as draft:
        for name in old.files:
            source, target = folder / name, draft / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if subject_search.is_table(source):
                if subject_search.holds(source, subject):
                    counts[name] = subject_search.without(source, target, subject)
                else:
                    os.link(source, target)
            elif subject_search.holds(source, subject):
                return None
            elif name != RECORD:
                os.link(source, target)
        rows = {name: counts[name] if name in counts else _rows(draft / name) for name in old.files if (draft / name).suffix == ".parquet"}
        if not any(rows.values()):
            return None
        facts = _facts(place, old, draft, rows)
        if RECORD in old.files:
            record = _record(json.loads((folder / RECORD).read_text(encoding="utf-8")), rows, counts)
            (draft / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
        return storage.publish(dataset, draft, facts)


def _rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


def _facts(place: Place, old: DatasetVersion, draft: Path, rows: Mapping[str, int]) -> dict[str, Any]:
    """The facts of before with the rows of now; what they say of other versions follows where these went."""
    moved = _moved(place)
    facts = {name: moved.get(value, value) if isinstance(value, str) else value for name, value in old.facts.items()}
    if isinstance(facts.get("rows"), Mapping):
        facts["rows"] = {table: sum(n for name, n in rows.items() if name.startswith(f"{table}/")) for table in facts["rows"]}
    elif "rows" in facts:
        facts["rows"] = sum(rows.values())
    if "labelled" in facts:
        facts["labelled"] = sum(_labelled(draft / name) for name in rows)
    return {**facts, ERASED_FROM: old.version}


def _labelled(path: Path) -> int:
    import pyarrow.parquet as pq

    column = pq.read_table(path, columns=[LABEL]).column(LABEL)
    return len(column) - int(column.null_count)


def _record(record: dict[str, Any], rows: Mapping[str, int], changed: Mapping[str, int]) -> dict[str, Any]:
    """What ingest noted of each file, true again: a changed one is told apart from any rows of the source.

    No quarantine is named, as the one of before is gone and a site with a copy need not have it: a file with rows there is checked anew.
    """
    for name, part in record["parts"].items():
        part["rows"] = rows[f"{name}.parquet"]
        if f"{name}.parquet" in changed:
            part["fingerprint"] = "erased"
    return {**record, "quarantine": None}


def _moved(place: Place) -> dict[str, str]:
    """Every version here that was made by leaving rows out, by the one it was made from."""
    found = {}
    for kind in TABULAR:
        dataset = f"{place.workload}-{kind}"
        for version in place.storage.versions(dataset):
            if (before := place.storage.describe(dataset, version).facts.get(ERASED_FROM)) is not None:
                found[f"{dataset}@{before}"] = f"{dataset}@{version}"
    return found


def _replace(place: Place, old: DatasetRef, new: DatasetVersion | None) -> None:
    """Put one version in another's place: first on record, then on disk; a kill in between leaves files that the next call finds."""
    with place.state.transaction() as tx:
        before = replicas.get(tx, old.dataset, old.version, place.storage.site)
        if new is not None and before is not None:
            known = {"as_of": before.facts["as_of"]} if "as_of" in before.facts else {}
            replicas.add(
                tx,
                dataset=new.dataset,
                version=new.version,
                site=new.site,
                bytes=new.bytes,
                files=new.files,
                facts={**known, **new.facts},
                intent_id=place.intent_id,
                at=before.at,  # leaving rows out makes nothing younger: its retention goes on
            )
        if new is None or new.version != old.version:
            replicas.remove(tx, dataset=old.dataset, version=old.version, site=place.storage.site)
    if new is None or new.version != old.version:
        place.storage.remove(old.dataset, old.version)
        if next(place.storage.files("datasets", old.dataset, old.version), None) is not None:
            raise IntegrityError(f"`{old}` at `{place.storage.site}` cannot be removed", fix="give the run the right to, then try again")


def _features(place: Place, subject: Subject) -> dict[str, Any]:
    """Source tables without the subject's rows, and an online store made anew from them: a deleted row would stay in free pages."""
    with place.storage.shared("features", place.workload) as folder:
        return _features_in(folder, place, subject) if folder.is_dir() else {}


def _features_in(folder: Path, place: Place, subject: Subject) -> dict[str, Any]:
    online = [folder / name for name in ONLINE]
    tables = [path for path in folder.glob("*.parquet") if subject_search.is_table(path)]
    held = any(subject_search.holds(path, subject) for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    if not held and not (tables and not all(path.exists() for path in online)):
        return {}
    if not (place.repository / f"{place.workload}.py").is_file():
        rows = _clean(folder, tables, subject)
        return {"rows": rows, "online": "removed"}
    store = FeatureStoreAtSite(place.storage, place.workload, repository=place.repository, profile=feast_profile(place.settings))
    with store.exclusive():
        rows = _clean(folder, tables, subject)
        until = _as_of(place)
        if until is not None and tables:
            store.apply()
            store.materialize(until)
    return {"rows": rows, "online": "made again" if until is not None and tables else "removed"}


def _clean(folder: Path, tables: Iterable[Path], subject: Subject) -> int:
    rows = 0
    for path in tables:
        if (hits := subject_search.rows_of(path, subject)) or subject_search.holds(path, subject):
            draft = path.with_name(f".{path.name}.{os.getpid()}")
            subject_search.without(path, draft, subject)
            draft.replace(path)
            rows += hits
    for name in ONLINE:
        for path in folder.glob(f"{name}*"):
            path.unlink(missing_ok=True)
    shutil.rmtree(folder / "spill", ignore_errors=True)
    return rows


def _as_of(place: Place) -> datetime | None:
    """The newest moment that features here were made for: up to it the online store was filled."""
    dataset = f"{place.workload}-features"
    found = [place.storage.describe(dataset, version).facts.get("as_of") for version in place.storage.versions(dataset)]
    return max((datetime.fromisoformat(each) for each in found if each), default=None)
