"""A small workload of invented rows with real storage, a real state database and a real MLflow database, for tests of the steps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flows.adapters.feature_tables import to_arrow, write_parquet
from flows.adapters.settings import Settings
from flows.adapters.storage import SiteStorage
from flows.core.canonical import instant
from flows.core.governance.labels import Classification, Label
from flows.core.workload import DriftThresholds, ModelSpec, PromotionGate, Windows
from flows.services.context import DatasetRef, StepContext
from flows.store.database import State
from flows.workloads.estimators import boosted_trees
from tests.tickets import keyed, sign_model

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before scikit-learn is loaded: see flows.services.frames

SITE = "onprem-fra"
AS_OF = datetime(2013, 7, 1, tzinfo=UTC)
PER_DAY = 50
LABEL_LAG = timedelta(days=2)


class SmallWorkload:
    """Shops that close early: a number and a kind tell the label, as strongly as the rows were made to."""

    name = "shops"
    title = "Shops"
    tables = ()
    feature_service = "shops_v1"
    windows = Windows(train=timedelta(days=60), holdout=timedelta(days=20), score=timedelta(days=7), watch=timedelta(days=14))
    model = ModelSpec(
        numeric=("sales", "noise"),
        categorical=("kind",),
        slices=("town",),
        seed=7,
        parameters={"max_iter": 20, "max_leaf_nodes": 6},
    )
    gate = PromotionGate(min_auc=0.6, max_calibration_error=0.2, max_latency_ms_per_1k_rows=5000.0)
    drift = DriftThresholds(min_rows=200)

    def read(self, table: str, until: datetime) -> pd.DataFrame:
        """No raw table."""
        raise KeyError(table)

    def feature_tables(self, raw: Mapping[str, pd.DataFrame]) -> Mapping[str, pd.DataFrame]:
        """No source table."""
        return {}

    def examples(self, raw: Mapping[str, pd.DataFrame], as_of: datetime) -> pd.DataFrame:
        """Never asked for: the examples of these tests are published as they are."""
        raise AssertionError("a step asked the workload for examples of raw tables")

    def estimator(self) -> Any:
        """Small boosted trees."""
        return boosted_trees(self.model)


@dataclass(frozen=True)
class World:
    """One site, one state database, one MLflow database, and rows on demand."""

    settings: Settings
    storage: SiteStorage
    state: State
    workload: SmallWorkload
    as_of: datetime = AS_OF

    def features(self, as_of: datetime = AS_OF, *, days: int = 100, strength: float = 2.0, shift: float = 0.0, seed: int = 1) -> DatasetRef:
        """Publish a feature frame up to `as_of`.

        `strength` is how much `sales` tells of the label, `shift` moves `sales` in the last two weeks, in standard deviations.
        """
        generator = np.random.default_rng(seed)
        rows = days * PER_DAY
        moments = pd.to_datetime(as_of) - pd.to_timedelta(np.sort(generator.uniform(0, days * 86400, rows))[::-1], unit="s")
        moments = pd.DatetimeIndex(moments).as_unit("us")
        sales = generator.normal(size=rows)
        kind = generator.choice(["bakery", "books"], size=rows)
        odds = strength * sales + (kind == "books") - 0.5
        label = (generator.random(rows) < 1 / (1 + np.exp(-odds))).astype("float64")
        known = moments + LABEL_LAG <= as_of
        recent = moments >= as_of - timedelta(days=14)
        frame = pd.DataFrame(
            {
                "row_id": [f"secret-{as_of:%j}-{number:06d}" for number in range(rows)],
                "event_timestamp": moments,
                "sales": sales + shift * recent,
                "noise": generator.normal(size=rows).round(9),
                "kind": kind,
                "town": generator.choice(["north", "south"], size=rows),
                "label": pd.Series(label).where(known),
                "label_at": pd.Series(moments + LABEL_LAG).where(known),
            }
        )
        return self.publish("features", "features.parquet", frame, {"as_of": instant(as_of), "feature_service_version": "v-test"})

    def publish(self, kind: str, name: str, frame: pd.DataFrame, facts: Mapping[str, Any]) -> DatasetRef:
        """Publish one Parquet file as a dataset."""
        with self.storage.draft(f"shops-{kind}") as draft:
            write_parquet(to_arrow(frame), draft / name)
            made = self.storage.publish(f"shops-{kind}", draft, facts)
        if kind == "model":
            sign_model(self.settings, DatasetRef(made.dataset, made.version), dict(made.files))
        return DatasetRef(made.dataset, made.version)

    def context(
        self, step: str, as_of: datetime = AS_OF, *, level: str = "internal", intent: str | None = None, **inputs: DatasetRef
    ) -> StepContext:
        """The context of a step over these inputs."""
        return StepContext(
            settings=self.settings,
            workload=self.workload,
            step=step,
            site=SITE,
            pool=f"{SITE}-k8s",
            storage=self.storage,
            state=self.state,
            as_of=as_of,
            intent_id=intent or f"shops/{step}/{as_of:%Y-%m-%d}/test",
            decision_id="d" * 64,
            inputs=inputs,
            label=Label(classification=Classification(level), residency="anywhere"),
        )

    def register(self, name: str) -> str:
        """Register a model version that stands for `shops-model@<name>`; its number."""
        from flows.adapters.models import Models, TrainingRecord

        folder = self.settings.home / "drafts" / name
        for part in ("model", "plots"):
            (folder / part).mkdir(parents=True)
        (folder / "model" / "MLmodel").write_text("flavors: {}\n")
        record = TrainingRecord(
            dataset=f"shops-model@{name}",
            features="shops-features@f",
            intent=f"shops/train/{name}/test",
            model=folder / "model",
            plots=folder / "plots",
            parameters={},
            metrics={},
        )
        models = Models(self.settings.tracking_url, "shops")
        return models.log_training(record, site=SITE, artifacts=self.storage.path("artifacts", "shops")).version

    def with_workload(self, **changes: Any) -> World:
        """The same world with another gate, window or threshold."""
        workload = SmallWorkload()
        for name, value in changes.items():
            setattr(workload, name, value)
        return replace(self, workload=workload)


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its schema, made once: the schema takes seconds."""
    from flows.adapters.models import Models

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    Models(f"sqlite:///{path}", "none").find("none@none")
    return path


def a_world(home: Path, mlflow: Path) -> World:
    """A fresh world below a folder."""
    database = home / "mlflow" / "mlflow.db"
    database.parent.mkdir(parents=True)
    database.write_bytes(mlflow.read_bytes())
    settings = keyed(Settings(home=home, database_url=None, mlflow_url=None))
    state = State(settings.state_url)
    state.migrate()
    return World(settings, SiteStorage(SITE, settings.site_folder(SITE)), state, SmallWorkload())


@pytest.fixture
def world(tmp_path: Path, empty_mlflow: Path) -> World:
    """A world of the test's own."""
    return a_world(tmp_path / "home", empty_mlflow)


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> World:
    """A world for all tests of a module that only add to it."""
    return a_world(tmp_path_factory.mktemp("shared") / "home", empty_mlflow)
