"""What every importer promises: rows in = accepted + refused, each refusal with its reason, nobody's id let through."""

import hashlib
import hmac
import json
from datetime import date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from pipelines.import_shapes import shape_catalog, shape_events
from pipelines.imports import pseudonym, shape_labels, shape_users, time_from
from schemas.tables import TABLES
from schemas.text import text_hash

KEY = "a secret"


def reasons(refused):
    return sorted((row.source, row.reason) for row in refused.collect())


def assert_contract(frame, name):
    table = TABLES[name]
    assert frame.columns == table.names
    assert frame.schema.simpleString() == table_type(frame, table)


def table_type(frame, table):
    casts = frame.select(*[F.col(c.name).cast(c.type).alias(c.name) for c in table.columns])
    return casts.schema.simpleString()


@settings(max_examples=5)
@given(key=st.text(min_size=1, max_size=90), users=st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=20))
def test_a_pseudonym_is_pythons_hmac_of_the_trimmed_id(spark, key, users):
    # Surrogates cannot be encoded, and Spark trims blanks alone.
    users = [user for user in users if not any("\ud800" <= ch <= "\udfff" for ch in user)]
    if not users or any("\ud800" <= ch <= "\udfff" for ch in key):
        return
    frame = spark.createDataFrame([(user,) for user in users], "user STRING")
    for row in frame.select("user", pseudonym("user", key).alias("p")).collect():
        plain = row.user.strip(" ")
        expected = hmac.new(key.encode(), plain.encode(), hashlib.sha256).hexdigest()[:32] if plain else None
        assert row.p == expected


def test_an_empty_key_is_no_secret():
    with pytest.raises(ValueError, match="key of pseudonyms is empty"):
        pseudonym("user", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5)),
        ("2026-01-02 03:04:05.5", datetime(2026, 1, 2, 3, 4, 5, 500000)),
        ("2026-01-02T03:04:05+01:00", datetime(2026, 1, 2, 2, 4, 5)),
        ("1767323045", datetime(2026, 1, 2, 3, 4, 5)),
        ("1767323045000", datetime(2026, 1, 2, 3, 4, 5)),
        ("1767323045000000", datetime(2026, 1, 2, 3, 4, 5)),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_times_of_many_makes_are_read_as_utc(spark, text, expected):
    frame = spark.createDataFrame([(text,)], "t STRING")
    assert frame.select(time_from(F.col("t"))).first()[0] == expected


def test_a_catalogue_keeps_what_it_can_and_says_why_not_the_rest(spark):
    nan = float("nan")
    raw = spark.createDataFrame(
        [
            ("a", "Red lamp", "Lumo", "lamp", 1299, [0.1, 0.2], "2026-01-01"),
            ("b", "Blue lamp by Lumo", "Lumo", None, None, [0.1, 0.2, 0.3], None),
            ("c", "Green lamp", " ", "lamp", -5, [nan, 0.2], None),
            ("a", "Red lamp, older", "Lumo", "lamp", 1199, None, "2025-01-01"),
            ("", "No id", None, None, None, None, None),
            ("d", "  ", None, None, None, None, None),
        ],
        "item_id STRING, title STRING, brand STRING, category STRING, price_cents BIGINT, "
        "image_embedding ARRAY<DOUBLE>, updated_at STRING",
    )
    shaped = shape_catalog(raw)
    assert_contract(shaped.rows, "catalog")
    items = {row.item_id: row for row in shaped.rows.collect()}
    assert set(items) == {"a", "b", "c"}
    assert items["a"].title == "Red lamp"
    assert items["a"].text == "Red lamp Lumo"  # the title names the category already
    assert items["b"].text == "Blue lamp by Lumo"
    assert (items["a"].price, items["b"].price, items["c"].price) == (12.99, None, None)
    assert items["c"].brand is None
    assert items["a"].in_stock
    assert items["a"].category_path == ["lamp"]
    assert items["b"].category_path == []
    assert items["a"].item_hash == text_hash("a")
    assert items["a"].text_hash == text_hash("Red lamp Lumo")
    assert [items[i].image_embedding is None for i in "abc"] == [False, True, True]
    found = [source for source, _ in reasons(shaped.refused)]
    assert found.count("catalog") == 6 - 3
    assert found.count("catalog.image_embedding") == 2
    assert found.count("catalog.price") == 1
    why = {reason for source, reason in reasons(shaped.refused) if source == "catalog"}
    assert why == {
        "the item id is empty",
        "the title is empty",
        "another row has the same item id; the one changed last stays",
    }


