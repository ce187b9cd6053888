"""One chain of the recall study: SIDs by one variant and seed, and the generator that learns to name them.

    quantizer -> SIDs of all items -> generator: items -> queries        (`learn_queries`, each variant)
                                                  -> users               (`learn_users`, CQ-SID: who asks)
                                                  -> GRPO or EG-GRPO     (`align`, from that one model)

The variants share data, codebook sizes, generator and settings, so that a difference between two chains is one between
their SIDs (CQ-SID, arXiv 2605.14434, results). New items get their SIDs when all is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dsirm_models.artifacts import read_artifact, write_artifact
from dsirm_models.assign import assign_codes
from dsirm_models.clusters import count_groups
from dsirm_models.eg_grpo_data import ACTED, EXPOSED, AlignConfig, RewardData
from dsirm_models.embedded_generator import EmbeddedGenerator
from dsirm_models.generator_data import EmbeddedData
from dsirm_models.generator_training import Report
from dsirm_models.histories import asked_vectors, first_distinct, latent_of
from dsirm_models.losses import LossWeights
from dsirm_models.quantizer_data import PairData, with_lone_items
from dsirm_models.quantizer_model import QuantizerConfig, TrainedQuantizer
from dsirm_models.recall_data import RecallData, Requests
from dsirm_models.recall_found import ChannelFound, deep_rows, found_by_query, found_by_request
from dsirm_models.recall_metrics import Clusters, make_clusters
from dsirm_models.sid_index import SidIndex
from dsirm_models.sid_quality import pair_agreement, quality
from dsirm_models.study_data import TEST, TRAIN
from dsirm_models.train_eg_grpo import train_eg_grpo
from dsirm_models.train_embedded_generator import EmbeddedConfig, train_embedded
from dsirm_models.train_quantizer import train_quantizer

KIND = "recall-sids"
BUCKETS = 1_000_000
_NO_CONTRAST = LossWeights(contrastive=0.0, reconstruction=1.0)
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "cq-sid": {},
    # It knows no query at all: it learns from the same items, as often.
    "rq-vae": {"use_queries": False, "weights": _NO_CONTRAST, "category_level1": False},
    "no-category": {"category_level1": False},
    # Queries still move codes and are rebuilt from them, as in CQ-SID: one thing is left out.
    "no-contrast": {"weights": _NO_CONTRAST},
    # The paper does not say whether its reconstruction is a sum over dimensions, as ours is, or their mean. By the mean
    # InfoNCE would weigh as many times more as the encoder's vectors have dimensions, 384.
    "more-contrast": {"weights": LossWeights(contrastive=0.384, reconstruction=1.0)},
}
"""What differs from CQ-SID's quantizer settings."""
ARMS: Mapping[str, int] = {"grpo": 0, "eg-grpo": 2}
"""Arm of the ranking alignment -> true SIDs that join a group, K."""
Done = Callable[[str], None]
"""Told the name of a stage when it ends."""


class RecallSettings(NamedTuple):
    """Shared by all chains; seeds are set by the chain."""

    quantizer: QuantizerConfig
    """`mapped_categories` is set from the data."""
    split_over: int
    """A SID of more items is split into groups, which a list puts together again; see `clusters`."""
    split_groups: int
    items: EmbeddedConfig
    queries: EmbeddedConfig
    users: EmbeddedConfig
    align: AlignConfig
    valid_share: float
    """Share of the items that choose among the epochs of the first stage."""
    beams: int
    """For every request."""
    deep_requests: int
    deep_beams: int
    """For `deep_rows`."""


