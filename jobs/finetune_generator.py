"""Fine-tune the generator of the release: query -> SID of an item that was clicked or bought for it.

Reads pairs (train and valid splits), queries, query_embeddings and item_sids; never a judgment. Writes the generator
artifact. A refit goes on from the current release's weights. In CQ-SID's progressive training this is the second stage:
it goes on from what pretrain-generator made, and three SIDs are drawn of a query at a time. Needs no Spark.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from jobs import generator_stages, planned
from jobs.errors import DataError
from jobs.generator_stages import Examples
from jobs.generators import query_inputs, release_sids, sid_of
from jobs.home import Home
from jobs.plan import Plan

JOB = "finetune-generator"
SAMPLED = 3
"""SIDs of a query, in CQ-SID's stage 2."""


def run(home: Home, plan: Plan) -> None:
    """Train, unless the plan uses existing models or this version is there already.

    Raises:
        ConcurrentWrite: another run trains the same version now.

    """
    generator_stages.make(home, plan, "queries", lambda directory: _train(home, plan, directory))


def _train(home: Home, plan: Plan, directory: Path) -> None:
    searched = planned.read_arrow(home, plan, "queries", ["query_id", "query"])
    queries = query_inputs(home, plan, searched)
    columns = ["query_id", "item_hash", "weight", "split", "clicks", "purchases"]
    pairs = planned.read_arrow(home, plan, "pairs", columns)
    hashes, sids, existing = release_sids(home.store, plan.release, plan.codebook_version)
    own = sid_of(hashes, sids, pairs["item_hash"].to_numpy())
    # Compared in Arrow: as Python's own strings the splits of 80M pairs are 5 GB.
    train, test = (pc.equal(pairs["split"], side).to_numpy() for side in ("train", "test"))
    usable = (own >= 0) & ~test
    if plan.stages:
        usable &= pairs["clicks"].to_numpy() + pairs["purchases"].to_numpy() > 0
    if not (usable & train).any():
        raise DataError(f"No training pair of {plan.as_of_date} has an item with a SID.")
    examples = Examples(
        queries.take(np.arange(len(queries.ids)), home.settings.generator.backend),
        query_index=np.searchsorted(queries.ids, pairs["query_id"].to_numpy()[usable]),
        sids=own[usable],
        weight=pairs["weight"].to_numpy()[usable],
        train=train[usable],
    )
    targets = SAMPLED if plan.stages else None
    generator_stages.fit(home, plan, "queries", examples, existing=existing, targets=targets).save(directory)
