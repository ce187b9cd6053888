"""The variants of the study: which chain and which of its scores a ranker gets beside the base features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dsirm_models.ranker_study import NONE, World
from dsirm_models.rankers import SS, VariantFeatures, null_control
from dsirm_models.study_chain import BEAMS, ChainResult
from dsirm_models.study_data import StudyData

BASES: Mapping[str, tuple[str, ...]] = {
    "cosine+bm25": ("text_cosine", "bm25"),
    "cosine+bm25+category": ("text_cosine", "bm25", "category_gap", "category_nearest", "category_known"),
}
NULL = "null"
BEST = "dsirm"
TUNE_ON = (NONE, BEST)
"""Ranker settings are chosen on these two, and every variant then takes the same."""


class Variant(NamedTuple):
    """A method of `study_chain.METHODS` and what of its match becomes a feature."""

    method: str
    features: str
    """`soft`: the ss map's expectation, one column. `hard`: ss alone, as the paper's. `own`: log-probability of the
    item's own SID. `mass`: ss and the beams' mass per level. `beams`: `soft` with the beams' mass for the own SID's."""
    beams: int = 5


VARIANTS: Mapping[str, Variant] = {
    "dsi": Variant("dsi", "soft"),
    "tiger": Variant("tiger", "soft"),
    "rkmeans": Variant("rkmeans", "soft"),
    BEST: Variant("dsirm", "soft"),
    "dsirm-no-bridge": Variant("dsirm-no-bridge", "soft"),
    "dsirm-no-category": Variant("dsirm-no-category", "soft"),
    "dsirm-dynamic": Variant("dsirm-dynamic", "soft"),
    "dsirm-nearest": Variant("dsirm-nearest", "soft"),
    "dsi-hard": Variant("dsi", "hard"),
    "tiger-hard": Variant("tiger", "hard"),
    "dsirm-hard": Variant("dsirm", "hard"),
    "dsirm-k1": Variant("dsirm", "hard", 1),
    "dsirm-k20": Variant("dsirm", "hard", 20),
    "dsirm-own": Variant("dsirm", "own"),
    "dsirm-mass": Variant("dsirm", "mass"),
    "dsirm-beams": Variant("dsirm", "beams"),
}
PAIRS = [(name, NONE) for name in (*VARIANTS, NULL)] + [(BEST, name) for name in (*VARIANTS, NULL) if name != BEST]
"""Each against `none`, and `dsirm` against each."""


def soft_ss(prefix_mass: NDArray[np.floating], ss: Sequence[float] = SS) -> NDArray[np.float64]:
    """The ss map's expectation: `ss_0 + sum_l (ss_l - ss_(l-1)) P(prefix of length l)`; masses (P, L) -> (P,)."""
    expected: NDArray[np.float64] = ss[0] + prefix_mass.astype(np.float64) @ np.diff(np.asarray(ss))
    return expected


def has_base(data: StudyData, base: str) -> bool:
    """Whether the data has every column of a base (a catalogue without categories has no category match)."""
    return set(BASES[base]) <= set(data.dense_names)


def study_world(data: StudyData, chains: Mapping[str, ChainResult], *, base: str, seed: int) -> World:
    """Judged pairs with the features of every variant whose method has a chain, of `none` and of the null control."""
    columns = [data.dense_names.index(name) for name in BASES[base]]
    dense = data.dense[:, columns]
    variants = {NONE: VariantFeatures(dense)}
    for name, variant in VARIANTS.items():
        if variant.method in chains:
            variants[name] = _features(dense, chains[variant.method], variant)
    variants[NULL] = null_control(variants[BEST], base_columns=len(columns), query_ids=_ids(data), seed=seed)
    return World(seed=seed, variants=variants, query_ids=_ids(data), grades=data.grades, slices=data.slices)


def _features(dense: NDArray[np.float32], chain: ChainResult, variant: Variant) -> VariantFeatures:
    at = BEAMS.index(variant.beams)
    if variant.features == "hard":
        return VariantFeatures(dense, chain.depth[at])
    if variant.features == "mass":
        return VariantFeatures(np.concatenate([dense, chain.mass[at]], axis=1), chain.depth[at])
    if variant.features == "soft":
        column = soft_ss(np.exp(np.cumsum(chain.own_logps, axis=1)))
    elif variant.features == "beams":
        column = soft_ss(chain.mass[at])
    else:
        column = chain.own_logps.sum(axis=1)
    return VariantFeatures(np.column_stack([dense, column]).astype(np.float32))


def _ids(data: StudyData) -> ArrayLike:
    # Texts, not rows: the same queries under another log must be the same queries.
    return [data.query_texts[row] for row in data.judged_query]
