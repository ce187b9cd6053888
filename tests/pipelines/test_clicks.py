"""From days of the log to counts: by hand, and against a plain Python reading of the rules on random logs."""

import datetime as dt
import json
import random
from collections import Counter, defaultdict

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pipelines import clicks
from schemas.tables import TABLES
from schemas.text import has_words, normalise_query, text_hash

pytestmark = pytest.mark.slow

# A call of Spark takes seconds, and shrinking makes hundreds.
UNSHRUNK = [Phase.explicit, Phase.generate]

LIMITS = {"max_query_chars": 30, "robot_events": 8, "robot_searches": 3}
DAY = dt.date(2026, 1, 31)
NAMES = TABLES["click_log"].names


def event(event_id, search, action, item, *, query=None, position=None, session=None, second=0, day=DAY):
    """A row of the log."""
    time = dt.datetime.combine(day, dt.time(12, 0, second), dt.UTC)
    return (event_id, day, time, search, session, None, query, item, position, action)


def aggregate(spark, log, change=lambda rows: rows):
    """Everything that `aggregate_day` makes of a log: pair_days, query_days, refused, events counted."""
    rows = change(spark.createDataFrame(log, TABLES["click_log"].ddl))
    staged = []

    def stage(frame):
        staged.append(frame.persist())
        return staged[-1]

    events = clicks.clean_events(rows, **LIMITS, stage=stage)
    named, lost = clicks.with_queries(events.kept, stage)
    views = clicks.join_views(named)
    counts = stage(clicks.position_counts(views))
    pairs = clicks.pair_counts(counts, clicks.position_curve(counts))
    refused = events.refused.unionByName(clicks.refused_events(lost))
    made = {
        "pairs": sorted(tuple(row) for row in pairs.select(*TABLES["pair_days"].names).collect()),
        "queries": sorted(tuple(row) for row in clicks.query_counts(named, events.texts).collect()),
        "refused": sorted((row["event_date"], row["reason"], row["row"]) for row in refused.collect()),
        "counted": counts.agg({"events": "sum"}).collect()[0][0] or 0,
    }
    for frame in staged:
        frame.unpersist()
    return made


# By hand ----------------------------------------------------------------------------------------------------------

SHOWN = {"action": "impression", "query": "Shoes"}
BY_HAND = [
    # Two searches of one query. Position 1 is clicked on one of two pages, position 2 on none.
    event("e1", "s1", item="i1", position=1, session="u1", **SHOWN),
    event("e2", "s1", item="i2", position=2, session="u1", **SHOWN),
    event("e3", "s2", item="i1", position=1, session="u2", **SHOWN | {"query": " SHOES "}),
    event("e4", "s1", "click", "i1", session="u1"),  # its query is that of its search
    event("e5", "s1", "click", "i1", session="u1", second=9),  # one result page, clicked twice
    event("e6", "s1", "cart", "i1"),
    event("e7", "s1", "purchase", "i1"),
    # Positions from 100 on share one rate.
    event("e8", "s3", item="i4", position=100, **SHOWN | {"query": "hat"}),
    event("e9", "s3", item="i5", position=4000, **SHOWN | {"query": "hat"}),
    event("e10", "s3", "click", "i4"),
    # Actions without an impression: of a search that shows its query, and outside any search.
    event("e11", "s2", "click", "i3"),
    event("e12", None, "purchase", "i3", query="hat"),
    # Refused.
    event("e2", "s1", item="i2", position=2, session="u1", second=5, **SHOWN),  # delivered twice
    event("r1", "s9", "impression", "i1", query="?!", position=1),
    event("r2", "s9", "impression", "i1", query="x" * 31, position=1),
    event("r5", "s9", "impression", "i1", query="x " * 5_000, position=1),
    event(
        "r6",
        "s9",
        "impression",
        "i1",
        query="\N{GRINNING FACE}\N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-16}",
        position=1,
    ),
    event("r3", None, "click", "i1"),
    event("r4", "s8", "click", "i1"),
    *[event(f"a{n}", "s5", "impression", f"i{n}", query="all", position=1, session="bot-events") for n in range(9)],
    *[event(f"b{n}", f"t{n}", "impression", "i1", query="all", position=1, session="bot-searches") for n in range(4)],
]


@pytest.fixture(scope="module")
def by_hand(spark):
    return aggregate(spark, BY_HAND)


