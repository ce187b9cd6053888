import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from pyspark.errors import PythonException
from pyspark.sql import functions as F

from pipelines.embed import encode_texts, texts_to_encode
from schemas.tables import TABLES

DAY = dt.date(2026, 1, 31)
TEXTS = [(n, f"text {n}" + "!" * n) for n in range(20)]


def stub(kind="fixed"):
    """An encoder of four dimensions that any worker can run: letters, length, and their ratio in float32."""

    def encode(texts):
        rows = np.array([[len(t), ord(t[-1]), len(t) / 3, -1.5] for t in texts], dtype=np.float32)
        if kind == "list":
            return pa.array(rows.tolist(), pa.list_(pa.float32()))
        return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])

    return encode


def texts(spark, rows=TEXTS, partitions=3):
    return spark.createDataFrame(rows, "text_hash BIGINT, text STRING").repartition(partitions)


@pytest.mark.parametrize("kind", ["fixed", "list"])
def test_spark_gives_each_text_the_vector_that_the_function_gives_it(spark, kind):
    encoded = encode_texts(texts(spark), stub(kind), encoder_version="encoder-1", first_seen=F.lit(DAY))
    assert encoded.dtypes == spark.createDataFrame([], TABLES["item_embeddings"].ddl).select(encoded.columns).dtypes
    expected = dict(zip([key for key, _ in TEXTS], stub()([text for _, text in TEXTS]).to_pylist(), strict=True))
    found = encoded.collect()
    assert {row["text_hash"]: row["embedding"] for row in found} == expected
    assert len(found) == len(TEXTS)
    assert {len(row["embedding"]) for row in found} == {4}
    assert {(row["encoder_version"], row["first_seen"]) for row in found} == {("encoder-1", DAY)}


def test_no_text_gives_no_vector(spark):
    encoded = encode_texts(texts(spark, []), stub(), encoder_version="encoder-1", first_seen=F.lit(DAY))
    assert encoded.collect() == []


def test_only_missing_texts_are_encoded_each_once(spark):
    repeated = texts(spark, [*TEXTS[:4], *TEXTS[:4], TEXTS[2]])
    known = spark.createDataFrame([(1, [0.5]), (3, [0.5]), (77, [0.5])], "text_hash BIGINT, embedding ARRAY<FLOAT>")
    missing = texts_to_encode(repeated, known)
    assert sorted(map(tuple, missing.collect())) == [TEXTS[0], TEXTS[2]]
    assert texts_to_encode(missing, known.limit(0)).count() == 2
    assert texts_to_encode(missing, texts(spark)).count() == 0


def test_an_encoder_that_fails_fails_the_job(spark):
    def encode(batch):
        raise ValueError(f"cannot encode {len(batch)} texts")

    with pytest.raises(PythonException, match="cannot encode"):
        encode_texts(texts(spark), encode, encoder_version="encoder-1", first_seen=F.lit(DAY)).collect()
