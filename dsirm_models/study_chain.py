"""One chain of the study: item SIDs by one method and seed, the generator that learns them, and what judged pairs get.

All methods share the frozen embeddings, the codebook sizes, the generator and its settings, so that a difference
between two chains is a difference between their item SIDs (papers, section 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dsirm_models.artifacts import read_artifact, write_artifact
from dsirm_models.assign import assign_codes
from dsirm_models.beam import LOGP_FLOOR, beam_search, score_sids
from dsirm_models.dynamic_encoder import TokenStates, tune_top
from dsirm_models.embedded_generator import EmbeddedGenerator
from dsirm_models.encoder import TextEncoder
from dsirm_models.generator_data import EmbeddedData
from dsirm_models.kmeans import hierarchical_kmeans
from dsirm_models.losses import LossWeights
from dsirm_models.quantizer_data import PairData
from dsirm_models.quantizer_model import QuantizerConfig
from dsirm_models.sid_index import SidIndex
from dsirm_models.sid_quality import Measure, measures, pack_rows, pair_agreement
from dsirm_models.study_data import TEST, TRAIN, StudyData
from dsirm_models.train_embedded_generator import EmbeddedConfig, train_embedded
from dsirm_models.train_quantizer import fit_residual_kmeans, train_quantizer
from schemas.sids import LEVELS, shift_for

KIND = "study-chain"
BEAMS = (1, 5, 20)
RANDOM_PAIRS = 100_000


@dataclass(frozen=True)
class Method:
    """How item SIDs are made."""

    kind: str = "quantizer"
    """`quantizer`, `dsi` (hierarchical k-means) or `rkmeans` (residual k-means)."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """What differs from DSIRM's quantizer settings."""
    dynamic: bool = False
    """Whether the top of the encoder is tuned first."""


METHODS: Mapping[str, Method] = {
    "dsi": Method("dsi"),
    # Items alone, no category, no contrast; with the usual RQ-VAE weights: DSIRM's commitment would outweigh the rest.
    "tiger": Method(
        changes={
            "use_queries": False,
            "category_level1": False,
            "weights": LossWeights(contrastive=0.0, commitment=0.25, reconstruction=1.0),
        }
    ),
    "rkmeans": Method("rkmeans"),
    "dsirm": Method(),
    "dsirm-no-bridge": Method(changes={"weights": LossWeights(contrastive=0.0)}),
    "dsirm-no-category": Method(changes={"category_level1": False}),
    "dsirm-dynamic": Method(dynamic=True),
    "dsirm-nearest": Method(changes={"query_level1": "nearest"}),
}


class ChainSettings(NamedTuple):
    """Shared by all methods; seeds are set by the chain."""

    quantizer: QuantizerConfig
    """`mapped_categories` is set from the data, `reserved` codes being left free."""
    reserved: int
    generator: EmbeddedConfig
    dynamic_steps: int


class ChainResult(NamedTuple):
    """What the study needs of one chain: P judged pairs and the measures of its SIDs."""

    depth: NDArray[np.int64]
    """(K, P) match depth 0..3 with the beams of `BEAMS`."""
    mass: NDArray[np.float32]
    """(K, P, L) probability of the item's own prefix where a beam has it, else 0."""
    own_logps: NDArray[np.float32]
    """(P, L) log-probability of the item's own SID per level, teacher-forced, floored at -20."""
    codes: NDArray[np.int32]
    """(I, L)"""
    quality: list[Measure]

    def save(self, directory: Path) -> None:
        """Write an artifact."""
        body = self._asdict()
        quality = [list(row) for row in body.pop("quality")]
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in body.items()}
        write_artifact(directory, kind=KIND, tensors=tensors, config={"quality": quality})

    @classmethod
    def load(cls, directory: Path) -> ChainResult:
        """Read what `save` wrote. Raises ArtifactError where it is missing, half-written or damaged."""
        tensors, config = read_artifact(directory, kind=KIND)
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        return cls(**arrays, quality=[Measure(*row) for row in config["quality"]])


