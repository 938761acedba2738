"""Erasure: everything of one person goes, at every site, nothing of anybody else does, and the record says so without saying who."""

from __future__ import annotations

import asyncio
import json
import pickle
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from deployments.cli.erase import told
from flows.adapters import subject_search
from flows.adapters.features import FeatureStoreAtSite
from flows.adapters.settings import Settings
from flows.adapters.storage import SiteStorage
from flows.adapters.subject_search import Subject
from flows.core.errors import GuardRefused, PolicyDenied, UserError
from flows.services import erased_rows, erasing, erasing_at_site, site_tasks
from flows.services.context import DatasetRef, StepContext
from flows.services.erasing import Asked
from flows.services.erasing_at_site import Place, Serving
from flows.services.identity import Identity
from flows.services.local_run import acting_as
from flows.store import erasures, ledger, outbox, principals, replicas
from flows.store.database import State
from tests.services.patients import AS_OF, AWAY, HOME, MADE, Clinic, Sites, patient, rows
from tests.tickets import keyed

OFFICER = Identity("ada", ("compliance-officer",), "local")
KEY = "k" * 64
WHO = patient(7)
SUBJECT = Subject(WHO, frozenset({"patient", "row_id"}))


def a_clinic(folder: Path) -> Clinic:
    settings = keyed(Settings(home=folder, database_url=None, mlflow_url=None))
    state = State(settings.state_url)
    state.migrate()
    return Clinic(settings, state)


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    return a_clinic(tmp_path / "home")


@pytest.fixture
def sites(clinic: Clinic) -> Sites:
    return Sites(clinic.settings)


def erase(clinic: Clinic, sites: Sites, who: str = WHO, *, apply: bool = True, **more: Any) -> tuple[Asked, dict[str, str]]:
    """Ask, and let control carry it out."""
    asked = erasing.ask(clinic.state, clinic.settings, OFFICER, "nafld", who, key=KEY, apply=apply, at=datetime.now(UTC), **more)
    sites.secrets[asked.secret] = who
    return asked, asyncio.run(erasing.carry_out(clinic.state, clinic.settings, sites, owner="run-1"))


def result(clinic: Clinic, asked: Asked) -> dict[str, Any]:
    found = erasing.result_of(clinic.state, asked)
    assert found is not None
    return found


