"""Grants of a real PostgreSQL."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from flows.adapters import grants_postgres
from flows.core.errors import Unavailable
from flows.core.governance.access import Source
from flows.core.governance.reviews import Grant
from tests.store.conftest import postgres  # noqa: F401  the server that the store's tests use

SETUP = """
CREATE ROLE readers NOLOGIN; CREATE ROLE staff NOLOGIN; GRANT readers TO staff;
CREATE ROLE "o'ada" LOGIN; GRANT staff TO "o'ada" WITH ADMIN OPTION;
CREATE ROLE boss LOGIN SUPERUSER;
CREATE SCHEMA clinic; GRANT USAGE ON SCHEMA clinic TO readers;
CREATE TABLE clinic.patients (id int, name text); GRANT SELECT, INSERT ON clinic.patients TO readers WITH GRANT OPTION;
CREATE ROLE clerk LOGIN; GRANT UPDATE (name) ON clinic.patients TO clerk;
GRANT SELECT ON clinic.patients TO PUBLIC;
"""


@pytest.fixture
def grants(postgres: str) -> Iterator[list[Grant]]:  # noqa: F811
    """What a database of its own gives."""
    import psycopg

    name = f"g{uuid.uuid4().hex[:12]}"
    with psycopg.connect(host=postgres, user="tradewind", dbname="postgres", autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
        with psycopg.connect(host=postgres, user="tradewind", dbname=name, autocommit=True) as connection:
            connection.execute(SETUP.encode())
        try:
            source = Source(name="state", kind="postgres", connection=f"host={postgres} user=tradewind dbname={name}")
            yield grants_postgres.collect(source)
        finally:
            admin.execute(f"DROP DATABASE {name}".encode())
            admin.execute(b'DROP ROLE readers, staff, "o\'ada", boss, clerk')


def of(grants: list[Grant], principal: str) -> dict[str, Grant]:
    return {grant.slot: grant for grant in grants if grant.principal == principal}


def test_attributes_memberships_and_privileges_are_grants(grants: list[Grant]) -> None:
    """A superuser has all rights; a table's privileges are one grant, with what may be passed on; an owner is told as one."""
    boss = of(grants, "boss")["attributes"]
    assert (boss.permissions, boss.traits) == (("SUPERUSER",), {"admin", "reads-data"})
    assert boss.command("boss") == """psql -c 'ALTER ROLE "boss" NOSUPERUSER;'"""
    table = of(grants, "readers")["TABLE clinic.patients"]
    assert (table.kind, table.permissions, table.scopes) == ("group", ("INSERT", "SELECT"), ("table/clinic.patients",))
    assert table.detail == "may pass on INSERT, SELECT"
    assert table.command("readers") == """psql -c 'REVOKE INSERT, SELECT ON TABLE clinic.patients FROM "readers";'"""
    assert of(grants, "readers")["SCHEMA clinic"].permissions == ("USAGE",)
    assert "OWNER" in of(grants, "tradewind")["TABLE clinic.patients"].permissions
    assert of(grants, "clerk")["COLUMN clinic.patients.name"].permissions == ("UPDATE",)


def test_a_person_has_what_the_roles_have_at_any_depth(grants: list[Grant]) -> None:
    """Through a role of a role; the command takes away the person's own membership."""
    ada = of(grants, "o'ada")
    through = ada["TABLE clinic.patients by readers"]
    assert (through.via, "reads-data" in through.traits) == ("member of readers", True)
    assert ada["member/staff"].detail == "may pass it on"
    assert through.command("o'ada") == """psql -c 'REVOKE "staff" FROM "o'"'"'ada";'"""


def test_what_everyone_has_is_told(grants: list[Grant]) -> None:
    """PUBLIC is a principal: every role of the server."""
    table = of(grants, "PUBLIC")["TABLE clinic.patients"]
    assert (table.kind, table.permissions) == ("group", ("SELECT",))
    assert table.command("PUBLIC") == "psql -c 'REVOKE SELECT ON TABLE clinic.patients FROM PUBLIC;'"


def test_no_two_grants_share_an_id(grants: list[Grant]) -> None:
    """Or one of them would be lost."""
    assert len({grant.id for grant in grants}) == len(grants)


def test_a_server_that_is_down_is_told() -> None:
    """Nothing is returned that could be taken for a database without grants."""
    with pytest.raises(Unavailable, match="PostgreSQL could not be read"):
        grants_postgres.collect(Source(name="state", kind="postgres", connection="host=127.0.0.1 port=9 dbname=x"))
