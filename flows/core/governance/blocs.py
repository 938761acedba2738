"""Countries, blocs of countries, and the GDPR's answer to "may personal data go there?"."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from functools import cached_property
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

ANYWHERE = "anywhere"
"""The area above all: a residency that leaves every country open."""

GdprBasis = Literal["eea", "adequacy", "safeguards", "none"]

ISO_COUNTRIES = frozenset(
    """
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC CD CF CG
    CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL
    GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA
    LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP
    NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV
    SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW
    """.split()  # noqa: SIM905 - 249 quoted strings are harder to read
)
"""ISO 3166-1 alpha-2 codes."""

MISTAKEN = {"UK": "GB", "EL": "GR"}
"""Codes in common use that ISO gives to no country, and those that are meant."""


def not_mistaken(code: str) -> str:
    """The code, unless it is one that people take for a country's.

    Raises:
        ValueError: names the code that is meant.
    """
    if code in MISTAKEN:
        raise ValueError(f"`{code}` is no ISO 3166 country; did you mean `{MISTAKEN[code]}`?")
    return code


def _hint(codes: Iterable[str]) -> str:
    meant = sorted(MISTAKEN[code] for code in codes if code in MISTAKEN)
    return f"; did you mean `{'`, `'.join(meant)}`?" if meant else ""


class Adequacy(BaseModel):
    """An adequacy decision (GDPR Art. 45): `until` its last valid UTC day (None: open), `needs` a certification the recipient must hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    until: date | None = None
    needs: str | None = None


class Blocs(BaseModel):
    """Named groups of countries (a member may be another bloc) and the countries found adequate under the GDPR."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blocs: Mapping[str, frozenset[str]] = Field(default_factory=dict)
    adequacy: Mapping[str, Adequacy] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _members_are_known(self) -> Self:
        found = [PydanticCustomError("wrong", "{what}", {"what": what, "path": path}) for what, path in self._mistakes()]
        if found:
            raise ValidationError.from_exception_data("Blocs", [{"type": one, "loc": (), "input": None} for one in found])
        return self

    def _mistakes(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        for name, members in self.blocs.items():
            if name in ISO_COUNTRIES or name == ANYWHERE:
                yield f"bloc `{name}` has the name of a country or of the area above all", ("blocs", name)
            if unknown := sorted(member for member in members if member not in self.blocs and member not in ISO_COUNTRIES):
                told = f"`{'`, `'.join(unknown)}`{_hint(unknown)}"
                yield f"bloc `{name}` has members that are neither a country nor a bloc: {told}", ("blocs", name)
            if name in self._descend(name):
                yield f"bloc `{name}` contains itself", ("blocs", name)
        for code in sorted(set(self.adequacy) - ISO_COUNTRIES):
            yield f"adequacy names no country: `{code}`{_hint([code])}", ("adequacy", code)

    def _descend(self, name: str) -> set[str]:
        found: set[str] = set()
        waiting = list(self.blocs.get(name, ()))
        while waiting:
            member = waiting.pop()
            if member not in found:
                found.add(member)
                waiting.extend(self.blocs.get(member, ()))
        return found

    @cached_property
    def _members(self) -> dict[str, frozenset[str]]:
        return {name: frozenset(code for code in self._descend(name) if code not in self.blocs) for name in self.blocs}

    def known(self, code: str) -> bool:
        """Whether the code is an ISO country, a declared bloc or `anywhere`."""
        return code == ANYWHERE or code in self.blocs or code in ISO_COUNTRIES

    def countries(self, codes: Iterable[str]) -> frozenset[str] | None:
        """All countries behind the codes; None means every country (`anywhere` is among them). An unknown code stands for itself."""
        found: set[str] = set()
        for code in codes:
            if code == ANYWHERE:
                return None
            found |= self._members.get(code, frozenset({code}))
        return frozenset(found)

    def contains(self, codes: Iterable[str], country: str) -> bool:
        """Whether the country lies inside any of the codes."""
        inside = self.countries(codes)
        return inside is None or country in inside

    def gdpr_basis(self, country: str, certifications: Iterable[str], through: date) -> GdprBasis:
        """On what ground personal data may be in the country through that UTC day, for a recipient with these valid certifications.

        `eea` inside the bloc EEA; `adequacy` by a decision that holds through the day and whose need (the US: `dpf`) is met;
        `safeguards` under standard contractual clauses (`scc`, Art. 46); else `none`.
        """
        held = frozenset(certifications)
        if country in self._members.get("EEA", frozenset()):
            return "eea"
        decision = self.adequacy.get(country)
        if (
            decision is not None
            and (decision.until is None or through <= decision.until)
            and (decision.needs is None or decision.needs in held)
        ):
            return "adequacy"
        return "safeguards" if "scc" in held else "none"
