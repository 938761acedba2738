"""Grants of a PostgreSQL database: role attributes, memberships, and privileges on database, schemas, tables and columns.

Whoever may log in has, besides their own, what the roles have that they are members of. Read with libpq's usual chain (`PGSERVICE`,
`PGHOST`, `PGPASSFILE` …). PostgreSQL keeps neither the day of a grant nor its last use. Ownership counts as a grant of everything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from flows.core.errors import Unavailable, UserError
from flows.core.governance.access import Source
from flows.core.governance.reviews import Grant, PrincipalKind, Trait

ATTRIBUTES = {
    "rolsuper": "SUPERUSER",
    "rolcreaterole": "CREATEROLE",
    "rolcreatedb": "CREATEDB",
    "rolreplication": "REPLICATION",
    "rolbypassrls": "BYPASSRLS",
}
READING = frozenset({"SELECT", "OWNER", "SUPERUSER", "pg_read_all_data", "pg_read_server_files", "pg_execute_server_program"})

_ROLES = f"SELECT oid, rolname, rolcanlogin, rolvaliduntil::text, {', '.join(ATTRIBUTES)} FROM pg_roles"
_MEMBERS = "SELECT roleid, member, bool_or(admin_option) FROM pg_auth_members GROUP BY roleid, member"
_NOT_OWN = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%' AND n.nspname NOT LIKE 'pg\\_temp%'"
_OBJECTS = f"""
SELECT 'TABLE', format('%I.%I', n.nspname, c.relname), a.grantee, a.privilege_type, a.is_grantable, c.relowner
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND {_NOT_OWN}
UNION ALL
SELECT 'COLUMN', format('%I.%I.%I', n.nspname, c.relname, t.attname), a.grantee, a.privilege_type, a.is_grantable, c.relowner
  FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(t.attacl) a
 WHERE {_NOT_OWN}
UNION ALL
SELECT 'SCHEMA', format('%I', n.nspname), a.grantee, a.privilege_type, a.is_grantable, n.nspowner
  FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a WHERE {_NOT_OWN}
UNION ALL
SELECT 'DATABASE', format('%I', d.datname), a.grantee, a.privilege_type, a.is_grantable, d.datdba
  FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a WHERE d.datname = current_database()
