"""Requests, a query of a user on a day, as a personal generator reads them: who asks, and what they clicked before.

    inputs = request_inputs(home, plan, queries, asked, user_fields(generator))
    beam_search(generator, index, inputs.take(rows, generator.backend), beams)

A request of day d knows the clicks of days before d and no other, whatever the profile holds: nothing that a query led
to is ever read with it. A request of which nothing is known is the query alone, to the letter.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dsirm_models.histories import (
    POWERS,
    RECENT,
    Clicks,
    Latent,
    asked_vectors,
    first_distinct,
    latent_of,
    latest_before,
    related_categories,
)
from jobs import planned
from jobs.arrays import Items, load_items, matrix, numbered
from jobs.generators import QueryInputs, release_sids, sid_of
from jobs.home import Home
from jobs.plan import Plan


class UserFields(NamedTuple):
    """The values of a user's attributes that a generator knows, ascending; any other is as good as unknown."""

    genders: tuple[str, ...]
    age_bands: tuple[str, ...]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> UserFields:
        """As a generator's `meta` tells them."""
        return cls(tuple(told["genders"]), tuple(told["age_bands"]))

    def width(self, dim: int) -> int:
        """Numbers that describe who asks, beside latent vectors of width `dim`."""
        return sum(self.counts) + dim

    @property
    def counts(self) -> tuple[int, int, int]:
        """Values known of gender, age band and purchase power."""
        return len(self.genders), len(self.age_bands), POWERS


def user_fields(generator: Any) -> UserFields | None:
    """What a generator knows of users; None: it is not a personal one."""
    known = generator.meta.get("users")
    return None if known is None else UserFields.of(known)


class RequestInputs(NamedTuple):
    """R requests."""

    queries: QueryInputs
    query_row: NDArray[np.int64]
    """(R,) of `queries`."""
    about: list[str]
    """(R,) the user's attributes in words; empty where none is known."""
    attributes: NDArray[np.int64]
    """(R, 3) place of gender, age band and purchase power among the known ones, -1 where unknown."""
    recent: NDArray[np.int64]
    """(R, RECENT) SIDs as generators emit them, then -1; the query's nearest category first, the latest click first."""
    fields: UserFields | None
    latent: Latent
    """Of every SID in `recent`."""

    @property
    def known(self) -> NDArray[np.bool_]:
        """(R,) is anything known of who asks? If not, the answer is everybody's."""
        told = np.array([bool(words) for words in self.about], dtype=np.bool_)
        known: NDArray[np.bool_] = told | (self.recent[:, 0] >= 0)
        return known

    def take(self, rows: NDArray[np.int64], backend: str) -> Any:
        """The rows as that backend reads them: vectors (B, D + C), or texts with who asks."""
        if self.fields is None:
            return self.queries.take(self.query_row[rows], backend)
        if backend != "embedded":
            return [self._asked(row) for row in rows.tolist()]
        attributes, recent = self.attributes[rows], self.recent[rows]
        counts = self.fields.counts
        return asked_vectors(self.queries.vectors, self.query_row[rows], attributes, counts, recent, self.latent)

    def _asked(self, row: int) -> Any:
        from dsirm_models.generator_data import Asked

        query, recent = self.queries.texts[self.query_row[row]], self.recent[row]
        if not self.about[row] and recent[0] < 0:
            return query
        return Asked(query, self.about[row], tuple(recent[recent >= 0].tolist()))


def request_inputs(
    home: Home, plan: Plan, queries: QueryInputs, asked: pa.Table, fields: UserFields | None
) -> RequestInputs:
    """What a generator reads of requests.

    Args:
        home: reads users, user_profiles (the plan's date), catalog, item_embeddings, item_sids and codebooks.
        plan: the release's.
        queries: at least the queries that are asked.
        asked: query_id, user (NULL or empty: nobody known) and event_date, R rows.
        fields: of the generator; None: nobody is looked up, and the queries alone are read.

    Raises:
        DataError: profiles or SIDs were not computed for this plan.
    """
    query_row = np.searchsorted(queries.ids, asked["query_id"].to_numpy())
    count = len(query_row)
    nothing = np.full((count, RECENT), -1, dtype=np.int64)
    attributes = np.full((count, 3), -1, dtype=np.int64)
    if fields is None:
        empty = Latent(np.zeros(0, dtype=np.int64), np.zeros((0, 1), dtype=np.float32))
        return RequestInputs(queries, query_row, [""] * count, attributes, nothing, None, empty)
    names, user = named(asked["user"])
    words, attributes = attributes_of(home, plan, names, fields)
    known = np.where(user < 0, len(names), user)
    day = asked["event_date"].cast(pa.int32()).to_numpy().astype(np.int64)
    recent = _recent(home, plan, queries, query_row, names, user, day)
    about = [words[place] for place in known.tolist()]
    latent = _latent(home, plan, recent)
    return RequestInputs(queries, query_row, about, attributes[known], recent, fields, latent)


def asked_of(plan: Plan, requests: pa.Table) -> pa.Table:
    """query_id and user as a release serves them: asked on the day after its as-of date, so that every click up to the
    end of that date is read and none later.
    """
    tomorrow = pa.scalar(plan.date + dt.timedelta(days=1), pa.date32())
    return requests.append_column("event_date", pa.repeat(tomorrow, requests.num_rows))