def test_events_are_accepted_or_refused_with_their_reason(spark):
    good = ("e1", "2026-01-31T23:30:00Z", "s", "ann", "Red Lamp", "a", "3", "impression")
    rows = [
        good,
        ("e2", "2026-01-31T23:31:00Z", "s", None, None, "a", "3", "click"),
        ("e3", "yesterday", "s", "ann", "q", "a", "1", "impression"),
        ("e4", "1970-01-01", "s", "ann", "q", "a", "1", "impression"),
        ("e5", "2026-01-31", "s", "ann", "q", " ", "1", "impression"),
        ("e6", "2026-01-31", "s", "ann", "q", "a", "1", "hover"),
        ("e7", "2026-01-31", "s", "ann", "q", "a", "1", None),
        ("e8", "2026-01-31", "s", "ann", None, "a", "1", "impression"),
        ("e9", "2026-01-31", "s", "ann", "q", "a", "first", "impression"),
        ("e10", "2026-01-31", "s", "ann", "q", "a", "0", "impression"),
        ("e11", "2026-01-31", "s", "ann", "q", "a", "1e99", "impression"),
    ]
    raw = spark.createDataFrame(
        rows,
        "event_id STRING, event_time STRING, search_id STRING, user STRING, query STRING, item_id STRING, "
        "position STRING, action STRING",
    )
    shaped = shape_events(raw, zone="Europe/Vienna", key=KEY)
    assert_contract(shaped.rows, "click_log")
    events = {row.event_id: row for row in shaped.rows.collect()}
    assert set(events) == {"e1", "e2"}
    assert events["e1"].event_date == date(2026, 2, 1)  # after midnight in Vienna
    assert events["e1"].user == hmac.new(KEY.encode(), b"ann", hashlib.sha256).hexdigest()[:32]
    assert events["e1"].position == 3
    assert events["e2"].position is None  # the contract has no position on actions
    assert events["e2"].user is None
    refused = shaped.refused.collect()
    assert len(refused) == len(rows) - 2
    assert sorted(row.reason for row in refused) == sorted(
        [
            "the event time is missing, unreadable or not between 1990 and 2100",
            "the event time is missing, unreadable or not between 1990 and 2100",
            "the item id is empty",
            "the action hover is not impression, click, cart or purchase",
            "the action is empty",
            "an impression without a query",
            "an impression without a position",
            "an impression without a position",
            "the position is not 1 to 100000",
        ]
    )


def test_an_event_without_id_is_known_by_its_content(spark):
    row = ("2026-01-31", "lamp", "a", 1, "impression")
    raw = spark.createDataFrame(
        [row, row, (*row[:3], 2, row[4])],
        "event_time STRING, query STRING, item_id STRING, position INT, action STRING",
    )
    ids = [r.event_id for r in shape_events(raw, zone="UTC", key=KEY).rows.collect()]
    assert len(ids) == 3
    assert len(set(ids)) == 2


def test_labels_are_normalised_and_checked(spark):
    raw = spark.createDataFrame(
        [
            ("  Red  LAMP", "a", "3"),
            ("red lamp", "a", "1"),
            ("Ｌamp", "b", "0"),
            ("lamp", "b", "4"),
            ("lamp", "c", "good"),
            ("", "c", "1"),
            ("lamp", None, "1"),
            ("lamp", "unknown", "1"),
            ("lamp", "c", "2.0"),
        ],
        "query STRING, item_id STRING, grade STRING",
    )
    known = spark.createDataFrame([("a",), ("b",), ("c",)], "item_id STRING")
    shaped = shape_labels(raw, known_items=known)
    assert_contract(shaped.rows, "relevance_labels")
    found = {(r.query, r.item_id, r.rater, r.source, r.grade, r.query_id) for r in shaped.rows.collect()}
    assert found == {
        ("red lamp", "a", "final", "people", 3, text_hash("red lamp")),
        ("lamp", "b", "final", "people", 0, text_hash("lamp")),
        ("lamp", "c", "final", "people", 2, text_hash("lamp")),
    }
    assert [why for _, why in reasons(shaped.refused)] == sorted(
        [
            "the same rater judged this query and item twice; the highest grade stays",
            "the grade is not 0, 1, 2 or 3",
            "the grade is not a number",
            "the query is empty",
            "the item id is empty",
            "the judged item is not in the catalogue",
        ]
    )


def test_a_person_and_a_model_may_judge_the_same(spark):
    raw = spark.createDataFrame(
        [("lamp", "a", "0", "people"), ("lamp", "a", "3", "llm")],
        "query STRING, item_id STRING, grade STRING, source STRING",
    )
    shaped = shape_labels(raw)
    assert sorted((r.source, r.grade) for r in shaped.rows.collect()) == [("llm", 3), ("people", 0)]
    assert reasons(shaped.refused) == []


def test_users_come_out_as_pseudonyms(spark):
    raw = spark.createDataFrame(
        [
            ("ann", "f", "25-34", "3"),
            ("bob", None, "", "9"),
            ("", None, None, None),
            ("cy", None, None, "rich"),
            ("ann", "f", "25-34", "4"),
        ],
        "user STRING, gender STRING, age_band STRING, purchase_power STRING",
    )
    shaped = shape_users(raw, key=KEY)
    assert_contract(shaped.rows, "users")
    assert [len(r.user) for r in shaped.rows.collect()] == [32]
    assert [why for _, why in reasons(shaped.refused)] == sorted(
        [
            "purchase power is not 1 to 5",
            "purchase power is not a whole number",
            "the user id is empty",
            "another row has the same user",
        ]
    )


def test_a_plan_does_not_show_the_key_of_the_pseudonyms(spark):
    raw = spark.createDataFrame(
        [("ann", "i", "click", "2026-01-31")], "user STRING, item_id STRING, action STRING, event_time STRING"
    )
    plan = shape_events(raw, zone="UTC", key=KEY).rows._jdf.queryExecution().toString().lower()
    pads = [bytes(b ^ mask for b in KEY.encode().ljust(64, b"\0")).hex() for mask in (0x36, 0x5C)]
    assert "sha2" in plan
    assert not [pad for pad in pads if pad in plan]


def test_refused_rows_know_a_person_by_pseudonym_alone_and_so_does_the_id_of_an_event(spark):
    columns = "user STRING, item_id STRING, action STRING, event_time STRING"
    raw = spark.createDataFrame([("ann", "", "click", "2026-01-31"), ("ann", "i", "click", "2026-01-31")], columns)
    shaped, other = (shape_events(raw, zone="UTC", key=key) for key in (KEY, "another key"))
    alias = hmac.new(KEY.encode(), b"ann", hashlib.sha256).hexdigest()[:32]
    assert json.loads(shaped.refused.first().row)["user"] == alias
    # Known by a plain hash of its content, an event would tell whether a guessed person is behind it.
    assert shaped.rows.first().event_id != other.rows.first().event_id
