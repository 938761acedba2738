"""Feast at one site: feature tables, point-in-time joins and the online store of one workload.

Everything lies under the site's `features/<workload>/`: the source tables, `registry.db`, `online.db`, DuckDB's spill folder.
Feast's own `apply` changes the working folder and imports modules by bare name; here a store is built from its configuration and
given the objects of one module instead. Feast 0.67 sends no usage data, and DuckDB may not fetch extensions.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flows.adapters.feature_tables import SourceTable, newest, occupied, write_table
from flows.adapters.settings import PROJECT_ROOT, Settings, variables
from flows.adapters.storage import SiteStorage
from flows.core.canonical import content_hash
from flows.core.errors import IntegrityError, Unavailable, UserError
from flows.core.workload import ROW_ID

if TYPE_CHECKING:
    import pandas as pd

FEATURE_REPO = PROJECT_ROOT / "feature_repo"
LOCK_SECONDS = 120.0
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ViewMaterialized:
    """What one feature view wrote to the online store: `entities` rows known in [since, until]; none if it was `done` before."""

    view: str
    since: datetime
    until: datetime
    entities: int
    done: bool


@dataclass(frozen=True, slots=True)
class ViewFreshness:
    """How old the newest row of a feature view is; `on_stale` is `warn` or `error`, `ttl` None means that it never ages."""

    view: str
    newest: datetime | None
    age: timedelta | None
    ttl: timedelta | None
    stale: bool
    on_stale: str


class FeatureStoreAtSite:
    """The features of one workload at one site.

    `repository` is a Feast repository with a module named like the workload; `profile` picks its `feature_store.<profile>.yaml`.
    """

    def __init__(self, storage: SiteStorage, workload: str, *, repository: Path = FEATURE_REPO, profile: str = "embedded") -> None:
        self.workload, self._storage = workload, storage
        self.folder = storage.path("features", workload, "registry.db").parent
        self._module = repository / f"{workload}.py"
        self._config = repository / f"feature_store.{profile}.yaml"
        for path in (self._module, self._config):
            if not path.is_file():
                raise UserError(
                    f"the feature repository has no `{path.name}`",
                    file=str(path),
                    fix="see feature_repo/flight_delay.py for one that works",
                )

    @contextlib.contextmanager
    def exclusive(self, seconds: float = LOCK_SECONDS) -> Iterator[None]:
        """Hold this workload's features at this site: Feast locks nothing itself. The system frees the lock when a process dies.

        In a bucket nothing is held: all is fetched now and written back at the end, unless another run did so meanwhile.

        Raises:
            Unavailable: another process held it for all of `seconds`, or was faster.
        """
        with self._storage.shared("features", self.workload):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.__dict__.pop("_store", None)
            with self._locked(seconds):
                yield

    @contextlib.contextmanager
    def _locked(self, seconds: float) -> Iterator[None]:
        import fcntl

        with (self.folder / ".lock").open("a") as stream:
            end = time.monotonic() + seconds
            while True:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        what = f"another run has been using the features of `{self.workload}` for {seconds:g} s"
                        raise Unavailable(what, fix="wait for it to end, or end it, then run the step again") from None
                    time.sleep(0.1)
            yield

    def write_sources(self, tables: Mapping[str, pd.DataFrame], as_of: datetime) -> dict[str, SourceTable]:
        """Write the source table of every view, only rows known by `as_of`; each file is replaced at once.

        Raises:
            UserError: a table that a view needs was not given, or lacks a column or a time zone.
        """
        written: dict[str, SourceTable] = {}
        for view in self._views:
            table, keys = view.batch_source.name, _join_keys(view)
            if table not in tables:
                raise UserError(
                    f"view `{view.name}` reads `{table}`, which `feature_tables` does not make",
                    file=str(self._module),
                    expected=f"one of {_names(tables)}",
                )
            columns = {name: dtype == "String" for name, dtype in _shape(view)}
            written[table] = write_table(tables[table], _path(view), table=table, keys=keys, columns=columns, as_of=as_of)
        return written

    def apply(self) -> None:
        """Register the module's definitions; a view whose columns changed is forgotten first, so that it is written anew."""
        registered = self._registered()
        with _quiet():
            for view in self._views:
                if view.name in registered and _shape(view) != _shape(registered[view.name]):
                    self._store.delete_feature_view(view.name)
            self._store.apply(list(self._definitions.values()))

    def _registered(self) -> dict[str, Any]:
        """The registered views by name; none if registry or online store is torn or lost: both are then made again."""
        from google.protobuf.message import DecodeError

        online = self._store.config.online_store
        usable = online.type != "sqlite" or Path(online.path).exists()
        views: dict[str, Any] = {}
        try:
            views = {view.name: view for view in self._store.list_feature_views()}
        except DecodeError:
            # a process died while Feast wrote the file, which it does in place
            usable = False
        if usable:
            return views
        for name in ("registry.db", "online.db"):
            (self.folder / name).unlink(missing_ok=True)
        self.__dict__.pop("_store", None)
        return {}

    def training_set(self, entity_frame: pd.DataFrame, feature_service: str) -> pd.DataFrame:
        """The entity rows with every feature of the service as it was known at their `event_timestamp`.

        `entity_frame` has `row_id`, `event_timestamp`, the join keys and the request features, shape (n_rows, n_columns); the result
        has the same rows in the same order and a column per feature more.

        Raises:
            IntegrityError: rows out differ from rows in.
        """
        service = self._service(feature_service)
        with self._engine(), _quiet():
            joined = self._store.get_historical_features(entity_df=entity_frame.copy(), features=service).to_df()
        known = set(joined[ROW_ID])
        if len(joined) != len(entity_frame) or len(known) != len(joined) or known != set(entity_frame[ROW_ID]):
            raise IntegrityError(
                f"the point-in-time join of `{feature_service}` gave {len(joined)} rows, {len(known)} of them distinct",
                expected=f"the {len(entity_frame)} rows that went in, each once",
                fix="give each example its own `row_id`",
            )
        return cast("pd.DataFrame", joined.set_index(ROW_ID).loc[entity_frame[ROW_ID]].reset_index())

    def materialize(self, until: datetime, *, on_view: Callable[[ViewMaterialized], None] | None = None) -> tuple[ViewMaterialized, ...]:
        """Bring the online store up to `until`, view by view; each resumes where it ended, and one that is there already is left alone.

        A view is recorded as soon as it is written, so that a call after a kill goes on with the next. `on_view` is told of each.
        """
        done = []
        for view in self._views:
            last = self._store.get_feature_view(view.name).most_recent_end_time
            if last is not None and last >= until:
                result = ViewMaterialized(view.name, last, last, 0, done=True)
            else:
                # a value older than the ttl at `until` would be of no use there
                oldest = until - view.ttl if view.ttl else BEGINNING
                since = max(oldest, last) if last else oldest
                self._write_online(view.name, since, until)
                result = ViewMaterialized(view.name, since, until, occupied(_path(view), _join_keys(view), since, until), done=False)
            done.append(result)
            if on_view is not None:
                on_view(result)
        return tuple(done)

    def _write_online(self, view: str, since: datetime, until: datetime) -> None:
        import sqlite3

        try:
            with self._engine(), _quiet():
                self._store.materialize(since, until, feature_views=[view])
        except sqlite3.OperationalError as error:
            what = f"the online store of `{self.workload}` cannot be written: {error}"
            raise Unavailable(what, fix="free disk space and memory, then run the step again") from error

    def online(self, entity_rows: Sequence[Mapping[str, Any]], feature_service: str) -> pd.DataFrame:
        """The service's features from the online store, a row per entity row; entities that are not there give nulls.

        Each entity row has the join keys and the request features of the service.
        """
        with _quiet():
            found = self._store.get_online_features(features=self._service(feature_service), entity_rows=[dict(row) for row in entity_rows])
            return cast("pd.DataFrame", found.to_df())

    def freshness(self, as_of: datetime) -> tuple[ViewFreshness, ...]:
        """The age at `as_of` of each view's newest source row, against its ttl; an empty view with a ttl is stale."""
        found = []
        for view in self._views:
            latest = newest(_path(view), as_of)
            age = as_of - latest if latest is not None else None
            stale = bool(view.ttl) and (age is None or age > view.ttl)
            found.append(ViewFreshness(view.name, latest, age, view.ttl or None, stale, view.tags.get("stale", "warn")))
        return tuple(found)

    def outputs(self, feature_service: str) -> tuple[str, ...]:
        """The feature columns that a service adds to an entity frame."""
        return tuple(each.name for projection in self._service(feature_service).feature_view_projections for each in projection.features)

    def inputs(self, feature_service: str) -> tuple[str, ...]:
        """The columns that an entity frame needs for a service: join keys, then request features."""
        from feast import FeatureView, OnDemandFeatureView

        names: dict[str, None] = {}
        for view in self._used(feature_service, FeatureView):
            names.update(dict.fromkeys(_join_keys(view)))
        for view in self._used(feature_service, OnDemandFeatureView):
            names.update(dict.fromkeys(field.name for source in view.source_request_sources.values() for field in source.schema))
        return tuple(names)

    def service_version(self, feature_service: str) -> str:
        """Twelve hexadecimal digits that change with the service's views, columns, types, ttls or transformations."""
        from feast import FeatureView, OnDemandFeatureView

        views = [
            {"name": view.name, "ttl_seconds": int(view.ttl.total_seconds()) if view.ttl else None, "columns": _shape(view)}
            for view in self._used(feature_service, FeatureView)
        ]
        derived = [
            {"name": view.name, "code": view.feature_transformation.udf_string, "columns": _columns(view.features)}
            for view in self._used(feature_service, OnDemandFeatureView)
        ]
        columns = sorted(self.outputs(feature_service))
        return content_hash({"service": feature_service, "views": views, "derived": derived, "columns": columns})[:12]

    def _used(self, feature_service: str, kind: type) -> list[Any]:
        """The views of a kind that a service reads, on-demand views' own sources among them, by name."""
        from feast import OnDemandFeatureView

        names = {projection.name for projection in self._service(feature_service).feature_view_projections}
        for each in self._definitions.values():
            if isinstance(each, OnDemandFeatureView) and each.name in names:
                names |= {projection.name for projection in each.source_feature_view_projections.values()}
        found: list[Any] = [each for each in self._definitions.values() if type(each) is kind and each.name in names]
        return sorted(found, key=lambda view: str(view.name))

    def _service(self, name: str) -> Any:
        from feast import FeatureService

        services = {each.name: each for each in self._definitions.values() if isinstance(each, FeatureService)}
        if name not in services:
            raise UserError(
                f"the feature repository has no service `{name}`",
                file=str(self._module),
                expected=f"one of {_names(services)}",
            )
        return services[name]

    @contextlib.contextmanager
    def _engine(self) -> Iterator[None]:
        """A DuckDB connection that spills under the site (its default is the working folder) and fetches nothing."""
        import ibis

        connection = ibis.duckdb.connect(temp_directory=str(self.folder / "spill"), autoinstall_known_extensions=False)
        ibis.set_backend(connection)
        try:
            yield
        finally:
            connection.disconnect()

    @functools.cached_property
    def _views(self) -> list[Any]:
        from feast import FeatureView

        return sorted((each for each in self._definitions.values() if type(each) is FeatureView), key=lambda view: view.name)

    @functools.cached_property
    def _definitions(self) -> dict[str, Any]:
        """The Feast objects of the workload's module by kind and name, its sources under this site."""
        import importlib.util

        from feast import Entity, FeatureService, FeatureView, OnDemandFeatureView
        from feast.data_source import DataSource

        spec = importlib.util.spec_from_file_location(f"feature_repo.{self.workload}", self._module)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        with variables(TRADEWIND_FEATURES=str(self.folder.parent)):
            spec.loader.exec_module(module)
        kinds = (Entity, DataSource, FeatureView, OnDemandFeatureView, FeatureService)
        objects: list[Any] = [each for each in vars(module).values() if isinstance(each, kinds)]
        found = {f"{type(each).__name__} {each.name}": each for each in objects}
        for view in objects:
            if isinstance(view, FeatureView):
                self._check_source(view.name, view.batch_source)
        return found

    def _check_source(self, view: str, source: Any) -> None:
        from feast import FileSource

        if not isinstance(source, FileSource) or Path(source.path) != self.folder / f"{source.name}.parquet":
            raise UserError(
                f"view `{view}` reads no table of this site",
                file=str(self._module),
                expected=f"a FileSource named like its table, at `{self.folder}/<table>.parquet`",
                fix="build the path from TRADEWIND_FEATURES",
            )

    @functools.cached_property
    def _store(self) -> Any:
        import logging

        from feast import FeatureStore
        from feast.repo_config import load_repo_config

        # it tells of every refresh of its registry
        logging.getLogger("feast").setLevel(logging.WARNING)
        with variables(TRADEWIND_FEATURES=str(self.folder.parent), TRADEWIND_WORKLOAD=self.workload):
            return FeatureStore(config=load_repo_config(self.folder, self._config))


def feast_profile(settings: Settings) -> str:
    """The configuration of feature_repo that a run uses: `cloud` where the site has a registry and an online store of its own to reach."""
    own = {"TRADEWIND_FEAST_REGISTRY", "TRADEWIND_FEAST_REDIS"} <= set(os.environ)
    return settings.profile if own else "embedded"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _path(view: Any) -> Path:
    return Path(view.batch_source.path)


def _join_keys(view: Any) -> list[str]:
    return [column.name for column in view.entity_columns]


def _columns(fields: Iterable[Any]) -> list[list[str]]:
    return sorted([each.name, str(each.dtype)] for each in fields)


def _shape(view: Any) -> list[list[str]]:
    """Columns of a view with their types, join keys first."""
    return _columns(view.entity_columns) + _columns(view.features)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Feast prints progress bars and ibis warns of duckdb's method names on every query."""
    import warnings

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