class ItemSids(NamedTuple):
    """What the generator's later stages need of the quantizer."""

    sids: NDArray[np.int64]
    """(I,) packed, without groups; new items too."""
    codebooks: list[NDArray[np.float32]]
    """L arrays (K_l, dim)."""

    def save(self, directory: Path) -> None:
        """Write it, whole or not at all."""
        tensors = {"sids": torch.from_numpy(self.sids)}
        tensors |= {f"codebook_{at}": torch.from_numpy(book) for at, book in enumerate(self.codebooks)}
        write_artifact(directory, kind=KIND, tensors=tensors, config={})

    @classmethod
    def load(cls, directory: Path) -> ItemSids:
        """Read what `save` wrote. Raises ArtifactError where it is missing, half-written or damaged."""
        tensors, _ = read_artifact(directory, kind=KIND)
        books = [tensors[f"codebook_{at}"].numpy() for at in range(len(tensors) - 1)]
        return cls(tensors["sids"].numpy(), books)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes per level."""
        return tuple(len(book) for book in self.codebooks)


def learn_queries(
    data: RecallData, variant: str, settings: RecallSettings, *, seed: int, out: Path, scratch: Path, done: Done
) -> ChannelFound:
    """The quantizer, the SIDs, and a generator that reads queries alone. The same inputs give the same on a CPU.

    Args:
        data: the marketplace.
        variant: of `VARIANTS`.
        settings: of all stages.
        seed: of quantizer and generator.
        out: folder that gets `sids` and `generator`, for the stages that go on from them.
        scratch: this chain's own folder for checkpoints.
        done: told when a stage ends.
    """
    items, facts = _item_sids(data, variant, settings, seed, scratch, done)
    items.save(out / "sids")
    known = np.flatnonzero(~data.item_new)
    titles = EmbeddedData(
        data.item_embeddings[known],
        query_index=np.arange(len(known)),
        sids=items.sids[known],
        weight=np.ones(len(known)),
        train=data.item_hash[known] % BUCKETS >= settings.valid_share * BUCKETS,
    )
    stage = {"codebook_sizes": items.sizes, "index": _learned(data, items)}
    config = replace(settings.items, targets_per_query=1, seed=seed)
    first = train_embedded(titles, config=config, checkpoint_dir=scratch / "items", **stage)  # type: ignore[arg-type]
    first.generator.save(scratch / "items-generator")
    done("items")
    learnable = data.pair_acted & (data.query_split[data.pair_query] != TEST)
    pairs = EmbeddedData(
        data.query_embeddings,
        query_index=data.pair_query[learnable].astype(np.int64),
        sids=items.sids[data.pair_item[learnable]],
        weight=data.pair_weight[learnable],
        train=data.query_split[data.pair_query[learnable]] == TRAIN,
    )
    second = train_embedded(
        pairs,
        config=replace(settings.queries, seed=seed),
        checkpoint_dir=scratch / "queries",
        warm_start=scratch / "items-generator",
        **stage,  # type: ignore[arg-type]
    )
    second.generator.save(out / "generator")
    done("queries")
    facts |= {"items stage": _held_out(first.report), "queries stage": _held_out(second.report)}
    index, clusters, deep = _recallable(data, items, settings)
    asked = {"generator": second.generator, "index": index, "clusters": clusters, "data": data}
    wide = found_by_query(requests=data.later, beams=settings.beams, **asked)  # type: ignore[arg-type]
    done("beams")
    deeply = found_by_query(requests=deep, beams=settings.deep_beams, **asked)  # type: ignore[arg-type]
    done("deep beams")
    return ChannelFound(wide, deeply, facts)


class PersonalFound(NamedTuple):
    """A personal generator's lists, with who asks and without."""

    personalised: ChannelFound
    nameless: ChannelFound
    """The same model told of nobody: what is left of the difference is what it knows of users."""


