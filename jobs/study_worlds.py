"""Simulated marketplaces for the study: one catalogue a seed, one log for each share of what no text tells.

Makes them in HOME/study/worlds, a home of its own each, keeps the arrays in HOME/study/data and deletes the tables.
Judged are queries that nobody typed and the logged ones that the corpus holds out, each with its true grades.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jobs import aggregate_day, build_corpus, embed_items, embed_queries, simulate, sources
from jobs.files import is_whole
from jobs.home import Home
from jobs.plan import make_plan
from jobs.settings import StudySettings
from jobs.study_data import study_data
from schemas.fingerprint import digest

if TYPE_CHECKING:
    from pipelines.simulate_clicks import SimulatedClicks

DAYS, USERS, LAST_DAY = 5, 500, dt.date(2026, 1, 31)
# A world has few queries: more of them than in production are held out, so that each band has judged ones.
VALID_SHARE, TEST_SHARE = 0.05, 0.12
log = logging.getLogger(__name__)


def marketplaces(home: Home) -> Iterator[Path]:
    """The data of every world, seed by seed, made where it is not there yet."""
    settings = home.settings.study
    for seed in range(1, settings.seeds + 1):
        places = {share: _place(home, settings, seed, share) for share in settings.shares}
        missing = [share for share, path in places.items() if not is_whole(path)]
        if missing:
            _make(home, settings, seed, {share: places[share] for share in missing})
        yield from places.values()


def name_of(share: float) -> str:
    """`marketplace-20` for a share of 0.2."""
    return f"marketplace-{round(100 * share)}"


def _place(home: Home, settings: StudySettings, seed: int, share: float) -> Path:
    asked = {
        "seed": seed,
        "share": share,
        "sizes": [settings.world_items, settings.world_queries, settings.world_held_out],
        "encoder": home.settings.encoder.model_dump(mode="json"),
        "pipelines": pipelines_hash(),
    }
    return home.root / "study" / "data" / f"{name_of(share)}-{seed}-{digest(asked)[:12]}"


def pipelines_hash() -> dict[str, str]:
    """What makes a world: another simulator makes another one."""
    room = Path(__file__).resolve().parents[1] / "pipelines"
    return {path.name: digest(path.read_text(encoding="utf-8")) for path in sorted(room.glob("*.py"))}


def _make(home: Home, settings: StudySettings, seed: int, places: dict[float, Path]) -> None:
    root = home.root / "study" / "worlds" / f"seed-{seed}"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    encoder = home.settings.encoder
    (root / "dsirm.toml").write_text(
        f"[corpus]\nwindow_days = {DAYS}\nvalid_share = {VALID_SHARE}\ntest_share = {TEST_SHARE}\n"
        # A TOML string is escaped as JSON's is: a path may hold quotes and backslashes.
        f"[encoder]\nname = {json.dumps(encoder.name)}\nmax_tokens = {encoder.max_tokens}\n",
        encoding="utf-8",
    )
    world = Home(root)
    simulate.catalogue(world, items=settings.world_items, users=USERS, seed=seed)
    for share, path in places.items():
        made = simulate.clicks(
            world,
            days=DAYS,
            queries=settings.world_queries,
            seed=seed,
            last_day=LAST_DAY,
            unseen_share=share,
            held_out=settings.world_held_out,
        )
        plan = make_plan(world)
        aggregate_day.run(world, [dt.date.fromisoformat(day) for day in plan.days])
        build_corpus.run(world, plan)
        _judge_held_out(world, made, plan.date, seed)
        embed_items.run(world, plan)
        embed_queries.run(world, plan)
        study_data(world, plan, name=name_of(share), seed=seed).save(path)
        log.info("World %d, %s is made", seed, name_of(share))
    shutil.rmtree(root)


def _judge_held_out(world: Home, made: SimulatedClicks, day: dt.date, seed: int) -> None:
    """Add the true grades of logged queries that the corpus never learns from: they have a traffic band."""
    from pipelines.simulate_clicks import true_grades

    held_out = world.store.read(world.spark, "queries", {"as_of_date": day}).where("split = 'test'").select("query")
    labels = made.labels.unionByName(true_grades(made.results.join(held_out, "query"), seed))
    sources.write_table(world, "relevance_labels", labels, job=simulate.JOB, by="source")