def traces(clinic: Clinic, who: str = WHO) -> list[str]:
    """Every file of every site that holds the key, found by the plainest means: unpacked, as text."""
    found = []
    for path in sorted((clinic.settings.home / "sites").rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if content[:4] == b"PAR1":
                content += pd.read_parquet(path).to_csv().encode()
            if who.encode() in content:
                found.append(path.relative_to(clinic.settings.home / "sites").as_posix())
    return found


def place(clinic: Clinic, site: str = HOME, repository: Path | None = None) -> Place:
    more = {} if repository is None else {"repository": repository}
    return Place(clinic.storage(site), "nafld", clinic.settings, clinic.state, "nafld/purge/test/here", **more)


def everywhere(clinic: Clinic) -> DatasetRef:
    """The patient in raw data, quarantine, features and predictions, the raw data at two sites; two others beside."""
    raw = clinic.raw([1, 7, 8], quarantined=[7, 9])
    clinic.copy(raw)
    features = clinic.features([1, 7, 8], raw)
    scores = rows([1, 7]).rename(columns={"patient": "row_id"}).assign(score=0.5)
    clinic.publish("predictions", {"predictions.parquet": scores}, {"rows": 2, "features": str(features)})
    clinic.publish("reports", {"drift.html": "<p>drift</p>"}, {"kind": "drift", "features": str(features), "champion": "none@none"})
    return raw


def test_a_dry_run_counts_and_changes_nothing(clinic: Clinic, sites: Sites) -> None:
    """It is the default: where the person is, and in how many rows of how many versions."""
    everywhere(clinic)
    before = {path: path.read_bytes() for path in (clinic.settings.home / "sites").rglob("*") if path.is_file()}
    asked, done = erase(clinic, sites, apply=False)
    assert done == {asked.intent: "done"}
    found = result(clinic, asked)["found"]
    assert found[HOME]["nafld-raw"] == {"versions": 1, "rows": 3}
    assert found[HOME]["nafld-quarantine"] == {"versions": 1, "rows": 1}
    assert found[AWAY] == {"nafld-raw": {"versions": 1, "rows": 3}}
    assert {path: path.read_bytes() for path in (clinic.settings.home / "sites").rglob("*") if path.is_file()} == before
    with clinic.state.reading() as tx:
        assert erasures.references(tx, "nafld") == frozenset()


def test_what_a_dry_run_prints(clinic: Clinic, sites: Sites) -> None:
    """The golden text: places, counts, what a scan covered; never the key."""
    everywhere(clinic)
    asked, _ = erase(clinic, sites, apply=False)
    found = result(clinic, asked)
    shown = "\n".join(told("nafld", found))
    golden = (Path(__file__).parents[1] / "golden" / "erasure_dry_run.txt").read_text()
    for name, value in (("request", found["request"]), ("scan", found["proof"]["sha256"][:16]), ("bytes", f"{found['proof']['bytes']:,}")):
        shown = shown.replace(value, f"<{name}>")
    assert shown.replace(f"at {found['proof']['sites']} sites", "at <sites> sites") + "\n" == golden


def test_an_erasure_leaves_no_byte_of_the_key_and_every_other_row(clinic: Clinic, sites: Sites) -> None:
    """Versions are written again at each site, the copies as copies of one version."""
    everywhere(clinic)
    assert len(traces(clinic)) == 7
    asked, done = erase(clinic, sites)
    assert done == {asked.intent: "done"}
    assert traces(clinic) == []
    assert list(clinic.table("raw", "patients/all.parquet")["patient"]) == [patient(1), patient(8)]
    assert list(clinic.table("quarantine", "patients/all.parquet")["patient"]) == [patient(9)]
    assert list(clinic.table("features", "features.parquet")["row_id"]) == [patient(1), patient(8)]
    assert clinic.versions("raw") == clinic.versions("raw", AWAY)
    assert clinic.versions("reports") == []


def test_the_record_follows(clinic: Clinic, sites: Sites) -> None:
    """Replicas name the new versions, which say what they were made from and how many rows they have; so does what ingest noted."""
    old = everywhere(clinic)
    erase(clinic, sites)
    (version,) = clinic.versions("raw")
    with clinic.state.reading() as tx:
        assert replicas.sites(tx, "nafld-raw", old.version) == []
        assert replicas.sites(tx, "nafld-raw", version) == [AWAY, HOME]
        facts = replicas.latest(tx, "nafld-raw").facts  # type: ignore[union-attr]
        assert replicas.latest(tx, "nafld-raw").at == MADE  # type: ignore[union-attr]  # as old as before, for its retention
        made_of = replicas.latest(tx, "nafld-features").facts  # type: ignore[union-attr]
    assert (facts["erased_from"], facts["rows"]) == (old.version, {"patients": 2, "labs": 4})
    assert (made_of["raw"], made_of["rows"], made_of["labelled"]) == (f"nafld-raw@{version}", 2, 2)
    record = json.loads((clinic.storage().open("nafld-raw", version) / "ingest.json").read_text())
    assert record["quarantine"] is None
    assert record["parts"]["patients/all"] == {"fingerprint": "erased", "rows": 2, "quarantined": 2}


def test_nothing_says_who(clinic: Clinic, sites: Sites) -> None:
    """Neither the key nor anything of its form is in the database, in the parameters of a run or in what is printed."""
    everywhere(clinic)
    asked, _ = erase(clinic, sites)
    clinic.state.close()
    held = b"".join(path.read_bytes() for path in clinic.settings.home.glob("state.db*"))
    assert WHO.encode() not in held
    assert asked.secret.encode() not in WHO.encode()
    assert WHO not in "\n".join([*told("nafld", result(clinic, asked)), *sites.ran, repr(SUBJECT)])


def test_the_ledger_holds_counts_and_the_proof(clinic: Clinic, sites: Sites) -> None:
    """One row: the request's random id, rows by dataset and site, the hash of the last scan."""
    everywhere(clinic)
    asked, _ = erase(clinic, sites)
    with clinic.state.reading() as tx:
        (row,) = ledger.rows(tx, kind="erasure")
        assert principals.name_of(tx, row.principal) == "ada"
    assert row.body["found"][HOME]["nafld-features"] == {"versions": 1, "rows": 1}
    assert row.body["proof"] == result(clinic, asked)["proof"]
    assert len(row.body["proof"]["sha256"]) == 64


def test_a_person_who_is_nowhere_is_told_and_recorded(clinic: Clinic, sites: Sites) -> None:
    """No error: whoever asked has an answer, and the ledger has a row."""
    everywhere(clinic)
    asked, done = erase(clinic, sites, patient(404))
    assert done == {asked.intent: "done"}
    assert "  the subject is nowhere in the data of this workload" in told("nafld", result(clinic, asked))
    with clinic.state.reading() as tx:
        assert ledger.rows(tx, kind="erasure")[0].body["found"] == {}


def test_a_second_erasure_finds_nothing(clinic: Clinic, sites: Sites) -> None:
    """What is done stays done: no version changes again."""
    everywhere(clinic)
    erase(clinic, sites)
    before = clinic.versions("raw")
    asked, _ = erase(clinic, sites)
    assert result(clinic, asked)["found"] == {}
    assert clinic.versions("raw") == before


def test_the_scan_finds_planted_bytes(clinic: Clinic, sites: Sites) -> None:
    """In a pickle, a compressed file, an archive, a scratch file of a dead run, a draft: in whatever was left, and it goes."""
    import gzip
    import zipfile

    clinic.raw([1])
    root = clinic.storage().root
    planted = [
        root / "scratch" / "run-1" / "x.pkl",
        root / "artifacts" / "nafld" / "a.json.gz",
        root / "datasets" / "nafld-raw" / ".drafts" / "d",
    ]
    for path in planted:
        path.parent.mkdir(parents=True, exist_ok=True)
    planted[0].write_bytes(pickle.dumps({"who": WHO}, protocol=2))
    planted[1].write_bytes(gzip.compress(f'{{"id": "{WHO}"}}'.encode()))
    planted[2].write_text(WHO)
    planted.append(root / "artifacts" / "nafld" / "a.zip")
    with zipfile.ZipFile(planted[-1], "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.txt", WHO * 100)
    found = erasing_at_site.find(place(clinic), SUBJECT)
    assert sorted(root / name for name in found.files) == sorted(planted)
    asked, done = erase(clinic, sites)
    assert done == {asked.intent: "done"}
    assert not any(path.exists() for path in planted)


def test_an_erasure_is_not_proved_while_the_key_comes_back(clinic: Clinic, sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something writes the person again after the erasure: the request stays open, says where, and the next round erases that too."""
    everywhere(clinic)
    plain = erasing_at_site.erase

    def and_back(at: Place, *arguments: Any, **keywords: Any) -> dict[str, Any]:
        done = plain(at, *arguments, **keywords)
        if at.storage.site == HOME:
            clinic.raw([7, 8])
        return done

    monkeypatch.setattr(erasing_at_site, "erase", and_back)
    asked, done = erase(clinic, sites)
    assert "the key was found again after the erasure: `onprem-fra`: 1 versions" in done[asked.intent]
    assert erasing.result_of(clinic.state, asked) is None
    monkeypatch.setattr(erasing_at_site, "erase", plain)
    assert asyncio.run(erasing.carry_out(clinic.state, clinic.settings, sites, owner="run-2")) == {asked.intent: "done"}
    assert traces(clinic) == []


def test_data_of_another_workload_is_named_and_left(clinic: Clinic, sites: Sites) -> None:
    """A request is for one workload: what else holds the key is said, so that somebody asks for it."""
    clinic.raw([7])
    other = clinic.storage().path("datasets", "flight_delay-raw", "v1", "note.txt")
    other.write_text(WHO)
    asked, done = erase(clinic, sites)
    assert done == {asked.intent: "done"}
    assert result(clinic, asked)["elsewhere"] == {HOME: ["datasets/flight_delay-raw"]}
    assert other.exists()


def test_a_pseudonym_is_found_by_the_person_behind_it(clinic: Clinic, sites: Sites) -> None:
    """The same keyed hash as ingest wrote: nobody need know the pseudonym."""
    from flows.core.governance.columns import pseudonym

    secret = "p" * 32
    hidden = pseudonym(secret.encode(), WHO)
    clinic.publish(
        "raw", {"patients/all.parquet": pd.DataFrame({"patient": [hidden, "b" * 32], "bmi": [1.0, 2.0]})}, {"rows": {"patients": 2}}
    )
    task = {"do": "find", "secret": "s", "columns": ["patient"], "pseudonymised": True}
    subject = site_tasks._subject("nafld", task, {"s": WHO, "pseudonym-key-nafld-raw": secret}.get)
    erasing_at_site.erase(place(clinic), subject, remove=(), artifacts=(), serving=Serving())
    assert list(clinic.table("raw", "patients/all.parquet")["patient"]) == ["b" * 32]


def test_features_lose_the_person_offline_and_online(clinic: Clinic, sites: Sites) -> None:
    """Source tables and the online store: the others are still served, and no deleted row stays in a free page."""
    people = [1, 7, 8]
    clinic.features(people)
    storage = clinic.storage()
    store = FeatureStoreAtSite(storage, "nafld")
    frame = rows(people).assign(event_timestamp=pd.Timestamp("2014-06-01", tz="UTC").as_unit("us"))
    demographics = frame.assign(age=50.0, male=1.0, weight=80.0, height=180.0)
    empty = frame.assign(**dict.fromkeys(("hdl", "sbp", "fib4", "smoke"), 1.0))
    history = frame.assign(**dict.fromkeys(("had_htn", "had_dyslipidemia", "had_nafld", "had_cardiac"), 1.0))
    store.write_sources({"demographics": demographics, "labs": empty, "history": history}, AS_OF)
    store.apply()
    store.materialize(AS_OF)
    assert any("online.db" in name for name in traces(clinic))
    asked, done = erase(clinic, sites)
    assert done == {asked.intent: "done"}
    assert traces(clinic) == []
    assert result(clinic, asked)["features"] == {HOME: {"rows": 3, "online": "made again"}}
    served = FeatureStoreAtSite(storage, "nafld").online([{"patient": patient(n)} for n in (1, 7)], "nafld_v1")
    assert list(served["age"].fillna(-1)) == [50.0, -1.0]


def test_names_of_principals_go_too(clinic: Clinic, sites: Sites) -> None:
    """A person who worked with the system: the ledger's id stays, the name behind it does not."""
    with clinic.state.transaction() as tx:
        id = principals.id_for(tx, "eve@example.org")
    asked, _ = erase(clinic, sites, "eve@example.org")
    with clinic.state.reading() as tx:
        assert principals.name_of(tx, id) is None
        assert erasures.references(tx, "nafld") == {erased_rows.reference(KEY, "nafld", "eve@example.org")}
        assert outbox.get(tx, asked.intent).payload["principal"] == id  # type: ignore[union-attr]


def test_only_compliance_may_ask(clinic: Clinic) -> None:
    """Policy says who."""
    with pytest.raises(PolicyDenied, match=r"role-erase|default-deny"):
        erasing.ask(
            clinic.state,
            clinic.settings,
            Identity("bob", ("ml-engineer",), "local"),
            "nafld",
            WHO,
            key=KEY,
            apply=False,
            at=datetime.now(UTC),
        )


@pytest.mark.parametrize("who", ["", " nafld-patient-000007", "two\nlines", "x" * 513])
def test_what_is_no_key_is_refused_without_repeating_it(clinic: Clinic, who: str) -> None:
    """It may be a person's: the message does not quote it."""
    with pytest.raises(UserError, match="the subject is no key") as refused:
        erasing.ask(clinic.state, clinic.settings, OFFICER, "nafld", who, key=KEY, apply=True, at=datetime.now(UTC))
    assert not who.strip() or who not in str(refused.value)


def test_a_workload_without_declared_keys_says_what_to_declare(clinic: Clinic) -> None:
    """Flights are no people; a column may be named all the same."""
    with pytest.raises(UserError, match="nothing says which columns of `flight_delay` hold keys of people"):
        erasing.ask(clinic.state, clinic.settings, OFFICER, "flight_delay", WHO, key=KEY, apply=False, at=datetime.now(UTC))


@pytest.mark.parametrize(("workload", "known"), [("nafld", "`patient`"), ("flight_delay", "`tailnum`")])
def test_a_column_that_no_table_has_is_refused(clinic: Clinic, workload: str, known: str) -> None:
    """A misspelt one would find nobody, and say so; the columns there are named."""
    with pytest.raises(UserError, match=r"`--column`.*`patientt`") as refused:
        erasing.ask(clinic.state, clinic.settings, OFFICER, workload, WHO, key=KEY, apply=True, columns=["patientt"], at=datetime.now(UTC))
    assert known in str(refused.value)
    with clinic.state.reading() as tx:
        assert erasures.unfinished(tx) == []


def test_a_column_of_code_of_the_declaration_or_of_what_rests_may_be_named(clinic: Clinic) -> None:
    """A version that was recorded under an older schema still has its own."""
    clinic.publish("raw", {"patients/all.parquet": rows([7])}, {"schema": {"patients": {"chart": "string"}}})
    for column in ("bmi", "row_id", "chart"):
        erasing.ask(clinic.state, clinic.settings, OFFICER, "nafld", WHO, key=KEY, apply=False, columns=[column], at=datetime.now(UTC))


def test_nothing_is_erased_while_the_workload_runs(clinic: Clinic, sites: Sites) -> None:
    """A training under way would publish what it read before."""
    from flows.store import runs

    everywhere(clinic)
    with clinic.state.transaction() as tx:
        runs.start(
            tx, id="r", workload="nafld", step="train", pool="p", site=HOME, pid=1, at=datetime.now(UTC), intent_id=None, decision_id=None
        )
    asked, done = erase(clinic, sites)
    assert "`nafld` is running: train" in done[asked.intent]
    with clinic.state.transaction() as tx:
        runs.finish(tx, "r", "completed", datetime.now(UTC))
    assert asyncio.run(erasing.carry_out(clinic.state, clinic.settings, sites, owner="run-2")) == {asked.intent: "done"}


# models


def with_models(clinic: Clinic, mlflow: Path) -> tuple[DatasetRef, DatasetRef]:
    """Two models that learnt from the patient: the older one serves no more, the newer one is the challenger."""
    from flows.adapters.models import CHALLENGER, Models, TrainingRecord

    database = clinic.settings.home / "mlflow" / "mlflow.db"
    database.parent.mkdir(parents=True)
    shutil.copy(mlflow, database)
    features = clinic.features([1, 7, 8])
    registry, made = Models(clinic.settings.tracking_url, "nafld"), []
    for name in ("old", "new"):
        ref = clinic.publish("model", {"model/MLmodel": name}, {"features": str(features)})
        folder = clinic.settings.home / "drafts" / name
        for part in ("model", "plots"):
            (folder / part).mkdir(parents=True)
            (folder / part / "f").write_text(name)
        record = TrainingRecord(str(ref), str(features), f"nafld/train/{name}/test", folder / "model", folder / "plots", {}, {})
        version = registry.log_training(record, site=HOME, artifacts=clinic.storage().path("artifacts", "nafld")).version
        registry.set_alias(CHALLENGER, version)
        made.append(ref)
    return made[0], made[1]


def test_models_that_learnt_from_the_person_go_or_wait_for_a_retrain(clinic: Clinic, sites: Sites, empty_mlflow: Path) -> None:
    """A pickle cannot be edited: one that serves nobody is removed, one that does stays until a retrain, opened here, replaced it."""
    from flows.adapters.models import CHALLENGER, Models

    _, new = with_models(clinic, empty_mlflow)
    asked, done = erase(clinic, sites)
    assert done[asked.intent] == "done"
    models = result(clinic, asked)["models"]
    assert models["waiting"] == [str(new)]
    assert clinic.versions("model") == [new.version]
    registry = Models(clinic.settings.tracking_url, "nafld")
    assert [one.dataset for one in registry.versions()] == [str(new)]
    held = [path.read_text() for path in (clinic.storage().root / "artifacts").rglob("f")]
    assert held == ["new", "new"]
    with clinic.state.reading() as tx:
        retrain = outbox.get(tx, models["retrain"])
        assert retrain is not None
        assert (retrain.step, retrain.cause, retrain.payload["retrain"]) == ("lifecycle", f"erasure-{asked.secret[8:]}", True)
        assert [row.body["intent"] for row in ledger.rows(tx, kind="retrain-trigger")] == [retrain.id]

    newer = clinic.publish("model", {"model/MLmodel": "newer"}, {"features": f"nafld-features@{clinic.versions('features')[0]}"})
    folder = clinic.settings.home / "drafts" / "new"
    from flows.adapters.models import TrainingRecord

    record = TrainingRecord(str(newer), "f@f", "nafld/train/newer/test", folder / "model", folder / "plots", {}, {})
    made = registry.log_training(record, site=HOME, artifacts=clinic.storage().path("artifacts", "nafld"))
    registry.set_alias(CHALLENGER, made.version)
    later = asyncio.run(erasing.carry_out(clinic.state, clinic.settings, sites, owner="run-2"))
    assert list(later.values()) == [f"`{new}` is removed"]
    assert clinic.versions("model") == [newer.version]
    with clinic.state.reading() as tx:
        assert ledger.rows(tx, kind="erasure")[-1].body["model_removed"] == str(new)


# what control sends, and what a site takes


def test_a_task_that_control_did_not_sign_is_refused(clinic: Clinic, sites: Sites) -> None:
    """A run started by hand, with another task's ticket or none: nothing is removed, and the ledger says so."""
    everywhere(clinic)
    with clinic.state.transaction() as tx:
        intent = outbox.Intent.of("nafld", "purge", "forged", HOME, due_at=AS_OF, payload={"do": "remove", "versions": ["nafld-raw@x"]})
        outbox.ensure(tx, intent)
    before = clinic.versions("raw")
    with acting_as(HOME, "onprem-fra-k8s"), pytest.raises(GuardRefused):
        site_tasks.run(site_tasks.SiteOrder("nafld", intent.id, "r"), settings=clinic.settings)
    assert clinic.versions("raw") == before
    with clinic.state.reading() as tx:
        assert [row.body["intent"] for row in ledger.rows(tx, kind="guard-refusal")] == [intent.id]
        assert outbox.get(tx, intent.id).state == outbox.OPEN  # type: ignore[union-attr]


@pytest.mark.parametrize("change", ["payload", "site", "again"])
def test_a_changed_moved_or_replayed_task_is_refused(clinic: Clinic, change: str) -> None:
    """The ticket is for this payload, this site and one run."""
    with clinic.state.transaction() as tx:
        intent = outbox.Intent.of("nafld", "purge", "t", HOME, due_at=AS_OF, payload={"do": "remove", "versions": []})
        outbox.ensure(tx, intent)
        outbox.claim(tx, intent.id, owner="o", at=datetime.now(UTC), stale_after=site_tasks.STALE_AFTER)
    order = site_tasks.SiteOrder("nafld", intent.id, "run-1")
    pool = "onprem-fra-k8s"
    ticket = site_tasks.issue(
        clinic.state, clinic.settings, f"purge/{pool}", order, intent.payload, key=f"{intent.id}#0", at=datetime.now(UTC)
    )
    sent, site = site_tasks.SiteOrder("nafld", intent.id, "run-1", ticket), HOME
    if change == "payload":
        with clinic.state.transaction() as tx:
            outbox.get(tx, intent.id).payload = {"do": "remove", "versions": ["nafld-raw@x"]}  # type: ignore[union-attr]
    elif change == "site":
        site = AWAY
    else:
        with acting_as(HOME, pool):
            site_tasks.run(sent, settings=clinic.settings)
        sent = site_tasks.SiteOrder("nafld", intent.id, "run-2", ticket)
    with acting_as(site, pool), pytest.raises(GuardRefused):
        site_tasks.run(sent, settings=clinic.settings)


def test_a_lost_secret_keeps_the_request_open(clinic: Clinic, sites: Sites) -> None:
    """The same command again puts it there and goes on with the same request."""
    everywhere(clinic)
    asked = erasing.ask(clinic.state, clinic.settings, OFFICER, "nafld", WHO, key=KEY, apply=True, at=datetime.now(UTC))
    (told_of,) = asyncio.run(erasing.carry_out(clinic.state, clinic.settings, sites, owner="run-1")).values()
    assert "the secret with the subject's key is not there" in told_of
    again, done = erase(clinic, sites)
    assert again == asked
    assert done == {asked.intent: "done"}


# crashes


CRASHES: dict[str, tuple[Any, str]] = {
    "while a version is written": (subject_search, "without"),
    "once it is published": (SiteStorage, "publish"),
    "before it is on record": (replicas, "add"),
    "before the old one is forgotten": (replicas, "remove"),
    "before the old one is removed": (SiteStorage, "remove"),
}


@pytest.mark.parametrize("call", [1, 2, 3, 4])
@pytest.mark.parametrize("where", CRASHES)
def test_a_kill_anywhere_is_gone_on_from(clinic: Clinic, sites: Sites, where: str, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same versions as without it, nothing of the person, and one row in the ledger."""
    everywhere(clinic)
    owner, name = CRASHES[where]
    plain, calls = getattr(owner, name), 0

    def dies(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and name == "publish":
            plain(*arguments, **keywords)
        if calls == call:
            raise KeyboardInterrupt
        return plain(*arguments, **keywords)

    monkeypatch.setattr(owner, name, dies)
    with pytest.raises(KeyboardInterrupt):
        erase(clinic, sites)
    monkeypatch.undo()
    with clinic.state.transaction() as tx:  # what the reconciler does once the run is over
        for row in erasures.unfinished(tx):
            outbox.fail(tx, row.id, "its run ended without a word", datetime.now(UTC))
            for task in outbox.recent(tx, state=outbox.RUNNING, limit=100):
                outbox.fail(tx, task.id, "its run ended without a word", datetime.now(UTC))
    asked, done = erase(clinic, sites)
    assert done == {asked.intent: "done"}
    assert traces(clinic) == []
    with tempfile.TemporaryDirectory() as folder:
        calm = a_clinic(Path(folder))
        everywhere(calm)
        erase(calm, Sites(calm.settings))
        for kind in ("raw", "quarantine", "features", "predictions"):
            assert clinic.versions(kind) == calm.versions(kind)
    with clinic.state.reading() as tx:
        assert len(ledger.rows(tx, kind="erasure")) == 1
        assert replicas.sites(tx, "nafld-raw", clinic.versions("raw")[0]) == [AWAY, HOME]


def test_a_folder_that_was_half_removed_is_finished(clinic: Clinic) -> None:
    """Its manifest went first: no version any more, but still the person's rows."""
    ref = clinic.raw([7])
    folder = clinic.storage().path("datasets", ref.dataset, ref.version)
    (folder / "manifest.json").unlink()
    erasing_at_site.erase(place(clinic), SUBJECT, remove=(), artifacts=(), serving=Serving())
    assert traces(clinic) == []


# what ingest does from then on


@pytest.fixture
def context(clinic: Clinic) -> Callable[[], StepContext]:
    class Named:
        name = "nafld"

    def make() -> StepContext:
        return StepContext(
            settings=clinic.settings,
            workload=Named(),  # type: ignore[arg-type]
            step="ingest",
            site=HOME,
            pool="p",
            storage=clinic.storage(),
            state=clinic.state,
            as_of=AS_OF,
            intent_id="i",
            decision_id=None,
            inputs={},
            label=None,  # type: ignore[arg-type]
        )

    return make


def test_a_source_that_still_holds_the_person_does_not_bring_them_back(
    clinic: Clinic, sites: Sites, context: Callable[[], StepContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ingest leaves the rows out, by the keyed reference alone."""
    erase(clinic, sites)
    monkeypatch.setenv(erased_rows.KEY_VARIABLE, KEY)
    assert list(erased_rows.left_out(context(), rows([1, 7, 8]))["patient"]) == [patient(1), patient(8)]
    assert list(erased_rows.left_out(context(), pd.DataFrame({"city": ["Oslo"]}))["city"]) == ["Oslo"]


def test_without_the_key_nothing_is_taken_in(
    clinic: Clinic, sites: Sites, context: Callable[[], StepContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather no new data than a person who was erased."""
    monkeypatch.delenv(erased_rows.KEY_VARIABLE, raising=False)
    assert len(erased_rows.left_out(context(), rows([1, 7]))) == 2
    erase(clinic, sites)
    with pytest.raises(UserError, match="the key that tells whom is not here"):
        erased_rows.left_out(context(), rows([1, 7]))


# whatever the placement


PEOPLE = st.lists(st.sampled_from([1, 7, 70, 77, 8]), min_size=1, max_size=5)


@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.sampled_from(["raw", "features", "quarantine", "predictions"]), st.sampled_from([HOME, AWAY]), PEOPLE), max_size=5
    )
)
def test_wherever_the_rows_are_no_byte_stays_and_no_other_row_changes(placed: list[tuple[str, str, list[int]]]) -> None:
    """Random people in random versions at random sites; person 7 goes, 70 and 77 stay."""
    with tempfile.TemporaryDirectory() as folder:
        clinic = a_clinic(Path(folder))
        for kind, site, people in placed:
            clinic.publish(kind, {"t.parquet": rows(people)}, {"rows": len(people)}, site=site)
        before = _others(clinic)
        for site in (HOME, AWAY):
            erasing_at_site.erase(place(clinic, site), SUBJECT, remove=(), artifacts=(), serving=Serving())
        assert traces(clinic) == []
        assert _others(clinic) == before
        with clinic.state.reading() as tx:
            recorded = {(row.dataset, row.version, row.site) for each in replicas.by_dataset(tx).values() for row in each}
        assert recorded == {(f"nafld-{kind}", version, site) for site, kind, version in _resting(clinic)}


def _resting(clinic: Clinic) -> list[tuple[str, str, str]]:
    kinds = ("raw", "features", "quarantine", "predictions")
    return [(site, kind, version) for site in (HOME, AWAY) for kind in kinds for version in clinic.versions(kind, site)]


def _others(clinic: Clinic) -> set[tuple[str, str, str]]:
    """Every distinct table at each site without person 7, as text."""
    found = set()
    for site, kind, version in _resting(clinic):
        frame = pd.read_parquet(clinic.storage(site).open(f"nafld-{kind}", version) / "t.parquet")
        left = frame[frame["patient"] != WHO]
        if len(left):
            found.add((site, kind, left.to_csv(index=False)))
    return found
