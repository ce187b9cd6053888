"""The two kinds of work of the study, each in a process of its own: learn one chain, or rank with many.

Results are artifacts and JSON files named by what they were computed from, so nothing is computed twice and a study
that was cut short goes on where it was.
"""

from __future__ import annotations

import ast
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dsirm_models.study_chain import ChainSettings
from jobs.files import is_whole, write_json
from schemas.fingerprint import digest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("dsirm_models", "jobs", "pipelines", "schemas")


class Dataset(NamedTuple):
    """Where the arrays of one world are, and how much of its log counts."""

    name: str
    path: Path
    seed: int | None
    """Seed of the world; None for real data."""
    fingerprint: str
    """Of all of it."""
    learnt_from: str
    """Of what chains know: other grades are other data to a ranker, and the same to a chain."""
    bases: tuple[str, ...]
    """Base feature sets that it has."""
    facts: dict[str, Any]
    """What a report says of it: counts, and what it was computed from."""
    log_share: float = 1.0


class Encoder(NamedTuple):
    """How the text encoder is loaded again, for the chains that tune it."""

    name: str
    max_tokens: int
    states: Path


class ChainTask(NamedTuple):
    """One method, one seed, one data set."""

    data: Dataset
    method: str
    seed: int
    settings: ChainSettings
    out: Path
    encoder: Encoder


class RankTask(NamedTuple):
    """One ranker on one base, over all seeds of one data set."""

    name: str
    base: str
    ranker: str
    folds: int
    draws: int
    seeds: tuple[tuple[int, Dataset, tuple[tuple[str, Path], ...]], ...]
    """Seed, its data, and the chain of every method."""
    out: Path


def source_hash(entry: str) -> str:
    """Hash of a module (`dsirm_models.study_chain`) and of every module of the project that it needs: other code,
    other results.
    """
    wanted, found = [entry], dict[str, str]()
    while wanted:
        name = wanted.pop()
        path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        if name in found or not path.is_file():
            continue
        text = found[name] = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (module := node.module or "").partition(".")[0] in ROOMS:
                wanted += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return digest(found)[:16]


def token_states(data: Dataset, encoder: Encoder) -> None:
    """Keep what the encoder's top layer reads of every text of a data set, unless it is there."""
    from dsirm_models.dynamic_encoder import TokenStates
    from dsirm_models.encoder import load_encoder
    from dsirm_models.study_data import StudyData

    if is_whole(encoder.states):
        return
    loaded, read = load_encoder(encoder.name, max_tokens=encoder.max_tokens), StudyData.load(data.path)
    TokenStates(*loaded.below_top(read.query_texts), *loaded.below_top(read.item_texts)).save(encoder.states)


def learn(task: ChainTask) -> None:
    """Learn one chain and keep its result, unless it is there. Sees no grade."""
    import torch

    from dsirm_models.dynamic_encoder import TokenStates
    from dsirm_models.encoder import load_encoder
    from dsirm_models.study_chain import METHODS, run_chain
    from dsirm_models.study_data import StudyData, smaller_log

    if is_whole(task.out):
        return
    # One thread a process: the study runs as many processes as there are cores.
    torch.set_num_threads(1)
    data = StudyData.load(task.data.path).unjudged()
    if task.data.log_share < 1:
        data = smaller_log(data, task.data.log_share, seed=task.seed)
    method = METHODS[task.method]
    scratch = task.out.with_name(f"{task.out.name}.checkpoints")
    result = run_chain(
        data,
        method,
        task.settings,
        seed=task.seed,
        scratch=scratch,
        states=TokenStates.load(task.encoder.states) if method.dynamic else None,
        encoder=load_encoder(task.encoder.name, max_tokens=task.encoder.max_tokens) if method.dynamic else None,
    )
    result.save(task.out)
    shutil.rmtree(scratch, ignore_errors=True)


def rank(task: RankTask) -> None:
    """Fit one ranker on every variant, fold and seed, compare, and keep rows, comparisons and calibration."""
    if task.out.is_file():
        return
    import torch

    from dsirm_models.ranker_study import NONE, cross_validate
    from dsirm_models.rankers import default_rankers
    from dsirm_models.ranking_metrics import calibration
    from dsirm_models.study_chain import ChainResult
    from dsirm_models.study_data import StudyData
    from dsirm_models.study_features import BEST, PAIRS, TUNE_ON, study_world

    torch.set_num_threads(1)
    worlds = []
    for seed, dataset, chains in task.seeds:
        loaded = {method: ChainResult.load(path) for method, path in chains}
        worlds.append(study_world(StudyData.load(dataset.path), loaded, base=task.base, seed=seed))
    names = set(worlds[0].variants)
    found = cross_validate(
        worlds=worlds,
        ranker=default_rankers()[task.ranker],
        folds=task.folds,
        tune_on=TUNE_ON,
        pairs=[pair for pair in PAIRS if set(pair) <= names],
        draws=task.draws,
    )
    common = {"data": task.name, "base": task.base, "ranker": task.ranker}
    grades = np.concatenate([world.grades for world in worlds])
    body: dict[str, Any] = {
        "scores": [common | row._asdict() for row in found.rows],
        "comparisons": [common | row._asdict() for row in found.comparisons],
        "calibration": [
            common | {"variant": name} | row._asdict()
            for name in (NONE, BEST)
            for row in calibration(np.concatenate(found.at_least[name]), grades)
        ],
    }
    write_json(task.out, body)
