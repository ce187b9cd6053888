from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dsirm_models.beam import Step, _top, beam_search, score_sids
from dsirm_models.sid_index import SidIndex
from schemas.sids import pack, unpack

SIZES = (4, 5, 6)


class TableState(NamedTuple):
    queries: Tensor
    prefix: Tensor
    depth: int


class TableScorer:
    """Logits looked up by (query, prefix): any distribution whatever, so nothing of a real model hides a mistake."""

    codebook_sizes = SIZES
    device = torch.device("cpu")

    def __init__(self, seed: int = 0, queries: int = 8) -> None:
        rng = torch.Generator().manual_seed(seed)
        shapes = [(queries, 1, 4), (queries, 4, 5), (queries, 20, 6)]
        self.tables = [torch.randn(shape, generator=rng) * 2 for shape in shapes]

    def start(self, queries: list[int]) -> Step[TableState]:
        rows = torch.tensor(queries)
        state = TableState(rows, torch.zeros((len(rows), 1), dtype=torch.int64), 0)
        return Step(state, self.tables[0][rows])

    def extend(self, state: TableState, parents: Tensor, codes: Tensor) -> Step[TableState]:
        prefix = state.prefix.gather(1, parents) * SIZES[state.depth] + codes
        depth = state.depth + 1
        logits = self.tables[depth][state.queries[:, None], prefix]
        return Step(TableState(state.queries, prefix, depth), logits)


def all_sids() -> np.ndarray:
    return np.array([pack(codes) for codes in np.ndindex(*SIZES)], dtype=np.int64)


