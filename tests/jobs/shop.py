"""A tiny shop written straight into tables, with a plan over it: what the jobs that need no Spark are tested on.

Three categories of eight items, each of two brands; half of the users only ever click the one brand, half the other.
"""

import datetime as dt

import numpy as np
import pyarrow as pa

from jobs.aggregate_day import planned_days
from jobs.home import Home
from jobs.plan import Plan
from schemas.sids import pack
from schemas.tables import TABLES
from schemas.text import text_hash

RELEASE, ENCODER, CODEBOOK = "2026-01-31-00000000", "minilm-test", "quantizer-test"
DAYS = tuple(dt.date(2026, 1, day) for day in range(26, 32))
CATEGORIES = ("lamp", "ring", "shoe")
ITEMS = [f"{category}-{number}" for category in CATEGORIES for number in range(8)]
QUERIES = [f"{colour} {category}" for category in CATEGORIES for colour in ("red", "blue", "green", "grey", "pink")]
USERS = [f"user-{number:02d}" for number in range(16)]
SETTINGS = """
[generator]
hidden = 32
beams = 4
stages = ["items", "queries", "users", "align"]
[stage_items]
epochs = 6
batch = 8
lr = 5e-3
[stage_queries]
epochs = 8
batch = 8
lr = 5e-3
[stage_users]
epochs = 6
batch = 16
lr = 5e-3
[stage_align]
steps = 6
batch = 8
lr = 1e-3
kl = 0.1
"""


