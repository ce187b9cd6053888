"""Every importer over rows made to break it: it refuses or accepts each, loses none, and keeps to its home.

A few hundred rows by default, more than 10,000 by HYPOTHESIS_PROFILE=nightly. The seed is in the failure.
"""

import contextlib
import csv
import gzip
import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from jobs import aggregate_day, build_corpus, import_source, nightly
from jobs.errors import DataError
from jobs.explain import explain
from jobs.home import Home
from jobs.plan import make_plan
from pipelines.import_esci import EXAMPLE_COLUMNS, EXAMPLES, PRODUCT_COLUMNS, PRODUCTS
from pipelines.import_icecat import JUDGMENT_COLUMNS, JUDGMENTS
from pipelines.import_icecat import PRODUCT_COLUMNS as ICECAT_COLUMNS
from pipelines.import_icecat import PRODUCTS as ICECAT_PRODUCTS
from schemas.tables import TABLES
from tests.hostile import BATCHES, ROWS, row, text
from tests.marketplace import SETTINGS, with_session

pytestmark = pytest.mark.slow
SEEDS = given(seed=st.integers(0, 2**32))
BATCHED = settings(
    max_examples=BATCHES,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # every example makes a home of its own
)
# Ids of people as a shop knows them: no table and no file of the home may hold one.
PERSON = "person-in-the-clear-"


@pytest.fixture
def shop(tmp_path_factory, spark, caplog):
    """Makes homes; afterwards nothing was logged that may not be, and nothing lies beside a home."""
    made = []

    def make():
        folder = tmp_path_factory.mktemp("hostile")
        home = with_session(Home(folder / "home"), spark)
        (folder / "files").mkdir()
        made.append(home)
        return home, folder / "files"

    yield make
    for home in made:
        home.root.mkdir(exist_ok=True)
        assert sorted(path.name for path in home.root.parent.iterdir()) == ["files", "home"]
        assert home.user_key() not in caplog.text
        assert PERSON not in caplog.text


def tsv(columns, rows):
    out = io.StringIO()
    csv.writer(out, delimiter="\t", lineterminator="\n").writerows([columns, *([r[c] for c in columns] for r in rows)])
    return out.getvalue().encode("utf-8", "surrogatepass")


def parquet(path, columns, rows):
    """Texts as they are, and as bytes that are no UTF-8 where they hold the mark of it."""
    arrays = []
    for column in columns:
        raw = [r[column].encode().replace(b"\xef\xbf\xbd", b"\xff\xc3\x28") for r in rows]
        offsets = [0]
        for value in raw:
            offsets.append(offsets[-1] + len(value))
        buffers = [None, pa.array(offsets, pa.int32()).buffers()[1], pa.py_buffer(b"".join(raw))]
        arrays.append(pa.StringArray.from_buffers(len(raw), buffers[1], buffers[2]))
    pq.write_table(pa.table(arrays, names=list(columns)), path)


def check(home, table, read):
    """Every row was accepted or refused, what is kept can be read, and nobody is named."""
    commit = home.store.last_commit(table)
    counts = commit.metadata["counts"]
    assert counts["read"] == read == counts["accepted"] + counts["quarantined"]
    assert home.store.count(table) == counts["accepted"] - counts.get("known", 0) > 0
    refused = [r for r in home.store.read_arrow("quarantine").to_pylist() if r["source"] == table]
    assert len(refused) == counts["quarantined"] > 0
    assert all(r["reason"] and json.loads(r["row"]) is not None for r in refused)
    for name in TABLES:
        rows = home.store.read_arrow(name).to_pylist()  # raises on text that is no UTF-8
        users = [r["user"] for r in rows if r.get("user") is not None]
        assert all(len(user) == 32 and int(user, 16) >= 0 for user in users)
    for path in (home.root / "tables").rglob("*.parquet"):
        body = pq.ParquetFile(path).read()
        assert PERSON not in repr(body.to_pylist()), path


@BATCHED
@SEEDS
def test_icecat(shop, seed):
    draw, (home, folder) = random.Random(seed), shop()
    sound = {
        "item_id": "",
        "title": "Acme toner cartridge",
        "brand": "Acme",
        "price_cents": "1299",
        "date_released": "2010-01-02",
        "product_type": "",
        "attributes_json": '{"attr_t_ink": "black"}',
    }
    items = [row(draw, sound | {"item_id": f"t{n}"}) for n in range(ROWS)]
    items += [sound | {"item_id": "same", "attributes_json": text(draw)} for _ in range(2)]
    judged = dict.fromkeys(JUDGMENT_COLUMNS, "3")
    labels = [row(draw, judged | {"query": f"q{n}", "item_id": f"t{n}"}) for n in range(ROWS)]
    (folder / ICECAT_PRODUCTS).write_bytes(gzip.compress(tsv(ICECAT_COLUMNS, items)))
    (folder / JUDGMENTS).write_bytes(gzip.compress(tsv(JUDGMENT_COLUMNS, labels)))
    import_source.icecat(home, folder)
    check(home, "catalog", len(items))


@BATCHED
@SEEDS
def test_esci(shop, seed):
    draw, (home, folder) = random.Random(seed), shop()
    product = dict(zip(PRODUCT_COLUMNS, ("", "Red lamp", "Acme", "red", "us"), strict=True))
    products = [row(draw, product | {"product_id": f"p{n}"}) | {"product_locale": "us"} for n in range(ROWS)]
    products += [product | {"product_id": "same"}] * 2
    example = dict(zip(EXAMPLE_COLUMNS, ("", "", "us", "E", "1", "1", "train"), strict=True))
    examples = [row(draw, example | {"query": f"lamp {n}", "product_id": f"p{n}"}) for n in range(ROWS)]
    parquet(folder / PRODUCTS, PRODUCT_COLUMNS, products)
    parquet(folder / EXAMPLES, EXAMPLE_COLUMNS, examples)
    import_source.esci(home, folder, locale="us")
    check(home, "catalog", len(products))


