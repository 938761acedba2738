"""What an access review holds grants against: sources, people, who may have what, and exceptions with their last days. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

SourceKind = Literal["aws", "kubernetes", "postgres", "gcp", "roles"]
Kind = Literal["unused", "excessive", "orphaned", "policy-breaking"]

Text = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\r\n]*$")]
Pattern = Annotated[Text, Field(description="a text in which `*` stands for anything")]
Days = Annotated[int, Field(ge=1, le=3650)]


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.DOTALL)


def covers(pattern: str, text: str) -> bool:
    """Whether a pattern covers a text, and if that is a pattern itself, all that it stands for."""
    return _compiled(pattern).fullmatch(text) is not None


@lru_cache(maxsize=65536)
def touches(one: str, other: str) -> bool:
    """Whether there is a text that both patterns cover."""
    row = [True] + [False] * len(other)
    for column, char in enumerate(other, 1):
        row[column] = char == "*" and row[column - 1]
    for mine in one:
        new = [mine == "*" and row[0]]
        for column, theirs in enumerate(other, 1):
            if mine == "*" or theirs == "*":
                new.append(row[column] or new[column - 1] or row[column - 1])
            else:
                new.append(mine == theirs and row[column - 1])
        row = new
    return row[-1]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Model):
    """Where grants are read. Credentials come by the client's usual chain, never from the declaration."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$")]
    kind: SourceKind
    profiles: frozenset[Literal["embedded", "cloud"]] = frozenset({"embedded", "cloud"})
    context: Text | None = Field(default=None, description="kubernetes: a context of the kubeconfig; left out: the current one")
    connection: str = Field(default="", description="postgres: a libpq connection string without a password")
    resources: tuple[Text, ...] = Field(default=(), description="gcp: `projects/…`, `folders/…`, `organizations/…`")
    endpoint: Text | None = Field(default=None, description="another address of the interface, such as a private one")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if re.search(r"password|passfile|://[^/@]*:[^/@]*@", self.connection):
            raise ValueError("a password in a file; leave it to `PGPASSFILE` or `PGPASSWORD`")
        if self.kind == "gcp" and not self.resources:
            raise ValueError("a gcp source names no resources")
        return self


class Person(_Model):
    """One person: the accounts in each source, and the groups that the identity provider puts them in."""

    accounts: Mapping[str, tuple[Text, ...]] = Field(default_factory=dict)
    groups: tuple[Text, ...] = ()


class Known(_Model):
    """Principals that are no person and are meant to be there, with the roles they act in."""

    source: Pattern
    who: tuple[Pattern, ...]
    roles: frozenset[Text] = frozenset()
    because: Text


class Allowed(_Model):
    """Who may have what: `who` are names, or `role:NAME` for whoever holds it. `wide`: wildcards and all rights are meant."""

    source: Pattern
    who: tuple[Pattern, ...]
    permissions: tuple[Pattern, ...]
    scopes: tuple[Pattern, ...] = ("*",)
    wide: bool = False
    because: Text

    def allows(self, permission: str) -> bool:
        """Whether it names the permission; no system that is read tells upper from lower case in these."""
        return any(covers(pattern.casefold(), permission.casefold()) for pattern in self.permissions)


class Guarded(_Model):
    """Where the data of a site rests in the words of a source: who reads it needs a role that policy lets read there."""

    source: Pattern
    scope: Pattern
    site: Text


class Excepted(_Model):
    """A finding that is accepted through the UTC day `until`."""

    finding: Kind
    source: Pattern
    principal: Pattern
    permission: Pattern = "*"
    scope: Pattern = "*"
    reason: Text
    until: date


class Access(_Model):
    """The declaration: which sources, who may have what, how often it is reviewed, and exceptions with their last days."""

    every_days: Days
    due_days: Days
    unused_days: Days
    keep_days: Days
    sources: tuple[Source, ...]
    people: Mapping[Text, Person] = Field(default_factory=dict)
    known: tuple[Known, ...] = ()
    allowed: tuple[Allowed, ...] = ()
    guarded: tuple[Guarded, ...] = ()
    four_eyes: tuple[Annotated[tuple[Text, ...], Field(min_length=2, max_length=2)], ...] = ()
    exceptions: tuple[Excepted, ...] = ()

    @model_validator(mode="after")
    def _names_are_told_apart(self) -> Self:
        names = [source.name for source in self.sources]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"source `{doubled[0]}` is declared twice")
        owners: dict[tuple[str, str], str] = {}
        for person, told in self.people.items():
            for source, accounts in told.accounts.items():
                if source not in names:
                    raise ValueError(f"`{person}` has accounts in `{source}`, which is no source")
                for account in accounts:
                    if owners.setdefault((source, account), person) != person:
                        raise ValueError(f"account `{account}` of `{source}` belongs to two people")
        return self

    def person_of(self, source: str, account: str) -> str:
        """Who an account belongs to; the account's own name where nothing else is declared."""
        for person, told in self.people.items():
            if account in told.accounts.get(source, ()):
                return person
        return account
