"""Make a marketplace, or clicks over any imported catalogue, from a seed.

Writes catalog, users, click_log, relevance_labels (the simulator's true grades of queries that are not in the log) and
quarantine. No judged query appears in a simulated log. docs/simulation.md says how shoppers behave.
"""

from __future__ import annotations

import datetime as dt
import logging
from typing import TYPE_CHECKING

from jobs import import_source, sources
from jobs.errors import DataError
from jobs.home import Home

if TYPE_CHECKING:
    from pipelines.simulate_clicks import SimulatedClicks

JOB = "simulate"
KEY = "made-up people need no secret"
USERS = 5_000
FIRST_YEAR, LAST_YEAR = 2001, 2100  # with ten years of days before it, what the import of a log accepts
SEARCHES_PER_QUERY = 18.75  # 225,000 for 12,000 queries
SIMULATED = "simulated:"
log = logging.getLogger(__name__)


def catalogue(home: Home, *, items: int, users: int, seed: int, replace: bool = False) -> None:
    """A made-up catalogue and its users."""
    from pipelines.simulate_catalogue import simulate_catalogue

    made = simulate_catalogue(home.spark, items=items, users=users, seed=seed, key=KEY)
    sources.claim(home, f"{SIMULATED}{seed}", replace=replace)
    count = sources.write_catalog(home, made.catalog, job=JOB)
    people = sources.write_table(home, "users", made.users, job=JOB)
    log.info("Made %d items and %d users", count, people)


def clicks(
    home: Home,
    *,
    days: int,
    queries: int,
    seed: int,
    last_day: dt.date,
    unseen_share: float = 0.0,
    held_out: int = 200,
) -> SimulatedClicks:
    """A click log over the home's catalogue, and true grades for `held_out` queries that the log does not hold.

    Shoppers are those of a simulated catalogue, whatever the seed of the log: their tastes are what `users` says.
    `unseen_share` is the share of queries whose shoppers go by what no text tells.
    """
    from pipelines.simulate_clicks import simulate_clicks

    if not FIRST_YEAR <= last_day.year < LAST_YEAR:
        raise DataError(f"The last day {last_day} is not between {FIRST_YEAR} and {LAST_YEAR}.")
    if any(commit.metadata["job"] == import_source.JOB for commit in home.store.commits("click_log")):
        raise DataError(
            f"{home.root} holds an imported click log, which a simulated one would take the place of: import the "
            "catalogue alone into another --home, and simulate there."
        )
    catalog = home.store.read(home.spark, "catalog")
    if catalog.isEmpty():
        raise DataError("There is no catalogue to click on: run `dsirm import` or `dsirm simulate catalogue` first.")
    judged = home.store.read(home.spark, "relevance_labels").where("source <> 'simulation'").select("query").distinct()
    made = simulate_clicks(
        catalog,
        judged_queries=judged,
        key=KEY,
        seed=seed,
        users=home.store.count("users") or USERS,
        queries=queries,
        searches=round(queries * SEARCHES_PER_QUERY),
        days=days,
        last_day=last_day,
        held_out=held_out,
        unseen_share=unseen_share,
        users_seed=_users_seed(home, seed),
    )
    refused = sources.quarantine(home, made.refused, job=JOB, day=last_day)
    events = sources.write_table(
        home, "click_log", made.click_log, job=JOB, by="event_date", only=True, refused=refused
    )
    labels = sources.write_table(home, "relevance_labels", made.labels, job=JOB, by="source")
    log.info("Made %d events, refused %d broken ones, kept %d true grades", events, refused, labels)
    return made


def _users_seed(home: Home, seed: int) -> int:
    """The seed that the home's users were made with; over an imported catalogue, which has none, that of the log."""
    source = sources.marketplace(home) or ""
    return int(source.removeprefix(SIMULATED)) if source.startswith(SIMULATED) else seed
