"""A shop whose data rests in a bucket: ingest, materialize and train as they run in a cloud, each as if on a machine of its own."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from flows.adapters.features import FEATURE_REPO
from flows.adapters.settings import Settings
from flows.adapters.storage import site_storage
from flows.core.governance.labels import Label
from flows.core.workload import PromotionGate
from flows.services.context import DatasetRef, StepContext, StepResult
from flows.services.ingesting import ingest
from flows.services.materializing import materialize
from flows.services.training import train
from flows.store.database import State
from flows.workloads.estimators import boosted_trees
from tests.services.test_materializing import SHOP, Shop, raw_tables

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before scikit-learn is loaded: see flows.services.frames

LABEL = Label.model_validate({"classification": "internal", "residency": "anywhere"})
START = datetime(2020, 1, 1, tzinfo=UTC)


class LearnedShop(Shop):
    """The shop with a source and an estimator."""

    model = replace(Shop.model, seed=7, parameters={"max_iter": 5})
    gate = PromotionGate()

    def read(self, table: str, until: datetime) -> pd.DataFrame:
        """The invented rows."""
        return raw_tables()[table]

    def estimator(self) -> Any:
        """Small boosted trees."""
        return boosted_trees(self.model)


@dataclass
class BucketShop:
    """The shop at a site; each step opens the site's storage anew, as a run on another machine would."""

    settings: Settings
    site: str
    folder: Path
    mlflow: Path
    made: dict[str, DatasetRef] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.repository = self.folder / "repo"
        self.repository.mkdir()
        shutil.copy(SHOP, self.repository / "shop.py")
        shutil.copy(FEATURE_REPO / "feature_store.embedded.yaml", self.repository)
        database = self.settings.home / "mlflow" / "mlflow.db"
        database.parent.mkdir(parents=True)
        database.write_bytes(self.mlflow.read_bytes())
        self.state = State(self.settings.state_url)
        self.state.migrate()

    def context(self, step: str, day: float = 90, **inputs: DatasetRef) -> StepContext:
        """What a step's run is given."""
        return StepContext(
            settings=self.settings,
            workload=LearnedShop(),
            step=step,
            site=self.site,
            pool=f"{self.site}-pool",
            storage=site_storage(self.site, self.settings),
            state=self.state,
            as_of=START + timedelta(days=day),
            intent_id=f"shop/{step}/2020-03/schedule",
            decision_id=None,
            inputs=inputs,
            label=LABEL,
        )

    def _keep(self, result: StepResult) -> StepResult:
        self.made |= {one.dataset: DatasetRef(one.dataset, one.version) for one in result.outputs}
        return result

    def ingest(self, day: float = 90) -> StepResult:
        """The raw tables."""
        return self._keep(ingest(self.context("ingest", day)))

    def materialize(self, day: float = 90) -> StepResult:
        """The features."""
        return self._keep(materialize(self.context("materialize", day, raw=self.made["shop-raw"]), repository=self.repository))

    def train(self) -> StepResult:
        """The model, registered in MLflow."""
        return self._keep(train(self.context("train", features=self.made["shop-features"])))
