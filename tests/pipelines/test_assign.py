import numpy as np
import pytest
from pyspark.errors import PythonException

from pipelines.assign import assign_items
from schemas.sids import pack
from schemas.tables import TABLES

CATEGORIES = {"shoes": 0, "hats": 1}
CATALOG = [
    ("a", 1, "shoes", 100),
    ("b", 2, "hats", 101),
    ("c", 3, "gloves", 100),  # a category that the codebook does not know, the text of another item
    ("d", 4, None, 102),
    ("e", 5, "shoes", 999),  # no vector
]
VECTORS = {100: [0.25, 2.0, 1.0], 101: [1.5, 3.0, 1.0], 102: [2.75, 1.0, 1.0], 555: [9.0, 9.0, 9.0]}


def assign(vectors, level1, hashes):
    """First code as told, else 7; the others from the vector; the norm says how wide it was, and by the hash."""
    first = np.where(level1 < 0, 7, level1)
    codes = np.stack([first, vectors[:, 0] * 4, vectors[:, 1]], axis=1).astype(np.int32)
    sids = codes[:, 0].astype(np.int64) << 40 | codes[:, 1].astype(np.int64) << 20 | codes[:, 2]
    norms = np.full(len(vectors), vectors.shape[1], dtype=np.float32) + vectors[:, 0] + hashes * 100
    return codes, sids, norms, ["category" if code >= 0 else "reserved" for code in level1]


def frames(spark, partitions=3):
    catalog = spark.createDataFrame(CATALOG, "item_id STRING, item_hash BIGINT, category STRING, text_hash BIGINT")
    vectors = spark.createDataFrame(list(VECTORS.items()), "text_hash BIGINT, embedding ARRAY<FLOAT>")
    return catalog.repartition(partitions), vectors


def test_items_get_what_the_function_gives_them(spark):
    assigned = assign_items(*frames(spark), CATEGORIES, assign, width=3)
    wanted = [row for row in CATALOG if row[3] in VECTORS]
    level1 = np.array([CATEGORIES.get(row[2], -1) for row in wanted], dtype=np.int32)
    assert level1.tolist() == [0, 1, -1, -1], "unknown categories, and none, are the codebook's to place"
    vectors = np.array([VECTORS[row[3]] for row in wanted], dtype=np.float32)
    codes, sids, norms, chosen = assign(vectors, level1, np.array([row[1] for row in wanted]))
    expected = [
        (row[0], row[1], codes[n].tolist(), int(sids[n]), float(norms[n]), chosen[n]) for n, row in enumerate(wanted)
    ]
    assert sorted(map(tuple, assigned.collect())) == expected
    assert sids[2] == pack((7, 1, 2))


def test_columns_are_those_of_the_contract(spark):
    assigned = assign_items(*frames(spark), CATEGORIES, assign, width=3)
    contract = spark.createDataFrame([], TABLES["item_sids"].ddl)
    assert assigned.dtypes == contract.select(assigned.columns).dtypes


def test_partitions_do_not_matter(spark):
    one, many = (
        sorted(map(tuple, assign_items(*frames(spark, count), CATEGORIES, assign, width=3).collect()))
        for count in (1, 9)
    )
    assert one == many


def test_no_vectors_no_items(spark):
    catalog, vectors = frames(spark)
    assert assign_items(catalog, vectors.limit(0), CATEGORIES, assign, width=3).collect() == []


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ([0.5, float("nan"), 1.0], "holds NaN or infinity"),
        ([0.5, None, 1.0], "holds NaN or infinity"),
        ([0.5, 1.0], "width 2 instead of 3"),
        ([], "width 0 instead of 3"),
    ],
)
def test_a_vector_that_cannot_be_placed_fails_the_job_and_says_why(spark, broken, says):
    catalog, vectors = frames(spark)
    vectors = vectors.where("text_hash <> 101").unionByName(spark.createDataFrame([(101, broken)], vectors.schema))
    with pytest.raises(PythonException, match=f"ContractError: item_embeddings .*{says}"):
        assign_items(catalog, vectors, CATEGORIES, assign, width=3).collect()
