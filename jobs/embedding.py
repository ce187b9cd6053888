"""What embed-items and embed-queries share: encode the missing texts in Spark's Python workers, on their GPU if any."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.home import Home
from jobs.partitions import Partition
from jobs.plan import Plan
from pipelines.embed import encode_texts, texts_to_encode

TEXTS_A_COMMIT = 200_000
"""Half an hour of two cores, and what is written anew with each later commit of the night is small beside it."""


def is_complete(home: Home, plan: Plan, table: str, wanted: pa.ChunkedArray) -> bool:
    """Whether every hash of `wanted` has its vector: asked of key columns alone, so that a night without new texts
    starts no Spark.
    """
    rows = home.store.read_arrow(table, {"encoder_version": plan.encoder_version}, columns=["text_hash"])
    known = np.unique(rows["text_hash"].to_numpy())
    return bool(np.isin(np.unique(wanted.drop_null().to_numpy()), known, assume_unique=True).all())


def embed(home: Home, plan: Plan, table: str, texts: DataFrame, *, job: str) -> None:
    """Encode every text_hash of `texts` without a vector and add it to the partition of the plan's date.

    So many texts a commit: a first night over millions takes hours, and a killed one goes on after its last commit.
    """
    while _encode_some(home, plan, table, texts, job=job):
        pass


def _encode_some(home: Home, plan: Plan, table: str, texts: DataFrame, *, job: str) -> int:
    """Encode at most `TEXTS_A_COMMIT` texts; returns how many are left."""
    store, how = home.store, home.settings.encoder
    part: Partition = {"encoder_version": plan.encoder_version, "first_seen": plan.date}
    # A text has one vector, whichever night was first: two nights that encode it at once must not both commit.
    target = store.target(table, part, watch={"encoder_version": plan.encoder_version})
    known = store.read(home.spark, table, {"encoder_version": plan.encoder_version})
    missing = texts_to_encode(texts, known).persist(StorageLevel.DISK_ONLY)
    left = missing.count()
    count = min(left, TEXTS_A_COMMIT)
    if count:
        some = missing if count == left else missing.orderBy("text_hash").limit(count)
        name, max_tokens, precision, batch = how.name, how.max_tokens, how.precision, how.batch

        def encode(batch_of_texts: Sequence[str]) -> pa.Array:
            from dsirm_models.encoder import load_encoder
            from jobs.generators import device

            encoder = load_encoder(name, max_tokens, precision=precision, batch_size=batch, device=device())
            vectors = encoder.encode(batch_of_texts)
            return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])

        # Partitions of equal size: encoding is the cost, and the rows left after an anti-join lie anywhere.
        spread = some.repartition(max(2, home.spark.sparkContext.defaultParallelism), "text_hash")
        fresh = encode_texts(spread, encode, encoder_version=plan.encoder_version, first_seen=F.lit(plan.date))
        target.replace(store.read(home.spark, table, part).unionByName(fresh), job=job, counts={"encoded": count})
    missing.unpersist()
    return left - count