def test_counts_and_expected_clicks_by_hand(by_hand):
    named = {(text_hash(q), text_hash(i)): (q, i) for q in ("shoes", "hat") for i in ("i1", "i2", "i3", "i4", "i5")}
    found = {named[(row[1], row[2])]: row[3:] for row in by_hand["pairs"]}
    assert found == {
        # impressions, clicks, carts, purchases, expected clicks in millionths, actions never shown
        ("shoes", "i1"): (2, 1, 1, 1, 1_000_000, 0),
        ("shoes", "i2"): (1, 0, 0, 0, 0, 0),
        ("shoes", "i3"): (0, 1, 0, 0, 0, 1),
        ("hat", "i4"): (1, 1, 0, 0, 500_000, 0),
        ("hat", "i5"): (1, 0, 0, 0, 500_000, 0),
        ("hat", "i3"): (0, 0, 0, 1, 0, 1),
    }


def test_searches_and_texts_by_hand(by_hand):
    assert by_hand["queries"] == sorted([(DAY, text_hash("shoes"), "shoes", 2), (DAY, text_hash("hat"), "hat", 2)])


def test_what_is_refused_and_why(by_hand):
    reasons = defaultdict(list)
    for _, reason, row in by_hand["refused"]:
        reasons[reason].append(json.loads(row).get("event_id"))
    of_robots = reasons.pop("robot-like session")
    assert sorted(of_robots) == [f"a{n}" for n in range(9)] + [f"b{n}" for n in range(4)]
    # Where the query of a search is nowhere, only hashes are left of the event.
    assert len(reasons.pop("action of a search that names no query")) == 1
    assert reasons == {
        "duplicate of an event": ["e2"],
        "query without a letter or digit": ["r1", "r6"],
        "query longer than 30 characters": ["r2", "r5"],
        "action without search and query": ["r3"],
    }
    assert by_hand["counted"] + len(by_hand["refused"]) == len(BY_HAND)


def test_of_several_deliveries_the_later_ones_are_refused(by_hand):
    (again,) = [json.loads(row) for _, reason, row in by_hand["refused"] if reason.startswith("duplicate")]
    assert again["event_time"].startswith("2026-01-31T12:00:05")


# Any log ----------------------------------------------------------------------------------------------------------

QUERIES = st.sampled_from([None, None, "Shoes", "shoes ", "École", "ÉCOLE", "?!", "", "x" * 31])


@st.composite
def logs(draw, days=14):
    """Small logs of some days with duplicates, robots, queries missing or void, and orphan actions."""
    rows = []
    for n in range(days):
        day = DAY - dt.timedelta(days=n)
        for _ in range(draw(st.integers(0, 24))):
            action = draw(st.sampled_from(["impression", "impression", "click", "cart", "purchase"]))
            rows.append(
                event(
                    draw(st.sampled_from([f"e{i}" for i in range(30)])),
                    draw(st.sampled_from([None, "s1", "s2", "s3", "s4"])),
                    action,
                    draw(st.sampled_from(["i1", "i2", "i3"])),
                    query=draw(QUERIES),
                    position=draw(st.sampled_from([1, 2, 100, 150])) if action == "impression" else None,
                    session=draw(st.sampled_from([None, "u1", "u2", "u3"])),
                    second=draw(st.integers(0, 1)),
                    day=day,
                )
            )
    return rows


def first(value):
    """NULL before everything, as Spark sorts."""
    return (value is not None, value if value is not None else 0)


