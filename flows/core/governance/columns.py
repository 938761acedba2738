"""What a column holds of people, from evidence that holds no value; whether that is more than was declared; keyed pseudonyms.

Kinds follow Article 4(1) GDPR (whatever identifies a person, online identifiers and pseudonyms among it) and the direct identifiers of
45 CFR 164.514(b)(2). Age, sex or a postal area identify nobody alone and are none of them.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Any, Literal

from flows.core.errors import Problem, UserError
from flows.core.governance.labels import Classification


class Kind(StrEnum):
    """One kind of personal data, as messages call it."""

    PERSON_NAME = "names of people"
    EMAIL = "e-mail addresses"
    PHONE = "phone numbers"
    POSTAL_ADDRESS = "postal addresses"
    BIRTH_DATE = "dates of birth"
    PERSON_ID = "identifiers of people"
    IP_ADDRESS = "ip addresses"
    NATIONAL_ID = "national identity numbers"
    PAYMENT_CARD = "payment card numbers"
    BANK_ACCOUNT = "bank account numbers"


NEEDS: Mapping[Kind, Classification] = {
    **dict.fromkeys(Kind, Classification.CONFIDENTIAL),
    **dict.fromkeys((Kind.NATIONAL_ID, Kind.PAYMENT_CARD, Kind.BANK_ACCOUNT), Classification.RESTRICTED),
}
"""The lowest class that a column of this kind may be declared."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a column without one of its values.

    `shares` are parts, 0..1, of the sampled rows in which a recogniser found a kind; `words` is the part made of letters alone;
    `distinct` counts the different values among `rows` sampled ones; text of digits alone is a number.
    """

    column: str
    type: Literal["text", "number", "time", "flag"]
    rows: int
    distinct: int
    words: float = 0.0
    shares: Mapping[Kind, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of personal data in a column: in which part of the sampled rows, 0..1 (all of them if its name tells), and its class."""

    column: str
    kind: Kind
    share: float
    by_name: bool

    @property
    def needs(self) -> Classification:
        """The lowest class the column may be declared."""
        return NEEDS[self.kind]

    @property
    def told(self) -> str:
        """Kind and share, for people."""
        how = "told by the column's name" if self.by_name else f"in {max(1, round(100 * self.share))} % of the rows looked at"
        return f"{self.kind.value} ({how})"

    def to_json(self) -> dict[str, Any]:
        """The finding for a record: no value in it."""
        found = {"column": self.column, "kind": self.kind.value, "share": round(self.share, 2), "needs": self.needs.value}
        return found | ({"by_name": True} if self.by_name else {})


ALONE: Mapping[Kind, float] = {
    Kind.EMAIL: 0.01,
    Kind.BANK_ACCOUNT: 0.05,
    Kind.PAYMENT_CARD: 0.3,
    Kind.NATIONAL_ID: 0.3,
    Kind.IP_ADDRESS: 0.3,
    Kind.PHONE: 0.5,
    Kind.PERSON_NAME: 0.5,
}
"""The share of rows from which values alone are enough: low where a form is checked, high where numbers can look alike by chance."""
BESIDE_NAME = 0.05
"""The share that is enough where the column's name says the same."""
NAMES_BESIDE_NAME = 0.3
"""The same for names of people: an airport has a name too, and it may be that of a person."""
MIN_NAMES = 10
"""Fewer different values than this are a category that happens to be called like people."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PERSONS = _words(
    "patient subject person customer client user member employee student participant donor citizen insured passenger respondent "
    "pupil applicant beneficiary contact doctor physician nurse"
)
_NAME_PARTS = _words("first last given family middle full maiden nick birth sur fore")
_NAMES = _words("firstname lastname fullname surname forename givenname familyname nickname maidenname vorname nachname")
_SAYS: Mapping[Kind, frozenset[str]] = {
    Kind.PHONE: _words("phone telephone tel mobile cell cellphone fax"),
    Kind.BANK_ACCOUNT: _words("iban account"),
    Kind.PAYMENT_CARD: _words("card creditcard pan"),
    Kind.NATIONAL_ID: _words("ssn itin nin nino nhs passport"),
    Kind.IP_ADDRESS: _words("ip ipv4 ipv6"),
    Kind.PERSON_NAME: _words("name author owner manager contact physician doctor nurse"),
}
_IDS = _words("id uid uuid guid key ref")
_NUMBERS = _words("no nr number num code")
_ID_NAMES = _words("mrn ssn nhs passport userid patientid subjectid customerid memberid employeeid personid clientid")
_BIRTHS = _words("dob birthdate birthday dateofbirth geburtsdatum")
_NO_STREETS = _words("ip mac mail email web url memory")


def worth_asking(column: str, type: str) -> frozenset[Kind]:
    """The kinds that values of such a column can show: any ten digits are a telephone number somewhere, so its name must say so."""
    if type == "text":
        return frozenset(ALONE)
    said = Kind.PHONE in _said(_tokens(column))
    return frozenset({Kind.PAYMENT_CARD, Kind.NATIONAL_ID, *([Kind.PHONE] if said else [])}) if type == "number" else frozenset()


def classify(evidence: Evidence) -> tuple[Finding, ...]:
    """Every kind of personal data that the column holds, the most sensitive first."""
    if not evidence.rows or evidence.type == "flag":
        return ()
    tokens = _tokens(evidence.column)
    found = {kind: Finding(evidence.column, kind, share, by_name=False) for kind, share in _by_values(evidence, tokens)}
    for kind in _by_name(evidence, tokens):
        found.setdefault(kind, Finding(evidence.column, kind, 1.0, by_name=True))
    return tuple(sorted(found.values(), key=lambda finding: (-finding.needs.level, -finding.share, finding.kind.value)))


def _by_values(evidence: Evidence, tokens: frozenset[str]) -> Iterable[tuple[Kind, float]]:
    for kind, share in evidence.shares.items():
        said = kind in _said(tokens)
        few = kind is Kind.PERSON_NAME and not said and evidence.distinct < MIN_NAMES
        if few or kind not in worth_asking(evidence.column, evidence.type):
            continue
        beside = NAMES_BESIDE_NAME if kind is Kind.PERSON_NAME else BESIDE_NAME
        if share >= (min(ALONE[kind], beside) if said else ALONE[kind]):
            yield kind, share


def _by_name(evidence: Evidence, tokens: frozenset[str]) -> Iterable[Kind]:
    """Kinds that values cannot tell: a rare name, a number of a patient, an old date look like any word, number, date."""
    text, varied = evidence.type == "text", evidence.distinct > 1
    if text and varied and evidence.words >= 0.8 and (tokens & _NAMES or ("name" in tokens and tokens & (_NAME_PARTS | _PERSONS))):
        yield Kind.PERSON_NAME
    if evidence.type in ("text", "number") and varied:
        unique = evidence.distinct >= evidence.rows / 2
        if tokens & _ID_NAMES or (tokens & _PERSONS and (tokens & _IDS or (unique and (tokens & _NUMBERS or len(tokens) == 1)))):
            yield Kind.PERSON_ID
    if evidence.type in ("text", "time", "number") and varied and (tokens & _BIRTHS or {"birth", "date"} <= tokens):
        yield Kind.BIRTH_DATE
    if text and varied and ("street" in tokens or ("address" in tokens and not tokens & _NO_STREETS)):
        yield Kind.POSTAL_ADDRESS


def _said(tokens: frozenset[str]) -> frozenset[Kind]:
    return frozenset(kind for kind, words in _SAYS.items() if tokens & words)


def _tokens(column: str) -> frozenset[str]:
    """`table.column` or `column` in lower-case words: `fakeFirst_name` is fake, first, name."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", column.rsplit(".", 1)[-1])
    return frozenset(word for word in re.split(r"[^a-z0-9]+", spaced.lower()) if word)


