"""Stage 1 of CQ-SID's generator: item title -> SID, over the whole catalogue.

Reads catalog, item_embeddings and item_sids. Writes the stage's generator artifact; a refit goes on from the current
release's weights. The embedded backend reads the item's vector, the causal LM its title. Does nothing where
`generator.stages` is empty. Needs no Spark.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jobs import generator_stages, planned
from jobs.arrays import load_items
from jobs.errors import DataError
from jobs.generator_stages import Examples
from jobs.generators import release_sids, sid_of
from jobs.home import Home
from jobs.plan import Plan

JOB = "pretrain-generator"
BUCKETS = 1_000_000


def run(home: Home, plan: Plan) -> None:
    """Train, unless the plan has no such stage, uses existing models, or the model is there already.

    Raises:
        ConcurrentWrite: another run trains the same version now.

    """
    generator_stages.make(home, plan, "items", lambda directory: _train(home, plan, directory))


def _train(home: Home, plan: Plan, directory: Path) -> None:
    hashes, sids, existing = release_sids(home.store, plan.release, plan.codebook_version)
    items = load_items(home, plan)
    own = sid_of(hashes, sids, items.hashes)
    known = np.flatnonzero(own >= 0)
    # By a hash of the item alone, as a query's split is by its own.
    train = items.hashes[known] % BUCKETS >= home.settings.corpus.valid_share * BUCKETS
    if not train.any():
        raise DataError(f"No catalogue item of {plan.as_of_date} that is learned from has a SID.")
    if home.settings.generator.backend == "embedded":
        inputs = items.vectors[known]
    else:
        titles = planned.read_arrow(home, plan, "catalog", ["item_hash", "title"]).sort_by("item_hash")["title"]
        inputs = titles.take(known).to_pylist()
    examples = Examples(inputs, np.arange(len(known)), own[known], np.ones(len(known)), train)
    generator_stages.fit(home, plan, "items", examples, existing=existing, targets=1).save(directory)
