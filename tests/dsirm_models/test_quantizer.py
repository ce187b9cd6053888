from __future__ import annotations

import pytest
import torch

from dsirm_models.quantizer import ANY, UNKNOWN, ResidualQuantizer, nearest


def filled(**changes) -> ResidualQuantizer:
    settings = {"dim": 4, "codebook_sizes": (5, 7, 6), **changes}
    quantizer = ResidualQuantizer(**settings)
    generator = torch.Generator().manual_seed(3)
    quantizer.initialise([torch.randn(k, settings["dim"], generator=generator) for k in settings["codebook_sizes"]])
    return quantizer


def rows(count: int, dim: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def test_pinned_codebook_gives_exact_codes():
    quantizer = ResidualQuantizer(dim=2, codebook_sizes=(2, 2, 2)).eval()
    quantizer.initialise(
        [
            torch.tensor([[0.0, 0.0], [10.0, 0.0]]),
            torch.tensor([[0.0, 1.0], [0.0, -1.0]]),
            torch.tensor([[0.25, 0.0], [-0.25, 0.0]]),
        ]
    )
    out = quantizer(torch.tensor([[10.2, -1.1], [-0.3, 0.9], [9.7, 1.0]]))
    assert out.codes.tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 1]]
    assert torch.equal(out.plain, torch.tensor([[10.25, -1.0], [-0.25, 1.0], [9.75, 1.0]]))


def test_quantized_plus_residual_is_the_input():
    quantizer = filled().eval()
    x = rows(50)
    out = quantizer(x)
    assert torch.equal(out.plain, quantizer.decode(out.codes))
    torch.testing.assert_close(out.quantized, out.plain)
    torch.testing.assert_close(out.residual_norm, (x - out.plain).norm(dim=1))


def test_commitment_is_the_sum_of_squared_residuals_of_every_level():
    quantizer = filled().eval()
    x = rows(20)
    out = quantizer(x)
    partial, expected = torch.zeros_like(x), torch.zeros(())
    for level, book in enumerate(quantizer.codebooks):
        partial = partial + book[out.codes[:, level]]
        expected = expected + (x - partial).square().sum(dim=1).mean()
    torch.testing.assert_close(out.commitment, expected)


def test_gradient_passes_straight_through_and_every_level_pulls():
    quantizer = filled().eval()
    x = rows(8).requires_grad_()
    out = quantizer(x)
    out.quantized.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    x.grad = None
    out = quantizer(x)
    out.commitment.backward()
    partial, expected = torch.zeros_like(x), torch.zeros_like(x)
    for level, book in enumerate(quantizer.codebooks):
        partial = partial + book[out.codes[:, level]]
        expected = expected + 2 * (x - partial).detach() / len(x)
    torch.testing.assert_close(x.grad, expected)


def test_every_level_learns_in_training_and_none_in_evaluation():
    quantizer = filled()
    before = [book.clone() for book in quantizer.codebooks]
    quantizer.eval()(rows(30))
    assert all(torch.equal(a, b) for a, b in zip(before, quantizer.codebooks, strict=True))
    quantizer.train()(rows(30))
    assert not any(torch.equal(a, b) for a, b in zip(before, quantizer.codebooks, strict=True))


def test_ema_step_is_count_and_sum():
    quantizer = ResidualQuantizer(dim=1, codebook_sizes=(2,), ema_decay=0.9, restart_after=0)
    quantizer.initialise([torch.tensor([[0.0], [10.0]])])
    quantizer.train()(torch.tensor([[1.0], [3.0]]))
    # Code 0: count 0.9 * 1 + 0.1 * 2, sum 0.9 * 0 + 0.1 * 4. Code 1 was not used and stays.
    torch.testing.assert_close(quantizer.codebooks[0], torch.tensor([[0.4 / 1.1], [10.0]]))


def test_category_always_yields_its_own_code():
    quantizer = filled(mapped=5)
    x = rows(40)
    level1 = torch.arange(40) % 5
    for mode in (True, False):
        assert torch.equal(quantizer.train(mode)(x, level1).codes[:, 0], level1)


def test_unknown_rows_take_reserved_codes_and_any_rows_take_all():
    quantizer = filled(mapped=3).eval()
    x = quantizer.codebooks[0][:3].repeat(4, 1)
    assert (quantizer(x, torch.full((12,), UNKNOWN)).codes[:, 0] >= 3).all()
    assert torch.equal(quantizer(x, torch.full((12,), ANY)).codes[:, 0], torch.arange(3).repeat(4))
    mixed = quantizer(x[:3], torch.tensor([2, UNKNOWN, ANY])).codes[:, 0]
    assert mixed[0] == 2 and mixed[1] >= 3 and mixed[2] == 2


