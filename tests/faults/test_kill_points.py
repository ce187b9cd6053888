"""Every job of the night is killed at every place where that could matter, and run again.

A night is taken apart once (`chain`). For each point a copy of the home as the job finds it is worked on by a process
that is killed there, children and all; then the job runs again, in this process. The home must then hold what it holds
after one undisturbed run, rows, models, plans and audits; and a reader who looked all the time must have seen the
release before, whole, or the new one, whole.
"""

import pytest

from jobs import releases
from tests.faults.conftest import JOBS
from tests.faults.points import TABLE_POINTS, kill
from tests.faults.state import Reader, differences, on_disk, state
from tests.faults.worker import run_job
from tests.marketplace import with_session

pytestmark = pytest.mark.slow

BY_SPARK = {
    "aggregate_day": ("quarantine", "query_days", "pair_days", "user_searches"),
    "build_corpus": ("queries", "pairs"),
    "profile_users": ("user_profiles",),
    "embed_items": ("item_embeddings",),
    "embed_queries": ("query_embeddings",),
    "assign_item_sids": ("item_sids", "sid_items"),
    "generate_recall": ("recall_lists",),
    "match_prefixes": ("prefix_match_features",),
    "measure_coverage": ("sid_coverage",),
    "audit": (),
}
BY_DELTA_RS = {
    "train_quantizer": ("codebooks",),
    "generate_query_sids": ("query_sids",),
    "generate_request_sids": ("request_sids",),
    "score_pairs": ("label_scores",),
    "evaluate": ("ranker_metrics",),
    "publish_release": ("releases",),
}
FILES = [
    ("plan", "plans/20*.json", ("draft", "placed")),
    ("plan", "plans/refit-in-progress.json", ("draft", "placed")),
    ("train_quantizer", "training/quantizer/*manifest.json", ("draft",)),
    ("train_quantizer", "artifacts/quantizer/.*/manifest.json", ("draft",)),
    ("train_quantizer", "artifacts/quantizer/[!.]*", ("draft", "placed")),
    *(
        (job, file, wheres)
        for job in ("pretrain_generator", "finetune_generator", "personalise_generator", "align_generator")
        for file, wheres in (
            ("training/generator/*manifest.json", ("draft",)),
            ("training/generator/*/checkpoints/step-*", ("placed",)),
            ("artifacts/generator/.*/manifest.json", ("draft",)),
            ("artifacts/generator/[!.]*", ("draft", "placed")),
        )
    ),
    ("train_ranker", "artifacts/ranker/.*/manifest.json", ("draft",)),
    ("train_ranker", "artifacts/ranker/[!.]*", ("draft", "placed")),
    ("audit", "audits/20*.json", ("draft", "placed")),
]
POINTS = [
    *(
        (job, table, where)
        for job, tables in (BY_SPARK | BY_DELTA_RS).items()
        for table in tables
        for where in TABLE_POINTS
    ),
    *((job, file, where) for job, file, wheres in FILES for where in wheres),
]  # fmt: skip
# What `make test` tries: both engines, each kind of place once, and publishing; of the JVM a job that is soon over.
SHORT = {
    ("profile_users", "user_profiles", "files"),
    ("profile_users", "user_profiles", "lost"),
    ("train_quantizer", "codebooks", "before"),
    ("finetune_generator", "artifacts/generator/.*/manifest.json", "draft"),
    ("generate_query_sids", "query_sids", "files"),
    ("publish_release", "releases", "before"),
    ("publish_release", "releases", "commit"),
    ("publish_release", "releases", "lost"),
    ("plan", "plans/20*.json", "draft"),
}
SAYS = {
    "before": "killed before any file",
    "files": "killed after data files, before the commit",
    "commit": "killed after the commit, before the end",
    "lost": "the commit landed, the reply was lost",
    "draft": "killed before a file is put in place",
    "placed": "killed after a file is put in place",
}


def as_param(point):
    marks = () if point in SHORT else (pytest.mark.faults,)
    return pytest.param(*point, marks=marks, id="-".join((point[0], point[1].replace("/", "."), point[2])))


def test_more_than_forty_points_of_every_job_are_tried_and_the_short_profile_is_some_of_them():
    assert len(POINTS) == len(set(POINTS)) >= 40
    assert {job for job, *_ in POINTS} == set(JOBS), "every job"
    assert set(POINTS) >= SHORT


@pytest.mark.parametrize(("job", "what", "where"), [as_param(point) for point in POINTS])
def test_killed_and_run_again_is_as_if_nothing_had_happened(job, what, where, chain, scenario, workers, tried, spark):
    home, reached = scenario(job)
    engine = "JVM" if job in BY_SPARK else "delta-rs"
    with Reader(home.root, chain.published) as reader:
        kill(workers, engine, home, job, chain.release, (what, where), reached)
        seen_then = releases.current(home.store)["release"]
        with_session(home, spark)
        run_job(home, job, chain.release)
    assert differences(state(home.root), chain.after[job]) == []
    assert reader.wrong == []
    assert reader.looks >= 2
    assert [r for r in chain.published if r in reader.seen] == reader.seen, "never back"
    assert seen_then == (chain.release if (what, where) in PUBLISHED else min(chain.published.keys() - {chain.release}))
    if where == "files":
        home.store.vacuum(what, hours=0)
        assert on_disk(home.root, what)[1] == set(), "what the dead left behind is swept"
        assert differences(state(home.root), chain.after[job]) == []
    tried(engine, place(job, what), SAYS[where], "as one undisturbed run; readers saw no mix")


PUBLISHED = {("releases", "commit"), ("releases", "lost")}


def place(job, what):
    return f"{job} ({what.split('/')[0] + ' ' + what.split('/')[1] if '/' in what else what})".replace("*", "")
