"""A whole night by the command line, killed at moments that nobody chose, again and again until one gets through."""

import os
import random
import subprocess
import sys

import pytest

from tests.conftest import SPARK
from tests.faults.processes import ROOT, kill_tree
from tests.faults.state import Reader, differences, on_disk, state
from tests.marketplace import spark_settings

pytestmark = [pytest.mark.slow, pytest.mark.faults]
KILLS, SHORTEST, LONGEST = 6, 15.0, 60.0


@pytest.mark.parametrize("seed", [20260131])
def test_a_night_killed_at_random_moments_ends_as_if_it_had_not_been(seed, chain, scenario, tried):
    home, _ = scenario("plan")
    spark_settings(home, **{name.removeprefix("spark.").replace(".", "_"): value for name, value in SPARK.items()})
    settings = (home.root / "dsirm.toml").read_text()
    moments = random.Random(seed)
    command = [sys.executable, "-m", "jobs.cli", "nightly", "--refit", "--home", str(home.root)]
    killed = 0
    with Reader(home.root, chain.published) as reader:
        for attempt in range(KILLS + 1):
            log = home.root.parent / f"night-{attempt}.log"
            with log.open("wb") as output:
                night = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, env=dict(os.environ))
                delay = moments.uniform(SHORTEST, LONGEST) if attempt < KILLS else 900
                try:
                    assert night.wait(delay) == 0, log.read_text()[-3000:]
                    break
                except subprocess.TimeoutExpired:
                    kill_tree(night.pid)
                    night.wait()
                    killed += 1
    assert night.returncode == 0
    assert killed >= 1
    assert differences(state(home.root), chain.after["publish_release"]) == []
    assert reader.wrong == []
    assert reader.seen == list(chain.published)
    for name in ("item_sids", "pair_days"):
        home.store.vacuum(name, hours=0)
        assert on_disk(home.root, name)[1] == set()
    assert (home.root / "dsirm.toml").read_text() == settings
    said = "the release, rows and models of one undisturbed night; readers saw no mix"
    tried("JVM and delta-rs", "dsirm nightly --refit", f"killed at random moments, seed {seed}", said, killed)
