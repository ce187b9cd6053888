from __future__ import annotations

import numpy as np
import pytest
import torch

from dsirm_models.align import align_codes, churn, matching, relabel
from dsirm_models.assign import assign_codes
from tests.dsirm_models.quantizer_world import CATEGORIES, tiny_config, tiny_world, untrained

WORLD = tiny_world()


def shuffled(model, seed: int = 0):
    """The model with its codes numbered at random, mapped ones left alone."""
    rng = np.random.default_rng(seed)
    numbers = [rng.permutation(size) for size in model.config.codebook_sizes]
    mapped = model.config.mapped
    numbers[0] = np.concatenate([np.arange(mapped), mapped + rng.permutation(len(numbers[0]) - mapped)])
    return relabel(model, numbers)


def test_renumbered_codebook_is_brought_back():
    old = untrained(tiny_config())
    new = shuffled(old)
    before = assign_codes(old, WORLD.item_embeddings, WORLD.item_level1).codes
    moved = assign_codes(new, WORLD.item_embeddings, WORLD.item_level1).codes
    assert churn(before, moved)[2] > 0.5
    aligned = align_codes(old=old, new=new, embeddings=WORLD.item_embeddings, level1=WORLD.item_level1)
    after = assign_codes(aligned, WORLD.item_embeddings, WORLD.item_level1).codes
    assert churn(before, after).tolist() == [0.0, 0.0, 0.0]
    assert torch.equal(aligned.model.quantizer.get_buffer("ema_sum_0"), old.model.quantizer.get_buffer("ema_sum_0"))
    assert not torch.equal(new.codebooks[1], aligned.codebooks[1]), "the model given is left as it is"


def test_mapped_codes_keep_their_number_even_where_another_overlaps_more():
    old = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 0], [2, 0, 1], [2, 0, 1], [3, 1, 1]], dtype=np.int32)
    new = np.array([[1, 0, 0], [1, 1, 1], [0, 0, 0], [3, 0, 1], [3, 0, 1], [2, 1, 1]], dtype=np.int32)
    number = matching(old, new, sizes=(4, 2, 2), mapped=2)[0]
    assert number.tolist() == [0, 1, 3, 2]
    assert matching(old, new, sizes=(4, 2, 2), mapped=0)[0].tolist() == [1, 0, 3, 2]


def test_aligning_never_moves_more_items_than_it_found():
    old, new = untrained(tiny_config(), seed=1), untrained(tiny_config(), seed=2)
    sample = (WORLD.item_embeddings, WORLD.item_level1)
    before, raw = assign_codes(old, *sample).codes, assign_codes(new, *sample).codes
    aligned = align_codes(old=old, new=new, embeddings=sample[0], level1=sample[1])
    after = assign_codes(aligned, *sample).codes
    assert churn(before, after)[1] < churn(before, raw)[1]
    known = WORLD.item_level1 >= 0
    assert np.array_equal(after[known, 0], WORLD.item_level1[known])
    # Renumbering is all that happened: items that shared a SID still do, and no others.
    assert (
        len(np.unique(after, axis=0)) == len(np.unique(raw, axis=0)) == len(np.unique(np.hstack([after, raw]), axis=0))
    )


def test_churn_counts_prefixes():
    old = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]])
    new = np.array([[1, 1, 1], [1, 1, 2], [1, 2, 1], [2, 1, 1]])
    assert churn(old, new).tolist() == [0.25, 0.5, 0.75]


def test_other_shapes_are_refused():
    old = untrained(tiny_config())
    new = untrained(tiny_config(mapped_categories=CATEGORIES - 1))
    with pytest.raises(ValueError, match="cannot be aligned"):
        align_codes(old=old, new=new, embeddings=WORLD.item_embeddings)