def run_chain(
    data: StudyData,
    method: Method,
    settings: ChainSettings,
    *,
    seed: int,
    scratch: Path,
    states: TokenStates | None = None,
    encoder: TextEncoder | None = None,
) -> ChainResult:
    """Make item SIDs, train the generator, score the judged pairs. The same inputs give the same result on a CPU.

    Args:
        data: the judged data set.
        method: how item SIDs are made.
        settings: of quantizer and generator.
        seed: of both.
        scratch: an empty directory for the quantizer's checkpoints.
        states: for a dynamic method only.
        encoder: for a dynamic method only.

    """
    sids = _item_sids(data, method, settings, seed, scratch, states, encoder)
    packed = pack_rows(sids.items)
    index = SidIndex(np.unique(packed))
    learnable = data.pair_split != TEST
    generator = train_embedded(
        EmbeddedData(
            query_embeddings=data.query_embeddings,
            query_index=data.pair_query[learnable].astype(np.int64),
            sids=packed[data.pair_item[learnable]],
            weight=data.pair_weight[learnable],
            train=(data.pair_split == TRAIN)[learnable],
        ),
        codebook_sizes=sids.sizes,
        config=replace(settings.generator, seed=seed),
        index=index,
    ).generator
    asked, place = np.unique(data.judged_query, return_inverse=True)
    vectors = data.query_embeddings[asked]
    own = packed[data.judged_item]
    matched = [_match(generator, index, vectors, place, own, beams) for beams in BEAMS]
    logps = score_sids(generator, index, data.query_embeddings[data.judged_query], own)
    quality = measures(sids.items, sids.sizes)
    quality += _purity(sids.items, data)
    quality += _clicked(sids, data, seed)
    quality += _hits(generator, index, data, packed)
    return ChainResult(
        np.stack([depth for depth, _ in matched]),
        np.stack([mass for _, mass in matched]),
        np.maximum(logps, LOGP_FLOOR),
        sids.items,
        quality,
    )


class _Sids(NamedTuple):
    items: NDArray[np.int32]
    """(I, L)"""
    queries: NDArray[np.int32]
    """(Q, L): where the quantizer itself puts the queries' vectors, no generator asked."""
    sizes: tuple[int, ...]


def _item_sids(
    data: StudyData,
    method: Method,
    settings: ChainSettings,
    seed: int,
    scratch: Path,
    states: TokenStates | None,
    encoder: TextEncoder | None,
) -> _Sids:
    sizes = settings.quantizer.codebook_sizes
    if method.kind == "dsi":
        tree = hierarchical_kmeans(data.item_embeddings, sizes, seed=seed)
        return _Sids(tree.codes, tree.assign(data.query_embeddings), sizes)
    if method.kind == "rkmeans":
        model = fit_residual_kmeans(data.item_embeddings, codebook_sizes=sizes, seed=seed)
        queries = assign_codes(model, data.query_embeddings, tower="query").codes
        return _Sids(assign_codes(model, data.item_embeddings).codes, queries, sizes)
    room = sizes[0] - settings.reserved
    mapped = min(room, int(data.item_category.max(initial=-1)) + 1)
    config = replace(settings.quantizer, mapped_categories=mapped, seed=seed, **method.changes)
    level1 = np.where(data.item_category < mapped, data.item_category, -1).astype(np.int32)
    learnable = data.pair_split != TEST
    pairs = PairData(
        query_embeddings=data.query_embeddings,
        item_embeddings=data.item_embeddings,
        query_index=data.pair_query[learnable],
        item_index=data.pair_item[learnable],
        weight=data.pair_weight[learnable],
        item_level1=level1,
        train=(data.pair_split == TRAIN)[learnable],
    )
    if method.dynamic:
        if states is None or encoder is None:
            raise ValueError("A dynamic method needs the encoder and the states below its top.")
        small = replace(config, batch_size=min(config.batch_size, 128))
        tuned = tune_top(pairs, states, encoder, small, steps=settings.dynamic_steps)
        pairs = pairs._replace(query_embeddings=tuned[0], item_embeddings=tuned[1])
    model = train_quantizer(data=pairs, config=config, checkpoint_dir=scratch)
    queries = assign_codes(model, pairs.query_embeddings, tower="query").codes
    return _Sids(assign_codes(model, pairs.item_embeddings, level1).codes, queries, sizes)


