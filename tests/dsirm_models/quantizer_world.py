"""A tiny clustered marketplace for the quantizer's tests: categories, sub-clusters, queries beside their items."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dsirm_models.losses import LossWeights
from dsirm_models.quantizer_model import QuantizerModel, TrainedQuantizer
from dsirm_models.train_quantizer import PairData, QuantizerConfig

CATEGORIES = 6
WIDTH = 16


def tiny_config(**changes: Any) -> QuantizerConfig:
    settings: dict[str, Any] = {
        "dim": 8,
        "hidden": 24,
        "codebook_sizes": (8, 16, 16),
        "mapped_categories": CATEGORIES,
        "batch_size": 64,
        "max_steps": 120,
        "warmup_steps": 10,
        "eval_every": 40,
        "checkpoint_every": 30,
        "log_every": 20,
        "kmeans_points": 2000,
        "learning_rate": 3e-3,
        "restart_after": 30,
        "weights": LossWeights(),
    }
    return QuantizerConfig(**(settings | changes))


def tiny_world(*, pairs: int = 3000, seed: int = 0, held_out: float = 0.1) -> PairData:
    rng = np.random.default_rng(seed)
    items, queries = 600, 300
    centres = rng.normal(size=(CATEGORIES + 2, WIDTH))
    subs = rng.normal(size=(CATEGORIES + 2, 4, WIDTH)) * 0.6
    category, sub = rng.integers(0, CATEGORIES + 2, items), rng.integers(0, 4, items)
    item = centres[category] + subs[category, sub] + rng.normal(size=(items, WIDTH)) * 0.3
    source = rng.integers(0, items, queries)
    # Queries are noisier and shifted as a whole: what the query tower has to learn away.
    query = centres[category[source]] + subs[category[source], sub[source]]
    query = query + rng.normal(size=(queries, WIDTH)) * 0.5 + rng.normal(size=WIDTH)
    query_index = rng.integers(0, queries, pairs)
    cluster = category * 4 + sub
    members = [np.flatnonzero(cluster == c) for c in range(4 * (CATEGORIES + 2))]
    item_index = np.array([rng.choice(members[cluster[source[q]]]) for q in query_index])

    def unit(x: np.ndarray) -> np.ndarray:
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    return PairData(
        query_embeddings=unit(query),
        item_embeddings=unit(item),
        query_index=query_index.astype(np.int32),
        item_index=item_index.astype(np.int32),
        weight=rng.lognormal(size=pairs).astype(np.float32),
        item_level1=np.where(category < CATEGORIES, category, -1).astype(np.int32),
        train=(rng.random(queries) >= held_out)[query_index],
    )


def untrained(config: QuantizerConfig, *, width: int = WIDTH, seed: int = 0) -> TrainedQuantizer:
    """Random towers and random codebooks: enough for everything that only needs a function."""
    model = QuantizerModel(in_dim=width, config=config)
    generator = torch.Generator().manual_seed(seed)
    books = [torch.randn(size, config.dim, generator=generator) * 0.5 for size in config.codebook_sizes]
    model.quantizer.initialise(books)
    return TrainedQuantizer(model=model, config=config)
