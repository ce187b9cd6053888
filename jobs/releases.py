"""The history of releases: what is current, what was rolled back, what is pinned, and the commits that change it."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping
from typing import Any

from jobs.errors import DataError
from jobs.storage import Store

log = logging.getLogger(__name__)
Row = dict[str, Any]
SERVES = ("published", "rolled_back")
"""States of rows that change what serves."""
ANEW = "`dsirm nightly` plans and audits anew (under Airflow: clear the run from `plan` on)."


def history(store: Store) -> list[Row]:
    """Rows of `releases` by sequence."""
    return sorted(store.read_arrow("releases").to_pylist(), key=lambda row: int(row["sequence"]))


def current(store: Store) -> Row | None:
    """The publishing row of the release that serves now: what the row of the highest sequence names."""
    return serving_of(history(store))


def serving_of(rows: list[Row]) -> Row | None:
    """The same, of a history that was read."""
    return find(rows, rows[-1]["current"]) if rows and rows[-1]["current"] is not None else None


def find(rows: list[Row], release: str) -> Row:
    """The newest publishing row of a release. Raises DataError for one never published, or removed since."""
    for row in reversed(rows):
        if row["release"] == release and row["state"] == "removed":
            raise DataError(f"{release} was removed: it was older than the releases that `dsirm maintain` keeps.")
        if row["release"] == release and row["state"] == "published":
            return row
    known = ", ".join(dict.fromkeys(str(row["release"]) for row in reversed(rows))) or "none yet"
    raise DataError(f"There is no published release {release}. Published: {known}.")


def states(rows: list[Row]) -> dict[str, str]:
    """Release -> current, standing (published before, still readable), rolled_back or removed, in order of first
    publication.
    """
    standing: list[str] = []
    gone: dict[str, None] = {}
    removed: set[str] = set()
    for row in rows:
        release = row["release"]
        if row["state"] == "published":
            gone.pop(release, None)
            removed.discard(release)
            standing = [*(r for r in standing if r != release), release]
        elif row["state"] == "rolled_back":
            kept = standing.index(row["current"]) + 1 if row["current"] in standing else 0
            gone |= dict.fromkeys(standing[kept:])
            standing = standing[:kept]
        elif row["state"] == "removed":
            removed.add(release)
            standing = [r for r in standing if r != release]
    serving = rows[-1]["current"] if rows else None

    def state(release: str) -> str:
        if release in removed:
            return "removed"
        return "rolled_back" if release in gone else "current" if release == serving else "standing"

    return {release: state(release) for release in dict.fromkeys(str(row["release"]) for row in rows)}


def moved(rows: list[Row], seen: int) -> bool:
    """Whether what serves changed after the row of sequence `seen`: by publishing or rolling back, not by a pin."""
    last = int(rows[-1]["sequence"]) if rows else 0
    return seen > last or any(row["state"] in SERVES for row in rows if row["sequence"] > seen)


def pinned(rows: list[Row]) -> set[str]:
    """Releases that retention never removes."""
    return {row["release"] for row in rows if row["state"] == "pinned"}


def kept(rows: list[Row], count: int) -> set[str]:
    """Releases that retention keeps: the `count` published last, the current one, and every pinned one."""
    by_state = states(rows)
    published = [row["release"] for row in reversed(rows) if row["state"] == "published"]
    newest = [release for release in dict.fromkeys(published) if by_state[release] != "removed"][:count]
    return {*newest, *pinned(rows), *(release for release, state in by_state.items() if state == "current")}


def remove(store: Store, release: str) -> None:
    """Say that a release goes, before its partitions do. The current release does not change."""
    rows = history(store)
    row = find(rows, release)
    if release in kept(rows, 0):
        raise DataError(f"{release} is current or pinned, so it stays.")
    store.append_release(
        {**row, "sequence": int(rows[-1]["sequence"]) + 1, "state": "removed", "current": rows[-1]["current"]}
    )


def publish(store: Store, release: Mapping[str, Any], *, seen: int, again: bool = False) -> bool:
    """Append the row that makes a release current; False where it is current already.

    `seen` is the highest sequence that its plan looked at.

    Raises:
        ConcurrentWrite: another row came at the same moment; nothing was written.
        DataError: another release was published, or one rolled back, after `seen`; or, where `again` is not set, the
            release was rolled back, or one of a later day serves.

    """
    rows = history(store)
    state = states(rows).get(release["release"])
    if state == "current":
        return False
    if state == "rolled_back" and not again:
        raise DataError(
            f"{release['release']} was rolled back, so it is not published again by itself. If it is good after all: "
            f"dsirm publish-release --release {release['release']} --again"
        )
    if moved(rows, seen):
        # Not a write that came between: the same plan can never be published, however often it is tried.
        raise DataError(f"Another release serves than when {release['release']} was planned: {ANEW}")
    serving = serving_of(rows)
    if not again and serving and release["as_of_date"] < serving["as_of_date"]:
        raise DataError(
            f"{release['release']} is older than {serving['release']}, which serves. If it is to take its place: "
            f"dsirm publish-release --release {release['release']} --again"
        )
    sequence = int(rows[-1]["sequence"]) + 1 if rows else 1
    store.append_release({**release, "sequence": sequence, "state": "published", "current": release["release"]})
    return True


def roll_back(store: Store, release: str) -> str | None:
    """Make an earlier release current again; given the current one, the one before it. Returns what serves now.

    Going back to a release that was gone back to already changes nothing, so that a lost reply can be asked for again.
    """
    rows = history(store)
    by_state = states(rows)
    find(rows, release)
    if by_state[release] == "rolled_back":
        raise DataError(f"{release} was rolled back already; publish-release --again brings it back.")
    published = [
        r["release"] for r in rows if r["state"] == "published" and by_state[r["release"]] in ("current", "standing")
    ]
    standing = list(dict.fromkeys(reversed(published)))[::-1]
    serving = rows[-1]["current"]
    target = release
    if release == serving:
        last = next(row for row in reversed(rows) if row["state"] in SERVES)
        if last["state"] == "rolled_back":
            log.warning("%s was gone back to already. To withdraw it too, name the release to go back to.", release)
            return release
        before = standing[: standing.index(release)]
        if not before:
            raise DataError(f"{release} is the only release: there is nothing to go back to.")
        target = before[-1]
    withdrawn = find(rows, serving)
    store.append_release(
        {**withdrawn, "sequence": int(rows[-1]["sequence"]) + 1, "state": "rolled_back", "current": target}
    )
    return target


def pin(store: Store, release: str) -> None:
    """Keep a release from retention for good."""
    rows = history(store)
    row = find(rows, release)
    store.append_release(
        {**row, "sequence": int(rows[-1]["sequence"]) + 1, "state": "pinned", "current": rows[-1]["current"]}
    )


def day_end(day: dt.date) -> dt.datetime:
    """The end of an as-of day, UTC: `event_time` of what was computed for it."""
    return dt.datetime.combine(day + dt.timedelta(days=1), dt.time(), dt.UTC)
