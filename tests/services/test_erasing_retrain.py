"""From `erase SUBJECT` to a model that never saw them: marked, retrain opened, started by the reconciler, trained on what is left.

Real: state database, ledger, model registry, sites' folders, erasure, placement, walls, lifecycle. The steps do next to nothing: see
`tests.services.tiny`; what they read and write has the shape of the real thing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flows.adapters.feature_tables import to_arrow, write_parquet
from flows.adapters.models import CHALLENGER, CHAMPION, Models, TrainingRecord
from flows.adapters.settings import Settings
from flows.core.canonical import instant
from flows.core.planning import OUTPUTS
from flows.services import erased_rows, erasing, lifecycle, requesting
from flows.services.context import DatasetRef, StepContext, StepResult
from flows.services.identity import Identity
from flows.services.lifecycle import LifecycleOrder
from flows.services.reconciling import Reconciled, reconcile
from flows.store import aliases, erasures, ledger, outbox, replicas
from flows.store.database import State
from tests.services.patients import AS_OF, Clinic, Sites, patient, rows
from tests.services.tiny import TinyDispatcher, tiny_steps
from tests.tickets import keyed

OFFICER = Identity("ada", ("compliance-officer",), "local")
KEY = "k" * 64
WHO = patient(7)
SOURCE = [1, 7, 8]
"""The source holds all of them, always: nobody else has taken the patient out."""


def ingest(ctx: StepContext) -> StepResult:
    """The source's rows without those of erased people, as the real ingest leaves them out."""
    frame = erased_rows.left_out(ctx, rows(SOURCE))
    parts = {"patients/all": {"fingerprint": "f" * 32, "rows": len(frame), "quarantined": 0}}
    made = []
    for kind in OUTPUTS["ingest"]:
        with ctx.storage.draft(ctx.dataset(kind)) as draft:
            if kind == "raw":
                (draft / "patients").mkdir()
                write_parquet(to_arrow(frame), draft / "patients" / "all.parquet")
                (draft / "ingest.json").write_text(json.dumps({"parts": parts, "quarantine": None}))
                facts = {"as_of": instant(ctx.as_of), "rows": {"patients": len(frame)}, "quarantined": 0, "reports": None}
            else:
                (draft / "nothing.txt").write_text(kind)
                facts = {"as_of": instant(ctx.as_of)}
            made.append(ctx.storage.publish(ctx.dataset(kind), draft, facts))
    return StepResult(outputs=tuple(made), summary="ingested")


def materialize(ctx: StepContext) -> StepResult:
    """A row a patient."""
    raw = ctx.inputs["raw"]
    frame = pd.read_parquet(ctx.storage.open(raw.dataset, raw.version) / "patients" / "all.parquet")
    frame = frame.rename(columns={"patient": "row_id"}).assign(label=[float(n % 2) for n in range(len(frame))])
    with ctx.storage.draft(ctx.dataset("features")) as draft:
        write_parquet(to_arrow(frame), draft / "features.parquet")
        facts = {"as_of": instant(ctx.as_of), "rows": len(frame), "labelled": len(frame), "raw": str(raw)}
        made = ctx.storage.publish(ctx.dataset("features"), draft, facts)
    return StepResult(outputs=(made,), summary="materialized")


def train(ctx: StepContext) -> StepResult:
    """A model that knows its rows by heart, registered as the real training registers it."""
    features = ctx.inputs["features"]
    frame = pd.read_parquet(ctx.storage.open(features.dataset, features.version) / "features.parquet")
    with ctx.storage.draft(ctx.dataset("model")) as draft:
        (draft / "model").mkdir()
        (draft / "model" / "MLmodel").write_text("\n".join(frame["row_id"]))
        (draft / "plots").mkdir()
        (draft / "plots" / "roc.txt").write_text("none")
        made = ctx.storage.publish(ctx.dataset("model"), draft, {"as_of": instant(ctx.as_of), "features": str(features)})
        name = f"{made.dataset}@{made.version}"
        record = TrainingRecord(name, str(features), ctx.intent_id, draft / "model", draft / "plots", {}, {})
        models = Models(ctx.settings.tracking_url, ctx.workload.name)
        version = models.log_training(record, site=ctx.site, artifacts=ctx.storage.link("artifacts", ctx.workload.name)).version
        models.set_alias(CHALLENGER, version)
    return StepResult(outputs=(made,), numbers={"model_version": version}, summary="trained")


