"""SkyPilot's catalogs: hosts and accelerators added, zones folded, what has no price refused and counted."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.adapters.skypilot import (
    BARE_ACCELERATOR,
    HOST_ALONE,
    HOST_UNKNOWN,
    INCOMPLETE,
    NO_PRICE,
    NONE_OF_IT,
    NOT_POSITIVE,
    SPOT_DROPPED,
    UNKNOWN_REGION,
    Row,
    fold,
    read_catalog,
    read_catalogs,
)
from flows.core.errors import UserError

HEADER = "InstanceType,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,GpuInfo,Region,AvailabilityZone,Price,SpotPrice"
AZURE = "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region,Generation,Family,Arch"
REGIONS = [("aws", "r1"), ("gcp", "r1"), ("azure", "r1")]


def catalog(folder: Path, cloud: str, *rows: str, header: str = HEADER) -> Path:
    """Write a catalog of these rows."""
    path = folder / cloud / "vms.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def test_host_and_accelerator_of_one_zone_are_one_offer(tmp_path: Path) -> None:
    """Exact sums, on demand and spot; the machine's type says which accelerators it always has."""
    gpu = "\"{'Gpus': [1, 2]}\""
    catalog(
        tmp_path,
        "gcp",
        "a2-highgpu-2g,24,170,,,,r1,r1-a,1.2,0.4",
        f",,,A100,2,{gpu},r1,r1-a,5.868,2.1",
        f",,,A100,1,{gpu},r1,r1-a,2.934,1.05",
    )
    found = read_catalogs(tmp_path, REGIONS)
    (offer,) = found.offers["gcp", "r1"]
    assert (offer.accelerator, offer.count, offer.cpus) == ("A100", 2, 24)
    assert (offer.usd_per_hour, offer.spot_usd_per_hour) == (Decimal("7.068"), Decimal("2.5"))
    assert found.refused == {("gcp", BARE_ACCELERATOR): 1}


def test_a_host_is_never_sold_without_its_accelerator(tmp_path: Path) -> None:
    """An accelerator of another zone, or without a price, does not count: half a price would win everywhere."""
    rows = ("a2-highgpu-1g,12,85,,,,r1,r1-a,1,", "a2-highgpu-1g,12,85,,,,r1,r1-b,1,", ",,,A100,1,,r1,r1-b,0,", ",,,A100,1,,r1,r1-c,3,")
    catalog(tmp_path, "gcp", "n1-standard-1,1,4,,,,r1,r1-a,0.05,", *rows)
    found = read_catalogs(tmp_path, REGIONS)
    assert [offer.kind for offer in found.offers["gcp", "r1"]] == ["n1-standard-1"]
    assert found.refused == {("gcp", HOST_ALONE): 2, ("gcp", NOT_POSITIVE): 1, ("gcp", BARE_ACCELERATOR): 1}


@pytest.mark.parametrize("kind", ["g4-standard-48", "a3-edgegpu-8g", "a4x-highgpu-4g", "a2-ultragpu-16g"])
def test_a_host_whose_accelerators_are_not_known_is_refused(tmp_path: Path, kind: str) -> None:
    """Its price is without them; an old family that begins alike has none, and a row that names its own is whole."""
    whole = "a9-highgpu-1g,8,60,X1,1,,r1,r1-a,7,"
    catalog(tmp_path, "gcp", f"{kind},48,180,,,,r1,r1-a,1.1,0.4", "g1-small,0.5,1.7,,,,r1,r1-a,0.03,", whole)
    found = read_catalogs(tmp_path, REGIONS)
    assert [offer.kind for offer in found.offers["gcp", "r1"]] == ["a9-highgpu-1g", "g1-small"]
    assert found.refused == {("gcp", HOST_UNKNOWN): 1}


@pytest.mark.parametrize(("host", "gpu"), [("0.1", ""), ("", "0.2")])
def test_a_spot_price_needs_both_parts(tmp_path: Path, host: str, gpu: str) -> None:
    """Without one of the two, the machine has none."""
    catalog(tmp_path, "gcp", f"g2-standard-4,4,16,,,,r1,r1-a,0.3,{host}", f",,,L4,1,,r1,r1-a,0.4,{gpu}")
    (offer,) = read_catalogs(tmp_path, REGIONS).offers["gcp", "r1"]
    assert (offer.usd_per_hour, offer.spot_usd_per_hour) == (Decimal("0.7"), None)


def test_zones_are_added_first_and_folded_then(tmp_path: Path) -> None:
    """The cheap host of one zone does not meet the cheap accelerator of another."""
    catalog(
        tmp_path,
        "gcp",
        "a2-highgpu-1g,12,85,,,,r1,r1-a,1,0.9",
        "a2-highgpu-1g,12,85,,,,r1,r1-b,2,0.1",
        ",,,A100,1,,r1,r1-a,9,4",
        ",,,A100,1,,r1,r1-b,6,5",
    )
    (offer,) = read_catalogs(tmp_path, REGIONS).offers["gcp", "r1"]
    assert (offer.usd_per_hour, offer.zone, offer.spot_usd_per_hour) == (Decimal(8), "r1-b", Decimal("4.9"))