def sid_of(item):
    """Category, brand, and a code that four items share in pairs."""
    category, number = item.split("-")
    return pack((CATEGORIES.index(category), int(number) % 2, int(number) // 4))


def brand_of(user):
    return USERS.index(user) % 2


def category_of(query):
    return query.split()[1]


def day_number(day):
    return (day - dt.date(1970, 1, 1)).days


def put(home, name, rows, *parts, memo="", mark=None):
    """Replace a table, or partitions of it, by rows (dicts); `mark` is the fingerprint of an imported one."""
    table = pa.Table.from_pylist(rows, schema=TABLES[name].arrow_schema())
    target = home.store.target(name, *parts)
    target.replace(table, job="test", memo=memo, fingerprints=mark and dict.fromkeys(target.labels, mark))


def plan_of(stages=("items", "queries", "users", "align"), **changed):
    made = {stage: f"generator-{stage}" for stage in stages}
    last = made[stages[-1]] if stages else "generator-single"
    days = tuple(map(str, DAYS))
    fields = {
        "release": RELEASE,
        "as_of_date": days[-1],
        "days": days,
        "fit": True,
        "encoder_version": ENCODER,
        "codebook_version": CODEBOOK,
        "generator_version": last,
        "corpus_memo": "corpus",
        "inputs": {f"click_log/event_date={day}": f"log of {day}" for day in days},
        "parent": None,
        "seen": 0,
        "parent_codebook": None,
        "parent_generator": None,
        "config_hash": "",
        "stages": dict(sorted(made.items())),  # as its file keeps them
    }
    return Plan(**(fields | changed))


def searches():
    """Every user asks one query a day and clicks items of their brand; the other brand is only shown. One search in
    eight leads to nothing, none of them on the last day.
    """
    rng = np.random.default_rng(5)
    rows = []
    for day in DAYS:
        for user in USERS:
            idle = day < DAYS[-1] and (DAYS.index(day) + USERS.index(user)) % 8 == 7
            query = QUERIES[rng.integers(len(QUERIES))]
            for number in rng.permutation(8)[:6].tolist():
                clicked = int(number % 2 == brand_of(user) and not idle)
                rows.append(
                    {
                        "event_date": day,
                        "user": user,
                        "query_id": text_hash(query),
                        "item_hash": text_hash(f"{category_of(query)}-{number}"),
                        "impressions": 1,
                        "clicks": clicked,
                        "purchases": 0,
                        "last_action": dt.datetime.combine(day, dt.time(12), dt.UTC) if clicked else None,
                    }
                )
    return rows


def log_of(rows):
    """The clicks of searches as rows of the log."""
    names = {text_hash(text): text for text in (*ITEMS, *QUERIES)}
    return [
        {
            "event_id": str(number),
            "event_date": row["event_date"],
            "event_time": row["last_action"],
            "user": row["user"],
            "query": names[row["query_id"]],
            "item_id": names[row["item_hash"]],
            "action": "click",
        }
        for number, row in enumerate(rows)
        if row["clicks"]
    ]


def profiles(rows):
    """What `profile-users` makes of the searches, by the rules of the contract."""
    names = {text_hash(item): item for item in ITEMS}
    found = {}
    for row in sorted(rows, key=lambda r: (-day_number(r["event_date"]), names[r["item_hash"]])):
        if row["clicks"]:
            item = names[row["item_hash"]]
            mine = found.setdefault((row["user"], item.split("-")[0]), {"items": [], "days": []})
            mine["items"].append(item)
            mine["days"].append(day_number(row["event_date"]))
    return [
        {"as_of_date": DAYS[-1], "user": user, "category": category, **lists}
        for (user, category), lists in found.items()
    ]


def fill(root, settings=SETTINGS, plan=None):
    """The shop in a home."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dsirm.toml").write_text(settings)
    home, plan = Home(root), plan or plan_of()
    time = dt.datetime(2026, 2, 1, tzinfo=dt.UTC)
    rng = np.random.default_rng(3)
    centres = dict(zip(CATEGORIES, np.eye(3, 16) + 0.1, strict=True))

    def vector(category):
        drawn = centres[category] + 0.1 * rng.normal(size=16)
        return (drawn / np.linalg.norm(drawn)).astype(np.float32).tolist()

    hashes = {text: text_hash(text) for text in (*ITEMS, *QUERIES)}
    put(
        home,
        "catalog",
        [
            {
                "item_id": item,
                "item_hash": hashes[item],
                "title": item.replace("-", " "),
                "category": item.split("-")[0],
                "category_path": [],
                "attributes": {},
                "in_stock": True,
                "text": item,
                "text_hash": hashes[item],
            }
            for item in ITEMS
        ],
        mark="catalogue",
    )
    seen = {"encoder_version": ENCODER, "first_seen": DAYS[-1]}
    for name, texts, of in (
        ("item_embeddings", ITEMS, lambda text: text.split("-")[0]),
        ("query_embeddings", QUERIES, category_of),
    ):
        put(home, name, [{**seen, "text_hash": hashes[t], "embedding": vector(of(t))} for t in texts], seen)
    split = {query: "test" if query.startswith("pink") else "train" for query in QUERIES} | {"grey ring": "valid"}
    put(
        home,
        "queries",
        [
            {
                "as_of_date": DAYS[-1],
                "query_id": hashes[q],
                "query": q,
                "traffic": 5,
                "band": "head",
                "split": split[q],
            }
            for q in QUERIES
        ],
        {"as_of_date": DAYS[-1]},
        memo=plan.corpus_memo,
    )
    counts = dict.fromkeys(("impressions", "clicks", "carts", "purchases", "expected_clicks", "orphan_actions"), 1)
    put(
        home,
        "pairs",
        [
            {
                "as_of_date": DAYS[-1],
                "query_id": hashes[q],
                "item_hash": hashes[f"{category_of(q)}-{number}"],
                "weight": 1.0,
                "split": split[q],
                **counts,
            }
            for q in QUERIES
            for number in range(8)
        ],
        {"as_of_date": DAYS[-1]},
        memo=plan.corpus_memo,
    )
    put(
        home,
        "item_sids",
        [
            {
                "release": plan.release,
                "item_id": item,
                "item_hash": hashes[item],
                "codes": [sid_of(item) >> 40, sid_of(item) >> 20 & 1023, sid_of(item) & 1023],
                "sid": sid_of(item),
                "residual_norm": 0.1,
                "level1_by": "category",
                "codebook_version": CODEBOOK,
                "event_time": time,
                "created_time": time,
            }
            for item in ITEMS
        ],
        {"release": plan.release},
        memo=plan.release,
    )
    put(
        home,
        "codebooks",
        [
            {
                "codebook_version": CODEBOOK,
                "level": level,
                "code": code,
                "vector": np.random.default_rng([level, code]).normal(size=8).astype(np.float32).tolist(),
                "usage": 1,
            }
            for level in (1, 2, 3)
            for code in range(4)
        ],
        {"codebook_version": CODEBOOK},
    )
    put(
        home,
        "users",
        [{"user": u, "gender": ("f", "m", None)[n % 3], "purchase_power": n % 5 + 1} for n, u in enumerate(USERS)],
        mark="users",
    )
    rows = searches()
    days, counted = planned_days(home, plan)
    put(home, "user_searches", rows, *days, memo=counted)
    put(home, "user_profiles", profiles(rows), {"as_of_date": DAYS[-1]}, memo=plan.corpus_memo)
    return home
