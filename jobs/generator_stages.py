"""A supervised step of the generator's training, whatever it reads: the only one (DSIRM), or a stage of CQ-SID's.

    items -> queries -> users -> align

Each stage is a job with a model, checkpoints and a TensorBoard log of its own, and goes on from the model of the stage
before; the first from that of the parent release. `Plan.stages` names the models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.errors import DataError
from jobs.files import is_whole
from jobs.generators import check_codebook, codebook_sizes, device
from jobs.home import Home
from jobs.plan import Plan
from jobs.progress import progress
from jobs.settings import GeneratorSettings, StageSettings

if TYPE_CHECKING:
    from dsirm_models.generators import Generator

JOBS = {
    "items": "pretrain-generator",
    "queries": "finetune-generator",
    "users": "personalise-generator",
    "align": "align-generator",
}


class Examples(NamedTuple):
    """N weighted (input, SID) pairs over Q inputs."""

    inputs: Any
    """Q inputs as the backend reads them: vectors, or texts."""
    query_index: NDArray[np.int64]
    """(N,) the pair's input."""
    sids: NDArray[np.int64]
    """(N,) packed, as generators emit them."""
    weight: NDArray[np.floating]
    """(N,) positive."""
    train: NDArray[np.bool_]
    """(N,) False: held out, chooses among checkpoints."""
    context: int = 0
    """Last columns of vectors, which say who asks."""


def version_of(plan: Plan, stage: str) -> str | None:
    """The model that a stage makes; None: the plan has no such stage. The one step there always is learns queries."""
    return plan.stages.get(stage) if plan.stages or stage != "queries" else plan.generator_version


def make(home: Home, plan: Plan, stage: str, train: Callable[[Path], None]) -> None:
    """Have the model of a stage trained, where the plan has the stage and the model is not there yet.

    Raises:
        ConcurrentWrite: another run trains the same version now.
    """
    version = version_of(plan, stage)
    if not plan.fit or version is None:
        return
    with home.training("generator", version):
        directory = home.artifact("generator", version)
        if not is_whole(directory):
            train(directory)


def start_of(home: Home, plan: Plan, stage: str) -> Path | None:
    """The model that a stage goes on from; None: from scratch.

    Raises:
        DataError: the stage before has not been trained, or learned another codebook's SIDs.
        ArtifactError: its model is damaged.
    """
    from dsirm_models.artifacts import read_manifest

    names = _names(plan)
    place = names.index(stage) if stage in names else 0
    if not place:
        return home.artifact("generator", plan.parent_generator) if plan.parent_generator else None
    before = names[place - 1]
    start = home.artifact("generator", plan.stages[before])
    if not start.is_dir():
        raise DataError(
            f"{JOBS[stage]} goes on from {plan.stages[before]}, which is not there: run `dsirm {JOBS[before]} "
            f"--release {plan.release}` first."
        )
    meta = read_manifest(start, kind="generator")["meta"]
    again = "delete that directory and run the job that writes it again"
    check_codebook(start, meta, plan.codebook_version, otherwise=again)
    return start


def _names(plan: Plan) -> list[str]:
    """The plan's stages in order: a file keeps them by name."""
    return [name for name in JOBS if name in plan.stages]


def meta(plan: Plan, stage: str) -> dict[str, Any]:
    """What a generator says of itself; `stages` are the models it went through, itself the last."""
    told: dict[str, Any] = {"codebook_version": plan.codebook_version, "encoder_version": plan.encoder_version}
    if stage in plan.stages:
        names = _names(plan)
        told["stages"] = {name: plan.stages[name] for name in names[: names.index(stage) + 1]}
    return told


@contextmanager
def followed(home: Home, plan: Plan, stage: str, doing: str) -> Iterator[dict[str, Any]]:
    """Where a stage trains, keeps checkpoints and shows how far it is, as arguments of every trainer of generators."""
    scratch = home.scratch("generator", version_of(plan, stage) or "")
    with progress(doing) as advance:
        yield {
            "device": device(),
            "checkpoint_dir": scratch / "checkpoints",
            "log_dir": scratch / "tensorboard",
            "on_step": lambda done: advance(done.step, done.steps),
        }


def fit(
    home: Home,
    plan: Plan,
    stage: str,
    examples: Examples,
    *,
    existing: NDArray[np.int64],
    targets: int | None = None,
    **told: Any,
) -> Generator:
    """Train the settings' backend on examples, from where the stage starts.

    Args:
        home: settings, models and checkpoints.
        plan: the release's. Without stages, the single step's settings count.
        stage: one of `JOBS`.
        examples: what is learned.
        existing: every SID of the release, ascending.
        targets: SIDs drawn of an input at a time; None: as the backend has it.
        **told: more for the generator's `meta`.
    """
    from dsirm_models.generator_data import EmbeddedData, TextData
    from dsirm_models.sid_index import SidIndex

    settings = home.settings.generator
    how = home.settings.stage(stage) if plan.stages else settings
    assert isinstance(how, StageSettings | GeneratorSettings)
    drawn: dict[str, Any] = {} if targets is None else {"targets_per_query": targets}
    pairs: dict[str, Any] = {name: getattr(examples, name) for name in ("query_index", "sids", "weight", "train")}
    with followed(home, plan, stage, f"Training the generator on {stage}") as shared:
        shared |= {
            "codebook_sizes": codebook_sizes(home.store, plan.codebook_version),
            "index": SidIndex(existing),
            "warm_start": start_of(home, plan, stage),
        }
        if settings.backend == "embedded":
            from dsirm_models.train_embedded_generator import EmbeddedConfig, train_embedded

            config = EmbeddedConfig(
                hidden=settings.hidden,
                epochs=how.epochs,
                queries_per_step=how.batch,
                learning_rate=how.lr,
                seed=settings.seed,
                **drawn,
            )
            generator: Generator = train_embedded(
                EmbeddedData(examples.inputs, **pairs), context=examples.context, config=config, **shared
            ).generator
        else:
            from dsirm_models.train_causal_lm import CausalLMConfig, train_causal_lm

            lm_config = CausalLMConfig(
                finetuning="lora" if settings.lora else "full",
                steps=how.steps,
                batch_size=how.batch,
                accumulation=how.accumulation,
                learning_rate=how.lr,
                seed=settings.seed,
                **drawn,
            )
            generator = train_causal_lm(
                TextData(examples.inputs, **pairs), base=settings.model, config=lm_config, **shared
            ).generator
    generator.meta.update(meta(plan, stage) | told)
    return generator
