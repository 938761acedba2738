"""The estate's files: what is left out, what is refused, and that all mistakes of all files come at once."""

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.adapters.estate import load_estate
from flows.core.errors import UserError

SITES = """
- {id: a, cloud: aws, country: DE, operator_country: US, max_classification: restricted, certifications: {hipaa: 2028-12-31, dpf: null},
   timezone: Europe/Berlin, off_peak: [{from: "22:00", to: "06:00", multiplier: 0.6}]}
- {id: b, cloud: gcp, country: NO, operator_country: US, max_classification: internal}
"""
POOLS = "- {name: a-k8s, site: a, type: kubernetes, offers: ['m*'], capacity: {nodes: 2}}\n"
OFFERS = "site,InstanceType,vCPUs,MemoryGiB,Price,SpotPrice\na,m1,4,16,0.2,\na,c1,4,8,0.1,0.05\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {"sites.yaml": SITES, "pools.yaml": POOLS, "offers.csv": OFFERS}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_three_files_are_an_estate(folder: Path) -> None:
    """Without blocs, egress, latency and carbon there are none, and nothing fails."""
    estate = load_estate(folder)
    assert [offer.name for offer in estate.offers_of(estate.pool_by_name["a-k8s"])] == ["m1"]
    assert estate.egress_between("a", "b") is None
    assert not estate.blocs.contains(["EU"], "DE")


def test_speeds_name_offers_or_accelerators_and_their_source(folder: Path) -> None:
    """A name that no offer has would scale nothing: it is refused with its line, and so is a figure from nowhere."""
    speeds = folder / "speeds.csv"
    speeds.write_text("hardware,relative,source\nm1,0.5,a benchmark\n")
    estate = load_estate(folder)
    assert estate.speed_of(estate.offers[0]) == estate.speeds[0]
    speeds.write_text("hardware,relative,source\nm1,0.5,\nm9,2,a benchmark\nm1,0,a benchmark\n")
    with pytest.raises(UserError) as caught:
        load_estate(folder)
    told = str(caught.value)
    assert "speeds.csv:3" in told and "`m9` is neither an offer nor an accelerator" in told
    assert "speeds.csv:2" in told and "source" in told and "speeds.csv:4" in told


def test_norway_is_a_country_and_ten_at_night_a_time(folder: Path) -> None:
    """The values that plain YAML readers turn into false and 1320."""
    estate = load_estate(folder)
    assert estate.site_by_id["b"].country == "NO"
    assert estate.site_by_id["a"].off_peak[0].from_ == "22:00"


def test_prices_are_exact(folder: Path) -> None:
    """The decimal text of the file is the number that is reckoned with."""
    assert {offer.usd_per_hour for offer in load_estate(folder).offers} == {Decimal("0.2"), Decimal("0.1")}


def test_a_star_in_the_carbon_table_fills_what_no_row_names(folder: Path) -> None:
    """A named cell beats a named month, which beats the star."""
    rows = "grid_zone,month,hour_utc,g_per_kwh\nDE,*,*,300\nDE,7,12,100\nDE,7,*,200\n"
    (folder / "carbon.csv").write_text(rows)
    cells = load_estate(folder).carbon_by_cell
    assert len(cells) == 12 * 24
    assert (cells["DE", 1, 0], cells["DE", 7, 0], cells["DE", 7, 12]) == (Decimal(300), Decimal(200), Decimal(100))


@pytest.mark.parametrize("month", ["1", "01", "+1", "1.0"])
def test_a_cell_is_the_same_however_its_numbers_are_written(folder: Path, month: str) -> None:
    """It beats the star as `1` does, and is no second row for the cell."""
    (folder / "carbon.csv").write_text(f"grid_zone,month,hour_utc,g_per_kwh\nDE,*,0,300\nDE,{month},00,100\n")
    cells = load_estate(folder).carbon_by_cell
    assert (len(cells), cells["DE", 1, 0], cells["DE", 2, 0]) == (12, Decimal(100), Decimal(300))


MONTHS, HOURS = st.sampled_from(["1", "01", "1.0", "*", "13", "x"]), st.sampled_from(["0", "00", "-0", "*", "1.5", ""])


@given(st.lists(st.tuples(MONTHS, HOURS), max_size=6))
def test_no_carbon_table_ends_in_anything_but_an_estate_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]
) -> None:
    """Whatever stands in its cells."""
    folder = tmp_path_factory.mktemp("carbon")
    for name, text in {"sites.yaml": SITES, "pools.yaml": POOLS, "offers.csv": OFFERS}.items():
        (folder / name).write_text(text)
    (folder / "carbon.csv").write_text("grid_zone,month,hour_utc,g_per_kwh\n" + "".join(f"DE,{month},{hour},1\n" for month, hour in cells))
    try:
        load_estate(folder)
    except UserError as error:
        assert all(problem.file == str(folder / "carbon.csv") and problem.line and problem.field for problem in error.problems)


