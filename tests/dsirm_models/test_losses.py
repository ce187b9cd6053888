from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dsirm_models.losses import LossWeights, duplicates, info_nce, reconstruction


def pair(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 5, generator=generator), torch.randn(count, 5, generator=generator)


def test_info_nce_is_the_mean_of_both_directions():
    query, item = pair()
    logits = F.normalize(query) @ F.normalize(item).T / 0.07
    target = torch.arange(6)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(info_nce(query, item, temperature=0.07), expected)
    torch.testing.assert_close(info_nce(item, query, temperature=0.07), expected)


def test_lengths_do_not_matter():
    query, item = pair()
    torch.testing.assert_close(info_nce(query * 7, item * 0.2, temperature=0.1), info_nce(query, item, temperature=0.1))


def test_rows_of_the_same_query_or_item_are_no_negatives_of_each_other():
    query_id, item_id = torch.tensor([1, 1, 2, 3]), torch.tensor([5, 6, 7, 6])
    same = duplicates(query_id=query_id, item_id=item_id)
    assert same is not None
    assert same.nonzero().tolist() == [[0, 1], [1, 0], [1, 3], [3, 1]]
    query, item = pair(4)
    item.requires_grad_()
    loss = info_nce(query[:2], item[:2], temperature=0.07, query_id=query_id[:2])
    loss.backward()
    # Both rows are the same query: nothing is left to be pushed apart, and the loss is that of certainty.
    assert loss == 0 and (item.grad == 0).all()


def test_weight_scales_a_row_as_an_anchor():
    query, item = pair(4)
    weight = torch.tensor([1.0, 0.0, 2.0, 1.0])
    logits = F.normalize(query) @ F.normalize(item).T / 0.5
    target = torch.arange(4)
    each = F.cross_entropy(logits, target, reduction="none") + F.cross_entropy(logits.T, target, reduction="none")
    torch.testing.assert_close(info_nce(query, item, temperature=0.5, weight=weight), (each * weight).sum() / 4 / 2)
    assert info_nce(query, item, temperature=0.5, weight=torch.zeros(4)) == 0


def test_reconstruction_sums_over_dimensions():
    assert reconstruction(torch.zeros(2, 3), torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]])) == 3.0


def test_impossible_weights_are_all_named():
    with pytest.raises(ValueError, match=r"commitment is -1.*reconstruction is nan"):
        LossWeights(commitment=-1.0, reconstruction=float("nan"))
    with pytest.raises(ValueError, match="both 0"):
        LossWeights(contrastive=0.0, reconstruction=0.0)
