"""Dates as numbers: a column of dates becomes age, year, month, weekday and hour, which trees can split on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DATE_SHARE = 0.95  # the share of filled cells that must be dates of one format
DATE_FEATURES = ("age in days", "year", "month", "weekday", "hour")  # age: days from 1970 on, larger is later
_DAYS = ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y", "%d-%b-%Y", "%d %b %Y", "%d %B %Y",
         "%b %d %Y", "%b %d, %Y", "%B %d, %Y")  # fmt: skip
_TIMES = ("", " %H:%M", " %H:%M:%S")
FORMATS = ("ISO8601", *(day + time for day in _DAYS for time in _TIMES), "%Y-%m", "%b %Y", "%B %Y", "%m/%Y")


def find_date_format(cells: Sequence[str]) -> str | None:
    """Return the format of FORMATS that most filled cells have, None if less than DATE_SHARE of them have it.

    Day before month is used only if month before day fits fewer cells: 03/04/2020 is the 4th of March, as in pandas.
    """
    filled = [cell.strip() for cell in cells if cell.strip()]
    if not filled or sum(_may_be_date(cell) for cell in filled) < DATE_SHARE * len(filled):
        return None
    few = filled[:50]  # most formats fit none of these
    shares = {name: _share_read(few, name) for name in FORMATS}
    likely = [name for name, share in shares.items() if share > DATE_SHARE / 2]
    best = max(likely, key=lambda name: _share_read(filled, name), default=None)
    return best if best and _share_read(filled, best) >= DATE_SHARE else None


def _may_be_date(cell: str) -> bool:
    return 6 <= len(cell) <= 40 and any(map(str.isdigit, cell)) and any(mark in cell for mark in "-/. ")


def _share_read(cells: Sequence[str], date_format: str) -> float:
    return float(np.isfinite(read_dates(cells, date_format)[:, 0]).mean())


def read_dates(cells: Sequence[str], date_format: str) -> np.ndarray:
    """Return (cells, DATE_FEATURES) as numbers; a row of NaN for a cell that is not a date of this format."""
    import pandas as pd

    moments = pd.to_datetime(
        pd.Series([cell.strip() for cell in cells], dtype="str"), format=date_format, errors="coerce", utc=True
    )
    age = (moments - pd.Timestamp("1970-01-01", tz="UTC")) / pd.Timedelta(days=1)
    parts: list[pd.Series] = [age, moments.dt.year, moments.dt.month, moments.dt.weekday, moments.dt.hour]
    return np.column_stack([part.to_numpy(dtype=float, na_value=np.nan) for part in parts])
