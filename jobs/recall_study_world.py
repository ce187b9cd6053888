"""The marketplace of the recall study: simulated in a home of its own, kept as arrays, its tables then deleted.

Days up to the as-of day go through the jobs that a night has; the days after are counted and nothing else. A share of
the catalogue is held out as if it came after the training, with its clicks.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dsirm_models.category_map import map_categories
from dsirm_models.recall_data import BANDS, RecallData, Requests
from dsirm_models.study_data import TEST, TRAIN, VALID
from jobs import aggregate_day, build_corpus, embed_items, embed_queries, planned, profile_users, simulate
from jobs.arrays import Items, find, load_items, load_vectors, numbered
from jobs.files import write_json
from jobs.home import Home
from jobs.plan import Plan, make_plan
from jobs.requests import attributes_of, fields_of, latest_clicks, named
from jobs.revision import code_revision
from jobs.searches import NAMELESS
from jobs.settings import EncoderSettings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

LAST_DAY = dt.date(2026, 1, 31)
UNSEEN_SHARE = 0.2
"""Share of queries whose shoppers go by what no text tells: the middle one of the ranking study's marketplaces."""
NEW_SHARE = 0.1
"""Share of the catalogue that comes after the training, by a hash of the item."""
SPLITS = {"train": TRAIN, "valid": VALID, "test": TEST}
_COUNTS = ("impressions", "clicks", "purchases")


class World(NamedTuple):
    """How large a marketplace is."""

    seed: int
    items: int
    users: int
    queries: int
    days: int
    """Days of the log."""
    later: int
    """The last of them, which are evaluated on and not learned from."""
    train_requests: int
    """Requests that the personal stages learn from, at most, drawn by lot."""
    later_requests: int
    """Requests that are evaluated, at most, drawn by lot."""


def make_data(root: Path, world: World, encoder: EncoderSettings, out: Path) -> None:
    """Simulate a marketplace in the folder `root` and keep its arrays in `out`; what was made before a kill is kept."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dsirm.toml").write_text(
        f'[corpus]\nwindow_days = {world.days}\n[generator]\nstages = ["items", "queries", "users"]\n'
        # A TOML string is escaped as JSON's is: a path may hold quotes and backslashes.
        f"[encoder]\nname = {json.dumps(encoder.name)}\nmax_tokens = {encoder.max_tokens}\n",
        encoding="utf-8",
    )
    home, seconds = Home(root), _Seconds(root / "seconds.json")
    as_of = LAST_DAY - dt.timedelta(days=world.later)
    days = [LAST_DAY - dt.timedelta(days=ago) for ago in reversed(range(world.days))]
    seconds.of("simulate", partial(_simulate, home, world))
    plan = make_plan(home, as_of)
    seconds.of("aggregate days", partial(aggregate_day.run, home, days))
    for name, job in (
        ("corpus", build_corpus),
        ("profiles", profile_users),
        ("embed items", embed_items),
        ("embed queries", embed_queries),
    ):
        seconds.of(name, partial(job.run, home, plan))
    began = time.monotonic()
    data = recall_data(home, plan, [day for day in days if day > as_of], world)
    told = {"seconds": {**seconds.told, "arrays": round(time.monotonic() - began, 1)}}
    data._replace(provenance={**data.provenance, **told}).save(out)
    shutil.rmtree(root)


class _Seconds:
    """Steps that are not done twice, and how long each took."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def of(self, name: str, step: Callable[[], None]) -> None:
        if name in self.told:
            return
        began = time.monotonic()
        step()
        self.told[name] = round(time.monotonic() - began, 1)
        write_json(self.path, self.told)


def _simulate(home: Home, world: World) -> None:
    simulate.catalogue(home, items=world.items, users=world.users, seed=world.seed)
    simulate.clicks(
        home,
        days=world.days,
        queries=world.queries,
        seed=world.seed,
        last_day=LAST_DAY,
        unseen_share=UNSEEN_SHARE,
        held_out=0,
    )