def too_sensitive(
    findings: Iterable[Finding], declared: Mapping[str, Classification], otherwise: Classification
) -> tuple[tuple[Finding, Classification], ...]:
    """The first finding of each column that needs a higher class than declared, with the declared one, by column.

    `declared` maps `table.column` to its class; `otherwise` counts for a column that is not named there: the dataset's own label.
    """
    found: dict[str, tuple[Finding, Classification]] = {}
    for finding in findings:
        known = declared.get(finding.column, otherwise)
        if finding.needs.level > known.level:
            found.setdefault(finding.column, (finding, known))
    return tuple(found[column] for column in sorted(found))


def as_problems(surplus: Iterable[tuple[Finding, Classification]], dataset: str) -> list[Problem]:
    """What to tell the data owner: column, kind and share, declared and needed class, the ways out. Never a value."""
    return [
        Problem(
            f"holds {finding.told}, declared {known.value}",
            field=finding.column,
            expected=f"a column of at most {known.value}; this one needs {finding.needs.value}; nothing was landed",
            fix=f"drop or pseudonymise it (`steps.ingest.columns` of the workload), or have compliance raise `{dataset}` and the column "
            f"in the catalog to {finding.needs.value}",
        )
        for finding, known in surplus
    ]


MIN_KEY_CHARACTERS = 32
PSEUDONYM_CHARACTERS = 32
"""128 bits in hexadecimal: two of 10^9 subjects share one with a chance below 10^-20."""


def key_variable(dataset: str) -> str:
    """The environment variable with the pseudonym key of a dataset."""
    return f"TRADEWIND_PSEUDONYM_KEY_{re.sub(r'[^A-Z0-9]', '_', dataset.upper())}"


def key_block(dataset: str) -> str:
    """The name of the Prefect secret that may hold it instead."""
    return f"pseudonym-key-{re.sub(r'[^a-z0-9]+', '-', dataset)}"


def checked_key(dataset: str, key: str | None) -> bytes:
    """The key as bytes.

    Raises:
        UserError: there is none, or it is short enough to guess.
    """
    if key is None or len(key) < MIN_KEY_CHARACTERS:
        what = "no key" if key is None else f"a key of {len(key)} characters"
        raise UserError(
            f"{what} for the pseudonyms of `{dataset}`; nothing was read",
            expected=f"at least {MIN_KEY_CHARACTERS} random characters in `{key_variable(dataset)}` or the secret `{key_block(dataset)}`",
            fix='make one with `python -c "import secrets; print(secrets.token_hex(32))"` and keep it in a secret store, not in a file',
        )
    return key.encode()


def pseudonym(key: bytes, value: Any) -> str:
    """The pseudonym of one value: HMAC-SHA256 under the key, 32 hexadecimal digits. The key depends on the dataset, not on the column.

    A number and its decimal text have the same pseudonym, and so have 7 and 7.0: a join between columns works whatever their types are.
    """
    whole = not isinstance(value, str) and hasattr(value, "is_integer") and value.is_integer()
    return hmac.new(key, str(int(value) if whole else value).encode(), sha256).hexdigest()[:PSEUDONYM_CHARACTERS]
