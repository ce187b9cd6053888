"""Three rankers behind one call, so that a comparison of features does not hang on one of them.

`mlp` is the paper's (`dsirm_models.ranker`). `lr` and `gbdt` come from scikit-learn: one binary model per threshold of
the grade, `P(grade >= k)` for k = 1, 2, 3, made monotone by taking the least so far, so that all three rankers give the
same ordinal output. They read the match depth as its value under the paper's map, 0 / 0.25 / 0.5 / 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dsirm_models.ranker import GRADES, RankerConfig, train_ranker

SS = (0.0, 0.25, 0.5, 1.0)
"""The paper's score of a match depth 0..3."""


class VariantFeatures(NamedTuple):
    """The ranker's inputs for N pairs under one variant."""

    dense: NDArray[np.floating]
    """(N, F): the base features, then the variant's soft scores."""
    ss_depth: NDArray[np.integer] | None = None
    """(N,): match depth 0..3, -1 without a SID; None for a variant without the feature."""

    def take(self, rows: NDArray[Any]) -> VariantFeatures:
        """The rows of a mask or of positions."""
        return VariantFeatures(self.dense[rows], None if self.ss_depth is None else self.ss_depth[rows])


def null_control(features: VariantFeatures, *, base_columns: int, query_ids: ArrayLike, seed: int) -> VariantFeatures:
    """A variant of the same width whose SID columns are noise, constant within a query: what width alone is worth.

    The first `base_columns` dense columns stay; each further column is replaced by one standard normal number a query,
    the match depth by one drawn for each query from the depths that occur. Such features say nothing of an item, so
    whatever they seem to gain is noise of the study.

    Raises:
        ValueError: fewer dense columns than `base_columns`.

    """
    if features.dense.shape[-1] < base_columns:
        raise ValueError(f"{base_columns} base columns, but only {features.dense.shape[-1]} dense columns in all.")
    _, query = np.unique(np.asarray(query_ids), return_inverse=True)
    queries = int(query.max()) + 1
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((queries, features.dense.shape[1] - base_columns))[query]
    dense = np.concatenate([features.dense[:, :base_columns], noise.astype(features.dense.dtype)], axis=1)
    if features.ss_depth is None:
        return VariantFeatures(dense)
    return VariantFeatures(dense, generator.choice(features.ss_depth, size=queries)[query])


Fit = Callable[[VariantFeatures, NDArray[np.integer], Any, int, VariantFeatures], NDArray[np.float64]]
"""(training features, grades, setting, seed, features to predict) -> P(grade >= 1, 2, 3), (N, 3)."""


class Ranker(NamedTuple):
    """A way to fit, and the settings that inner folds choose among; one setting means no choice."""

    fit: Fit
    settings: Sequence[Any]


def mlp(settings: Sequence[RankerConfig]) -> Ranker:
    """The paper's ordinal ranker."""
    return Ranker(_fit_mlp, settings)


def default_rankers() -> Mapping[str, Ranker]:
    """By name, with the settings that a study's inner folds choose among."""
    return {
        # One setting, chosen on simulated held-out queries: inner folds would cost more than all else.
        "mlp": mlp([RankerConfig()]),
        "lr": Ranker(_fit_lr, (0.01, 0.1, 1.0)),
        "gbdt": Ranker(_fit_gbdt, ((40, 4), (100, 8))),
    }


def _fit_mlp(
    train: VariantFeatures, grades: NDArray[np.integer], config: RankerConfig, seed: int, every: VariantFeatures
) -> NDArray[np.float64]:
    ranker = train_ranker(features=train.dense, ss_depth=train.ss_depth, grades=grades, config=config, seed=seed)
    probabilities = ranker.predict(features=every.dense, ss_depth=every.ss_depth).probabilities
    at_least: NDArray[np.float64] = probabilities[:, ::-1].cumsum(axis=1)[:, GRADES - 2 :: -1]
    return at_least


def _fit_lr(
    train: VariantFeatures, grades: NDArray[np.integer], strength: float, seed: int, every: VariantFeatures
) -> NDArray[np.float64]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def make() -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))

    return _by_threshold(make, train, grades, every)


def _fit_gbdt(
    train: VariantFeatures, grades: NDArray[np.integer], setting: tuple[int, int], seed: int, every: VariantFeatures
) -> NDArray[np.float64]:
    from sklearn.ensemble import HistGradientBoostingClassifier

    trees, leaves = setting

    def make() -> Any:
        return HistGradientBoostingClassifier(
            max_iter=trees,
            max_leaf_nodes=leaves,
            learning_rate=0.1,
            l2_regularization=1.0,
            early_stopping=False,
            random_state=seed,
        )

    return _by_threshold(make, train, grades, every)


def _by_threshold(
    make: Callable[[], Any], train: VariantFeatures, grades: NDArray[np.integer], every: VariantFeatures
) -> NDArray[np.float64]:
    """One binary model per threshold; where training rows are all on one side, that side is certain."""
    columns, wanted = _matrix(train), _matrix(every)
    at_least = np.empty((len(wanted), GRADES - 1))
    for k in range(1, GRADES):
        above = grades >= k
        if above.all() or not above.any():
            at_least[:, k - 1] = float(above.all())
        else:
            at_least[:, k - 1] = make().fit(columns, above).predict_proba(wanted)[:, 1]
    return np.minimum.accumulate(at_least, axis=1)


def _matrix(features: VariantFeatures) -> NDArray[np.float64]:
    dense = np.asarray(features.dense, dtype=np.float64)
    if features.ss_depth is None:
        return dense
    # -1: no SID counts as no match.
    return np.column_stack([dense, np.asarray(SS)[np.maximum(features.ss_depth, 0)]])