def learn_users(
    data: RecallData, settings: RecallSettings, *, seed: int, base: Path, out: Path, scratch: Path, done: Done
) -> PersonalFound:
    """Go on from CQ-SID's generator with who asks: the model that all arms of the alignment start from.

    Args:
        data: the marketplace.
        settings: of all stages.
        seed: of the chain.
        base: what `learn_queries` wrote for this seed.
        out: folder that gets `generator`.
        scratch: this chain's own folder for checkpoints.
        done: told when a stage ends.
    """
    items = ItemSids.load(base / "sids")
    acted = data.train.clicked + data.train.bought > 0
    request = data.train.entry_request[acted].astype(np.int64)
    told = EmbeddedData(
        request_vectors(data, data.train, items),
        query_index=request,
        sids=items.sids[data.train.entry_item[acted]],
        weight=np.ones(len(request)),
        train=data.query_split[data.train.query[request]] == TRAIN,
    )
    trained = train_embedded(
        told,
        codebook_sizes=items.sizes,
        index=_learned(data, items),
        config=replace(settings.users, targets_per_query=1, seed=seed),
        context=told.query_embeddings.shape[1] - data.query_embeddings.shape[1],
        checkpoint_dir=scratch / "users",
        warm_start=base / "generator",
    )
    trained.generator.save(out / "generator")
    done("users")
    del told
    facts = {"users stage": _held_out(trained.report)}
    index, clusters, deep = _recallable(data, items, settings)
    how = {"generator": trained.generator, "index": index, "clusters": clusters}
    asked = request_vectors(data, data.later, items)
    wide = found_by_request(vectors=asked, requests=data.later, beams=settings.beams, **how)  # type: ignore[arg-type]
    done("beams")
    asked = asked[deep_rows(data.later, settings.deep_requests)]
    deeply = found_by_request(vectors=asked, requests=deep, beams=settings.deep_beams, **how)  # type: ignore[arg-type]
    done("deep beams")
    alone = found_by_query(data=data, requests=data.later, beams=settings.beams, **how)  # type: ignore[arg-type]
    done("beams of nobody")
    return PersonalFound(ChannelFound(wide, deeply, facts), ChannelFound(alone, None, facts))


def align(
    data: RecallData,
    arm: str,
    settings: RecallSettings,
    *,
    seed: int,
    base: Path,
    start: Path,
    scratch: Path,
    done: Done,
) -> ChannelFound:
    """Go on from the personal generator with one arm of the alignment (papers, section 2: EG-GRPO).

    Rewards are those of the request itself: clicked or bought 1, only shown 0.5. It reads the requests of the stage
    before, with all that they showed.

    Args:
        data: the marketplace.
        arm: of `ARMS`.
        settings: of all stages.
        seed: of the chain.
        base: what `learn_queries` wrote for this seed.
        start: the generator that `learn_users` wrote for this seed.
        scratch: this chain's own folder for checkpoints.
        done: told when a stage ends.
    """
    items = ItemSids.load(base / "sids")
    train = data.query_split[data.train.query[data.train.entry_request]] == TRAIN
    acted = data.train.clicked + data.train.bought > 0
    table = RewardData(
        request_vectors(data, data.train, items),
        request=data.train.entry_request[train].astype(np.int64),
        sids=items.sids[data.train.entry_item[train]],
        reward=np.where(acted[train], ACTED, EXPOSED),
    )
    aligned = train_eg_grpo(
        table,
        start=start,
        index=_learned(data, items),
        config=replace(settings.align, experts=ARMS[arm], seed=seed),
        checkpoint_dir=scratch / "align",
    ).generator
    assert isinstance(aligned, EmbeddedGenerator)
    del table
    done("align")
    index, clusters, _ = _recallable(data, items, settings)
    asked = request_vectors(data, data.later, items)
    wide = found_by_request(aligned, index, clusters, asked, data.later, beams=settings.beams)
    done("beams")
    return ChannelFound(wide, None, {})


def request_vectors(data: RecallData, requests: Requests, items: ItemSids) -> NDArray[np.float32]:
    """Requests as the generator reads them: (R, D + C), the query's vector and who asks (`histories.asked_vectors`)."""
    latest = requests.latest
    recent = first_distinct(np.where(latest < 0, -1, items.sids[latest]))
    latent = latent_of(items.codebooks, recent)
    return asked_vectors(
        data.query_embeddings, requests.query, requests.attributes, data.attribute_counts, recent, latent
    )


