"""Stage 4 of CQ-SID's generator: EG-GRPO on what users clicked, bought or were only shown.

Reads what personalise-generator reads. Writes the release's generator artifact, which goes on from that one and is held
close to it. Rewards of a request's SIDs: clicked or bought 1, only shown 0.5, any other that exists 0.1. Requests that
led to nothing are left out: of those all that could be learned is to name what nobody wanted. Does nothing where
`generator.stages` does not ask for it. Needs no Spark.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jobs import generator_stages
from jobs.errors import DataError
from jobs.home import Home
from jobs.plan import Plan
from jobs.requests import UserFields
from jobs.searches import load_searches

JOB = "align-generator"


def run(home: Home, plan: Plan) -> None:
    """Train, unless the plan has no such stage, uses existing models, or the model is there already.

    Raises:
        ConcurrentWrite: another run trains the same version now.

    """
    generator_stages.make(home, plan, "align", lambda directory: _train(home, plan, directory))


def _train(home: Home, plan: Plan, directory: Path) -> None:
    from dsirm_models.artifacts import read_manifest
    from dsirm_models.eg_grpo_data import ACTED, EXPOSED, AlignConfig, RewardData
    from dsirm_models.sid_index import SidIndex
    from dsirm_models.train_eg_grpo import train_eg_grpo

    settings, how = home.settings.generator, home.settings.stage_align
    start = generator_stages.start_of(home, plan, "align")
    if start is None:
        raise DataError(f"{plan.release} was planned without a stage for align-generator to go on from.")
    fields = UserFields.of(read_manifest(start, kind="generator")["meta"]["users"])
    found = load_searches(home, plan, fields, shown=True)
    table = RewardData(
        found.inputs.take(np.arange(len(found.inputs.query_row)), settings.backend),
        request=found.request[found.train],
        sids=found.sids[found.train],
        reward=np.where(found.acted[found.train], ACTED, EXPOSED),
    )
    config = AlignConfig(
        steps=how.steps,
        requests_per_step=how.batch,
        accumulation=how.accumulation,
        group_size=how.group,
        experts=how.experts,
        learning_rate=how.lr,
        clip=how.clip,
        kl=how.kl,
        drop_flat=how.drop_flat,
        correct_experts=how.correct_experts,
        seed=settings.seed,
    )
    with generator_stages.followed(home, plan, "align", "Aligning the generator") as shared:
        generator = train_eg_grpo(
            table,
            start=start,
            index=SidIndex(found.existing),
            config=config,
            base=settings.model if settings.backend == "causal_lm" else None,
            **shared,
        ).generator
    generator.meta.update(generator_stages.meta(plan, "align"))
    generator.save(directory)