def named(users: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int64]]:
    """Distinct names ascending, and the place of each row's among them; -1 for NULL and the empty name."""
    names = sorted({name for name in users.unique().to_pylist() if name})
    place = pc.index_in(users, value_set=pa.array(names, pa.string()))
    return names, pc.fill_null(place, -1).to_numpy().astype(np.int64)


def fields_of(home: Home, plan: Plan) -> UserFields:
    """The attributes of the users that there are: what a generator is about to learn."""
    people = planned.read_arrow(home, plan, "users", ["gender", "age_band"])
    return UserFields(*(tuple(named(people[name])[0]) for name in ("gender", "age_band")))


def attributes_of(home: Home, plan: Plan, names: list[str], fields: UserFields) -> tuple[list[str], NDArray[np.int64]]:
    """Of N names and, behind them, of nobody: the attributes in words, and (N + 1, 3) their places."""
    people = planned.read_arrow(home, plan, "users")
    people = people.filter(pc.is_in(people["user"], value_set=pa.array(names, pa.string())))
    row = np.searchsorted(np.array(names), people["user"].to_numpy(zero_copy_only=False)) if names else []
    words, places = [""] * (len(names) + 1), np.full((len(names) + 1, 3), -1, dtype=np.int64)
    gender, age, power = (people[name].to_pylist() for name in ("gender", "age_band", "purchase_power"))
    places[row, 0] = numbered(gender, fields.genders)
    places[row, 1] = numbered(age, fields.age_bands)
    places[row, 2] = [-1 if value is None else value - 1 for value in power]
    for place, *told, band in zip(row, gender, age, power, strict=True):
        words[place] = ", ".join([*filter(None, told), *([f"purchase power {band}"] if band else [])])
    return words, places


def _recent(
    home: Home,
    plan: Plan,
    queries: QueryInputs,
    query_row: NDArray[np.int64],
    names: list[str],
    user: NDArray[np.int64],
    day: NDArray[np.int64],
) -> NDArray[np.int64]:
    """(R, RECENT) what each user clicked before the request's day, in categories related to its query."""
    items = load_items(home, plan)
    hashes, sids, _ = release_sids(home.store, plan.release, plan.codebook_version)
    own = sid_of(hashes, sids, items.hashes)
    clicked = latest_clicks(home, plan, items, own >= 0, queries.vectors, query_row, names, user, day)
    return first_distinct(np.where(clicked < 0, -1, own[clicked]))


def latest_clicks(
    home: Home,
    plan: Plan,
    items: Items,
    usable: NDArray[np.bool_],
    query_vectors: NDArray[np.float32],
    query_row: NDArray[np.int64],
    names: list[str],
    user: NDArray[np.int64],
    day: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Rows of the items that each user clicked before the request's day, in categories related to its query.

    Args:
        home: reads user_profiles (the plan's date).
        plan: the release's.
        items: the catalogue.
        usable: (I,) False: an item that no history tells of.
        query_vectors: (U, D).
        query_row: (R,) the query of each request.
        names: N users, ascending.
        user: (R,) of `names`; -1: nobody known.
        day: (R,) days since 1970.

    Returns:
        (R, (RELATED + 1) * RECENT) as `histories.latest_before` has it.
    """
    categories = sorted({name for name in items.categories if name})
    profile = planned.read_arrow(home, plan, "user_profiles", ["user", "category", "items", "days"])
    who = pc.index_in(profile["user"], value_set=pa.array(names, pa.string()))
    profile, who = profile.filter(pc.is_valid(who)), who.drop_null().to_numpy().astype(np.int64)
    kind = numbered(profile["category"].to_pylist(), [*categories, ""])
    lists = profile["items"].combine_chunks()
    size = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    item = pc.fill_null(pc.index_in(lists.flatten(), value_set=pa.array(items.ids)), -1).to_numpy().astype(np.int64)
    days = profile["days"].combine_chunks().flatten().to_numpy().astype(np.int64)
    # What was deleted since, or has a category that no item has any more, says nothing now.
    told = (item >= 0) & usable[item] & (np.repeat(kind, size) >= 0)
    group = np.repeat(who * (len(categories) + 1) + kind, size)
    clicks = Clicks(group[told], days[told], item[told])
    related = related_categories(query_vectors, items.vectors, numbered(items.categories, categories))[query_row]
    unknown = (related < 0) | (user[:, None] < 0)
    return latest_before(clicks, np.where(unknown, -1, user[:, None] * (len(categories) + 1) + related), day)


def _latent(home: Home, plan: Plan, recent: NDArray[np.int64]) -> Latent:
    """The distinct SIDs of histories by the code vectors of the plan's codebook."""
    part = {"codebook_version": plan.codebook_version}
    book = home.store.read_arrow("codebooks", part, columns=["level", "code", "vector"])
    book = book.sort_by([("level", "ascending"), ("code", "ascending")])
    vectors = matrix(book["vector"], "codebooks")
    first = np.searchsorted(book["level"].to_numpy(), np.arange(2, 4))
    return latent_of(np.split(vectors, first), recent)