@BATCHED
@SEEDS
def test_ubi(shop, seed):
    draw, (home, folder) = random.Random(seed), shop()
    lines = []
    for n in range(ROWS):
        event = row(
            draw,
            {
                "action_name": "click",
                "client_id": f"{PERSON}{n}",
                "session_id": "s",
                "query_id": f"q{n}",
                "timestamp": "2026-01-31T10:00:00Z",
                "user_query": "lamp",
                "object": f"i{n}",
                "ordinal": 1,
            },
        )
        event["event_attributes"] = {
            "object": {"object_id": event.pop("object")},
            "position": {"ordinal": event.pop("ordinal")},
        }
        lines.append(json.dumps(event, ensure_ascii=draw.random() < 0.5).encode())
    lines += [b'{"user_query": "\\ud800"}', b"\xff\xfe{}", b"[" * 5000, b'{"a":' * 2000, b"no json", b"{}", b"null"]
    (folder / "log.jsonl").write_bytes(b"\n".join(draw.sample(lines, len(lines))))
    import_source.ubi(home, folder / "log.jsonl")
    check(home, "click_log", len(lines))


LOG = {"when": "2026-01-31 10:00:00", "who": "", "did": "impression", "q": "red lamp", "item.id": "", "po's`": "1"}
LOG_MAPPING = """table = "click_log"
[columns]
event_time = "when"
user = "who"
action = "did"
query = "q"
item_id = "item.id"
position = "po's`"
search_id = "q"
"""


@BATCHED
@SEEDS
def test_any_table_and_what_is_computed_from_it(shop, seed):
    home = imported(shop, random.Random(seed))
    plan = make_plan(home)
    aggregate_day.run(home, [plan.date])
    build_corpus.run(home, plan)
    assert home.store.count("pairs") > 0


@pytest.mark.faults
def test_a_whole_night_over_such_rows(shop):
    home = imported(shop, random.Random(7))
    # Nearly all are lamps, and the log names what nobody sells.
    (home.root / "dsirm.toml").write_text(f"{SETTINGS}\nlargest_bucket = 1.0\npairs_in_catalogue = 0.0\n")
    opened = with_session(Home(home.root), home.spark)
    release = nightly.run(opened).release
    assert opened.store.count("item_sids", {"release": release}) == opened.store.count("catalog")
    texts = [text(random.Random(n)) for n in range(50)]
    for query in texts:
        with contextlib.suppress(DataError):  # no letter or digit in it
            assert explain(opened, query)["beams"]


def imported(shop, draw):
    """A home with a log, a catalogue and judgments that are hostile in half of their rows."""
    home, folder = shop()
    (folder / "log.toml").write_text(LOG_MAPPING)
    events = [row(draw, LOG | {"who": f"{PERSON}{n}", "item.id": f"i{n % 9}"}) for n in range(ROWS)]
    events += [LOG | {"item.id": f"i{n}", "did": "click", "who": f"{PERSON}{n}"} for n in range(9)]
    parquet(folder / "log.parquet", LOG, events)
    import_source.table(home, folder / "log.parquet", folder / "log.toml")
    check(home, "click_log", len(events))

    sound = {
        "sku": "",
        "name": "Lamp",
        "kind": "lamp",
        "path": "home > lamp",
        "props": '{"a": "b"}',
        "vec": "[1.0, 0.5]",
        "eur": "9.5",
        "at": "2026-01-31",
    }
    ours = ("item_id", "title", "category", "category_path", "attributes", "image_embedding", "price", "updated_at")
    (folder / "items.toml").write_text(
        'table = "catalog"\n[columns]\n' + "".join(f'{a} = "{b}"\n' for a, b in zip(ours, sound, strict=True))
    )
    items = [sound | {"sku": f"i{n}"} for n in range(9)] + [row(draw, sound | {"sku": f"x{n}"}) for n in range(ROWS)]
    items += [sound | {"sku": ""}]
    (folder / "items.jsonl").write_bytes(b"\n".join(json.dumps(item).encode() for item in items))
    import_source.table(home, folder / "items.jsonl", folder / "items.toml")
    check(home, "catalog", len(items))
    names = {item["sku"].strip(" ") for item in items}
    kept = set(home.store.read_arrow("catalog", columns=["item_id"])["item_id"].to_pylist())
    assert kept <= names, "an id is kept as it is"

    label = {"query": "", "item_id": "i1", "grade": "3", "source": "people", "rater": "r"}
    labels = [row(draw, label | {"query": f"q{n}"}) for n in range(ROWS)] + [
        label | {"query": "q", "source": "a/../b'"}
    ]
    (folder / "labels.toml").write_text(
        'table = "relevance_labels"\n[columns]\n' + "".join(f'{name} = "{name}"\n' for name in label)
    )
    parquet(folder / "labels.parquet", label, labels)
    import_source.table(home, folder / "labels.parquet", folder / "labels.toml")
    check(home, "relevance_labels", len(labels))

    kept = home.store.read_arrow("quarantine", columns=["source"])["source"].to_pylist()
    assert {"click_log", "catalog", "relevance_labels"} <= set(kept), "one import of a day leaves the others' rows"
    return home
