"""What is remembered of a running stack."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.local.records import Records, Service, read_records, records_path, write_records
from flows.core.errors import UserError

SERVICE = Service(
    "prefect", 4321, 1.5, "/logs/server.log", "2026-01-05T08:00:00+00:00", 4200, "http://127.0.0.1:4200", "http://127.0.0.1:4200/api"
)


def test_nothing_was_started_yet(tmp_path: Path) -> None:
    """A home without records is an empty one, not an error."""
    assert read_records(tmp_path) == Records()


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Services and ports survive the file."""
    records = Records().with_service(SERVICE)
    write_records(tmp_path, records)
    assert read_records(tmp_path) == records
    assert read_records(tmp_path).ports == {"prefect": 4200}


def test_a_stopped_service_leaves_its_port(tmp_path: Path) -> None:
    """The next start takes the same port again."""
    records = Records().with_service(SERVICE).without("prefect")
    assert (dict(records.services), dict(records.ports)) == ({}, {"prefect": 4200})


@pytest.mark.parametrize("text", ["{", "[]", '{"prefect": {"pid": 1}}', '{"prefect": 3}', '{"ports": {"prefect": "x"}}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    """The message says which file, and what to do."""
    records_path(tmp_path).parent.mkdir()
    records_path(tmp_path).write_text(text)
    with pytest.raises(UserError, match=r"services\.json: the record of running services is damaged(?s:.*)fix: "):
        read_records(tmp_path)
