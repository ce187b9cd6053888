"""Train the offline ranker of the release on every judged pair, with SID features.

Reads the grades of relevance_labels (people's where there are any), prefix_match_features, catalog, embeddings and
pairs. Writes the ranker artifact, named after the release. What it is worth is `evaluate`'s business.
"""

from __future__ import annotations

import logging
from pathlib import Path

from jobs.evaluate import ranker_config, variant_features
from jobs.files import is_whole
from jobs.home import Home
from jobs.judged import load_judged
from jobs.plan import Plan

JOB = "train-ranker"
log = logging.getLogger(__name__)


def run(home: Home, plan: Plan) -> None:
    """Train, unless the artifact is there or nothing was judged.

    Raises:
        ConcurrentWrite: another run trains the ranker of this release now.

    """
    with home.training("ranker", plan.release):
        directory = home.artifact("ranker", plan.release)
        if not is_whole(directory):
            _train(home, plan, directory)


def _train(home: Home, plan: Plan, directory: Path) -> None:
    judged = load_judged(home, plan)
    if judged is None:
        log.info("No judgments: no ranker is trained")
        return
    from dsirm_models.ranker import train_ranker

    features = variant_features(judged)["dsirm"]
    ranker = train_ranker(
        features=features.dense, ss_depth=features.ss_depth, grades=judged.grades, config=ranker_config(home), seed=0
    )
    ranker.save(directory)
