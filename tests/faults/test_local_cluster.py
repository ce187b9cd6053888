"""What `local[*]` hides: the Spark jobs where executors are processes of their own."""

import os
import subprocess
import sys

import pytest

from tests.marketplace import SHORT_LIVED, copy_home, spark_settings

SCRIPT = """
import sys
from pathlib import Path
from jobs import aggregate_day, build_corpus, embed_items, embed_queries, train_quantizer, assign_item_sids
from jobs import finetune_generator, generate_query_sids, match_prefixes, measure_coverage
from jobs.home import Home
from jobs.plan import make_plan, window

home = Home(Path(sys.argv[1]))
plan = make_plan(home)
aggregate_day.run(home, window(home, None)[1])
for job in (build_corpus, embed_items, embed_queries, train_quantizer, assign_item_sids,
            finetune_generator, generate_query_sids, match_prefixes, measure_coverage):
    job.run(home, plan)
assert home.spark.sparkContext.master.startswith("local-cluster"), home.spark.sparkContext.master
print("features", home.store.count("prefix_match_features", {"release": plan.release}))
"""


@pytest.mark.slow
@pytest.mark.faults
def test_the_spark_jobs_pass_on_separate_executor_processes(marketplace, tmp_path):
    home = copy_home(marketplace, tmp_path / "home")
    spark_settings(
        home,
        master="local-cluster[2,1,2048]",
        executor_memory="2g",
        driver_extraJavaOptions=SHORT_LIVED,
        executor_extraJavaOptions=SHORT_LIVED,
    )
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(home.root)],
        capture_output=True,
        text=True,
        timeout=900,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout.split()[-1]) > 0
