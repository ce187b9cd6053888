"""Encode the texts of catalogue items that have no vector yet.

Reads catalog and item_embeddings (this encoder's). Writes item_embeddings, partition encoder_version and first_seen:
each distinct text once, so only what is new or changed is encoded.
"""

from __future__ import annotations

from jobs import planned
from jobs.embedding import embed, is_complete
from jobs.home import Home
from jobs.plan import Plan

JOB = "embed-items"


def run(home: Home, plan: Plan) -> None:
    """Encode what is missing."""
    wanted = planned.read_arrow(home, plan, "catalog", columns=["text_hash"])
    if is_complete(home, plan, "item_embeddings", wanted["text_hash"]):
        return
    texts = planned.read(home, plan, "catalog").select("text_hash", "text")
    embed(home, plan, "item_embeddings", texts, job=JOB)
