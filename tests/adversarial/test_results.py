"""What a step of restricted data hands back or leaves lying: numbers, labels of metrics, links, artifacts, reports, model files, caches."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.adapters.feature_tables import to_arrow, write_parquet
from flows.adapters.settings import Settings
from flows.adapters.storage import SiteStorage
from flows.core.errors import GuardRefused
from flows.placed import summary
from flows.services.context import DatasetRef, StepResult
from flows.services.evaluating import evaluate
from flows.services.frames import read_features
from flows.services.scoring import score
from flows.services.watching import watch
from tests.adversarial.test_words import MARK, PLANTED
from tests.integration.scanner import traces
from tests.services.conftest import World
from tests.tickets import trained


class Loop:
    """Training, evaluation, scoring and watching at one level: a planted value is a feature's rare category and the name of a slice."""

    def __init__(self, world: World, level: str) -> None:
        frame = read_features(world.context("train", features=world.features()))
        few = frame["kind"].where(frame.index % 60 != 0, PLANTED)  # fewer than a drift report takes for a group, enough for a model
        towns = frame["town"].map({"north": PLANTED, "south": "south"})
        with world.storage.draft("shops-features") as draft:
            write_parquet(to_arrow(frame.assign(kind=few, town=towns)), draft / "features.parquet")
            facts = {"as_of": "2013-07-01T00:00:00Z", "feature_service_version": "v"}
            made = world.storage.publish("shops-features", draft, facts)
        features = DatasetRef(made.dataset, made.version)
        self.world = world
        self.trained = trained(world.context("train", level=level, features=features))
        (version,) = self.trained.outputs
        self.champion = DatasetRef(version.dataset, version.version)
        given = {"features": features, "champion": self.champion}
        self.judged = evaluate(world.context("evaluate", level=level, challenger=self.champion, **given))
        self.scored = score(world.context("score", level=level, **given))
        self.watched = watch(world.context("watch", level=level, **given))
        self.results = (self.trained, self.judged, self.scored, self.watched)

    def page(self) -> str:
        """The drift report."""
        return (self.world.storage.open("shops-reports", self.watched.outputs[0].version) / "drift.html").read_text()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this process keeps what is temporary and what its libraries remember."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    for name in ("TMPDIR", "HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def loop(world: World, elsewhere: Path, caplog: pytest.LogCaptureFixture) -> Callable[[str], Loop]:
    """The loop at a level, every line of the project's own log kept."""
    caplog.set_level(logging.DEBUG, logger="flows")
    return lambda level: Loop(world, level)


def artifact(result: StepResult) -> str:
    """The page that is made of a result for Prefect, in control."""
    outputs = {version.dataset: f"{version.dataset}@{version.version}" for version in result.outputs}
    body: dict[str, Any] = {"outputs": outputs, "numbers": dict(result.numbers), "summary": result.summary, "site": "s", "pool": "p"}
    return summary(body) + str(sorted(result.links.items()))


def test_a_model_that_knows_a_value_by_heart_tells_control_nothing(
    loop: Callable[[str], Loop], elsewhere: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is in the model file, at its site: in no metric's label, parameter, tag, example, verdict, artifact, report, cache or log line."""
    made = loop("restricted")
    world = made.world
    told = [str((each.numbers, each.summary, dict(each.links))) + artifact(each) for each in made.results]
    facts = [str((dict(version.facts), sorted(version.files))) for each in made.results for version in each.outputs]
    assert PLANTED not in "".join(told) + "".join(facts) + caplog.text
    assert {part["value"] for part in made.judged.numbers["verdict"]["numbers"]["slices"]} == {"group 1", "group 2"}
    assert PLANTED not in made.page()
    assert not any("example" in name for name in made.trained.outputs[0].files)
    found = traces(world.settings.home, MARK)
    assert [path for path in found if world.storage.root not in path.parents] == []
    assert traces(elsewhere, MARK) == []
    assert {path.suffix for path in found} == {".parquet", ".pkl"}, "tables and the model at the site, as the scan must find them"


def test_rows_that_may_be_shown_are(loop: Callable[[str], Loop], elsewhere: Path) -> None:
    """The same loop at `internal`: label, verdict, report and example hold the value, so that their silence above it means something."""
    made = loop("internal")
    assert PLANTED in {part["value"] for part in made.judged.numbers["verdict"]["numbers"]["slices"]}
    assert PLANTED in made.page()
    assert any("example" in name for name in made.trained.outputs[0].files)
    (elsewhere / "left-behind").write_text(PLANTED)
    assert [path.name for path in traces(elsewhere, MARK)] == ["left-behind"]


def test_an_artifact_shows_what_it_is_given() -> None:
    """So that it is the steps, not the page, that keep a value out."""
    assert PLANTED in artifact(StepResult(summary=PLANTED))
    assert PLANTED in artifact(StepResult(numbers={"town": PLANTED}))


class TestASiteThatIsALink:
    """A site's folder replaced by a link: to another site's it is refused, to another disk it is that disk."""

    def linked(self, tmp_path: Path, target: str) -> Settings:
        """Settings whose `aws-us-east-1` is a link; the patients rest at `onprem-fra`."""
        settings = Settings(home=tmp_path / "home")
        home = SiteStorage("onprem-fra", settings.site_folder("onprem-fra"))
        with home.draft("nafld-raw") as draft:
            (draft / "rows.txt").write_text(PLANTED)
            home.publish("nafld-raw", draft, {})
        (tmp_path / "disk").mkdir()
        (settings.home / "sites" / "aws-us-east-1").symlink_to(settings.home / target)
        return settings

    @pytest.mark.parametrize("target", ["sites/onprem-fra", "sites/onprem-fra/datasets", "sites", "sites/./onprem-fra/../onprem-fra"])
    def test_it_opens_nothing_of_another_site(self, tmp_path: Path, target: str) -> None:
        """A step at the forbidden site would have read the patients as its own."""
        settings = self.linked(tmp_path, target)
        with pytest.raises(GuardRefused, match="is a link to"):
            settings.site_folder("aws-us-east-1")

    def test_without_that_wall_it_would(self, tmp_path: Path) -> None:
        """The store itself follows the folder that it is given."""
        settings = self.linked(tmp_path, "sites/onprem-fra")
        store = SiteStorage("aws-us-east-1", settings.home / "sites" / "aws-us-east-1")
        (version,) = store.versions("nafld-raw")
        assert re.search(PLANTED, (store.open("nafld-raw", version) / "rows.txt").read_text())

    def test_another_disk_is_fine(self, tmp_path: Path) -> None:
        """As people do when one is full."""
        settings = self.linked(tmp_path, "../disk")
        assert SiteStorage("aws-us-east-1", settings.site_folder("aws-us-east-1")).versions("nafld-raw") == []
