"""The study, end to end: published ESCI files and a tiny marketplace in, a report out; nothing computed twice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import psutil
import pytest

from jobs import import_source, nightly, study
from pipelines.import_esci import EXAMPLES, PRODUCTS
from tests.marketplace import SETTINGS, open_home

pytestmark = pytest.mark.slow

KINDS = ("lamp", "desk", "chair", "rug", "shelf")
COLOURS = ("red", "blue", "green", "white")
TINY = """\
# Forty items of twenty kinds: large buckets are what they should have.
largest_bucket = 1.0

[study]
seeds = 1
draws = 50
quantizer_steps = 20
generator_epochs = 1
dynamic_steps = 1
shares = [0.4]
log_shares = [0.5]
world_items = 200
world_queries = 80
world_held_out = 20
workers = 2
"""

ORPHAN = """
import os, time
from types import SimpleNamespace as Some
from jobs.study import workers

if __name__ == "__main__":
    pool = workers(Some(settings=Some(study=Some(workers=1))))
    print(pool.submit(os.getpid).result(), flush=True)
    for _ in range(2):
        pool.submit(time.sleep, 300)
    time.sleep(300)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory, spark):
    """A home with the published files' format in it, after one night."""
    files = tmp_path_factory.mktemp("esci")
    things = [(kind, colour, size) for kind in KINDS for colour in COLOURS for size in ("small", "large")]
    pd.DataFrame(
        {
            "product_id": f"p{at}",
            "product_title": f"{size} {colour} {kind}",
            "product_description": None,
            "product_bullet_point": None,
            "product_brand": "Lumo",
            "product_color": colour,
            "product_locale": "us",
        }
        for at, (kind, colour, size) in enumerate(things)
    ).to_parquet(files / PRODUCTS)
    pd.DataFrame(
        {
            "example_id": 100 * number + at,
            "query": query,
            "query_id": number,
            "product_id": f"p{at}",
            "product_locale": "us",
            "esci_label": "E" if colour in query and kind in query else "S" if kind in query else "I",
            "small_version": 1,
            "large_version": 1,
            "split": split,
        }
        for number, (query, split) in enumerate(
            (f"{colour} {kind}{plural}", "test" if plural else "train")
            for kind in KINDS
            for colour in COLOURS
            for plural in ("", " set")
        )
        for at, (kind, colour, _) in enumerate(things)
        if kind in query or at % 9 == number % 9
    ).to_parquet(files / EXAMPLES)
    settings = SETTINGS.replace("test_share = 0.1", "test_share = 0.2") + TINY
    home = open_home(tmp_path_factory.mktemp("study") / "home", spark, settings)
    import_source.esci(home, files, locale="us")
    nightly.run(home)
    return home


@pytest.fixture(scope="module")
def found(home):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "RANKERS", ("lr",))
        patch.setattr(study, "FOLDS", 2)
        patch.setenv("OMP_NUM_THREADS", "1")
        yield study.run(home)


def test_every_data_set_and_variant_is_compared_with_none_and_dsirm_with_each(found):
    rows = found["comparisons"]
    assert {row["data"] for row in rows} == {"esci", "marketplace-40", "marketplace-40@50%"}
    assert set(rows[0]) == {
        *("data", "base", "ranker", "variant", "against", "metric"),
        *("difference", "low", "high", "seeds", "queries"),
    }
    wanted = {
        *("dsi", "tiger", "rkmeans", "dsirm", "dsirm-hard", "dsirm-no-bridge", "dsirm-no-category"),
        *("dsirm-dynamic", "dsirm-nearest", "dsirm-k1", "dsirm-k20", "null"),
    }
    for data in ("esci", "marketplace-40"):
        against_none = {row["variant"] for row in rows if row["data"] == data and row["against"] == "none"}
        dsirm_against = {row["against"] for row in rows if row["data"] == data and row["variant"] == "dsirm"}
        assert wanted <= against_none
        assert (wanted - {"dsirm"}) | {"none"} <= dsirm_against
    assert {row["metric"] for row in rows} == {"auc", "auc_query", "ndcg10", "precision", "recall"}
    # A catalogue without categories has no category match.
    assert {row["base"] for row in rows if row["data"] == "esci"} == {"cosine+bm25"}


def test_the_report_is_there_in_every_format(found, home):
    for name, path in found["files"].items():
        assert (home.root / "study" / name).stat().st_size > 0, path
    assert json.loads((home.root / "study" / "results.json").read_text()) == found["comparisons"]
    page = (home.root / "study" / "report.html").read_text()
    assert "ESCI" in page and "<svg" in page and "http://" not in page.replace("http://www.w3.org", "")


def test_a_second_run_computes_nothing(found, home, monkeypatch):
    def times():
        kept = [p for part in ("chains", "rankings", "data", "states") for p in (home.root / "study" / part).iterdir()]
        return {path: path.stat().st_mtime_ns for path in kept}

    before = times()
    monkeypatch.setattr(study, "RANKERS", ("lr",))
    monkeypatch.setattr(study, "FOLDS", 2)
    assert study.run(home)["comparisons"] == found["comparisons"]
    assert times() == before
    assert not list((home.root / "study" / "worlds").glob("*")), "the tables of worlds are not kept"


def test_workers_end_with_a_study_that_was_killed(tmp_path):
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    environment = {**os.environ, "PYTHONPATH": str(Path(study.__file__).parents[1])}
    killed = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    worker = psutil.Process(int(killed.stdout.readline()))
    killed.kill()
    killed.communicate()
    worker.wait(timeout=60)