def test_unknown_rows_take_the_nearest_of_all_without_reserved_codes():
    x = rows(30)
    for quantizer in (filled(mapped=5).eval(), filled(mapped=3, reserve=False).eval()):
        found = quantizer(x, torch.full((30,), UNKNOWN)).codes[:, 0]
        assert torch.equal(found, nearest(x, quantizer.codebooks[0]))


def test_restarted_code_survives_the_next_ema_step():
    quantizer = ResidualQuantizer(dim=2, codebook_sizes=(3,), restart_after=4)
    quantizer.initialise([torch.tensor([[0.0, 0.0], [1.0, 1.0], [500.0, 500.0]])])
    batch = torch.tensor([[0.0, 0.1], [1.0, 1.1], [0.9, 0.8], [-0.2, 0.0]])
    for _ in range(4):
        quantizer.train()(batch)
    restarted = quantizer.codebooks[0][2].clone()
    assert any(torch.equal(restarted, row) for row in batch)
    assert quantizer.get_buffer("ema_count_0")[2] == 1.0
    assert torch.equal(quantizer.get_buffer("ema_sum_0")[2], restarted)
    quantizer(batch)
    assert (quantizer.codebooks[0][2] - restarted).norm() < 0.05
    assert (quantizer.eval()(batch).codes == 2).any()


def test_mapped_code_without_members_is_never_given_to_others():
    quantizer = filled(mapped=3, restart_after=2)
    kept = quantizer.codebooks[0][2].clone()
    level1 = torch.tensor([0, 1, UNKNOWN, UNKNOWN] * 5)
    for step in range(8):
        quantizer.train()(rows(20, seed=step), level1)
    assert torch.equal(quantizer.codebooks[0][2], kept)


def test_reserved_codes_restart_only_from_rows_that_could_choose_them():
    quantizer = filled(mapped=3, restart_after=1)
    books = [book.clone() for book in quantizer.codebooks]
    books[0][4] = 1000.0
    quantizer.initialise(books)
    x = rows(20)
    level1 = torch.zeros(20, dtype=torch.int64)
    quantizer.train()(x, level1)
    assert (quantizer.codebooks[0][4] == 1000.0).all()
    level1[7] = UNKNOWN
    quantizer(x, level1)
    assert torch.equal(quantizer.codebooks[0][4], x[7])


def test_dead_codes_restart_at_different_rows():
    quantizer = ResidualQuantizer(dim=2, codebook_sizes=(6,), restart_after=1)
    quantizer.initialise([torch.cat([torch.zeros(1, 2), torch.full((5, 2), 900.0)])])
    quantizer.train()(rows(5, dim=2))
    assert len(torch.unique(quantizer.codebooks[0][1:], dim=0)) == 5


def test_unused_code_keeps_its_vector_when_its_count_has_faded_away():
    quantizer = ResidualQuantizer(dim=2, codebook_sizes=(2,), ema_decay=0.5, restart_after=0)
    quantizer.initialise([torch.tensor([[0.0, 0.0], [50.0, 50.0]])])
    for step in range(300):
        quantizer.train()(rows(4, dim=2, seed=step))
    assert quantizer.get_buffer("ema_count_0")[1] < 1e-30
    assert torch.equal(quantizer.codebooks[0][1], torch.tensor([50.0, 50.0]))


def test_unreachable_code_is_chosen_by_its_category_alone_until_a_member_comes():
    quantizer = filled(mapped=5, restart_after=0)
    books = [book.clone() for book in quantizer.codebooks]
    quantizer.initialise(books, reachable=torch.tensor([True, True, False, True, True]))
    x = books[0][2:3]
    assert quantizer.eval()(x, torch.tensor([ANY])).codes[0, 0] != 2
    assert quantizer(x, torch.tensor([2])).codes[0, 0] == 2
    quantizer.train()(x, torch.tensor([2]))
    assert quantizer.eval()(x, torch.tensor([ANY])).codes[0, 0] == 2


def test_equal_distances_give_the_lowest_index():
    book = torch.tensor([[3.0], [1.0], [-1.0], [1.0]])
    assert nearest(torch.tensor([[0.0], [1.0]]), book).tolist() == [1, 1]


def test_refusals():
    with pytest.raises(ValueError, match="mapped"):
        ResidualQuantizer(dim=4, codebook_sizes=(3, 3, 3), mapped=4)
    with pytest.raises(ValueError, match="ema_decay"):
        ResidualQuantizer(dim=4, ema_decay=1.0)
    with pytest.raises(RuntimeError, match="never initialised"):
        ResidualQuantizer(dim=4, codebook_sizes=(3,))(rows(2))
    with pytest.raises(ValueError, match="width 4"):
        filled()(rows(2, dim=5))
    with pytest.raises(ValueError, match="NaN"):
        filled().initialise([torch.full((k, 4), torch.nan) for k in (5, 7, 6)])
    with pytest.raises(ValueError, match="do not fit"):
        filled().initialise([torch.zeros(k, 3) for k in (5, 7, 6)])
