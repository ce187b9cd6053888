from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsirm_models import assign
from dsirm_models.assign import BY_CATEGORY, BY_NEAREST, BY_RESERVED, assign_codes
from dsirm_models.train_quantizer import fit_residual_kmeans
from schemas.sids import pack
from tests.dsirm_models.quantizer_world import CATEGORIES, WIDTH, tiny_config, untrained


def embeddings(count: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(count, WIDTH))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def near_tied(model, count: int = 300):
    """The model with level-2 codes moved so that many rows lie within float32 rounding of the middle between two."""
    book = model.model.quantizer.codebooks[1]
    book[1::2] = book[::2] + 1e-7 * torch.randn(book[::2].shape, generator=torch.Generator().manual_seed(0))
    return model


def same(left, right, order=slice(None)) -> None:
    for one, other in zip(left, right, strict=True):
        assert np.array_equal(one[order], other)


MODEL = untrained(tiny_config())
TIED = near_tied(untrained(tiny_config()))
ROWS = embeddings(300)
LEVEL1 = (np.arange(300) % (CATEGORIES + 3)).clip(max=CATEGORIES).astype(np.int32)
LEVEL1[LEVEL1 == CATEGORIES] = -1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10_000), chunk=st.integers(1, 400), tied=st.booleans())
def test_row_order_and_batch_split_change_nothing(seed, chunk, tied):
    model = TIED if tied else MODEL
    order = np.random.default_rng(seed).permutation(len(ROWS))
    same(
        assign_codes(model, ROWS, LEVEL1),
        assign_codes(model, ROWS[order], LEVEL1[order], chunk_rows=chunk),
        order,
    )


def test_number_of_threads_changes_nothing():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = assign_codes(TIED, ROWS, LEVEL1)
        torch.set_num_threads(2)
        same(one, assign_codes(TIED, ROWS, LEVEL1))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("tower", ["item", "query"])
def test_agrees_with_deciding_every_row_alone_in_float64(tower):
    for model in (MODEL, TIED):
        got = assign_codes(model, ROWS, LEVEL1, tower)
        kind = assign.UNKNOWN if tower == "item" else assign.ANY
        search = assign._Search(tower=model.model.item_tower, quantizer=model.model.quantizer, kind=kind)
        for row, (codes, norm) in enumerate(zip(got.codes, got.residual_norm, strict=True)):
            exact_codes, exact_norm = search._exact(ROWS[row].astype(np.float64), int(LEVEL1[row]))
            assert codes.tolist() == exact_codes and norm == exact_norm


def test_projection_stays_inside_its_bound():
    search = assign._Search(tower=MODEL.model.item_tower, quantizer=MODEL.model.quantizer, kind=assign.UNKNOWN)
    x = torch.from_numpy(ROWS).double()
    latent, bound = search._project(x)
    parted = torch.cat([search._project(x[i : i + 7])[0] for i in range(0, len(x), 7)])
    assert ((latent - parted).norm(dim=1) <= bound).all()
    torch.testing.assert_close(latent.float(), MODEL.model.item_tower(x.float()))


def test_agrees_with_the_module_that_was_trained():
    latent = MODEL.model.item_tower(torch.from_numpy(ROWS))
    out = MODEL.model.quantizer(latent, torch.from_numpy(LEVEL1).long())
    got = assign_codes(MODEL, ROWS, LEVEL1)
    assert (got.codes == out.codes.numpy()).mean() > 0.99
    np.testing.assert_allclose(np.median(np.abs(got.residual_norm - out.residual_norm.numpy())), 0, atol=1e-6)


def test_exact_ties_go_to_the_lowest_index():
    model = fit_residual_kmeans(embeddings(60), codebook_sizes=(4, 4, 4))
    for book in model.codebooks:
        book.zero_()
    model.codebooks[0][0] = 9.0
    model.codebooks[1][1, 0] = 1.0
    model.codebooks[1][0, 0] = -1.0  # a zero lies between them
    model.codebooks[1][2:] = 5.0
    zero = np.zeros((3, WIDTH), dtype=np.float32)
    assert assign_codes(model, zero).codes.tolist() == [[1, 0, 0]] * 3


def test_level1_policies_and_how_they_are_told():
    got = assign_codes(MODEL, ROWS, LEVEL1)
    known = LEVEL1 >= 0
    assert np.array_equal(got.codes[known, 0], LEVEL1[known])
    assert (got.codes[~known, 0] >= CATEGORIES).all()
    assert np.array_equal(got.level1_by, np.where(known, BY_CATEGORY, BY_RESERVED))
    assert (assign_codes(MODEL, ROWS, tower="query").level1_by == BY_NEAREST).all()
    full = untrained(tiny_config(codebook_sizes=(CATEGORIES, 16, 16)))
    assert (assign_codes(full, ROWS).level1_by == BY_NEAREST).all()
    off = untrained(tiny_config(category_level1=False))
    assert (assign_codes(off, ROWS, LEVEL1).level1_by == BY_NEAREST).all()


def test_packed_sids_and_no_rows():
    got = assign_codes(MODEL, ROWS, LEVEL1)
    assert got.sid.tolist() == [pack(row) for row in got.codes.tolist()]
    none = assign_codes(MODEL, ROWS[:0], LEVEL1[:0])
    assert none.codes.shape == (0, 3) and none.sid.shape == (0,)


def test_low_float32_precision_changes_nothing():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        low = assign_codes(TIED, ROWS, LEVEL1)
    finally:
        torch.set_float32_matmul_precision(before)
    same(low, assign_codes(TIED, ROWS, LEVEL1))


def test_refusals():
    with pytest.raises(ValueError, match="NaN"):
        assign_codes(MODEL, np.full((2, WIDTH), np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match=f"width {WIDTH}"):
        assign_codes(MODEL, np.zeros((2, WIDTH + 1), dtype=np.float32))
    with pytest.raises(ValueError, match="float32"):
        assign_codes(MODEL, np.zeros((2, WIDTH)))
    with pytest.raises(ValueError, match="another codebook version"):
        assign_codes(MODEL, ROWS[:1], np.array([CATEGORIES], dtype=np.int32))
    with pytest.raises(ValueError, match="one entry"):
        assign_codes(MODEL, ROWS, LEVEL1[:5])
    with pytest.raises(ValueError, match="tower"):
        assign_codes(MODEL, ROWS, tower="user")
