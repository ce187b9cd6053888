"""A tiny made-up marketplace and settings that run the whole chain over it in about a minute."""

import datetime as dt
import shutil

from jobs import simulate, sources
from jobs.home import Home

LAST_DAY = dt.date(2026, 1, 31)
# The 48 MB for compiled code that a JVM gets with its first compiler alone fill within minutes, and from then on what
# it compiled is thrown away and compiled again.
LONG_LIVED = "-XX:ReservedCodeCacheSize=256m -XX:+UseSerialGC"
# A JVM that lives for seconds spends them on compiling: the first compiler alone halves a short job.
SHORT_LIVED = f"-XX:TieredStopAtLevel=1 {LONG_LIVED}"
SETTINGS = """
[corpus]
window_days = 3
valid_share = 0.1
test_share = 0.1

[quantizer]
codebook_sizes = [16, 16, 16]
reserved = 2
dim = 16
hidden = 32
batch = 64
max_steps = 60

[generator]
epochs = 2
hidden = 32
beams = 3

[ranker]
folds = 2
seeds = 2
draws = 50
steps = 20

[gates]
churn_1 = 1.0
auc_drop = 1.0
"""
# Every job of the chain has something to do: the generator learns in stages and who asks, and recall lists are made.
EVERY_JOB = (
    SETTINGS.replace("epochs = 2", 'stages = ["items", "queries", "users", "align"]')
    + """
[recall]
beams = 6
items = 25
requests = 30

[stage_items]
epochs = 1
[stage_queries]
epochs = 2
[stage_users]
epochs = 1
[stage_align]
steps = 3
batch = 16
lr = 1e-4
"""
)


def open_home(root, spark=None, settings=SETTINGS):
    """A home with the tiny settings, on the shared session where one is given."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dsirm.toml").write_text(settings)
    return with_session(Home(root), spark)


def with_session(home, spark):
    """The home on a session that runs already, or on its own where there is None."""
    if spark is not None:
        home.__dict__["spark"] = spark
    return home


def fill(home, *, days=2, seed=1):
    """Catalogue, users, log and true grades."""
    simulate.catalogue(home, items=300, users=50, seed=seed)
    simulate.clicks(home, days=days, queries=120, seed=seed, last_day=LAST_DAY)


def copy_home(home, root, spark=None):
    """A home of its own with the same tables and models: Delta tables may be moved and copied."""
    shutil.copytree(home.root, root)
    return with_session(Home(root), spark)


def late_click(home, day=LAST_DAY - dt.timedelta(days=1), *, event="late-1", query=None):
    """One more click on a day that was there, for a query of that day or for the one named."""
    log = home.store.read(home.spark, "click_log", {"event_date": day})
    some = log.where("action = 'impression'").orderBy("event_id").limit(1)
    values = {"event_id": f"'{event}'", "position": "CAST(NULL AS INT)", "action": "'click'"}
    values |= {"query": f"'{query}'", "search_id": f"'search of {event}'"} if query else {}
    click = some.selectExpr(*[f"{values[name]} {name}" if name in values else name for name in log.columns])
    sources.add_events(home, click, job="test")


def change_catalogue(home, *, text=(), category=(), deleted=()):
    """Import the catalogue again with other texts and categories (item id -> new one), and without some items."""
    from pyspark.sql import functions as F

    from pipelines.columns import hashed

    catalog = home.store.read(home.spark, "catalog").localCheckpoint()
    for column, values in (("text", dict(text)), ("category", dict(category))):
        for item, value in values.items():
            catalog = catalog.withColumn(
                column, F.when(F.col("item_id") == item, F.lit(value)).otherwise(F.col(column))
            )
    left = catalog.withColumn("text_hash", hashed("text")).where(~F.col("item_id").isin(list(deleted)))
    sources.write_catalog(home, left, job="test")


def spark_settings(home, **properties):
    """Give processes that open this home another Spark: properties by name, dots as underscores."""
    lines = [f'"spark.{name.replace("_", ".")}" = "{value}"' for name, value in properties.items()]
    settings = home.root / "dsirm.toml"
    settings.write_text("\n".join([settings.read_text(), "[storage.spark]", *lines, ""]))


def versions(home):
    """Table -> Delta version: equal before and after means that nothing was written."""
    import deltalake

    from schemas.tables import TABLES

    return {name: deltalake.DeltaTable(home.store.path(name)).version() for name in TABLES if home.store.exists(name)}


def rows(home, name, *partitions):
    """A table's rows as comparable text."""
    return sorted(repr(row) for row in home.store.read_arrow(name, *partitions).to_pylist())