def reference(log):
    """The rules, one event after the other: pair_days, query_days, refused reasons with event ids, events counted."""
    refused, deliveries = [], defaultdict(list)
    for row in log:
        e = dict(zip(NAMES, row, strict=True))
        e["normal"] = None if e["query"] is None else normalise_query(e["query"])
        if e["normal"] is not None and len(e["normal"]) > 30:
            refused.append(("query longer than 30 characters", row))
        elif e["normal"] is not None and not has_words(e["normal"]):
            refused.append(("query without a letter or digit", row))
        elif e["normal"] is None and e["search_id"] is None:
            refused.append(("action without search and query", row))
        else:
            e["page"] = text_hash(e["search_id"] or "event:" + e["event_id"])
            hashes = [e["session_id"], e["normal"], e["item_id"]]
            order = [e["event_time"], e["page"], *[text and text_hash(text) for text in hashes], e["position"]]
            e["order"] = [first(value) for value in [*order, e["action"], *row]]
            deliveries[e["event_date"], e["event_id"]].append((e["order"], row, e))
    once = []
    for copies in deliveries.values():
        kept, *others = sorted(copies, key=lambda copy: copy[0])
        once.append(kept[1:])
        refused += [("duplicate of an event", row) for _, row, _ in others]
    sessions = defaultdict(list)
    for _, e in once:
        sessions[e["event_date"], e["session_id"]].append(e["page"])
    robots = {key for key, pages in sessions.items() if key[1] and (len(pages) > 8 or len(set(pages)) > 3)}
    refused += [("robot-like session", row) for row, e in once if (e["event_date"], e["session_id"]) in robots]
    kept = [(row, e) for row, e in once if (e["event_date"], e["session_id"]) not in robots]
    queries = defaultdict(list)
    for _, e in kept:
        if e["normal"] is not None:
            queries[e["event_date"], e["page"]].append(text_hash(e["normal"]))
    views, texts = defaultdict(list), {text_hash(e["normal"]): e["normal"] for _, e in kept if e["normal"] is not None}
    for row, e in kept:
        day, page = e["event_date"], e["page"]
        if not queries[day, page]:
            refused.append(("action of a search that names no query", row))
            continue
        query = min(queries[day, page]) if e["normal"] is None else text_hash(e["normal"])
        views[day, page, query, text_hash(e["item_id"])].append(e)
    rates, place = defaultdict(lambda: [0, 0]), {}
    for key, events in views.items():
        seen = [min(e["position"], 100) for e in events if e["action"] == "impression"]
        if seen:
            place[key] = (key[0], min(seen))
            rates[place[key]][0] += any(e["action"] == "click" for e in events)
            rates[place[key]][1] += 1
    pairs, searches = defaultdict(lambda: [0] * 6), defaultdict(set)
    for key, events in views.items():
        day, page, query, item = key
        done = {e["action"] for e in events}
        sums = [int(action in done) for action in ("impression", "click", "cart", "purchase")]
        sums.append(rates[place[key]][0] * 1_000_000 // rates[place[key]][1] if key in place else 0)
        sums.append(0 if key in place else len(events))
        pairs[day, query, item] = [a + b for a, b in zip(pairs[day, query, item], sums, strict=True)]
        searches[day, query].add(page)
    return {
        "pairs": sorted((*key, *sums) for key, sums in pairs.items()),
        "queries": sorted((day, query, texts[query], len(pages)) for (day, query), pages in searches.items()),
        "refused": refused,
        "counted": sum(map(len, views.values())),
    }


@settings(max_examples=2, phases=UNSHRUNK)
@given(logs())
def test_every_event_is_counted_once_or_refused(spark, log):
    found, expected = aggregate(spark, log), reference(log)
    assert found["counted"] + len(found["refused"]) == len(log)
    assert (found["pairs"], found["queries"]) == (expected["pairs"], expected["queries"])
    assert Counter(reason for _, reason, _ in found["refused"]) == Counter(reason for reason, _ in expected["refused"])
    # The delivery that is kept is not the one that is refused: what quarantine holds is the rest of the log, whole.
    nameless = "action of a search that names no query"
    told = Counter((r, *fingerprint(json.loads(row))) for _, r, row in found["refused"] if r != nameless)
    assert told == Counter((r, *fingerprint(as_json(row))) for r, row in expected["refused"] if r != nameless)


def as_json(row):
    named = dict(zip(NAMES, row, strict=True))
    named |= {"event_date": named["event_date"].isoformat(), "event_time": named["event_time"].isoformat()[:19]}
    return {name: value for name, value in named.items() if value is not None}


def fingerprint(row):
    return tuple(sorted((row | {"event_time": row["event_time"][:19]}).items()))


def test_a_day_comes_out_the_same_alone_among_others_and_in_any_order(spark):
    log = some_log(random.Random(5))
    whole = aggregate(spark, log)
    shuffled = random.Random(1).sample(log, len(log))
    assert aggregate(spark, shuffled, lambda rows: rows.repartition(7)) == whole
    alone = aggregate(spark, [row for row in log if row[1] == DAY])
    assert alone["pairs"]
    for name in ("pairs", "queries", "refused"):
        assert alone[name] == [row for row in whole[name] if row[0] == DAY]


def some_log(draw, events=150):
    def one(n):
        action = draw.choice(["impression", "impression", "click", "purchase"])
        return event(
            f"e{draw.randrange(events)}",
            draw.choice([None, *[f"s{n // 6}"] * 4]),
            action,
            f"i{draw.randrange(6)}",
            query=draw.choice([None, "Shoes", "École", "?!"]),
            position=draw.randrange(1, 5) if action == "impression" else None,
            session=draw.choice([None, f"u{n // 12}"]),
            second=draw.randrange(60),
            day=DAY - dt.timedelta(days=n % 2),
        )

    return [one(n) for n in range(events)]
