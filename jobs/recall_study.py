"""What generative recall is worth: CQ-SID against plain RQ-VAE and without its parts, who asks, and the alignment.

Makes a marketplace of its own and needs nothing in the home. Writes HOME/recall-study (a quick one:
HOME/recall-study-quick): the marketplace's arrays, one result per chain (never computed twice), recall.json with one
object a comparison, and report.md.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from dsirm_models.eg_grpo_data import AlignConfig
from dsirm_models.quantizer_model import QuantizerConfig
from dsirm_models.recall_chain import ARMS, VARIANTS, RecallSettings
from dsirm_models.recall_data import RecallData
from dsirm_models.train_embedded_generator import EmbeddedConfig
from jobs.files import is_whole
from jobs.home import Home
from jobs.recall_study_report import Studied, write_report
from jobs.recall_study_results import SWEEP
from jobs.recall_study_work import CHANNELS, Task, learn
from jobs.recall_study_world import World, make_data
from jobs.settings import load_settings
from jobs.study import wait, workers
from jobs.study_work import source_hash
from jobs.train_quantizer import quantizer_config
from schemas.fingerprint import digest

JOB = "recall-study"
MAIN = ("cq-sid", "rq-vae")
"""Variants of the main comparison: the first wave."""


class Scale(NamedTuple):
    """How large a study is."""

    world: World
    codebook_sizes: tuple[int, int, int]
    seeds: int
    quantizer_steps: int
    epochs: tuple[int, int, int]
    """Of the stages items, queries and users."""
    align_steps: int
    deep_requests: int
    draws: int


FULL = Scale(
    world=World(
        seed=1,
        items=200_000,
        users=10_000,
        queries=40_000,
        days=13,
        later=4,
        train_requests=150_000,
        later_requests=100_000,
    ),
    codebook_sizes=(256, 24, 24),
    seeds=5,
    quantizer_steps=2000,
    epochs=(1, 6, 2),
    align_steps=1000,
    deep_requests=10_000,
    draws=10_000,
)
QUICK = Scale(
    world=World(seed=1, items=3000, users=200, queries=1200, days=4, later=1, train_requests=8000, later_requests=3000),
    codebook_sizes=(128, 8, 8),
    seeds=2,
    quantizer_steps=150,
    epochs=(1, 2, 1),
    align_steps=20,
    deep_requests=500,
    draws=1000,
)
BEAMS, DEEP_BEAMS = 10, max(SWEEP)
"""More than the paper's 100, so that RQ-VAE's smaller SIDs come near 1,000 items too."""
RATE = 1e-3
"""At which the small generator learns its stages. The profile's rates are the paper's, of a language model."""


def run(home: Home, *, quick: bool = False) -> dict[str, Any]:
    """Run the study, or go on with it: the files of the report, and the comparisons.

    With `quick`, two seeds on a small marketplace: to see that it runs, not what recall is worth.
    """
    scale = QUICK if quick else FULL
    root = home.root / ("recall-study-quick" if quick else "recall-study")
    data = _data(home, root, scale)
    settings = settings_of(root, scale)
    waves = tasks(root, data, settings, scale)
    with workers(home) as pool:
        for name, wave in waves.items():
            wait(name, [pool.submit(learn, task) for task in wave if not is_whole(task.found)])
    done = [task for wave in waves.values() for task in wave]
    return write_report(root, Studied(data, settings, done, scale.draws, quick))


def _data(home: Home, root: Path, scale: Scale) -> Path:
    """The marketplace's arrays, made where they are not there yet."""
    asked = {
        "world": scale.world._asdict(),
        "encoder": home.settings.encoder.model_dump(mode="json"),
        "code": source_hash("jobs.recall_study_world"),
    }
    name = digest(asked)[:12]
    out = root / "data" / name
    if not is_whole(out):
        make_data(root / f"world-{name}", scale.world, home.settings.encoder, out)
    return out


def settings_of(root: Path, scale: Scale) -> RecallSettings:
    """Those of the profile `cqsid`, in the sizes of the study, with the generator that needs no download."""
    profile = load_settings(root, "cqsid", environ={})
    changes = {"codebook_sizes": scale.codebook_sizes, "max_steps": scale.quantizer_steps}
    quantizer = profile.quantizer.model_copy(update=changes)
    stages = [
        EmbeddedConfig(epochs=epochs, queries_per_step=how.batch, learning_rate=RATE)
        for epochs, how in zip(
            scale.epochs, (profile.stage_items, profile.stage_queries, profile.stage_users), strict=True
        )
    ]
    how = profile.stage_align
    return RecallSettings(
        quantizer=quantizer_config(quantizer, mapped_categories=0),
        split_over=quantizer.split_over,
        split_groups=quantizer.split_groups,
        items=stages[0],
        queries=replace(stages[1], targets_per_query=3),
        users=stages[2],
        align=AlignConfig(
            steps=scale.align_steps,
            requests_per_step=how.batch,
            group_size=how.group,
            # As much below the stage before as the paper has it.
            learning_rate=RATE * how.lr / profile.stage_users.lr,
            clip=how.clip,
            kl=how.kl,
        ),
        valid_share=profile.corpus.valid_share,
        beams=BEAMS,
        deep_requests=scale.deep_requests,
        deep_beams=DEEP_BEAMS,
    )


def tasks(root: Path, data: Path, settings: RecallSettings, scale: Scale) -> dict[str, list[Task]]:
    """What is to be done, in three waves, each of which goes on from what the one before made."""
    content = RecallData.load(data).fingerprint()
    told = {
        name: asdict(part) if isinstance(part, QuantizerConfig | EmbeddedConfig | AlignConfig) else part
        for name, part in settings._asdict().items()
    }
    code = source_hash("dsirm_models.recall_chain")

    def task(variant: str, seed: int | None, **parents: Path) -> Task:
        # What a stage does not read is in its parents' names, or nothing to it.
        aside = {"users": ("items", "queries", "align"), "align": ("items", "queries", "users")}.get(
            "users" if variant == "personalised" else "align" if variant in ARMS else "", ("users", "align")
        )
        asked = {
            "data": content,
            "settings": {name: part for name, part in told.items() if name not in aside},
            "code": code,
            "variant": variant,
            "seed": seed,
            "parents": {key: at.name for key, at in parents.items()},
        }
        return Task(variant, seed, data, settings, root / "chains" / digest(asked)[:16], **parents)

    seeds = range(1, scale.seeds + 1)
    main = {(name, seed): task(name, seed) for name in MAIN for seed in seeds}
    ablations = [task(name, seed) for name in VARIANTS if name not in MAIN for seed in seeds]
    base = {seed: main["cq-sid", seed].out for seed in seeds}
    personal = {seed: task("personalised", seed, base=base[seed]) for seed in seeds}
    arms = [task(arm, seed, base=base[seed], start=personal[seed].out) for seed in seeds for arm in ARMS]
    channels = [task(name, None) for name in CHANNELS]
    return {
        "Learning SIDs": list(main.values()),
        "Learning who asks, and the ablations": [*personal.values(), *ablations],
        "Aligning, and asking other channels": [*arms, *channels],
    }
