"""Stage 3 of CQ-SID's generator: user and query -> SID of an item that this user clicked or bought then.

Reads user_searches, queries (train and valid splits), query_embeddings, users, user_profiles, catalog, item_embeddings,
item_sids and codebooks. Writes the stage's generator artifact, which goes on from finetune-generator's. A request reads
gender, age band, purchase power and the SIDs clicked on days before its own. Does nothing where `generator.stages` does
not ask for it. Needs no Spark.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jobs import generator_stages
from jobs.generator_stages import Examples
from jobs.home import Home
from jobs.plan import Plan
from jobs.requests import fields_of
from jobs.searches import load_searches

JOB = "personalise-generator"


def run(home: Home, plan: Plan) -> None:
    """Train, unless the plan has no such stage, uses existing models, or the model is there already.

    Raises:
        ConcurrentWrite: another run trains the same version now.

    """
    generator_stages.make(home, plan, "users", lambda directory: _train(home, plan, directory))


def _train(home: Home, plan: Plan, directory: Path) -> None:
    generator_stages.start_of(home, plan, "users")  # before anything is read for it
    fields = fields_of(home, plan)
    found = load_searches(home, plan, fields, shown=False)
    backend = home.settings.generator.backend
    inputs = found.inputs.take(np.arange(len(found.inputs.query_row)), backend)
    examples = Examples(
        inputs,
        query_index=found.request,
        sids=found.sids,
        weight=np.ones(len(found.sids)),
        train=found.train,
        context=fields.width(found.inputs.latent.vectors.shape[1]) if backend == "embedded" else 0,
    )
    generator = generator_stages.fit(
        home, plan, "users", examples, existing=found.existing, targets=1, users=fields._asdict()
    )
    generator.save(directory)