def recall_data(home: Home, plan: Plan, later: list[dt.date], world: World) -> RecallData:
    """The arrays of a home: what was known up to the plan's day, and what was asked on the days `later`.

    Args:
        home: with everything of the plan up to its embeddings, and the later days aggregated.
        plan: of the as-of day.
        later: days after it.
        world: how many requests are kept, and the seed of their draw.
    """
    items = load_items(home, plan)
    new = is_new(items.hashes)
    queries = _queries(home, plan, later)
    pairs = planned.read_arrow(home, plan, "pairs", ["query_id", "item_hash", "weight", "clicks", "purchases"]).sort_by(
        [("query_id", "ascending"), ("item_hash", "ascending")]
    )
    item = find(items.hashes, pairs["item_hash"].to_numpy())
    pairs, item = pairs.filter(pa.array(~new[item])), item[~new[item]]
    clicks = np.bincount(item, weights=pairs["clicks"].to_numpy(), minlength=len(items.hashes))
    names, _ = named(planned.read_arrow(home, plan, "users", ["user"])["user"])
    fields = fields_of(home, plan)
    _, attributes = attributes_of(home, plan, names, fields)
    stock = planned.read_arrow(home, plan, "catalog", ["item_hash", "in_stock"]).sort_by("item_hash")["in_stock"]
    category = numbered(items.categories, map_categories(items.categories, room=len(items.hashes)))

    def requests(days: list[dt.date], usable: NDArray[np.bool_], learned: bool, most: int) -> Requests:
        asked = _entries(home, days, names, queries, items.hashes, usable, learned)
        day, user, query, entries = _drawn(asked, most=most, queries=len(queries.ids), users=len(names), world=world)
        if learned:
            # Some are read without their user, so that queries alone stay as good as they were.
            lot = np.random.default_rng([world.seed, 3]).random(len(user))
            user = np.where(lot < NAMELESS, -1, user)
        latest = latest_clicks(home, plan, items, ~new, queries.vectors, query, names, user, day)
        return Requests(query.astype(np.int32), attributes[user].astype(np.int8), latest.astype(np.int32), *entries)

    window = [dt.date.fromisoformat(day) for day in plan.days]
    return RecallData(
        query_embeddings=queries.vectors,
        query_texts=queries.texts,
        query_band=queries.band,
        query_split=queries.split,
        item_embeddings=items.vectors,
        item_texts=items.texts,
        item_hash=items.hashes,
        item_category=category.astype(np.int32),
        item_stocked=stock.to_numpy(zero_copy_only=False).astype(bool),
        item_new=new,
        item_efficiency=_efficiency(home, plan, items, new),
        item_clicks=clicks.astype(np.int64),
        pair_query=np.searchsorted(queries.ids, pairs["query_id"].to_numpy()).astype(np.int32),
        pair_item=item.astype(np.int32),
        pair_weight=pairs["weight"].to_numpy().astype(np.float32),
        pair_acted=pairs["clicks"].to_numpy() + pairs["purchases"].to_numpy() > 0,
        attribute_counts=list(fields.counts),
        train=requests(window, ~new, True, world.train_requests),
        later=requests(later, np.ones(len(new), dtype=np.bool_), False, world.later_requests),
        provenance={
            "code_revision": code_revision(),
            "as_of_date": plan.as_of_date,
            "later_days": [str(day) for day in later],
            "world": world._asdict(),
            "unseen_share": UNSEEN_SHARE,
            "new_share": NEW_SHARE,
        },
    )