def test_google_cloud_says_arm_by_the_family(tmp_path: Path) -> None:
    """Its catalog has no column for it."""
    catalog(tmp_path, "gcp", "t2a-standard-1,1,4,,,,r1,r1-a,0.04,", "n1-standard-1,1,4,,,,r1,r1-a,0.05,")
    assert {offer.kind: offer.arch for offer in read_catalogs(tmp_path, REGIONS).offers["gcp", "r1"]} == {
        "t2a-standard-1": "arm64",
        "n1-standard-1": "x86_64",
    }


def test_a_machine_with_its_accelerator_in_one_row_is_taken_as_it_is(tmp_path: Path) -> None:
    """AWS and Azure; columns that nobody asks for are left aside."""
    catalog(tmp_path, "azure", "Standard_NC4,T4,1.0,4.0,28.0,,0.526,,r1,V2,NC,x86_64", header=AZURE)
    (offer,) = read_catalogs(tmp_path, REGIONS).offers["azure", "r1"]
    assert (offer.kind, offer.accelerator, offer.count, offer.usd_per_hour, offer.zone) == ("Standard_NC4", "T4", 1, Decimal("0.526"), "")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("m1,4,16,,,,r1,z,,", NO_PRICE),
        ("m1,4,16,,,,r1,z,NaN,0.1", NO_PRICE),
        ("m1,4,16,,,,r1,z,0.0,0.1", NOT_POSITIVE),
        ("m1,4,16,,,,r1,z,-1,0.1", NOT_POSITIVE),
        ("m1,4,16,,,,r1,z,1e-30,0.1", NOT_POSITIVE),
        ("m1,4,16,,,,r1,z,0.00000099,0.1", NOT_POSITIVE),
        (",,,V100,1,,r1,z,2,1", BARE_ACCELERATOR),
        (",,,,,,r1,z,2,1", INCOMPLETE),
        ("m1,4,16,T4,,,r1,z,2,1", INCOMPLETE),
        ("m1,4,16,T4,0,,r1,z,2,1", NONE_OF_IT),
        ("m1,4,16,,,,r9,z,2,1", UNKNOWN_REGION),
    ],
)
def test_a_row_that_cannot_be_rented_is_refused_and_counted(tmp_path: Path, row: str, why: str) -> None:
    """By its reason; the others are taken."""
    catalog(tmp_path, "aws", "m0,4,16,,,,r1,z,1,", row)
    found = read_catalogs(tmp_path, REGIONS)
    assert [offer.kind for offer in found.offers["aws", "r1"]] == ["m0"]
    assert found.refused == {("aws", why): 1} and found.rows == 2


def test_the_lowest_price_that_a_decision_can_show_is_taken(tmp_path: Path) -> None:
    """On demand and spot."""
    catalog(tmp_path, "aws", "m0,4,16,,,,r1,z,0.000001,0.000001")
    found = read_catalogs(tmp_path, REGIONS)
    (offer,) = found.offers["aws", "r1"]
    assert offer.usd_per_hour == offer.spot_usd_per_hour == Decimal("0.000001") and not found.refused


@pytest.mark.parametrize("spot", ["0", "1e-30"])
def test_a_spot_price_that_no_decision_can_show_is_no_spot_price(tmp_path: Path, spot: str) -> None:
    """The machine stays, on demand."""
    catalog(tmp_path, "aws", f"m0,4,16,,,,r1,z,1,{spot}")
    found = read_catalogs(tmp_path, REGIONS)
    assert found.offers["aws", "r1"][0].spot_usd_per_hour is None and found.refused == {("aws", SPOT_DROPPED): 1}


@pytest.mark.parametrize(
    ("row", "field", "what"),
    [
        ("m1,4,16,,,,r1,z,cheap,", "Price", "`cheap` is not a number"),
        ("m1,4,16,,,,r1,z,inf,", "Price", "`inf` is not a number"),
        ("m1,4,16,,,,r1,z,1e99,", "Price", "`1e99` is not a number"),
        ("m1,-4,16,,,,r1,z,1,", "vCPUs", "`-4` is below 0"),
        ("m 1,4,16,,,,r1,z,1,", "InstanceType", "`m 1` is not a name"),
        ("m1,4,16,,,,,z,1,", "Region", "`` is not a name"),
        ("m1,4,16,,,,r1,z,1", None, "9 cells"),
    ],
)
def test_a_broken_cell_is_told_with_its_line(tmp_path: Path, row: str, field: str | None, what: str) -> None:
    """A catalog that is damaged is not taken in part."""
    path = catalog(tmp_path, "aws", "m0,4,16,,,,r1,z,1,", row)
    with pytest.raises(UserError) as caught:
        read_catalogs(tmp_path, REGIONS)
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.field) == (str(path), 3, field) and what in problem.what


