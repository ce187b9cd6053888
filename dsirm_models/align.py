"""After a warm-started refit: number the new codes so that a code keeps its meaning, and measure what still moved.

Level by level, a Hungarian assignment (scipy) gives each new code the number of the old code it overlaps most on a
sample of items. From level 2 on only items whose prefix above stayed count first, because only their SIDs can stay.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from dsirm_models.assign import assign_codes
from dsirm_models.quantizer_model import TrainedQuantizer
from dsirm_models.sid_quality import pair_agreement

Codes = NDArray[np.int32]


def align_codes(
    *,
    old: TrainedQuantizer,
    new: TrainedQuantizer,
    embeddings: NDArray[np.float32],
    level1: NDArray[np.int32] | None = None,
) -> TrainedQuantizer:
    """`new` with its codes renumbered towards `old`; mapped level-1 codes keep their category's number.

    Args:
        old: the quantizer in use.
        new: the refitted one; left as it is.
        embeddings: (N, D) float32 of a sample of items.
        level1: (N,) as in `assign_codes`.

    Raises:
        ValueError: other codebook sizes or another category map: then nothing can keep its meaning.

    """
    before, after = old.config, new.config
    if (before.codebook_sizes, before.mapped) != (after.codebook_sizes, after.mapped):
        raise ValueError(
            f"Codebooks {before.codebook_sizes} with {before.mapped} mapped categories cannot be aligned with "
            f"{after.codebook_sizes} with {after.mapped}."
        )
    mappings = matching(
        assign_codes(old, embeddings, level1).codes,
        assign_codes(new, embeddings, level1).codes,
        sizes=after.codebook_sizes,
        mapped=after.mapped,
    )
    return relabel(new, mappings)


def matching(old_codes: Codes, new_codes: Codes, *, sizes: tuple[int, ...], mapped: int) -> list[NDArray[np.int64]]:
    """Per level a permutation (K_l,): new code b gets number `result[l][b]`. Codes are (N, L) of the same items."""
    stayed = np.ones(len(old_codes), dtype=bool)
    result = []
    for level, size in enumerate(sizes):
        ours, theirs = old_codes[:, level], new_codes[:, level]
        # All overlaps decide only between equals: a whole item that can stay outweighs every item that cannot.
        overlap = _overlap(ours[stayed], theirs[stayed], size) * (len(ours) + 1.0) + _overlap(ours, theirs, size)
        fixed = mapped if level == 0 else 0
        number = np.arange(size, dtype=np.int64)
        rows, columns = linear_sum_assignment(overlap[fixed:, fixed:], maximize=True)
        number[fixed + columns] = fixed + rows
        result.append(number)
        stayed &= number[theirs] == ours
    return result


@torch.no_grad()
def relabel(model: TrainedQuantizer, mappings: list[NDArray[np.int64]]) -> TrainedQuantizer:
    """A copy of `model` whose level-l code b has become `mappings[l][b]`, its EMA state with it."""
    copy = model.copy()
    quantizer = copy.model.quantizer
    for level, number in enumerate(mappings):
        source = torch.from_numpy(np.argsort(number)).to(quantizer.codebooks[level].device)
        names = [f"{name}_{level}" for name in ("codebook", "ema_sum", "ema_count", "unused")]
        for name in names + (["reachable"] if level == 0 else []):
            buffer = quantizer.get_buffer(name)
            buffer.copy_(buffer.index_select(0, source))
    return copy


def churn(old_codes: Codes, new_codes: Codes) -> NDArray[np.float64]:
    """(L,) share of the same N items whose prefix of depth 1..L is another than before. Codes are (N, L)."""
    return 1.0 - pair_agreement(old_codes, new_codes)


def _overlap(left: NDArray[np.int32], right: NDArray[np.int32], size: int) -> NDArray[np.float64]:
    """(K, K) how many items have code a left and code b right."""
    counts = np.bincount(left.astype(np.int64) * size + right, minlength=size * size)
    return counts.reshape(size, size).astype(np.float64)
