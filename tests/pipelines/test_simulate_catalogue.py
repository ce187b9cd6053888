"""The simulated catalogue and its users: readable, unequal, incomplete titles, the same whatever the partitions."""

import pytest
from pyspark.sql import functions as F

from pipelines.facets import item_facets
from pipelines.simulate_catalogue import brands_of, simulate_catalogue
from pipelines.simulate_words import DEPARTMENTS
from schemas.tables import TABLES


@pytest.fixture(scope="module")
def made(spark):
    made = simulate_catalogue(spark, items=1500, users=200, seed=3, key="k")
    catalog = made.catalog.persist()
    yield made._replace(catalog=catalog)
    catalog.unpersist()


def test_both_tables_fit_their_contracts(made):
    assert made.catalog.columns == TABLES["catalog"].names
    assert made.users.columns == TABLES["users"].names
    assert made.catalog.count() == 1500
    assert made.users.select("user").distinct().count() == 200


def test_categories_are_many_unique_and_very_unequal(made):
    names = [category for department in DEPARTMENTS for category in department.categories]
    assert len(names) == len(set(names)) >= 216
    sizes = sorted(r["count"] for r in made.catalog.groupBy("category").count().collect())
    assert len(sizes) == 1500 // 25
    assert sizes[-1] > 10 * sizes[len(sizes) // 2]
    assert len({brand for brands in brands_of(3) for brand in brands}) == sum(map(len, brands_of(3)))


def test_a_title_names_only_some_attributes(made):
    told = made.catalog.select(
        F.avg(F.expr("cast(contains(title, attributes['colour']) AS INT)")).alias("colour"),
        F.avg(F.expr("cast(contains(title, category) AS INT)")).alias("category"),
    ).first()
    assert 0.4 < told.colour < 0.6
    assert told.category == 1.0


def test_facets_are_the_words_of_brand_and_attributes(made):
    facets = item_facets(made.catalog)
    keys = {r.key for r in facets.select(F.explode("facets.key").alias("key")).distinct().collect()}
    assert keys == {"brand", "colour", "material", "size", "style", "feature"}
    assert facets.count() == 1500


def test_another_partitioning_and_another_seed(spark, made):
    other = simulate_catalogue(spark.newSession(), items=1500, users=200, seed=3, key="k").catalog.repartition(7)
    assert sorted(map(str, other.collect())) == sorted(map(str, made.catalog.collect()))
    another = simulate_catalogue(spark, items=1500, users=200, seed=4, key="k").catalog
    assert {r.title for r in another.collect()} != {r.title for r in made.catalog.collect()}


def test_too_small_a_marketplace_is_refused(spark):
    with pytest.raises(ValueError, match="needs 50 items and a user, not 10 items and 0 users"):
        simulate_catalogue(spark, items=10, users=0, seed=1, key="k")
