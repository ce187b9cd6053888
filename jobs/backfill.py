"""Make up for days: aggregate those of a range whose log changed, then run the night of each, oldest first.

Reads click_log. Writes what aggregate-day and nightly write. Nights run from the current release's date on: an older
one would put older features in place of newer. Days before it are counted anew, so that every window that holds them is
right from the next night on. Running it again does nothing that is done.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from jobs import aggregate_day, nightly, releases
from jobs.errors import DataError
from jobs.home import Home

JOB = "backfill"


def run(home: Home, first: dt.date, last: dt.date, *, dry_run: bool = False) -> dict[str, Any]:
    """Days aggregated and nights run (or that would be), and the release of each night.

    Raises:
        DataError: the log has no day in the range.

    """
    held = sorted(dt.date.fromisoformat(part["event_date"]) for part in home.store.partitions("click_log"))
    days = [day for day in held if first <= day <= last]
    if not days:
        has = f"it runs from {held[0]} to {held[-1]}" if held else "it is empty"
        raise DataError(f"The click log has no day from {first} to {last}; {has}.")
    serving = releases.current(home.store)
    nights = [day for day in days if serving is None or day >= serving["as_of_date"]]
    told: dict[str, Any] = {
        "dry_run": dry_run,
        "current": serving["release"] if serving else None,
        "days": [str(day) for day in aggregate_day.changed_days(home, days)],
        "nights": [{"date": str(day), "release": None} for day in nights],
    }
    if dry_run:
        return told
    aggregate_day.run(home, days)
    for night in told["nights"]:
        night["release"] = nightly.run(home, dt.date.fromisoformat(night["date"])).release
    return told