@pytest.fixture
def clinic(tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> Clinic:
    settings = keyed(Settings(home=tmp_path / "home", database_url=None, mlflow_url=None))
    database = settings.home / "mlflow" / "mlflow.db"
    database.parent.mkdir(parents=True)
    database.write_bytes(empty_mlflow.read_bytes())
    monkeypatch.setenv(erased_rows.KEY_VARIABLE, KEY)
    state = State(settings.state_url)
    state.migrate()
    return Clinic(settings, state)


def learnt(clinic: Clinic, model: str) -> list[str]:
    """The keys in the training rows that a model names, and in the model itself, which has to be the same."""
    ref = DatasetRef.parse(model)
    with clinic.state.reading() as tx:
        (site, features) = next(
            (row.site, row.facts["features"]) for row in replicas.by_dataset(tx)[ref.dataset] if row.version == ref.version
        )
    of = DatasetRef.parse(features)
    frame = pd.read_parquet(clinic.storage().open(of.dataset, of.version) / "features.parquet")
    assert (clinic.storage(site).open(ref.dataset, ref.version) / "model" / "MLmodel").read_text().splitlines() == list(frame["row_id"])
    return sorted(frame["row_id"])


def champion(clinic: Clinic) -> str:
    """What serves, by the state database."""
    with clinic.state.reading() as tx:
        row = aliases.current(tx, "nafld", CHAMPION)
    assert row is not None
    return Models(clinic.settings.tracking_url, "nafld").version(row.version).dataset


class Starter:
    """What the server does with the reconciler's start: the flow's own order, for the principal that the stored intent gives it."""

    def __init__(self, settings: Settings, dispatcher: TinyDispatcher) -> None:
        self.settings, self.dispatcher, self.by = settings, dispatcher, list[str]()

    async def __call__(self, deployment: str, parameters: Mapping[str, Any], key: str) -> str:
        assert deployment == "lifecycle/nafld"
        order = LifecycleOrder(
            workload=parameters["workload"],
            as_of=datetime.fromisoformat(parameters["as_of"]),
            cause=parameters["cause"],
            owner=key,
            principal=requesting.UI,
            intent=parameters["intent_id"],
            retrain=parameters["retrain"],
            urgent=parameters["urgent"],
            steps=tuple(parameters["steps"]),
        )
        known = requesting.known(order, {}, settings=self.settings, request_id=None, scheduled=False, at=datetime.now(UTC))
        self.by.append(known.principal)
        assert (await lifecycle.run(known, settings=self.settings, dispatcher=self.dispatcher)).state == "done"
        return key


def one_round(clinic: Clinic, start: Starter) -> Reconciled:
    async def is_over(run_id: str) -> bool:
        return False

    return asyncio.run(reconcile(clinic.settings, start=start, is_over=is_over))


def test_the_model_that_is_trained_after_an_erasure_never_saw_the_person(clinic: Clinic) -> None:
    """Erase, mark, retrain, replace, remove: and neither the rows, the new model nor anything else holds the key."""
    settings, own = clinic.settings, f"{__name__}:"
    with tiny_steps(ingest=f"{own}ingest", materialize=f"{own}materialize", train=f"{own}train"):
        first = LifecycleOrder("nafld", AS_OF, "manual", "run-1", "scheduler")
        assert asyncio.run(lifecycle.run(first, settings=settings, dispatcher=TinyDispatcher(settings))).state == "done"
        old = champion(clinic)
        assert learnt(clinic, old) == [patient(n) for n in SOURCE]

        sites = Sites(settings)
        asked = erasing.ask(clinic.state, settings, OFFICER, "nafld", WHO, key=KEY, apply=True, at=datetime.now(UTC))
        sites.secrets[asked.secret] = WHO
        assert asyncio.run(erasing.carry_out(clinic.state, settings, sites, owner="govern-1"))[asked.intent] == "done"
        done = erasing.result_of(clinic.state, asked)
        assert done is not None and done["models"]["waiting"] == [old]
        retrain = done["models"]["retrain"]
        with clinic.state.transaction() as tx:
            assert [row.payload["model"] for row in erasures.waiting_models(tx)] == [old]
            row = outbox.get(tx, retrain)
            assert row is not None and (row.step, row.state) == ("lifecycle", "open")
            row.due_at -= timedelta(minutes=1)  # the grace that an event would have is over

        starter = Starter(settings, TinyDispatcher(settings))
        rounds = one_round(clinic, starter), one_round(clinic, starter)
    assert [list(one.started) for one in rounds] == [[retrain], []]
    assert starter.by == ["scheduler"]
    ran = [step.partition("/")[0] for step in starter.dispatcher.ran]
    assert (ran.count("train"), ran.count("ingest")) == (1, 0), "an erasure trains on what is there"
    new = champion(clinic)
    assert new != old
    assert learnt(clinic, new) == [patient(n) for n in SOURCE if patient(n) != WHO]

    assert asyncio.run(erasing.carry_out(clinic.state, settings, sites, owner="govern-2")) != {}
    left = [path for path in (settings.home / "sites").rglob("*") if path.is_file() and _holds(path)]
    assert left == []
    with clinic.state.reading() as tx:
        assert erasures.waiting_models(tx) == []
        assert ledger.rows(tx, kind="erasure")[-1].body["model_removed"] == old
        assert [row.body["intent"] for row in ledger.rows(tx, kind="retrain-trigger")] == [retrain]
    assert ledger.verify(clinic.state, None).ok


def test_the_next_ingest_leaves_the_person_out_although_the_source_has_them(clinic: Clinic) -> None:
    """A day later the source still holds the rows: neither the data nor the model of that day does."""
    settings, own = clinic.settings, f"{__name__}:"
    sites = Sites(settings)
    with tiny_steps(ingest=f"{own}ingest", materialize=f"{own}materialize", train=f"{own}train"):
        first = LifecycleOrder("nafld", AS_OF, "manual", "run-1", "scheduler")
        asyncio.run(lifecycle.run(first, settings=settings, dispatcher=TinyDispatcher(settings)))
        asked = erasing.ask(clinic.state, settings, OFFICER, "nafld", WHO, key=KEY, apply=True, at=datetime.now(UTC))
        sites.secrets[asked.secret] = WHO
        asyncio.run(erasing.carry_out(clinic.state, settings, sites, owner="govern-1"))
        later = LifecycleOrder("nafld", AS_OF + timedelta(days=1), "manual", "run-2", "scheduler", retrain=True)
        assert asyncio.run(lifecycle.run(later, settings=settings, dispatcher=TinyDispatcher(settings))).state == "done"
    assert learnt(clinic, champion(clinic)) == [patient(n) for n in SOURCE if patient(n) != WHO]


def _holds(path: Path) -> bool:
    content = path.read_bytes()
    if content[:4] == b"PAR1":
        content += pd.read_parquet(path).to_csv().encode()
    return WHO.encode() in content
