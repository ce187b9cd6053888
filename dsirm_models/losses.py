"""The objective as plain arithmetic on tensors: symmetric InfoNCE, reconstruction, and the weights of all parts.

Commitment comes from the quantizer itself. DSIRM: L = 1.0 InfoNCE + 1.0 commitment + 0.1 reconstruction, InfoNCE on
quantized vectors with tau 0.07; CQ-SID: 0.001 / 1.0 / 1.0 on encoder vectors with tau 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """How the parts add up. The defaults are DSIRM's.

    Raises:
        ValueError: a negative or non-finite weight, or nothing to learn from (contrastive and reconstruction both 0).

    """

    contrastive: float = 1.0
    commitment: float = 1.0
    reconstruction: float = 0.1

    def __post_init__(self) -> None:
        problems = [
            f"weight of {name} is {value}, it must be finite and at least 0"
            for name, value in vars(self).items()
            if not 0.0 <= value < float("inf")
        ]
        if self.contrastive == 0 and self.reconstruction == 0:
            problems.append("contrastive and reconstruction are both 0: commitment alone pulls all vectors together")
        if problems:
            raise ValueError("Loss weights cannot be used: " + "; ".join(problems) + ".")


def info_nce(
    query: Tensor,
    item: Tensor,
    *,
    temperature: float,
    query_id: Tensor | None = None,
    item_id: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE with in-batch negatives: the mean of query->item and item->query cross-entropy.

    Row i of `query` and row i of `item` are pulled together; row i of one is pushed from every other row of the other,
    except where both rows are of the same query or of the same item: those are not negatives but the same thing twice.

    Args:
        query: (B, D); cosine is used, so lengths do not matter.
        item: (B, D).
        temperature: tau.
        query_id: (B,) integers, equal for the same query.
        item_id: (B,) integers, equal for the same item.
        weight: (B,) at least 0, how much each pair counts as an anchor. 0 leaves the row out as an anchor only.

    Returns:
        () weighted mean over rows; 0 if all weights are 0.

    """
    logits = F.normalize(query, dim=1) @ F.normalize(item, dim=1).T / temperature
    same = duplicates(query_id=query_id, item_id=item_id)
    if same is not None:
        logits = logits.masked_fill(same, -torch.inf)
    target = torch.arange(len(logits), device=logits.device)
    losses = F.cross_entropy(logits, target, reduction="none") + F.cross_entropy(logits.T, target, reduction="none")
    if weight is None:
        return losses.mean() * 0.5
    return (losses * weight).sum() / weight.sum().clamp_min(1e-12) * 0.5


def duplicates(*, query_id: Tensor | None, item_id: Tensor | None) -> Tensor | None:
    """(B, B) bool: True off the diagonal where two rows share the query or the item. None if neither id is given."""
    same: Tensor | None = None
    for ids in (query_id, item_id):
        if ids is not None:
            equal = ids.unsqueeze(1) == ids.unsqueeze(0)
            same = equal if same is None else same.logical_or_(equal)
    return None if same is None else same.fill_diagonal_(False)


def reconstruction(decoded: Tensor, target: Tensor) -> Tensor:
    """() mean over rows of the squared Euclidean distance between (B, D) decoded vectors and their targets.

    Summed over dimensions, as the commitment is, so that the weights mean the same at every width.
    """
    return (decoded - target).square().sum() / max(len(target), 1)
