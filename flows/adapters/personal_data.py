"""Presidio's recognisers and lists of names over a bounded sample of a column: evidence that holds shares and counts, never a value.

Written against presidio-analyzer 2.2.366. Its recognisers of forms (addresses, numbers with check digits) are asked one by one: its
engine would load a language model, which a site without a network does not have, and judges sentences rather than cells. Names come
from Faker's lists, which the column's own name must back unless half the cells are names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from flows.core.governance.columns import Evidence, Kind, pseudonym, worth_asking

if TYPE_CHECKING:
    import pandas as pd

SAMPLE_ROWS = 500
"""Rows looked at in each column: a kind in 1 % of them is missed with a chance of 0.7 %."""
SEED = 20130101
MAX_CHARACTERS = 2_000
"""A longer cell is looked at up to here."""
MIN_SCORE = 0.4
"""Presidio's own score of a phone number; what it validated has 1.0."""
LOCALES = re.split(
    " ",
    "cs_CZ da_DK de_AT de_CH de_DE en_GB en_IE en_IN en_NZ en_US es_ES es_MX fi_FI fr_CH fr_FR hr_HR hu_HU id_ID it_IT nl_NL no_NO "
    "pl_PL pt_BR pt_PT ro_RO sv_SE tr_TR vi_VN",
)
"""Whose first and last names are known: those written in Latin letters."""
_WORDS = re.compile(r"[^\W\d_][^\W\d_'\u2019.\- ]*(?:[ '\u2019.\-]+[^\W\d_]+)*\.?")


def evidence(table: str, frame: pd.DataFrame) -> list[Evidence]:
    """The evidence of each column of a frame, shape (n_rows, n_columns); the same rows give the same evidence."""
    return [_of_column(f"{table}.{name}", frame[name]) for name in frame.columns]


def pseudonymised(column: pd.Series[Any], key: bytes) -> pd.Series[Any]:
    """The column with each value replaced by its pseudonym, as text; what is missing stays missing."""
    import pandas as pd

    known = {value: pseudonym(key, value) for value in column.dropna().unique()}
    return pd.Series([known.get(value) if here else None for value, here in zip(column, column.notna(), strict=True)], column.index, object)


def _of_column(name: str, column: pd.Series[Any]) -> Evidence:
    from pandas.api import types

    present = column.dropna()
    sample = present.sample(min(SAMPLE_ROWS, len(present)), random_state=SEED)
    rows, distinct = len(sample), int(sample.nunique())
    if types.is_bool_dtype(column.dtype):
        return Evidence(name, "flag", rows, distinct)
    if types.is_datetime64_any_dtype(column.dtype):
        return Evidence(name, "time", rows, distinct)
    number = types.is_numeric_dtype(column.dtype)
    if number and not (sample % 1 == 0).all():
        return Evidence(name, "number", rows, distinct)
    texts = sample.astype("int64").astype(str) if number else sample.astype(str).str.slice(0, MAX_CHARACTERS)
    counts = texts.value_counts()
    kind_of_column: Literal["number", "text"] = "number" if all(text.lstrip("-").isdigit() for text in counts.index) else "text"
    asked = worth_asking(name, kind_of_column)
    shares = {kind: _share(counts, holds) for kind, holds in _recognisers().items() if kind in asked}
    words = _share(counts, lambda text: _WORDS.fullmatch(text.strip()) is not None)
    return Evidence(name, kind_of_column, rows, distinct, words, {kind: share for kind, share in shares.items() if share})


def _share(counts: Any, holds: Callable[[str], bool]) -> float:
    total = int(counts.sum())
    return sum(int(count) for text, count in counts.items() if holds(text)) / total if total else 0.0


@cache
def _recognisers() -> dict[Kind, Callable[[str], bool]]:
    import presidio_analyzer.predefined_recognizers as known
    import tldextract

    class OfflineEmailRecognizer(known.EmailRecognizer):
        """Knows the public suffixes that its library carries; the original would fetch them."""

        suffixes = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

        def validate_result(self, pattern_text: str) -> bool:
            """Whether the domain ends in a public suffix."""
            return bool(self.suffixes(pattern_text).fqdn)

    forms: dict[Kind, Iterable[Any]] = {
        Kind.EMAIL: (OfflineEmailRecognizer(),),
        Kind.PHONE: (known.PhoneRecognizer(),),
        Kind.BANK_ACCOUNT: (known.IbanRecognizer(),),
        Kind.PAYMENT_CARD: (known.CreditCardRecognizer(),),
        Kind.NATIONAL_ID: (known.UsSsnRecognizer(), known.NhsRecognizer(), known.EsNifRecognizer(), known.ItFiscalCodeRecognizer()),
        Kind.IP_ADDRESS: (known.IpRecognizer(),),
    }
    return {**{kind: _any_of(tuple(each)) for kind, each in forms.items()}, Kind.PERSON_NAME: _is_name}


def _any_of(recognisers: tuple[Any, ...]) -> Callable[[str], bool]:
    def holds(text: str) -> bool:
        return any(
            result.score >= MIN_SCORE
            for recogniser in recognisers
            for result in recogniser.analyze(text, recogniser.supported_entities, None)
        )

    return holds


def _is_name(text: str) -> bool:
    """Whether one to four words are all first or last names."""
    words = [word for word in re.split(r"[\s,.\-'\u2019]+", text.lower()) if len(word) > 1]
    return 0 < len(words) <= 4 and all(word in _names() for word in words)


@cache
def _names() -> frozenset[str]:
    found: set[str] = set()
    for locale in LOCALES:
        provider = import_module(f"faker.providers.person.{locale}").Provider
        for attribute in dir(provider):
            values = getattr(provider, attribute)
            if re.match(r"_*(first|last)_names?", attribute) and isinstance(values, (list, tuple, dict)):
                found.update(word for name in values for word in re.split(r"[\s\-'\u2019]+", str(name).lower()) if len(word) > 1)
    return frozenset(found)