def _item_sids(
    data: RecallData, variant: str, settings: RecallSettings, seed: int, scratch: Path, done: Done
) -> tuple[ItemSids, dict[str, Any]]:
    """SIDs of all items, by a quantizer that saw none of the new ones."""
    sizes = settings.quantizer.codebook_sizes
    mapped = min(sizes[0], int(data.item_category.max(initial=-1)) + 1)
    config = replace(settings.quantizer, mapped_categories=mapped, seed=seed, **VARIANTS[variant])
    level1 = np.where(data.item_category < mapped, data.item_category, -1).astype(np.int32)
    known = np.flatnonzero(~data.item_new)
    learnable = data.query_split[data.pair_query] != TEST
    pairs = PairData(
        query_embeddings=data.query_embeddings,
        item_embeddings=data.item_embeddings[known],
        query_index=data.pair_query[learnable],
        item_index=np.searchsorted(known, data.pair_item[learnable]).astype(np.int32),
        weight=data.pair_weight[learnable],
        item_level1=level1[known],
        # None held out: the last step is kept, as in the paper, so that no rule of choice is compared (decision 14).
        train=np.ones(np.count_nonzero(learnable), dtype=np.bool_),
    )
    model = train_quantizer(data=with_lone_items(pairs), config=config, checkpoint_dir=scratch / "quantizer")
    del pairs
    done("quantizer")
    assigned = assign_codes(model, data.item_embeddings, level1)
    done("assign")
    agree = _agreement(model, data, assigned.codes, np.flatnonzero(~learnable))
    books = [book.cpu().numpy().copy() for book in model.codebooks]
    found = quality(assigned.codes, sizes)
    distinct, own, size = np.unique(assigned.sid, return_inverse=True, return_counts=True)
    old = np.unique(assigned.sid[known])
    split = count_groups(assigned.sid[known], over=settings.split_over, most=settings.split_groups)
    joined = np.isin(assigned.sid[data.item_new], old)
    facts: dict[str, Any] = {
        "sids": len(distinct),
        "items a SID": len(own) / len(distinct),
        "items a SID of an item": float(size[own].mean()),
        "perplexity": [level.perplexity for level in found.levels],
        "split": split.report,
        "new items of known SIDs": float(joined.mean()) if len(joined) else 0.0,
        "pairs that agree": agree,
    }
    return ItemSids(assigned.sid, books), facts


def _agreement(
    model: TrainedQuantizer, data: RecallData, item_codes: NDArray[np.int32], pairs: NDArray[np.int64]
) -> list[float]:
    """Share of some pairs whose query and item share a prefix, by the quantizer itself, per depth."""
    if not len(pairs):
        return []
    asked, row = np.unique(data.pair_query[pairs], return_inverse=True)
    codes = assign_codes(model, data.query_embeddings[asked], tower="query").codes
    return [float(share) for share in pair_agreement(codes[row], item_codes[data.pair_item[pairs]])]


def _held_out(report: Report) -> dict[str, Any]:
    """The epoch kept, and its log-likelihood on held-out queries, nats a level."""
    best = next((look for look in report.evaluations if look.step == report.best_step), None)
    told = None if best is None else list(best.log_likelihood)
    return {"step": report.best_step, "steps": report.steps, "held-out log-likelihood": told}


def _learned(data: RecallData, items: ItemSids) -> SidIndex:
    """The SIDs that can be learned: those of items that are not new."""
    return SidIndex(np.unique(items.sids[~data.item_new]))


def _recallable(data: RecallData, items: ItemSids, settings: RecallSettings) -> tuple[SidIndex, Clusters, Requests]:
    """SIDs that may be decoded, what is behind each, and the requests that are looked at with many beams."""
    clusters = make_clusters(items.sids, data.item_efficiency, data.item_hash, data.item_stocked)
    deep = data.later.take(deep_rows(data.later, settings.deep_requests))
    return SidIndex(np.unique(items.sids)), clusters, deep
