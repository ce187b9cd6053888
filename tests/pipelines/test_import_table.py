"""Any table by a mapping file: what the mapping may say, and what it may not."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.import_table import MappingError, import_table, parse_mapping, read_mapping, read_table

LOG = """
table = "click_log"
time_format = "dd.MM.yyyy HH:mm"
[columns]
event_time = "when"
item_id = "product.id"
action = "what happened"
query = "q`uery"
position = "pos"
[actions]
seen = "impression"
tapped = "click"
"""


def test_a_csv_log_with_awkward_names(spark, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(
        "when,product.id,what happened,q`uery,pos,left over\n"
        '31.01.2026 10:00,a,seen,"lamp, red",1,x\n'
        "31.01.2026 10:01,a,tapped,,,x\n"
        "2026-01-31,a,seen,lamp,1,x\n"
        "31.01.2026 10:02,a,scrolled,lamp,1,x\n"
    )
    (tmp_path / "mapping.toml").write_text(LOG)
    mapping = read_mapping(tmp_path / "mapping.toml")
    found = import_table(read_table(spark, path, mapping), mapping, zone="UTC", key="k")
    assert [(r.action, r.query) for r in found.rows.orderBy("event_time").collect()] == [
        ("impression", "lamp, red"),
        ("click", None),
    ]
    assert sorted(r.reason for r in found.refused.collect()) == [
        "the action scrolled is not impression, click, cart or purchase",
        "the event time is missing, unreadable or not between 1990 and 2100",
    ]


@pytest.mark.parametrize("kind", ["parquet", "delta", "jsonl"])
def test_a_catalogue_of_other_formats(spark, tmp_path, kind):
    rows = [("a", "Lamp", "home > lighting > lamp", json.dumps({"colour": "red"}), "[0.5, 1.0]", "9.5")]
    frame = spark.createDataFrame(rows, "sku STRING, name STRING, path STRING, props STRING, vec STRING, eur STRING")
    path = tmp_path / f"items{'' if kind == 'delta' else '.' + kind}"
    if kind == "jsonl":
        path.write_text("\n".join(frame.toJSON().collect()))
    else:
        frame.write.format(kind).save(str(path))
    mapping = parse_mapping(
        'table = "catalog"\n[columns]\nitem_id = "sku"\ntitle = "name"\ncategory_path = "path"\n'
        'attributes = "props"\nimage_embedding = "vec"\nprice = "eur"\n'
    )
    [item] = import_table(read_table(spark, path, mapping), mapping, zone="UTC", key="k").rows.collect()
    assert item.category_path == ["home", "lighting", "lamp"]
    assert item.category == "lamp"
    assert item.attributes == {"colour": "red"}
    assert item.image_embedding == [0.5, 1.0]
    assert item.price == 9.5


def test_users_and_labels_by_mapping(spark):
    users = parse_mapping('table = "users"\n[columns]\nuser = "u"\npurchase_power = "p"\n')
    raw = spark.createDataFrame([("ann", 3)], "u STRING, p INT")
    assert import_table(raw, users, zone="UTC", key="k").rows.first().purchase_power == 3
    labels = parse_mapping('table = "relevance_labels"\n[columns]\nquery = "q"\nitem_id = "i"\ngrade = "g"\n')
    raw = spark.createDataFrame([("Lamp", "a", 2)], "q STRING, i STRING, g INT")
    assert import_table(raw, labels, zone="UTC", key="k").rows.first().query == "lamp"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("table =", ["not TOML"]),
        (
            "tabel = 'click_log'\n[columns]\nx = 1",
            ["tabel is not a setting", "table is missing", "columns.x is not a text"],
        ),
        ("table = 'sales'\n[columns]", ["table is 'sales'", "click_log"]),
        (
            "table = 'click_log'\nformat = 'xls'\n[columns]\nitem = 'x'\n[actions]\nview = 'look'",
            [
                "columns.item is not a column",
                "columns.event_time is missing",
                "actions.view is 'look'",
                "format is 'xls'",
            ],
        ),
        ("table = 'users'\n[columns]\nuser = 'u'\n[actions]\na = 'click'", ["actions mean nothing for users"]),
        ("table = 'users'\ncolumns = 3\ntime_format = 1", ["columns is not a table", "time_format is not a text"]),
    ],
)
def test_everything_wrong_with_a_mapping_is_told_at_once(text, told):
    with pytest.raises(MappingError) as caught:
        parse_mapping(text)
    assert all(part in str(caught.value) for part in told)


def test_columns_that_the_file_lacks_are_named(spark, tmp_path):
    (tmp_path / "log.csv").write_text("when,pos\n1,2\n")
    with pytest.raises(MappingError, match=r"no column product\.id, q`uery, what happened; it has when, pos"):
        read_table(spark, tmp_path / "log.csv", parse_mapping(LOG))


def test_a_name_that_does_not_tell_the_format(spark, tmp_path):
    with pytest.raises(ValueError, match="set format in the mapping"):
        read_table(spark, tmp_path / "data.bin", parse_mapping(LOG))


@settings(max_examples=6)
@given(name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12))
def test_a_column_name_is_only_ever_a_name(spark, name):
    raw = spark.createDataFrame([("ann",)], ["placeholder"]).toDF(name)
    mapping = parse_mapping(f'table = "users"\n[columns]\nuser = {json.dumps(name, ensure_ascii=False)}\n')
    assert len(import_table(raw, mapping, zone="UTC", key="k").rows.collect()) == 1
