"""Fine-tune the generator of the release: query -> SID of an item that was clicked or bought for it.

Reads pairs (train and valid splits), queries, query_embeddings and item_sids; never a judgment. Writes the generator
artifact. A refit goes on from the current release's weights. Needs no Spark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.errors import DataError
from jobs.files import is_whole
from jobs.generators import codebook_sizes, device, query_inputs, release_sids, sid_of
from jobs.home import Home
from jobs.plan import Plan
from jobs.progress import progress

if TYPE_CHECKING:
    from dsirm_models.generators import Generator

JOB = "finetune-generator"


def run(home: Home, plan: Plan) -> None:
    """Train, unless the plan uses existing models or this version is there already."""
    directory = home.artifact("generator", plan.generator_version)
    if not plan.fit or is_whole(directory):
        return
    from dsirm_models.generator_data import EmbeddedData, TextData
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
    targets = {
        "query_index": np.searchsorted(queries.ids, pairs["query_id"].to_numpy()[usable]),
        "sids": own[usable],
        "weight": pairs["weight"].to_numpy()[usable],
        "train": (split == "train")[usable],
    }
    scratch = home.scratch("generator", plan.generator_version)
    shared: dict[str, Any] = {
        "codebook_sizes": codebook_sizes(store, plan.codebook_version),
        "index": SidIndex(existing),
        "device": device(),
        "warm_start": home.artifact("generator", plan.parent_generator) if plan.parent_generator else None,
        "checkpoint_dir": scratch / "checkpoints",
        "log_dir": scratch / "tensorboard",
    }
    with progress("Fine-tuning the generator") as advance:
        shared["on_step"] = lambda done: advance(done.step, done.steps)
        if settings.backend == "embedded":
            from dsirm_models.train_embedded_generator import EmbeddedConfig, train_embedded

            config = EmbeddedConfig(
                hidden=settings.hidden,
                epochs=settings.epochs,
                queries_per_step=settings.batch,
                learning_rate=settings.lr,
                seed=settings.seed,
            )
            generator: Generator = train_embedded(
                EmbeddedData(queries.vectors, **targets), config=config, **shared
            ).generator
        else:
            from dsirm_models.train_causal_lm import CausalLMConfig, train_causal_lm

            lm_config = CausalLMConfig(
                finetuning="lora" if settings.lora else "full",
                steps=settings.steps,
                batch_size=settings.batch,
                accumulation=settings.accumulation,
                learning_rate=settings.lr,
                seed=settings.seed,
            )
            texts = TextData(queries.texts, **targets)
            generator = train_causal_lm(texts, base=settings.model, config=lm_config, **shared).generator
    generator.meta.update({"codebook_version": plan.codebook_version, "encoder_version": plan.encoder_version})
    generator.save(directory)