"""


def collect(source: Source) -> list[Grant]:
    """Every grant of the database that the connection names.

    Raises:
        Unavailable: it does not answer, or does not let this role in; nothing is returned then.
        UserError: the driver is not installed.
    """
    try:
        import psycopg
    except ModuleNotFoundError:
        raise UserError(f"source `{source.name}` needs `psycopg`, which is not installed", fix="install `psycopg[binary]`") from None
    try:
        with psycopg.connect(source.connection, connect_timeout=10, options="-c statement_timeout=60s") as connection:
            connection.read_only = True
            found = [connection.execute(query.encode()).fetchall() for query in (_ROLES, _MEMBERS, _OBJECTS)]
    except psycopg.Error as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Unavailable(f"PostgreSQL could not be read: {said}") from error
    return list(_collect(source.name, *found))


def _collect(source: str, roles: list[Any], members: list[Any], objects: list[Any]) -> Iterator[Grant]:
    names = {row[0]: row[1] for row in roles}
    kinds: dict[str, PrincipalKind] = {row[1]: "person" if row[2] else "group" for row in roles}
    groups: dict[str, list[str]] = defaultdict(list)
    for role, member, admin in sorted(members, key=lambda row: (names[row[0]], names[row[1]])):
        of, who = names[role], names[member]
        groups[who].append(of)
        if not who.startswith("pg_"):
            take = f'REVOKE "{_quoted(of)}" FROM "{{principal_sql}}"'
            found = frozenset[Trait]({"reads-data"} if of in READING else ())
            yield _grant(
                source, who, kinds[who], (of,), "membership", f"member/{of}", take, detail="may pass it on" if admin else "", traits=found
            )
    held: dict[str, list[tuple[tuple[str, ...], str, str, str, str]]] = defaultdict(list)
    for row in sorted(roles, key=lambda row: row[1]):
        name, attributes = row[1], tuple(word for word, on in zip(ATTRIBUTES.values(), row[4:], strict=True) if on)
        if attributes and not name.startswith("pg_"):
            take = f'ALTER ROLE "{{principal_sql}}" {" ".join("NO" + word for word in attributes)}'
            held[name].append((attributes, "cluster", "attributes", take, f"valid until {row[3]}" if row[3] else ""))
    for (kind, name, grantee), (words, detail) in sorted(_privileges(names, objects).items()):
        if not grantee.startswith("pg_"):
            what = f"COLUMN {name}" if kind == "COLUMN" else f"{kind} {name}"
            held[grantee].append((words, f"{kind.lower()}/{name}", what, _take(kind, name, words), detail))
    for who in sorted({*held, *groups}):
        kind_of = kinds.get(who, "group")
        if who == "PUBLIC" or not who.startswith("pg_"):
            for words, scope, slot, take, detail in held[who]:
                yield _grant(source, who, kind_of, words, scope, slot, take, detail=detail)
        if kinds.get(who) == "person":
            for of in sorted(_reach(who, groups)):
                for words, scope, slot, _, detail in held[of]:
                    via = next(one for one in groups[who] if one == of or of in _reach(one, groups))
                    take = f'REVOKE "{_quoted(via)}" FROM "{{principal_sql}}"'
                    if slot != "attributes":  # attributes of a role are not inherited
                        yield _grant(source, who, "person", words, scope, f"{slot} by {of}", take, via=f"member of {of}", detail=detail)


def _privileges(names: dict[int, str], objects: list[Any]) -> dict[tuple[str, str, str], tuple[tuple[str, ...], str]]:
    """By (kind, object, grantee): the privileges, and which of them may be passed on; an owner's are one word."""
    words: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    passed: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for kind, name, grantee, privilege, grantable, owner in objects:
        key = (kind, name, names.get(grantee, "PUBLIC"))
        words[key].add("OWNER" if grantee == owner else privilege)
        if grantable and grantee != owner:
            passed[key].add(privilege)
    for kind, name, _, _, _, owner in objects:  # an owner without any privilege can give them all back
        if kind != "COLUMN":
            words[kind, name, names[owner]].add("OWNER")
    return {
        key: (tuple(sorted(found)), f"may pass on {', '.join(sorted(passed[key]))}" if key in passed else "")
        for key, found in words.items()
    }


def _reach(who: str, groups: dict[str, list[str]]) -> set[str]:
    """Every role that one is a member of, at any depth."""
    waiting, seen = list(groups.get(who, ())), set[str]()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += groups.get(name, ())
    return seen


def _take(kind: str, name: str, words: tuple[str, ...]) -> str:
    if "OWNER" in words:
        kind = "TABLE" if kind == "COLUMN" else kind
        return f"ALTER {kind} {name} OWNER TO another_role"
    if kind == "COLUMN":
        table, _, column = name.rpartition(".")
        told = ", ".join(f"{word} ({column})" for word in words)
        return f'REVOKE {told} ON TABLE {table} FROM "{{principal_sql}}"'
    return f'REVOKE {", ".join(words)} ON {kind} {name} FROM "{{principal_sql}}"'


def _quoted(name: str) -> str:
    return name.replace('"', '""')


def _grant(
    source: str,
    who: str,
    kind: PrincipalKind,
    words: tuple[str, ...],
    scope: str,
    slot: str,
    take: str,
    *,
    via: str = "",
    detail: str = "",
    traits: frozenset[Trait] | None = None,
) -> Grant:
    if traits is None:
        found: set[Trait] = {"reads-data"} if READING & set(words) else set()
        traits = frozenset(found | {"admin"} if "SUPERUSER" in words else found)
    if who == "PUBLIC":
        take = take.replace('"{principal_sql}"', "PUBLIC")
    return Grant(
        source=source,
        principal=who,
        kind=kind,
        permissions=words,
        scopes=(scope,),
        slot=slot,
        via=via,
        detail=detail,
        traits=traits,
        revoke=("psql", "-c", f"{take};"),
    )
