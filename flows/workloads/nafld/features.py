"""Feature tables and examples of nafld; every row carries the instant it became known."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from flows.core.workload import EVENT_TIMESTAMP, LABEL, LABEL_AT, ROW_ID

if TYPE_CHECKING:
    import pandas as pd

HORIZON = timedelta(days=1826)
"""Five years."""
TESTS = ("hdl", "sbp", "fib4", "smoke")
HISTORY = {
    "had_htn": ("htn",),
    "had_dyslipidemia": ("dyslipidemia",),
    "had_nafld": ("nafld",),
    "had_cardiac": ("ang/isc", "MI", "heart failure", "afib", "cardiac arrest", "stroke"),
}


def demographics(patients: pd.DataFrame) -> pd.DataFrame:
    """Join key `patient`: age (years), male, weight (kg), height (cm), bmi, known at the index date."""
    frame = patients[["patient", "age", "male", "weight", "height", "bmi", "index_date"]]
    return frame.rename(columns={"index_date": EVENT_TIMESTAMP}).sort_values([EVENT_TIMESTAMP, "patient"], ignore_index=True)


def labs(labs: pd.DataFrame) -> pd.DataFrame:
    """Join key `patient`: the latest value of each test, one row per instant at which any of them became known."""
    import pandas as pd

    wanted = labs[labs["test"].isin(TESTS)]
    wide = wanted.pivot_table(index=["patient", "known_at"], columns="test", values="value", aggfunc="last", observed=True)
    wide = wide.reindex(columns=list(TESTS)).sort_index()
    wide = wide.groupby(level="patient").ffill().reset_index()
    wide.columns = pd.Index([str(name) for name in wide.columns])
    return wide.rename(columns={"known_at": EVENT_TIMESTAMP}).sort_values([EVENT_TIMESTAMP, "patient"], ignore_index=True)


def history(events: pd.DataFrame) -> pd.DataFrame:
    """Join key `patient`: 1 for each group of diagnoses made so far, one row per day with a diagnosis."""
    import pandas as pd

    flags = pd.DataFrame({name: events["event"].isin(kinds).astype("float64") for name, kinds in HISTORY.items()})
    flags = flags.assign(patient=events["patient"], **{EVENT_TIMESTAMP: events["occurred_at"]})
    flags = flags[flags[list(HISTORY)].any(axis=1)]
    daily = flags.groupby(["patient", EVENT_TIMESTAMP])[list(HISTORY)].max().sort_index()
    frame = daily.groupby(level="patient").cummax().reset_index()
    return frame.sort_values([EVENT_TIMESTAMP, "patient"], ignore_index=True)


def examples(raw: Mapping[str, pd.DataFrame], as_of: datetime) -> pd.DataFrame:
    """One row per person with an index date up to `as_of` and no diabetes by then.

    1: diabetes within five years of the index date; 0: five years seen without. Censored, so never labelled: followed for less than
    five years, or dead, without diabetes. Every label becomes known at the end of the five years, the positive ones too: were these
    known at their diagnosis, the newest labelled examples would all be positive.
    """
    import pandas as pd

    now = pd.Timestamp(as_of)
    diabetes = raw["events"].loc[lambda rows: rows["event"] == "diabetes"].groupby("patient")["occurred_at"].min()
    ended = raw["followup"].set_index("patient")["ended_at"]
    people = raw["patients"].loc[lambda rows: rows["index_date"] <= now]
    frame = people.assign(diabetes_at=people["patient"].map(diabetes), ended_at=people["patient"].map(ended))
    frame = frame[~(frame["diabetes_at"] <= frame["index_date"])].sort_values(["index_date", "patient"], ignore_index=True)
    horizon = frame["index_date"] + HORIZON
    positive = frame["diabetes_at"] <= horizon
    censored = ~positive & (frame["ended_at"] < horizon)
    known = (horizon <= now) & ~censored
    return pd.DataFrame(
        {
            ROW_ID: frame["patient"],
            EVENT_TIMESTAMP: frame["index_date"],
            "patient": frame["patient"],
            "sex": frame["male"].map({1.0: "male", 0.0: "female"}),
            LABEL: positive.astype("float64").where(known),
            LABEL_AT: horizon.where(known),
        }
    )
