"""OpenLineage events of a whole run: valid by the published schema, without a value of a row, and never in a step's way."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource

from flows.adapters.lineage import Lineage, columns_of
from flows.adapters.settings import PROJECT_ROOT, Settings
from flows.core.errors import TradewindError
from flows.core.governance.lineage import Column, Run, event, run_uuid
from flows.services import lifecycle, lineage
from flows.services.context import StepContext, StepResult
from flows.services.lifecycle import LifecycleOrder
from flows.store.database import State
from tests.services.tiny import TinyDispatcher, mistaken, publish, tiny_steps
from tests.tickets import keyed

AS_OF = datetime(2013, 7, 1, tzinfo=UTC)
AT = datetime(2026, 1, 5, 8, tzinfo=UTC)
GOLDEN = Path(__file__).parents[1] / "golden" / "openlineage"
PLANTED = "patient-4711-Erika-Mustermann"


@cache
def registry() -> Registry[Any]:
    """The specification and its facets, and our own facet."""
    files = [
        GOLDEN / "OpenLineage.json",
        *sorted((GOLDEN / "facets").glob("*.json")),
        *sorted((PROJECT_ROOT / "docs/schemas").glob("*.json")),
    ]
    return Registry().with_resources(
        [(json.loads(file.read_text())["$id"], Resource.from_contents(json.loads(file.read_text()))) for file in files]
    )


def check(made: dict[str, Any]) -> None:
    """An event fits the specification, and each of its facets the schema that it names itself."""
    checker = FormatChecker()
    Draft202012Validator({"$ref": made["schemaURL"]}, registry=registry(), format_checker=checker).validate(made)
    parts = [made["run"], made["job"], *made["inputs"], *made["outputs"]]
    for facet in (facet for part in parts for facet in part["facets"].values()):
        Draft202012Validator({"$ref": facet["_schemaURL"]}, registry=registry(), format_checker=checker).validate(facet)


def tabled(ctx: StepContext) -> StepResult:
    """A step whose dataset has two tables of a patient's rows."""
    with ctx.storage.draft(ctx.dataset("raw")) as draft:
        for table in ("patients", "visits"):
            (draft / table).mkdir()
            frame = pd.DataFrame({"name": [PLANTED], "weight": [83.5]})
            frame.to_parquet(draft / table / "all.parquet")
        made = ctx.storage.publish(ctx.dataset("raw"), draft, {"note": PLANTED})
    return StepResult(outputs=(made, *publish(ctx).outputs[1:]), summary="ingest done")


def failing(ctx: StepContext) -> StepResult:
    """A step whose error tells what a row says."""
    raise ValueError(f"no weight of {PLANTED}")


def run(settings: Settings, **steps: str) -> None:
    """One lifecycle with these steps in place of the ones that do nothing."""
    order = LifecycleOrder("nafld", AS_OF, "manual", "lifecycle-run-1", "scheduler")
    with tiny_steps(**steps):
        asyncio.run(lifecycle.run(order, settings=settings, dispatcher=TinyDispatcher(settings)))


def events(settings: Settings, name: str = "events.jsonl") -> list[dict[str, Any]]:
    """What was written, in order."""
    return [json.loads(line) for line in (settings.home / "lineage" / name).read_text().splitlines()]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = keyed(Settings(home=tmp_path / "home"))
    State(found.state_url).migrate()
    return found


def test_every_event_of_a_whole_run_is_valid(settings: Settings) -> None:
    """Each placed step starts and completes once, under one run id of its own."""
    run(settings, ingest=f"{__name__}:tabled")
    made = events(settings)
    for one in made:
        check(one)
    by_run: dict[str, list[str]] = {}
    for one in made:
        by_run.setdefault(one["run"]["runId"], []).append(one["eventType"])
    assert all(kinds == ["START", "COMPLETE"] for kinds in by_run.values())
    assert {one["job"]["name"].partition(".")[2] for one in made} >= {"ingest", "materialize", "train", "evaluate", "score", "watch"}


