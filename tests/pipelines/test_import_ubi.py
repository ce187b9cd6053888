"""User Behavior Insights logs, as JSON lines, arrays, dumps and Parquet."""

import json
from datetime import date

import pytest

from pipelines.import_ubi import import_ubi, read_ubi

KEY = "a secret"


def event(action="click", item="a", ordinal=2, time="2026-01-31T10:00:00.000Z", query="q1", **more):
    return {
        "application": "shop",
        "action_name": action,
        "client_id": "CLIENT-1",
        "session_id": "S-1",
        "query_id": query,
        "timestamp": time,
        "message_type": "INFO",
        "event_attributes": {"object": {"object_id": item, "name": "Lamp"}, "position": {"ordinal": ordinal}},
        **more,
    }


EVENTS = [
    event("impression"),
    event("view", item="b", ordinal={"index": 3}),
    event("click"),
    event("add_to_cart"),
    event("purchase", time=1769853600000),
    event("click", item="c", query=None, user_query="own words", client_id="anonymous"),
    event("product_hover"),
    event("click", item=None),
    event("impression", query="unknown"),
    event("click", time="never"),
]
QUERIES = [
    {"query_id": "q1", "client_id": "CLIENT-1", "user_query": "Red Lamp", "query_response_hit_ids": ["a", "b"]},
    {"query_id": "q1", "client_id": "CLIENT-1", "user_query": "Red Lamp"},
]


def lines(path, records):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records) + "\n")


def test_events_find_their_query_and_the_rest_is_refused(spark, tmp_path):
    lines(tmp_path / "ubi_events.jsonl", [*EVENTS, "not json", "", "[1, 2]"])
    lines(tmp_path / "ubi_queries.ndjson", QUERIES)
    found = import_ubi(read_ubi(spark, tmp_path), zone="UTC", key=KEY)
    rows = found.rows.collect()
    assert sorted(r.action for r in rows) == ["cart", "click", "click", "impression", "impression", "purchase"]
    shown = {r.item_id: r for r in rows if r.action == "impression"}
    assert (shown["a"].position, shown["b"].position) == (2, 3)
    assert shown["a"].query == "Red Lamp"
    assert shown["a"].search_id == "q1"
    assert {r.event_date for r in rows} == {date(2026, 1, 31)}
    [own] = [r for r in rows if r.item_id == "c"]
    assert (own.query, own.user) == ("own words", None)
    assert len({r.user for r in rows if r.item_id != "c"}) == 1
    refused = found.refused.collect()
    assert len(rows) + len(refused) == len(EVENTS) + 2  # the empty line is no record
    assert sorted(r.reason for r in refused) == sorted(
        [
            "the record is not a JSON object",
            "the record is not a JSON object",
            "the action product_hover is not impression, click, cart or purchase",
            "the item id is empty",
            "an impression without a query",
            "the event time is missing, unreadable or not between 1990 and 2100",
        ]
    )


@pytest.mark.parametrize("shape", ["array", "dump", "parquet"])
def test_other_shapes_of_the_same_log_give_the_same_events(spark, tmp_path, shape):
    records = [event("impression", user_query="lamp"), event("click"), event("click")]
    lines(tmp_path / "plain.jsonl", records)
    if shape == "array":
        path = tmp_path / "log.json"
        path.write_text(json.dumps(records, indent=1))
    elif shape == "dump":
        path = tmp_path / "dump.jsonl"
        lines(path, [{"_id": f"id{n}", "_source": record} for n, record in enumerate(records)])
    else:
        path = tmp_path / "log.parquet"
        # An exporter keeps its own order of fields; an event is the same all the same.
        spark.read.json(str(tmp_path / "plain.jsonl")).write.parquet(str(path))

    def read(where):
        rows = import_ubi(read_ubi(spark, where), zone="UTC", key=KEY).rows
        return sorted((tuple(r)[1:] for r in rows.collect()), key=str), rows.select("event_id").distinct().count()

    events, ids = read(path)
    assert events == read(tmp_path / "plain.jsonl")[0]
    # Without an id of its own, the same click twice is one event delivered twice.
    assert ids == (3 if shape == "dump" else 2)


def test_what_cannot_be_read_is_said(spark, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_ubi(spark, tmp_path / "none")
    with pytest.raises(ValueError, match="holds no ubi_events file"):
        read_ubi(spark, tmp_path)
    (tmp_path / "log.xml").write_text("<x/>")
    with pytest.raises(ValueError, match=r"\.xml files"):
        read_ubi(spark, tmp_path / "log.xml")
