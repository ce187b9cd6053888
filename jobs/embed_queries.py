"""Encode the queries that have no vector yet: those of the corpus and the judged ones that are to be scored.

Reads queries (the plan's date), the texts of relevance_labels (never grades), and query_embeddings. Writes
query_embeddings, partition encoder_version and first_seen: each distinct text once.
"""

from __future__ import annotations

import pyarrow as pa
from pyspark.sql import functions as F

from jobs import planned
from jobs.embedding import embed, is_complete
from jobs.home import Home
from jobs.plan import Plan

JOB = "embed-queries"


def run(home: Home, plan: Plan) -> None:
    """Encode what is missing."""
    ids = [
        planned.read_arrow(home, plan, "queries", columns=["query_id"]),
        planned.read_arrow(home, plan, "relevance_labels", columns=["query_id"]),
    ]
    if is_complete(home, plan, "query_embeddings", pa.concat_tables(ids)["query_id"]):
        return
    searched = planned.read(home, plan, "queries")
    judged = planned.read(home, plan, "relevance_labels")
    texts = searched.select("query_id", "query").unionByName(judged.select("query_id", "query"))
    embed(
        home,
        plan,
        "query_embeddings",
        texts.select(F.col("query_id").alias("text_hash"), F.col("query").alias("text")),
        job=JOB,
    )