def some_sids(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(all_sids(), count, replace=False)


def by_hand(scorer: TableScorer, query: int, sids: np.ndarray) -> dict[int, np.ndarray]:
    """Conditional log-probabilities per SID by plain enumeration."""
    codes = {int(sid): unpack(int(sid)) for sid in sids}
    out = {}
    for sid, (c1, c2, c3) in codes.items():
        logps = []
        for depth, (place, code) in enumerate([(0, c1), (c1, c2), (c1 * 5 + c2, c3)]):
            logits = scorer.tables[depth][query, place].double().numpy()
            siblings = sorted({other[depth] for other in codes.values() if other[:depth] == (c1, c2, c3)[:depth]})
            logps.append(logits[code] - np.log(np.exp(logits[siblings]).sum()))
        out[sid] = np.array(logps)
    return out


@pytest.mark.parametrize("seed", range(5))
def test_wide_beams_find_the_exact_best_sids(seed: int) -> None:
    scorer, sids = TableScorer(seed), some_sids(seed, 37)
    beams = beam_search(scorer, SidIndex(sids), list(range(8)), 7, width=40)
    assert beams.complete.all()
    for query in range(8):
        truth = by_hand(scorer, query, sids)
        best = sorted(truth, key=lambda sid: (-truth[sid].sum(), sid))[:7]
        assert beams.sids[query].tolist() == best
        np.testing.assert_allclose(beams.logps[query], [truth[sid] for sid in best], rtol=1e-4, atol=1e-5)
        assert [pack(codes) for codes in beams.codes[query].tolist()] == best


def test_probabilities_over_existing_sids_sum_to_one() -> None:
    scorer, sids = TableScorer(1), some_sids(1, 50)
    beams = beam_search(scorer, SidIndex(sids), list(range(8)), 50)
    np.testing.assert_allclose(np.exp(beams.logps.sum(axis=2)).sum(axis=1), 1, rtol=1e-5)


@given(st.integers(0, 10**6), st.integers(1, 120), st.integers(1, 12), st.integers(0, 8))
@settings(max_examples=80, deadline=None)
def test_nothing_invalid_is_ever_decoded(seed: int, count: int, k: int, extra: int) -> None:
    sids = some_sids(seed, count)
    beams = beam_search(TableScorer(seed), SidIndex(sids), list(range(8)), k, width=k + extra, batch_size=3)
    found = min(k, count)
    assert np.isin(beams.sids[:, :found], sids).all()
    assert (beams.sids[:, found:] == -1).all() and (beams.codes[:, found:] == -1).all()
    assert np.isneginf(beams.logps[:, found:]).all() and np.isfinite(beams.logps[:, :found]).all()
    assert (beams.complete == (count >= k)).all()
    assert all(len(set(row.tolist())) == found for row in beams.sids[:, :found])
    totals = beams.logps[:, :found].sum(axis=2)
    assert (np.diff(totals, axis=1) <= 1e-5).all()


def test_ties_go_to_the_lowest_sid() -> None:
    scorer, sids = TableScorer(), all_sids()
    scorer.tables = [torch.zeros_like(table) for table in scorer.tables]
    beams = beam_search(scorer, SidIndex(sids[::-1].copy()), [0, 1], 9)
    assert beams.sids.tolist() == [sids[:9].tolist()] * 2


SCORES = st.lists(st.sampled_from([-np.inf, -2.0, -1.0, 0.0]), min_size=6, max_size=6)


@given(st.lists(SCORES, min_size=1), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_the_best_places_are_chosen_lowest_first_among_equals(rows: list[list[float]], keep: int) -> None:
    chosen = _top(torch.tensor(rows), keep)
    assert chosen.tolist() == [sorted(sorted(range(6), key=lambda place: (-row[place], place))[:keep]) for row in rows]


def test_a_query_gets_the_same_beams_in_any_company() -> None:
    scorer, index = TableScorer(2), SidIndex(some_sids(2, 40))
    together = beam_search(scorer, index, list(range(8)), 5)
    alone = [beam_search(scorer, index, [query], 5) for query in range(8)]
    assert together.sids.tolist() == [one.sids[0].tolist() for one in alone]
    np.testing.assert_allclose(together.logps, np.concatenate([one.logps for one in alone]), atol=1e-6)


def test_scores_of_given_sids_are_those_of_the_beams() -> None:
    scorer, index = TableScorer(4), SidIndex(some_sids(4, 30))
    beams = beam_search(scorer, index, list(range(8)), 6)
    np.testing.assert_allclose(score_sids(scorer, index, list(range(8)), beams.sids), beams.logps, atol=1e-6)
    one = score_sids(scorer, index, list(range(8)), beams.sids[:, 2], batch_size=3)
    np.testing.assert_allclose(one, beams.logps[:, 2], atol=1e-6)


def test_a_sid_that_does_not_exist_scores_minus_infinity_from_its_first_missing_level() -> None:
    index = SidIndex(np.array([pack((0, 1, 1)), pack((2, 0, 5))]))
    asked = np.array([[pack((0, 1, 2)), pack((0, 2, 1)), pack((3, 1, 1)), -1, pack((2, 0, 5))]])
    logps = score_sids(TableScorer(), index, [0], asked)[0]
    assert np.isfinite(logps).tolist() == [
        [True, True, False],
        [True, False, False],
        [False, False, False],
        [False, False, False],
        [True, True, True],
    ]
    assert not np.isnan(logps).any()


def test_no_queries_give_no_beams() -> None:
    beams = beam_search(TableScorer(), SidIndex(all_sids()), [], 5)
    assert beams.sids.shape == (0, 5) and beams.complete.shape == (0,)
    assert score_sids(TableScorer(), SidIndex(all_sids()), [], np.empty(0, np.int64)).shape == (0, 3)


def test_impossible_requests_are_refused() -> None:
    scorer, index = TableScorer(), SidIndex(all_sids())
    with pytest.raises(ValueError, match="width >= beams"):
        beam_search(scorer, index, [0], 5, width=4)
    with pytest.raises(ValueError, match="another codebook"):
        beam_search(scorer, SidIndex(np.array([pack((9, 0, 0))])), [0], 5)
    with pytest.raises(ValueError, match="as many rows"):
        score_sids(scorer, index, [0, 1], all_sids()[:3])
    scorer.tables[1][0, 0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="level-2"):
        beam_search(scorer, index, [0], 5)