def test_all_mistakes_of_all_files_come_at_once(folder: Path) -> None:
    """Each with its own file and line."""
    (folder / "sites.yaml").write_text(SITES.replace("country: NO, operator", "contry: NO, operator"))
    (folder / "pools.yaml").write_text(POOLS.replace("site: a", "site: nowhere").replace("kubernetes", "kubernets"))
    (folder / "offers.csv").write_text(OFFERS + "a,m1,1,1,0.3,\nx,m2,1,1,cheap,\n")
    (folder / "egress.csv").write_text("src,dst,usd_per_gb\na,c,0.1\n*,b,-1\n")
    with pytest.raises(UserError) as caught:
        load_estate(folder)
    told = {(Path(problem.file or "").name, problem.line, problem.field) for problem in caught.value.problems}
    assert told >= {
        ("sites.yaml", 4, "[1].contry"),
        ("sites.yaml", 4, "[1].country"),
        ("pools.yaml", 1, "[0].type"),
        ("pools.yaml", 1, "[0].site"),
        ("offers.csv", 5, "[3].Price"),
        ("offers.csv", 5, "[3].site"),
        ("egress.csv", 2, "[0].dst"),
        ("egress.csv", 3, "[1].usd_per_gb"),
    }


@pytest.mark.parametrize(
    ("file", "text", "line"),
    [
        ("offers.csv", OFFERS + "a,m1,1,1,0.3,\n", 4),
        ("pools.yaml", POOLS + POOLS, 2),
        ("carbon.csv", "grid_zone,month,hour_utc,g_per_kwh\nDE,1,1,1\nDE,1,1,2\n", 3),
        ("carbon.csv", "grid_zone,month,hour_utc,g_per_kwh\nDE,1,0,1\nDE,01,00,2\n", 3),
        ("carbon.csv", "grid_zone,month,hour_utc,g_per_kwh\nDE,*,*,1\nDE,*,*,2\n", 3),
        ("carbon.csv", "grid_zone,month,hour_utc,g_per_kwh\nDE,1,*,1\nDE,*,1,2\n", 3),
    ],
)
def test_two_rows_for_one_thing_are_refused(folder: Path, file: str, text: str, line: int) -> None:
    """One message: the line of the second and of the first, the field, what was expected and the fix."""
    (folder / file).write_text(text)
    with pytest.raises(UserError, match="twice, first on line") as caught:
        load_estate(folder)
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (str(folder / file), line)
    assert problem.field and problem.expected and problem.fix


def test_rows_that_only_the_whole_estate_refuses_are_a_clear_error_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the search for doubled rows ever see less than the estate does."""
    monkeypatch.setattr("flows.adapters.estate._doubled", lambda *_: [])
    (folder / "pools.yaml").write_text(POOLS + POOLS)
    with pytest.raises(UserError, match="`a-k8s` is declared twice") as caught:
        load_estate(folder)
    assert caught.value.problems[0].file == str(folder)


@pytest.mark.parametrize("name", ["../a", "a/b", ".a"])
@pytest.mark.parametrize(("file", "field"), [("sites.yaml", "[0].id"), ("pools.yaml", "[0].name")])
def test_what_folders_are_called_by_is_no_path(folder: Path, name: str, file: str, field: str) -> None:
    """A site's data lies in a folder of its own, and a deployment is called by its pool."""
    path = folder / file
    path.write_text(path.read_text().replace("id: a,", f'id: "{name}",').replace("name: a-k8s", f'name: "{name}"'))
    with pytest.raises(UserError, match="is a path") as caught:
        load_estate(folder)
    assert caught.value.problems[0].field == field


def test_a_wrong_cell_is_told_once_however_many_cells_a_star_stands_for(folder: Path) -> None:
    """And of a table that is wrong throughout, the first rows."""
    (folder / "carbon.csv").write_text("grid_zone,month,hour_utc,g_per_kwh\nDE,*,*,little\n" + "NO,13,1,1\n" * 30)
    with pytest.raises(UserError) as caught:
        load_estate(folder)
    assert [problem.line for problem in caught.value.problems].count(2) == 1
    assert len(caught.value.problems) == 21 and caught.value.problems[-1].what.startswith("and ")


def test_all_mistakes_of_blocs_come_at_once(folder: Path) -> None:
    """Each with its line."""
    (folder / "blocs.yaml").write_text("blocs:\n  EU: [DE, UK]\n  EEA: [EU, EL]\nadequacy:\n  CH: {}\n  UK: {}\n")
    with pytest.raises(UserError) as caught:
        load_estate(folder)
    told = [(problem.line, problem.field, problem.what[-18:]) for problem in caught.value.problems]
    assert told == [
        (2, "blocs.EU", "did you mean `GB`?"), (3, "blocs.EEA", "did you mean `GR`?"), (6, "adequacy.UK", "did you mean `GB`?"),
    ]  # fmt: skip


@pytest.mark.parametrize("file", ["sites.yaml", "pools.yaml", "offers.csv"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    """No estate without sites, pools and offers."""
    (folder / file).unlink()
    with pytest.raises(UserError, match="no such file") as caught:
        load_estate(folder)
    assert file in (caught.value.problems[0].file or "")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The message says what should be in it."""
    with pytest.raises(UserError, match=r"no such folder.*sites\.yaml"):
        load_estate(tmp_path / "none")


@pytest.mark.parametrize("text", ["{}", "a: 1", "text", "3"])
def test_a_file_of_another_shape_is_refused(folder: Path, text: str) -> None:
    """Sites are a list."""
    (folder / "sites.yaml").write_text(text)
    with pytest.raises(UserError, match=r"sites\.yaml"):
        load_estate(folder)
