"""Labels of an Atlas server (an emulator of its REST API) come into the state database, and placement reads them only from there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deployments.cli.catalog import app
from deployments.cli.main import app as main_app
from flows.adapters.settings import Settings
from flows.core.errors import PolicyDenied, Unavailable, UserError
from flows.core.governance.labels import Classification
from flows.services import importing_labels, placing, publishing
from flows.services.declarations import Declarations
from flows.services.importing_labels import Import, import_labels
from flows.services.replaying import Replay
from flows.store import decisions, imported_labels, ledger
from flows.store.database import State
from tests.emulators.atlas_server import AtlasServer, serving, status
from tests.tickets import keyed

BRIDGES = """bridges:
  - name: here
    kind: atlas
    url: {url}
    capacity_units: 40
    entries:
      nafld-raw: {{type: hive_table, qualified_name: clinic.raw}}
      flight_delay-raw: {{type: hive_table, qualified_name: air.raw}}
    classifications:
      PHI: {{classification: restricted, regimes: [gdpr, hipaa], residency: [EU]}}
      GERMANY: {{residency: [DE]}}
      AMERICA: {{residency: [US]}}
      SHARED: {{classification: internal}}
    ignored: [ETL]
"""
INTENT = "nafld/ingest/2013-07-01/manual"


@pytest.fixture
def atlas(monkeypatch: pytest.MonkeyPatch) -> Iterator[AtlasServer]:
    made = AtlasServer()
    monkeypatch.setenv("TRADEWIND_CATALOG_HERE_USER", made.user)
    monkeypatch.setenv("TRADEWIND_CATALOG_HERE_PASSWORD", made.password)
    made.add("hive_table", "clinic.raw", "PHI")
    made.add("hive_table", "air.raw", "SHARED", "ETL")
    with serving(made) as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path, atlas: AtlasServer) -> Settings:
    shipped = Settings().deployments
    declared = shutil.copytree(shipped, tmp_path / "deployments", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (declared / "catalogs.yaml").write_text(BRIDGES.format(url=atlas.url))
    found = keyed(Settings(home=tmp_path / "home", deployments=declared))
    State(found.state_url).migrate()
    return found


def imported(settings: Settings, *, at: datetime | None = None) -> Import:
    declared = Declarations.declared(settings)
    (done,) = import_labels(
        settings, declared.bridges, declared.catalog, declared.estate.blocs, principal="ada", at=at or datetime.now(UTC)
    )
    return done


def kinds(settings: Settings, kind: str) -> list[Any]:
    with State(settings.state_url).reading() as tx:
        return [row.body for row in ledger.rows(tx, kind=kind)]


def placed(settings: Settings, workload: str = "nafld", at: datetime | None = None) -> dict[str, Any]:
    order = placing.PlaceOrder(workload, "ingest", INTENT.replace("nafld", workload), {}, "scheduler")
    return placing.place_step(State(settings.state_url), settings, order, at=at or datetime.now(UTC))


def rules(decision: dict[str, Any], pool: str) -> set[str]:
    return {reason["rule"] for row in decision["rejected"] if row["pool"] == pool for reason in row["reasons"]}


def test_what_was_imported_holds_in_the_next_decision(settings: Settings, atlas: AtlasServer) -> None:
    """Tightened there, forbidden here; and the decision's own catalog document says so."""
    imported(settings)
    assert placed(settings)["chosen"]["pool"] == "onprem-fra-k8s"
    atlas.classify("air.raw", "PHI")
    imported(settings)
    decision = placed(settings, "flight_delay")
    assert decision["chosen"] is None
    assert "residency" in rules(decision, "gcp-us-central1-vertex")
    with State(settings.state_url).reading() as tx:
        stored = decisions.inputs(tx, decision["decision_id"])["catalog"]
    (entry,) = [one for one in stored["entries"] if one["name"] == "flight_delay-raw"]
    assert entry["imported"][0]["label"]["classification"] == "restricted"


def test_a_decision_never_calls_a_bridge(settings: Settings, atlas: AtlasServer) -> None:
    """It reads the local store alone."""
    imported(settings)
    atlas.seen.clear()
    placed(settings)
    assert atlas.seen == []


def test_a_decision_replays_byte_for_byte_after_another_import(settings: Settings, atlas: AtlasServer) -> None:
    """From its own catalog document: neither the bridge nor what it said since is looked at."""
    placed(settings)  # stale: that is reproduced too
    imported(settings)
    placed(settings)
    atlas.classify("clinic.raw", "PHI", "AMERICA")
    imported(settings)
    atlas.seen.clear()
    found = list(Replay(State(settings.state_url)).run())
    assert [(row.problem, row.reproduced) for row in found] == [("", True)] * 2
    assert atlas.seen == []