def is_new(hashes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which items (I,) come after the training: by their hash, another part of it than the generator's split reads."""
    found: NDArray[np.bool_] = hashes // 1_000_000 % 1000 < 1000 * NEW_SHARE
    return found


class _Queries(NamedTuple):
    """Q queries by ascending id."""

    ids: NDArray[np.int64]
    texts: list[str]
    vectors: NDArray[np.float32]
    band: NDArray[np.int8]
    split: NDArray[np.int8]


def _queries(home: Home, plan: Plan, later: list[dt.date]) -> _Queries:
    """The window's queries, and those that were first asked on a later day."""
    known = planned.read_arrow(home, plan, "queries", ["query_id", "query", "band", "split"]).sort_by("query_id")
    asked = home.store.read_arrow("query_days", *[{"event_date": day} for day in later], columns=["query_id", "query"])
    both = pa.concat_tables([known.select(["query_id", "query"]), asked])
    ids, first = np.unique(both["query_id"].to_numpy(), return_index=True)
    texts = both["query"].take(pa.array(first)).to_pylist()
    kept = load_vectors(home, plan, "query_embeddings")
    place = kept.find(ids)
    vectors = kept.rows[place]
    missing = np.flatnonzero(place < 0)
    if len(missing):
        from dsirm_models.encoder import load_encoder

        how = home.settings.encoder
        encoder = load_encoder(how.name, how.max_tokens, precision=how.precision, batch_size=how.batch)
        vectors[missing] = encoder.encode([texts[row] for row in missing])
    at = find(known["query_id"].to_numpy(), ids)
    bands = np.append(numbered(known["band"].to_pylist(), BANDS), BANDS.index("unseen"))
    splits = np.append(np.array([SPLITS[name] for name in known["split"].to_pylist()]), TEST)
    return _Queries(ids, texts, vectors, bands[at].astype(np.int8), splits[at].astype(np.int8))


class _Entries(NamedTuple):
    """N rows of user_searches, as numbers."""

    day: NDArray[np.int64]
    user: NDArray[np.int64]
    query: NDArray[np.int64]
    item: NDArray[np.int64]
    counts: NDArray[np.int32]
    """(N, 3) shown, clicked, bought."""


def _entries(
    home: Home,
    days: list[dt.date],
    names: list[str],
    queries: _Queries,
    hashes: NDArray[np.int64],
    usable: NDArray[np.bool_],
    learned: bool,
) -> _Entries:
    """What known users were shown on some days, a day at a time, so that only numbers are ever held."""
    asked = queries.split != TEST if learned else np.ones(len(queries.ids), dtype=np.bool_)
    parts = []
    columns = ["user", "query_id", "item_hash", *_COUNTS]
    for day in days:
        read = home.store.read_arrow("user_searches", {"event_date": day}, columns=columns)
        user = pc.fill_null(pc.index_in(read["user"], value_set=pa.array(names, pa.string())), -1).to_numpy()
        query = find(queries.ids, read["query_id"].to_numpy())
        item = find(hashes, read["item_hash"].to_numpy())
        kept = (user >= 0) & (query >= 0) & (item >= 0) & usable[item] & asked[query]
        counts = np.stack([read[name].to_numpy() for name in _COUNTS], axis=1).astype(np.int32)
        number = np.full(int(kept.sum()), (day - dt.date(1970, 1, 1)).days, dtype=np.int64)
        parts.append((number, user[kept].astype(np.int64), query[kept], item[kept], counts[kept]))
    day_, user, query, item, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _Entries(day_, user, query, item, counts)


def _drawn(
    found: _Entries, *, most: int, queries: int, users: int, world: World
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], tuple[NDArray[np.int32], ...]]:
    """Requests that led to a click or purchase, at most so many: day, user and query of each, and their entries."""
    first = int(found.day.min(initial=0))
    key = ((found.day - first) * users + found.user) * queries + found.query
    acted = np.unique(key[found.counts[:, 1:].any(axis=1)])
    drawn = np.sort(np.random.default_rng([world.seed, most]).permutation(acted)[:most])
    request = find(drawn, key)
    order = np.lexsort((found.item, request))
    order = order[request[order] >= 0]
    day, rest = np.divmod(drawn, users * queries)
    user, query = np.divmod(rest, queries)
    entries = (request[order], found.item[order], *found.counts[order].T)
    return day + first, user, query, tuple(column.astype(np.int32) for column in entries)


def _efficiency(home: Home, plan: Plan, items: Items, new: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(I,) as `assign-item-sids` rates them, new items having nothing but the mean."""
    from pipelines.recall import with_efficiency

    held: DataFrame = home.spark.createDataFrame(pa.table({"item_hash": items.hashes[new]}))
    counted = aggregate_day.read_window(home, plan, "pair_days").join(held, "item_hash", "left_anti")
    rated = with_efficiency(planned.read(home, plan, "catalog").select("item_hash"), counted).toArrow()
    place = find(items.hashes, rated["item_hash"].to_numpy())
    out = np.zeros(len(items.hashes), dtype=np.int64)
    out[place] = rated["efficiency"].to_numpy()
    return out