def test_an_event_tells_the_data_the_columns_the_decision_and_the_parent(settings: Settings) -> None:
    """A version at a site by name, two tables with their types, the pool that was chosen, the lifecycle's run."""
    run(settings, ingest=f"{__name__}:tabled")
    done = next(one for one in events(settings) if one["eventType"] == "COMPLETE" and one["job"]["name"] == "nafld.ingest")
    raw = next(data for data in done["outputs"] if data["name"] == "nafld-raw")
    assert (raw["namespace"], len(raw["facets"]["version"]["datasetVersion"])) == ("onprem-fra", 16)
    columns = [{"name": "name", "type": "string"}, {"name": "weight", "type": "double"}]
    fields = raw["facets"]["schema"]["fields"]
    assert [(field["name"], [c["name"] for c in field["fields"]]) for field in fields] == [
        ("patients", ["name", "weight"]),
        ("visits", ["name", "weight"]),
    ]
    assert fields[0]["fields"][1] == columns[1]
    placed = done["run"]["facets"]["tradewind_placement"]
    assert (placed["pool"], placed["label"]["classification"]) == ("onprem-fra-k8s", "restricted")
    assert {row["pool"] for row in placed["rejected"]} >= {"aws-us-east-1-ecs"}
    assert done["run"]["facets"]["parent"]["run"]["runId"] == run_uuid("lifecycle-run-1")


def test_no_event_holds_a_value_of_a_row(settings: Settings) -> None:
    """Neither from a file, nor a producer's fact, nor the text of an error."""
    run(settings, ingest=f"{__name__}:tabled")
    with pytest.raises(TradewindError, match="failed with ValueError"):
        order = LifecycleOrder("nafld", datetime(2013, 8, 1, tzinfo=UTC), "manual", "run-2", "scheduler")
        with tiny_steps(materialize=f"{__name__}:failing"):
            asyncio.run(lifecycle.run(order, settings=settings, dispatcher=TinyDispatcher(settings)))
    written = (settings.home / "lineage" / "events.jsonl").read_text()
    assert '"FAIL"' in written
    assert "patient-4711" not in written


def test_a_step_that_fails_ends_in_fail_with_the_kind_of_error(settings: Settings) -> None:
    """And nothing is claimed to have been made."""
    with pytest.raises(Exception, match="ingest"):
        run(settings, ingest=f"{mistaken.__module__}:mistaken")
    start, fail = events(settings)
    check(fail)
    assert (start["eventType"], fail["eventType"], fail["outputs"]) == ("START", "FAIL", [])
    assert fail["run"]["facets"]["errorMessage"]["message"] == "UserError"


@pytest.mark.parametrize(("run_id", "same"), [("1b4e28ba-2fa1-11d2-883f-0016d3cca427", True), ("nafld/train/2013-07-01/manual#0", False)])
def test_a_run_id_is_a_uuid(run_id: str, same: bool) -> None:
    """Its own where it is one, else one that is always the same."""
    assert (run_uuid(run_id) == run_id) is same
    assert run_uuid(run_id) == run_uuid(run_id)
    check(event("START", Run(run_id, "nafld", "train", run_id), at=AT))


class Sink(ThreadingHTTPServer):
    """A lineage server on this machine: keeps what comes, answers with `status` after `pause` seconds."""

    def __init__(self, port: int = 0) -> None:
        self.got: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.status, self.pause = 201, 0.0
        super().__init__(("127.0.0.1", port), Taker)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"