def test_before_the_first_import_and_after_its_time_it_is_stale(settings: Settings) -> None:
    """For the entries of the bridge, until it is imported again."""
    decision = placed(settings)
    assert decision["chosen"] is None
    assert rules(decision, "onprem-fra-k8s") == {"stale-catalog"}
    now = datetime.now(UTC)
    imported(settings, at=now)
    assert placed(settings, at=now + timedelta(hours=23))["chosen"] is not None
    assert rules(placed(settings, at=now + timedelta(hours=25)), "onprem-fra-k8s") == {"stale-catalog"}


def test_importing_again_changes_nothing_but_the_time(settings: Settings) -> None:
    """One change of label in the ledger, not two."""
    first, second = imported(settings), imported(settings)
    assert (set(first.changed), second.changed) == ({"nafld-raw", "flight_delay-raw"}, ())
    assert len(kinds(settings, "label-change")) == 2
    assert [body["stored"] for body in kinds(settings, "import")] == [True, True]


@pytest.mark.parametrize("fault", ["unknown word", "deleted", "clash"])
def test_one_entry_that_fails_stores_nothing_of_its_bridge(settings: Settings, atlas: AtlasServer, fault: str) -> None:
    """Its name and why are told; what was known before stays, and grows old."""
    imported(settings)
    before = rows(settings)
    atlas.classify("clinic.raw", *({"clash": ("PHI", "AMERICA")}.get(fault) or ("NEW_WORD",)))
    atlas.classify("air.raw", "PHI")
    if fault == "deleted":
        next(one for one in atlas.entities.values() if one["attributes"]["qualifiedName"] == "clinic.raw")["status"] = "DELETED"
    done = imported(settings)
    assert (set(done.failed), done.changed) == ({"nafld-raw"}, ())
    assert rows(settings) == before
    assert kinds(settings, "import")[-1]["failed"] == done.failed


def rows(settings: Settings) -> list[dict[str, Any]]:
    with State(settings.state_url).reading() as tx:
        return [row.to_dict() for row in imported_labels.rows(tx)]


def test_a_crash_between_two_rows_stores_none(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """One transaction."""
    put, calls = imported_labels.put, [0]

    def dies(*arguments: Any, **keywords: Any) -> bool:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return put(*arguments, **keywords)

    monkeypatch.setattr(imported_labels, "put", dies)
    with pytest.raises(KeyboardInterrupt):
        imported(settings)
    assert (rows(settings), kinds(settings, "label-change")) == ([], [])


def test_the_stricter_label_wins_and_the_conflict_is_reported(settings: Settings, atlas: AtlasServer) -> None:
    """Narrower there, wider here, and no country left."""
    atlas.classify("clinic.raw", "PHI", "GERMANY")
    atlas.classify("air.raw", "PHI")
    done = {found.dataset: found for found in imported(settings).conflicts}
    assert done["nafld-raw"].holds is not None and done["nafld-raw"].holds.residency == {"DE"}
    assert done["flight_delay-raw"].holds is not None and done["flight_delay-raw"].holds.classification is Classification.RESTRICTED
    assert {found["dataset"] for found in kinds(settings, "import")[0]["conflicts"]} == set(done)
    atlas.classify("clinic.raw", "AMERICA")
    assert [found.holds for found in imported(settings).conflicts if found.dataset == "nafld-raw"] == [None]
    assert placed(settings)["chosen"] is None


def test_what_is_no_longer_declared_is_forgotten(settings: Settings) -> None:
    """At the next import."""
    imported(settings)
    file = settings.deployments / "catalogs.yaml"
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if "air.raw" not in line))
    imported(settings)
    assert [row["dataset"] for row in rows(settings)] == ["nafld-raw"]


def test_the_reconciler_imports_at_half_time_and_goes_on_when_it_cannot(settings: Settings, atlas: AtlasServer) -> None:
    """Once when it is due; a server that refuses is logged."""
    now = datetime.now(UTC)
    assert importing_labels.refresh(settings, at=now) == ["here"]
    assert importing_labels.refresh(settings, at=now + timedelta(hours=11)) == []
    atlas.faults.append(status(401))
    assert importing_labels.refresh(settings, at=now + timedelta(hours=13)) == []
    assert importing_labels.refresh(settings, at=now + timedelta(hours=13)) == ["here"]


def test_the_worker_is_held_to_what_was_imported_since(settings: Settings, atlas: AtlasServer) -> None:
    """The declarations that it loads hold the import."""
    imported(settings)
    atlas.classify("clinic.raw", "PHI", "GERMANY")
    imported(settings)
    found = Declarations.load(settings)
    label = found.catalog.label_of("nafld-model", datetime.now(UTC), found.estate.blocs)
    assert label is not None and label.residency == {"DE"}


