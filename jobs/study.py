"""What SIDs are worth: baselines, ablations and intervals, on the home's judgments and on simulated marketplaces.

Reads what a night reads, as of the current release. Writes HOME/study: data sets, one result per chain and comparison
(never computed twice), and the report as HTML, Markdown, JSON and Parquet.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from dsirm_models.study_chain import METHODS, ChainResult, ChainSettings
from dsirm_models.study_data import StudyData, smaller_log
from dsirm_models.study_features import BASES, has_base
from dsirm_models.train_embedded_generator import EmbeddedConfig
from jobs import views
from jobs.errors import WorkerLost
from jobs.files import is_whole
from jobs.home import Home
from jobs.plan import load_plan
from jobs.progress import progress
from jobs.settings import Settings, load_settings
from jobs.sources import marketplace
from jobs.study_data import study_data
from jobs.study_report import StudyTables, write_report
from jobs.study_work import ChainTask, Dataset, Encoder, RankTask, learn, rank, source_hash, token_states
from jobs.study_worlds import marketplaces, name_of
from jobs.train_quantizer import quantizer_config
from schemas.fingerprint import digest

JOB = "study"
RANKERS = ("mlp", "lr", "gbdt")
FOLDS = 5
# Chosen on a world of seed 101, which no study reports.
WORLD_CODES, WORLD_RESERVED = (128, 16, 16), 8
QUICK = {"seeds": 2, "draws": 1000, "quantizer_steps": 150, "generator_epochs": 2, "dynamic_steps": 5}


class Studied(NamedTuple):
    """A data set, its seeds, and one chain per seed and method."""

    data: Dataset
    seeds: Sequence[int]
    settings: ChainSettings
    chains: list[ChainTask]


def run(home: Home, *, quick: bool = False) -> dict[str, Any]:
    """Run the study, or go on with it: the files of the report, and the comparisons over all queries.

    With `quick`, two seeds and short trainings on the home's own judgments: to see that it runs, not what SIDs are
    worth.

    Raises:
        DataError: nothing is published, or nothing was judged.

    """
    if quick:
        study = home.settings.study.model_copy(update=QUICK)
        home.settings = home.settings.model_copy(update={"study": study})
    studied: list[Studied] = []
    with workers(home) as pool:
        begun: list[Future[None]] = []
        # Chains of one data set are learnt while Spark makes the next.
        for dataset in _datasets(home, quick=quick):
            found = _chains(home, dataset)
            studied.append(found)
            if dataset.log_share == 1:
                begun.append(pool.submit(token_states, dataset, _encoder(home, dataset)))
            begun += [pool.submit(learn, task) for task in found.chains if not METHODS[task.method].dynamic]
        wait("Learning chains", begun)
        tuned = [task for found in studied for task in found.chains if METHODS[task.method].dynamic]
        wait("Learning chains with a tuned encoder", [pool.submit(learn, task) for task in tuned])
        rankings = _rankings(home, studied)
        wait("Ranking", [pool.submit(rank, task) for task in rankings])
    files = write_report(home.root / "study", _tables(studied, rankings, quick=quick))
    results = json.loads(files["results.json"].read_text(encoding="utf-8"))
    return {"files": {name: str(path) for name, path in files.items()}, "comparisons": results}


def workers(home: Home) -> ProcessPoolExecutor:
    """Processes for the work of a study, `study.workers` of them or one a core."""
    # One process a core: BLAS threads beside them would wait for one another. Workers read this when they import numpy.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    count = home.settings.study.workers or os.cpu_count() or 1
    # Spawned, not forked: a fork of a process that holds a JVM and its threads may hang.
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """Have this worker end with its parent: one that was killed would leave it to work on beside the next run."""
    parent = multiprocessing.parent_process()
    assert parent

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def wait(what: str, futures: Sequence[Future[None]]) -> None:
    """Wait for all; the first failure ends the study, and what was finished is kept."""
    with progress(what) as advance:
        for done, future in enumerate(as_completed(futures), start=1):
            if (error := future.exception()) is not None:
                for other in futures:
                    other.cancel()
                if isinstance(error, BrokenProcessPool):
                    raise WorkerLost(
                        f"{what}: a worker process ended without a word, most often for lack of memory. What was "
                        "finished is kept: run it again, with fewer processes at once by DSIRM_STUDY__WORKERS=1."
                    ) from error
                raise error
            advance(done, len(futures))


def _datasets(home: Home, *, quick: bool) -> Iterator[Dataset]:
    """The home's own judgments, then every marketplace, the last of them also with smaller logs."""
    plan = load_plan(home, views.current_release(home))
    # `icecat`, `esci` of `esci-us`, `simulated` of `simulated:1`.
    name = re.split("[:-]", marketplace(home) or "home")[0]
    data = study_data(home, plan, name=name, seed=None)
    own = home.root / "study" / "data" / f"{name}-{data.fingerprint()}"
    if not is_whole(own):
        data.save(own)
    yield _dataset(own, data)
    if quick:
        return
    settings = home.settings.study
    for path in marketplaces(home):
        data = StudyData.load(path)
        whole = _dataset(path, data)
        yield whole
        if settings.shares and data.name == name_of(settings.shares[-1]):
            for share in settings.log_shares:
                smaller = smaller_log(data, share, seed=data.seed or 0)
                facts = whole.facts | {"pairs": len(smaller.pair_query)}
                yield whole._replace(name=smaller.name, log_share=share, facts=facts)


