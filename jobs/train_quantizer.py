"""Train the query-bridged contrastive residual quantizer of the release.

Reads pairs (train and valid splits), queries, catalog, item_embeddings and query_embeddings; never a judgment. Writes
the quantizer artifact and its code vectors to codebooks, partition codebook_version. A refit starts from the current
release's codebook, and its codes are aligned to that one. Which SIDs are split because too many items share them is
counted here and kept with the artifact. Needs no Spark. Under `torchrun` all its processes share
every batch and the first one writes.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs import planned
from jobs.arrays import Items, Vectors, find, load_items, load_vectors, numbered
from jobs.errors import DataError
from jobs.files import is_whole
from jobs.generators import device
from jobs.home import Home
from jobs.plan import Plan
from jobs.progress import progress
from jobs.storage import Target

if TYPE_CHECKING:
    from dsirm_models.quantizer_model import QuantizerConfig, TrainedQuantizer
    from jobs.settings import QuantizerSettings

JOB = "train-quantizer"
log = logging.getLogger(__name__)


def run(home: Home, plan: Plan) -> None:
    """Train, unless the plan uses existing models or this version is there already.

    Raises:
        ConcurrentWrite: another run trains the same version now.

    """
    if not plan.fit:
        return
    with home.training("quantizer", plan.codebook_version):
        target = home.store.target("codebooks", {"codebook_version": plan.codebook_version})
        directory = home.artifact("quantizer", plan.codebook_version)
        # Both: a damaged artifact that somebody deleted is trained again.
        if not (target.is_done(plan.codebook_version) and is_whole(directory)):
            _train(home, plan, target, directory)


def _train(home: Home, plan: Plan, target: Target, directory: Path) -> None:
    from dsirm_models import ranks
    from dsirm_models.align import align_codes
    from dsirm_models.assign import assign_codes
    from dsirm_models.category_map import map_categories
    from dsirm_models.clusters import FULL, count_groups
    from dsirm_models.quantizer_data import PairData, with_lone_items
    from dsirm_models.quantizer_model import TrainedQuantizer
    from dsirm_models.train_quantizer import train_quantizer

    settings = home.settings.quantizer
    items, queries = load_items(home, plan), load_vectors(home, plan, "query_embeddings")
    if items.vectors.shape[1] != queries.rows.shape[1]:
        widths = f"{items.vectors.shape[1]} and {queries.rows.shape[1]}"
        raise DataError(
            f"item_embeddings and query_embeddings hold vectors of widths {widths}: they cannot be of one encoder."
        )
    pairs, read = _learnable(home, plan, queries, items)
    old = None
    if plan.parent_codebook:
        old = TrainedQuantizer.load(home.artifact("quantizer", plan.parent_codebook))
    # A refit keeps the category map: a code's meaning must not change, and a new category waits for a fresh start.
    room = settings.codebook_sizes[0] - settings.reserved
    categories = list(old.meta["categories"]) if old else map_categories(items.categories, room=room)
    level1 = numbered(items.categories, categories).astype(np.int32)
    data = PairData(
        query_embeddings=queries.rows,
        item_embeddings=items.vectors,
        item_level1=level1,
        **pairs,
    )
    learnt = len(data.train)
    del pairs  # whose arrays `data` holds
    if settings.lone_items:
        data = with_lone_items(data)
    config = quantizer_config(settings, mapped_categories=len(categories))
    scratch = home.scratch("quantizer", plan.codebook_version)
    with progress("Training the quantizer") as advance:
        model = train_quantizer(
            data=data,
            config=config,
            checkpoint_dir=scratch / "checkpoints",
            log_dir=scratch / "tensorboard",
            warm_start=old,
            meta={
                "codebook_version": plan.codebook_version,
                "encoder_version": plan.encoder_version,
                "categories": categories,
            },
            device=device(),
            on_step=lambda done: advance(done, settings.max_steps),
        )
    first = ranks.number() == 0
    ranks.leave()
    if not first:  # all processes of a run have learnt the same, and one of them writes it
        return
    if old:
        model = align_codes(old=old, new=model, embeddings=items.vectors, level1=level1)
    assigned = assign_codes(model, items.vectors, level1)
    split = count_groups(assigned.sid, over=settings.split_over, most=settings.split_groups)
    if split.report["full"]:
        log.warning(
            "%d SIDs of %s hold more than %d items, the largest %d: their groups are larger than wanted",
            *(split.report["full"], plan.codebook_version, FULL, split.report["largest"]),
        )
    model.with_groups(split.groups).save(directory)
    target.replace(
        _codebook(plan, model, assigned.codes, categories),
        job=JOB,
        memo=plan.codebook_version,
        counts={"read": read, "accepted": learnt, "test": read - learnt},
        report=dict(model.report),
        clusters=split.report,
    )


def _learnable(home: Home, plan: Plan, queries: Vectors, items: Items) -> tuple[dict[str, np.ndarray], int]:
    """The pairs of `PairData` without those of test queries, and how many there were with them.

    Read some at a time and kept as 13 bytes a pair: as the table has them 80M pairs are 3 GB, and their splits as
    Python's own strings 5 GB more.

    Raises:
        DataError: none of them is to be trained on.

    """
    parts, read = [], 0
    for some in planned.read_batches(home, plan, "pairs", ["query_id", "item_hash", "weight", "split"]):
        read += some.num_rows
        kept = some.filter(pc.not_equal(some["split"], "test"))
        parts.append(
            (
                queries.find(kept["query_id"].to_numpy()).astype(np.int32),
                find(items.hashes, kept["item_hash"].to_numpy()).astype(np.int32),
                kept["weight"].to_numpy().astype(np.float32),
                pc.equal(kept["split"], "train").to_numpy(),
            )
        )
    if not any(train.any() for *_, train in parts):
        raise DataError(f"The corpus of {plan.as_of_date} has no training pair: the log holds no click that counts.")
    names = ("query_index", "item_index", "weight", "train")
    return dict(zip(names, map(np.concatenate, zip(*parts, strict=True)), strict=True)), read


def quantizer_config(settings: QuantizerSettings, *, mapped_categories: int) -> QuantizerConfig:
    """The settings as the quantizer takes them."""
    from dsirm_models.losses import LossWeights
    from dsirm_models.quantizer_model import QuantizerConfig

    return QuantizerConfig(
        dim=settings.dim,
        hidden=settings.hidden,
        codebook_sizes=settings.codebook_sizes,
        mapped_categories=mapped_categories,
        query_level1=settings.query_level1,
        contrast_on=settings.contrast_on,
        reserve_level1=settings.unknown_level1 == "reserved",
        temperature=settings.tau,
        weights=LossWeights(
            contrastive=settings.contrastive_weight,
            commitment=settings.commitment_weight,
            reconstruction=settings.reconstruction_weight,
        ),
        pair_weights="sample",
        batch_size=settings.batch,
        ema_decay=settings.ema_decay,
        learning_rate=settings.lr,
        max_steps=settings.max_steps,
        seed=settings.seed,
    )


def _codebook(plan: Plan, model: TrainedQuantizer, codes: np.ndarray, categories: list[str]) -> pa.Table:
    parts = []
    for level, book in enumerate(model.codebooks, start=1):
        size = len(book)
        named = [*categories, *[None] * size][:size] if level == 1 else [None] * size
        parts.append(
            pa.table(
                {
                    "codebook_version": [plan.codebook_version] * size,
                    "level": [level] * size,
                    "code": list(range(size)),
                    "vector": book.tolist(),
                    "usage": np.bincount(codes[:, level - 1], minlength=size),
                    "category": pa.array(named, pa.string()),
                }
            )
        )
    return pa.concat_tables(parts)