def test_datasets_models_and_lineage_are_published_once(settings: Settings, atlas: AtlasServer) -> None:
    """By qualified name; neither an owner nor an approver leaves."""
    imported(settings)
    state, declared = State(settings.state_url), Declarations.load(settings)
    first, second = (publishing.publish(state, declared, declared.bridges, principal="ada", at=datetime.now(UTC))["here"] for _ in range(2))
    assert (first.failed, second.created, second.updated) == ({}, (), ())
    model = atlas.named("tradewind_dataset", "tradewind://onprem-fra/nafld-model")
    train = atlas.named("tradewind_process", "tradewind://nafld/train")
    assert model is not None and model["attributes"]["classification"] == "restricted"
    assert train is not None
    assert [one["uniqueAttributes"]["qualifiedName"] for one in train["attributes"]["outputs"]] == ["tradewind://onprem-fra/nafld-model"]
    told = json.dumps([one for one in atlas.entities.values() if one["typeName"].startswith("tradewind_")])
    assert "clinic" not in told and "airline-analytics" not in told
    assert [body["created"] for body in kinds(settings, "publication")] == [len(first.created), 0]


def command(settings: Settings, monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    monkeypatch.setenv("TRADEWIND_HOME", str(settings.home))
    monkeypatch.setenv("TRADEWIND_DEPLOYMENTS", str(settings.deployments))
    return CliRunner().invoke(app, list(words))


def test_the_commands_tell_what_they_did(settings: Settings, atlas: AtlasServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Import, bridges and publish, in words and as JSON; a failure is exit 1."""
    assert "never read, stale" in command(settings, monkeypatch, "bridges").output
    done = command(settings, monkeypatch, "import")
    assert (done.exit_code, "2 entries imported, 2 labels changed" in done.output) == (0, True)
    assert not any(row["stale"] for row in json.loads(command(settings, monkeypatch, "bridges", "--json").output))
    published = json.loads(command(settings, monkeypatch, "publish", "--json").output)
    assert published["bridges"]["here"]["failed"] == {}
    atlas.classify("clinic.raw", "NEW_WORD")
    failed = command(settings, monkeypatch, "import", "--bridge", "here")
    assert failed.exit_code == 1
    assert "nafld-raw: no meaning is declared for `NEW_WORD`" in failed.output
    unknown = command(settings, monkeypatch, "import", "--bridge", "there")
    assert isinstance(unknown.exception, UserError)


@pytest.mark.parametrize(
    ("roles", "may"), [("[data-scientist, approver]", ()), ("[operator]", ("import",)), ("[compliance-officer]", ("import", "publish"))]
)
def test_whoever_has_no_role_for_it_neither_imports_nor_publishes(
    settings: Settings, atlas: AtlasServer, monkeypatch: pytest.MonkeyPatch, roles: str, may: tuple[str, ...]
) -> None:
    """Refused before the other catalog is asked anything or anything is stored; whoever may is on record."""
    file = settings.deployments / "roles.yaml"
    file.write_text(file.read_text().replace("principals: {}", f"principals: {{ada: {roles}}}"))
    monkeypatch.setenv("TRADEWIND_PRINCIPAL", "ada")
    for action, kind in (("import", "import"), ("publish", "publication")):
        atlas.seen.clear()
        done = command(settings, monkeypatch, action)
        if action in may:
            assert done.exit_code == 0
            assert len(kinds(settings, kind)) == 1
        else:
            assert isinstance(done.exception, PolicyDenied)
            assert f"`ada` may not {action} `catalog`: default-deny" in str(done.exception)
            assert (atlas.seen, kinds(settings, kind)) == ([], [])


REQUEST = """workload: {0}
step: train
requested_by: {{user: ada, roles: [ml-engineer]}}
datasets: [{{name: {0}-raw}}]
runtime: {{p50_hours: 1, p90_hours: 2}}
"""


def dry(settings: Settings, monkeypatch: pytest.MonkeyPatch, workload: str = "nafld", *words: str) -> Any:
    """`tradewind place` of a training."""
    path = settings.home / "request.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(REQUEST.format(workload))
    monkeypatch.setenv("TRADEWIND_HOME", str(settings.home))
    monkeypatch.setenv("TRADEWIND_DEPLOYMENTS", str(settings.deployments))
    monkeypatch.setenv("COLUMNS", "400")
    return CliRunner().invoke(main_app, ["place", str(path), *words])


def test_place_tells_what_was_imported_and_whose_label_holds(
    settings: Settings, atlas: AtlasServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bridge, time, label, files' label and the one that holds, in words and as JSON; the dry run is bound by it, as a dispatch is."""
    atlas.classify("clinic.raw", "PHI", "GERMANY")
    imported(settings)
    done = dry(settings, monkeypatch)
    assert "nafld-raw: here says restricted gdpr,hipaa DE, read 20" in done.output
    assert "it is the stricter one and holds (files: restricted gdpr,hipaa EU; holds: restricted gdpr,hipaa DE)" in done.output
    row = json.loads(dry(settings, monkeypatch, "nafld", "--json").output)
    (told,) = row["imported"]
    assert (told["dataset"], told["bridge"], told["stale"], told["stricter"]) == ("nafld-raw", "here", False, "bridge")
    assert (told["holds"]["residency"], told["files"]["residency"]) == (["DE"], ["EU"])
    assert row["output_label"]["residency"] == ["DE"]
    assert datetime.fromisoformat(told["as_of"]) <= datetime.now(UTC)
    assert "the files are stricter" not in dry(settings, monkeypatch, "flight_delay").output
    atlas.classify("clinic.raw", "AMERICA")
    imported(settings)
    clash = dry(settings, monkeypatch)
    assert clash.exit_code == 3 and "no country is left: placed nowhere" in clash.output


def test_what_is_stale_is_shown_and_placed_nowhere(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too old, never read, and without a state database, which a dry run does not need."""
    for as_of, read in ((datetime.now(UTC) - timedelta(hours=25), "read 20"), (None, "never read")):
        if as_of is not None:
            imported(settings, at=as_of)
        else:
            (settings.home / "state.db").unlink()
        done = dry(settings, monkeypatch)
        assert done.exit_code == 3
        assert read in done.output and "STALE after 24 h: placed nowhere until it is imported again" in done.output
        row = json.loads(dry(settings, monkeypatch, "nafld", "--json").stdout)
        assert [one["stale"] for one in row["imported"]] == [True]
        assert "stale-catalog" in rules(row, "onprem-fra-k8s")
        assert "here (stale" in command(settings, monkeypatch, "show").output


def test_steps_placed_together_tell_it_too(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for all steps."""
    imported(settings)
    assert "nafld-raw: here says" in dry(settings, monkeypatch, "nafld", "--joint").output
    row = json.loads(dry(settings, monkeypatch, "nafld", "--joint", "--json").output)
    assert [one["dataset"] for one in row["imported"]] == ["nafld-raw"]


def test_the_catalog_shows_what_was_imported(settings: Settings, atlas: AtlasServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an entry, and of what it was made from; a clash made elsewhere keeps no other entry from being shown."""
    atlas.classify("clinic.raw", "PHI", "GERMANY")
    imported(settings)
    (row,) = json.loads(command(settings, monkeypatch, "show", "nafld-model", "--json").output)
    assert [(one["dataset"], one["bridge"], one["stricter"]) for one in row["imported"]] == [("nafld-raw", "here", "bridge")]
    assert (row["label"]["residency"], row["clash"]) == (["DE"], None)
    assert "nafld-raw (here)" in row["label_from"]
    page = command(settings, monkeypatch, "show", "nafld-raw").output
    assert "from other catalogs (the stricter label holds)\n  nafld-raw: here says restricted gdpr,hipaa DE, read 20" in page
    listed = command(settings, monkeypatch, "show").output.splitlines()
    assert listed[0].split()[-1] == "imported"
    assert {line.split()[0]: line.rpartition("  ")[2].strip() for line in listed}["nafld-raw"] == "here (stricter)"
    atlas.classify("clinic.raw", "AMERICA")
    imported(settings)
    assert "no country is left: placed nowhere" in command(settings, monkeypatch, "show", "nafld-raw").output
    rows = {row["name"]: row for row in json.loads(command(settings, monkeypatch, "show", "--json").output)}
    assert rows["nafld-raw"]["label"] is None and "nafld-raw (here)" in rows["nafld-raw"]["clash"]
    assert rows["flight_delay-raw"]["label"] is not None


def test_without_a_bridge_nothing_changes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """No column, no key beside the decision."""
    (settings.deployments / "catalogs.yaml").write_text("bridges: []\n")
    assert "imported" not in json.loads(dry(settings, monkeypatch, "nafld", "--json").output)
    assert "imported" not in command(settings, monkeypatch, "show").output


def test_a_declared_bridge_without_a_state_database_is_no_silent_pass(settings: Settings) -> None:
    """What is not known to be fresh may not be assumed."""
    (settings.home / "state.db").unlink()
    with pytest.raises((Unavailable, UserError)):
        Declarations.load(settings)