def _match(
    generator: EmbeddedGenerator,
    index: SidIndex,
    vectors: NDArray[np.float32],
    place: NDArray[np.int64],
    own: NDArray[np.int64],
    beams: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """As `pipelines.prefix_match` does in Spark: the deepest match among the beams (P,), and prefix masses (P, L)."""
    found = beam_search(generator, index, vectors, beams)
    running = np.cumsum(found.logps, axis=2)[place]  # (P, K, L)
    depth = np.zeros(len(own), dtype=np.int64)
    mass = np.zeros((len(own), LEVELS), dtype=np.float32)
    for level in range(LEVELS):
        shift = shift_for(level + 1)
        agrees = (found.sids[place] >> shift == own[:, None] >> shift) & (found.sids[place] >= 0)
        some = agrees.any(axis=1)
        first = agrees.argmax(axis=1)
        depth[some] = level + 1
        mass[some, level] = np.exp(running[some, first[some], level])
    return depth, mass


def _purity(codes: NDArray[np.int32], data: StudyData) -> list[Measure]:
    """Share of items whose value is the commonest of their prefix, over items that have a value."""
    columns = {"category": data.item_category}
    columns |= {name: data.item_attributes[:, at] for at, name in enumerate(data.attribute_names)}
    found = []
    for name, values in columns.items():
        known = values >= 0
        for level in range(1, LEVELS + 1):
            _, bucket = np.unique(codes[known, :level], axis=0, return_inverse=True)
            both, counts = np.unique(np.stack([bucket, values[known]]), axis=1, return_counts=True)
            most = np.zeros(int(bucket.max(initial=-1)) + 1, dtype=np.int64)
            np.maximum.at(most, both[0], counts)
            share = float(most.sum() / known.sum()) if known.any() else float("nan")
            found.append(Measure(f"purity_{name}", level, share))
    return found


def _clicked(sids: _Sids, data: StudyData, seed: int) -> list[Measure]:
    """Share of clicked pairs of test queries whose query and item share a prefix, and of random pairs of the same."""
    rows = np.flatnonzero(data.pair_split == TEST)
    if not len(rows):
        return []
    query, item = data.pair_query[rows], data.pair_item[rows]
    rng = np.random.default_rng([seed, 11])
    draws = rng.integers(len(rows), size=RANDOM_PAIRS), rng.integers(len(data.item_embeddings), size=RANDOM_PAIRS)
    clicked = pair_agreement(sids.queries[query], sids.items[item])
    random = pair_agreement(sids.queries[query[draws[0]]], sids.items[draws[1]])
    return [
        Measure(name, level + 1, float(shares[level]))
        for name, shares in (("clicked_share", clicked), ("random_share", random))
        for level in range(LEVELS)
    ]


def _hits(generator: EmbeddedGenerator, index: SidIndex, data: StudyData, packed: NDArray[np.int64]) -> list[Measure]:
    """Share of clicked pairs of test queries whose item's prefix is among the generator's K beams."""
    rows = np.flatnonzero(data.pair_split == TEST)
    if not len(rows):
        return []
    asked, place = np.unique(data.pair_query[rows], return_inverse=True)
    own = packed[data.pair_item[rows]]
    found = []
    for beams in BEAMS:
        depth, _ = _match(generator, index, data.query_embeddings[asked], place, own, beams)
        found += [Measure(f"hit_k{beams}", level, float((depth >= level).mean())) for level in range(1, LEVELS + 1)]
    return found