def test_an_architecture_is_a_name(tmp_path: Path) -> None:
    """It is told in the catalog, not in a table that the import would have written."""
    path = catalog(tmp_path, "azure", "m0,,,4,16,,1,,r1,2,A,arm64", "m1,,,4,16,,1,,r1,2,A,ARM 64", header=AZURE)
    with pytest.raises(UserError) as caught:
        read_catalogs(tmp_path, REGIONS)
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.field) == (str(path), 3, "Arch")


def test_a_catalog_that_is_wrong_throughout_is_told_by_its_first_problems(tmp_path: Path) -> None:
    """Not by a hundred thousand."""
    catalog(tmp_path, "aws", *["m0,4,16,,,,r1,z,x,"] * 1000)
    with pytest.raises(UserError) as caught:
        read_catalogs(tmp_path, REGIONS)
    assert len(caught.value.problems) == 21 and "the rest was not read" in caught.value.problems[-1].what


def test_problems_of_all_catalogs_come_at_once(tmp_path: Path) -> None:
    """One file each."""
    catalog(tmp_path, "aws", "m0,4,16,,,,r1,z,x,")
    catalog(tmp_path, "gcp", header="InstanceType,Price")
    with pytest.raises(UserError) as caught:
        read_catalogs(tmp_path, REGIONS)
    assert [Path(problem.file or "").parent.name for problem in caught.value.problems] == ["aws", "gcp"]


def test_a_folder_above_the_catalogs_says_which_one_is_meant(tmp_path: Path) -> None:
    """SkyPilot keeps a folder for each version."""
    (tmp_path / "v8").mkdir()
    catalog(tmp_path / "v8", "aws", "m0,4,16,,,,r1,z,1,")
    with pytest.raises(UserError, match=r"no catalog here(.|\n)*v8`"):
        read_catalogs(tmp_path, REGIONS)


def test_a_cloud_that_is_not_known_is_named_and_left_out(tmp_path: Path) -> None:
    """Nobody knows where its operator has its seat."""
    catalog(tmp_path, "aws", "m0,4,16,,,,r1,z,1,")
    catalog(tmp_path, "lambda", "gpu_1x_a10,30,200,A10,1,,r1,,0.75,")
    found = read_catalogs(tmp_path, REGIONS)
    assert found.other_clouds == ("lambda",) and list(found.offers) == [("aws", "r1")]


def test_the_day_can_be_told(tmp_path: Path) -> None:
    """Else it is the day on which the file was last written."""
    catalog(tmp_path, "aws", "m0,4,16,,,,r1,z,1,")
    assert read_catalogs(tmp_path, REGIONS, as_of=date(2026, 1, 5)).origins["aws"].as_of == date(2026, 1, 5)


prices = st.decimals(min_value="0.001", max_value=100, places=3)
rows = st.builds(
    Row,
    line=st.integers(2, 99),
    kind=st.sampled_from(["a", "b", "c"]),
    accelerator=st.just(""),
    count=st.none(),
    cpus=st.none(),
    memory_gib=st.none(),
    usd_per_hour=prices,
    spot_usd_per_hour=st.none() | prices,
    region=st.just("r"),
    zone=st.sampled_from(["x", "y", "z"]),
    arch=st.just(""),
)


@given(st.lists(rows, max_size=12), st.randoms())
def test_folding_keeps_the_lowest_price_of_each_machine_whatever_the_order(found: list[Row], random) -> None:
    """On demand and spot; one row a machine, sorted."""
    folded = fold(found)
    assert [row.kind for row in folded] == sorted({row.kind for row in found})
    for row in folded:
        same = [other for other in found if other.kind == row.kind]
        spot = [other.spot_usd_per_hour for other in same if other.spot_usd_per_hour is not None]
        assert row.usd_per_hour == min(other.usd_per_hour for other in same)
        assert row.spot_usd_per_hour == min(spot, default=None)
    random.shuffle(found)
    assert [(row.kind, row.usd_per_hour, row.zone) for row in fold(found)] == [(row.kind, row.usd_per_hour, row.zone) for row in folded]


@given(st.text(alphabet=',"\n\r\0 1.ezA', max_size=60))
def test_no_text_ends_in_anything_but_rows_or_one_clear_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever follows the header."""
    path = tmp_path_factory.mktemp("fuzz") / "vms.csv"
    path.write_text(f"{HEADER}\n{text}", newline="")
    try:
        read_catalog(path)
    except UserError as error:
        assert all(problem.file == str(path) and problem.line for problem in error.problems)
