"""Fine-tune the generator of the release: query -> SID of an item that was clicked or bought for it.

Reads pairs (train and valid splits), queries, query_embeddings and item_sids; never a judgment. Writes the generator
artifact. A refit goes on from the current release's weights. Needs no Spark.
"""

from __future__ import annotations

import numpy as np

from jobs.errors import DataError
from jobs.generators import query_inputs, release_sids, sid_of
from jobs.home import Home
from jobs.plan import Plan
from jobs.progress import progress

JOB = "finetune-generator"


def run(home: Home, plan: Plan) -> None:
    """Train, unless the plan uses existing models or this version is there already."""
    directory = home.artifact("generator", plan.generator_version)
    if not plan.fit or (directory / "manifest.json").is_file():
        return
    from dsirm_models.generators import train_generator
    from dsirm_models.sid_index import SidIndex

    store, settings = home.store, home.settings.generator
    searched = store.read_arrow("queries", {"as_of_date": plan.date}, columns=["query_id", "query"])
    queries = query_inputs(home, plan, searched)
    columns = ["query_id", "item_hash", "weight", "split"]
    pairs = store.read_arrow("pairs", {"as_of_date": plan.date}, columns=columns)
    hashes, sids, existing = release_sids(store, plan.release)
    own = sid_of(hashes, sids, pairs["item_hash"].to_numpy())
    split = pairs["split"].to_numpy(zero_copy_only=False)
    usable = (own >= 0) & (split != "test")
    if not (usable & (split == "train")).any():
        raise DataError(f"No training pair of {plan.as_of_date} has an item with a SID.")
    sizes = store.read_arrow("codebooks", {"codebook_version": plan.codebook_version}, columns=["level"])
    counts = sorted(sizes["level"].value_counts().to_pylist(), key=lambda count: int(count["values"]))
    rows = np.searchsorted(queries.ids, pairs["query_id"].to_numpy()[usable])
    scratch = home.scratch("generator", plan.generator_version)
    with progress("Fine-tuning the generator", settings.epochs) as step:
        train_generator(
            directory,
            settings=settings.model_dump(exclude={"beams"}),
            vectors=queries.vectors,
            texts=queries.texts,
            query_index=rows.astype(np.int64),
            sids=own[usable],
            weight=pairs["weight"].to_numpy()[usable],
            train=(split == "train")[usable],
            codebook_sizes=tuple(count["counts"] for count in counts),
            index=SidIndex(existing),
            warm_start=home.artifact("generator", plan.parent_generator) if plan.parent_generator else None,
            checkpoint_dir=scratch / "checkpoints",
            log_dir=scratch / "tensorboard",
            meta={"codebook_version": plan.codebook_version, "encoder_version": plan.encoder_version},
            on_epoch=step,
        )