def _dataset(path: Path, data: StudyData) -> Dataset:
    bases = tuple(base for base in BASES if has_base(data, base))
    facts = {
        "code_revision": data.provenance["code_revision"],
        "tables": data.provenance["tables"],
        "items": len(data.item_embeddings),
        "queries": len(data.query_embeddings),
        "pairs": len(data.pair_query),
        "judged_pairs": len(data.grades),
        "judged_queries": len(set(data.judged_query.tolist())),
    }
    return Dataset(data.name, path, data.seed, data.fingerprint(), data.unjudged().fingerprint(), bases, facts)


def _chains(home: Home, dataset: Dataset) -> Studied:
    """What is to be learnt on a data set: real data under every seed, a world under its own."""
    settings, encoder = _chain_settings(home, dataset), _encoder(home, dataset)
    seeds = range(1, home.settings.study.seeds + 1) if dataset.seed is None else (dataset.seed,)
    code = source_hash("dsirm_models.study_chain")
    tasks = []
    for seed in seeds:
        for name, method in METHODS.items():
            if method.dynamic and dataset.log_share < 1:
                continue
            asked = {
                "data": dataset.learnt_from,
                "log_share": dataset.log_share,
                "method": asdict(method),
                "seed": seed,
                "settings": [asdict(settings.quantizer), asdict(settings.generator), settings.reserved],
                "dynamic_steps": settings.dynamic_steps if method.dynamic else 0,
                "code": code,
            }
            out = home.root / "study" / "chains" / digest(asked)[:16]
            tasks.append(ChainTask(dataset, name, seed, settings, out, encoder))
    return Studied(dataset, seeds, settings, tasks)


def _chain_settings(home: Home, dataset: Dataset) -> ChainSettings:
    """The home's own models on its own data; a marketplace is as small as the demo and takes that profile's.

    But for the codebooks: it has a first code for every category, and few beneath for the 25 items of each.
    """
    study = home.settings.study
    models: Settings = home.settings if dataset.seed is None else load_settings(home.root / "study", "demo", environ={})
    changes: dict[str, Any] = {"max_steps": min(models.quantizer.max_steps, study.quantizer_steps)}
    if dataset.seed is not None:
        changes |= {"codebook_sizes": WORLD_CODES, "reserved": WORLD_RESERVED}
    quantizer = models.quantizer.model_copy(update=changes)
    generator = EmbeddedConfig(
        hidden=models.generator.hidden,
        epochs=min(models.generator.epochs, study.generator_epochs),
        queries_per_step=models.generator.batch,
        learning_rate=models.generator.lr,
    )
    config = quantizer_config(quantizer, mapped_categories=0)
    return ChainSettings(config, quantizer.reserved, generator, study.dynamic_steps)


def _encoder(home: Home, dataset: Dataset) -> Encoder:
    encoder = home.settings.encoder
    states = home.root / "study" / "states" / f"{dataset.path.name}-{encoder.max_tokens}"
    return Encoder(encoder.name, encoder.max_tokens, states)


def _rankings(home: Home, studied: Sequence[Studied]) -> list[RankTask]:
    settings = home.settings.study
    code = source_hash("dsirm_models.study_features")
    tasks = []
    for name, group in groupby(sorted(studied, key=_place), key=lambda found: found.data.name):
        worlds = list(group)
        seeds = tuple(
            (seed, found.data, tuple((task.method, task.out) for task in found.chains if task.seed == seed))
            for found in worlds
            for seed in found.seeds
        )
        first = worlds[0].data
        # A marketplace asks what the log knows beyond a strong base; a smaller log, only how much less.
        for base in first.bases if first.seed is None else first.bases[-1:]:
            for ranker in RANKERS if first.log_share == 1 else RANKERS[:1]:
                asked = {
                    "seeds": [
                        (seed, data.fingerprint, [out.name for _, out in chains]) for seed, data, chains in seeds
                    ],
                    "ranking": [base, ranker, FOLDS, settings.draws, code],
                }
                out = home.root / "study" / "rankings" / f"{digest(asked)[:16]}.json"
                tasks.append(RankTask(name, base, ranker, FOLDS, settings.draws, seeds, out))
    return tasks


def _place(found: Studied) -> tuple[str, int]:
    return found.data.name, found.data.seed or 0


def _tables(studied: Sequence[Studied], rankings: Sequence[RankTask], *, quick: bool) -> StudyTables:
    bodies = [json.loads(ranking.out.read_text(encoding="utf-8")) for ranking in rankings]
    scores, comparisons, calibration = (
        [row for body in bodies for row in body[part]] for part in ("scores", "comparisons", "calibration")
    )
    quality: list[dict[str, Any]] = []
    provenance: list[dict[str, Any]] = []
    for found in studied:
        of_data = {"data": found.data.name, "config_hash": digest([asdict(found.settings.quantizer)])[:16]}
        provenance += [of_data | {"seed": seed} | found.data.facts for seed in found.seeds]
        for task in found.chains:
            of_chain = {"data": found.data.name, "variant": task.method, "seed": task.seed}
            quality += [of_chain | row._asdict() for row in ChainResult.load(task.out).quality]
    notes = ["A quick study: two seeds and short trainings. It shows that the study runs, not what SIDs are worth."]
    return StudyTables(comparisons, scores, quality, calibration, provenance, notes if quick else [])