class Taker(BaseHTTPRequestHandler):
    """What takes an event."""

    server: Sink

    def do_POST(self) -> None:
        """Take one."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(self.server.pause)
        if self.server.status < 300:
            self.server.got.append(body)
        self.server.keys.append(self.headers.get("Authorization"))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def open_(sink: Sink) -> Iterator[Sink]:
    thread = threading.Thread(target=sink.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield sink
    finally:
        sink.shutdown()
        sink.server_close()
        thread.join()


def sending(settings: Settings, url: str, **more: Any) -> Settings:
    return Settings(home=settings.home, signing_key=settings.signing_key, lineage_url=url, lineage_timeout_seconds=0.3, **more)


def some(number: int) -> list[dict[str, Any]]:
    return [event("START", Run(f"r{index}", "nafld", "train"), at=AT) for index in range(number)]


def test_events_go_to_the_server_with_its_key(settings: Settings) -> None:
    """And none to a file."""
    with open_(Sink()) as sink:
        Lineage(sending(settings, sink.url, lineage_api_key="made-for-the-test")).emit(some(1)[0])
        assert (sink.got, sink.keys) == (some(1), ["Bearer made-for-the-test"])
    assert not (settings.home / "lineage").exists()


@pytest.mark.parametrize("fault", ["not there", "slow", "500"])
def test_a_server_that_is_down_keeps_no_step_waiting(settings: Settings, fault: str) -> None:
    """One time-out in a process, then straight to the spool; when it is back, everything is sent in order, once."""
    with open_(Sink()) as sink:
        sink.pause, sink.status = (1.0, 201) if fault == "slow" else (0.0, 500)
        given = sending(settings, "http://127.0.0.1:1" if fault == "not there" else sink.url)
        out = Lineage(given)
        for one in some(3):
            out.emit(one)
        assert events(settings, "spool.jsonl") == some(3)
        sink.pause, sink.status = 0.0, 201
        time.sleep(1.0 if fault == "slow" else 0)
        sink.got.clear()
        assert lineage.send_kept(sending(settings, sink.url)) == (3, 0)
        assert sink.got == some(3)
        assert lineage.send_kept(sending(settings, sink.url)) == (0, 0)


def test_a_step_is_not_failed_by_a_server_that_is_down(settings: Settings) -> None:
    """The whole run goes through, and its events wait."""
    run(sending(settings, "http://127.0.0.1:1"))
    assert {one["eventType"] for one in events(settings, "spool.jsonl")} == {"START", "COMPLETE"}


@pytest.mark.parametrize("broken", ["folder", "address"])
def test_a_step_is_not_failed_by_anything_that_is_wrong_with_lineage(settings: Settings, broken: str) -> None:
    """A folder that cannot be made, an address that is none."""
    if broken == "folder":
        (settings.home / "lineage").write_text("in the way")
    run(settings if broken == "folder" else sending(settings, "http://lineage.example"))
    assert (settings.home / "lineage").is_file() is (broken == "folder")


def test_what_a_server_takes_half_of_is_sent_from_there(settings: Settings) -> None:
    """And a line that a crash cut off is passed over."""
    out = Lineage(sending(settings, "http://127.0.0.1:1"))
    for one in some(4):
        out.emit(one)
    with (settings.home / "lineage" / "spool.jsonl").open("a") as file:
        file.write('{"eventType": "ST')
    with open_(Sink()) as sink:
        assert Lineage(sending(settings, sink.url)).flush(limit=2) == (2, 3)
        assert Lineage(sending(settings, sink.url)).flush() == (3, 0)
        assert sink.got == some(4)


def test_columns_of_one_table_are_the_dataset_s_own(tmp_path: Path) -> None:
    """A file beside the tables has none, and nothing without Parquet is opened."""
    pd.DataFrame({"n": [1]}).to_parquet(tmp_path / "features.parquet")
    assert columns_of(tmp_path.joinpath, {"features.parquet": "", "report.html": ""}) == (Column("n", "int64"),)
    assert columns_of((tmp_path / "none").joinpath, {"report.html": ""}) == ()


def test_an_event_without_a_decision_or_label_is_valid() -> None:
    """A step in control was not placed."""
    check(event("COMPLETE", replace(Run("r", "nafld", "promote"), parent="p"), at=AT))
