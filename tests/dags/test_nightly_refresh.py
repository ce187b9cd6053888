"""The DAG: its shape, every command it runs, and one real run over a tiny marketplace."""

import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tests.marketplace import LAST_DAY, SHORT_LIVED, copy_home, rows, spark_settings

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).with_name("nightly_refresh.commands.txt")


@pytest.fixture(scope="module")
def dag(tmp_path_factory):
    """The parsed DAG in an Airflow home of its own. Airflow reads its settings when first imported."""
    home = tmp_path_factory.mktemp("airflow")
    os.environ |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "True",
    }
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils.db import initdb

    initdb()
    bag = DagBag(dag_folder=str(ROOT / "dags"))
    assert bag.import_errors == {}
    return bag.dags["nightly_refresh"]


def test_parsing_imports_nothing_heavy():
    heavy = ("pyspark", "torch", "great_expectations")
    code = f"import sys; import dags.nightly_refresh; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr


def test_every_job_of_the_chain_is_a_task(dag):
    from jobs.nightly import CHAIN

    chain = {"aggregate-day", *(name.replace("_", "-") for name in CHAIN)}
    assert set(dag.task_ids) == {"plan", *chain}


def test_the_commands_are_those_of_the_golden_file(dag):
    """REBUILD_FIXTURES=yes renews the file after a change that was meant."""
    lines = []
    for task in dag.topological_sort():
        needs = ",".join(sorted(task.upstream_task_ids)) or "-"
        lines.append(f"{task.task_id} | pool {task.pool} | after {needs} | {' '.join(task.arguments)}")
    text = "\n".join(sorted(lines)) + "\n"
    if os.environ.get("REBUILD_FIXTURES") == "yes":
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_trainers_wait_for_a_gpu_and_everything_is_retried(dag):
    assert {task.task_id for task in dag.tasks if task.pool == "gpu"} == {
        "train-quantizer",
        "pretrain-generator",
        "finetune-generator",
        "personalise-generator",
        "align-generator",
        "generate-query-sids",
        "generate-request-sids",
        "score-pairs",
    }
    assert all(task.retries == 2 for task in dag.tasks)
    assert "exit code 65" in dag.doc_md.lower()


def test_publishing_comes_last(dag):
    assert dag.get_task("publish-release").downstream_task_ids == set()
    before = {task.task_id for task in dag.get_task("publish-release").get_flat_relatives(upstream=True)}
    assert before == set(dag.task_ids) - {"publish-release"}


def test_empty_options_are_left_out():
    from dags.nightly_refresh import DsirmOperator

    operator = DsirmOperator(
        task_id="x", arguments=["plan", "--date", "", "--profile", "demo", ""], home="", launcher=["dsirm"]
    )
    assert operator.command == ["dsirm", "plan", "--profile", "demo"]


def test_a_data_error_is_not_retried_and_others_are(tmp_path):
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    from dags.nightly_refresh import LOCAL, DsirmOperator

    broken = DsirmOperator(task_id="x", arguments=["nightly"], home=str(tmp_path), launcher=LOCAL)
    with pytest.raises(AirflowFailException, match="There is no click log yet"):
        broken.execute({})
    crashed = DsirmOperator(task_id="y", arguments=[], home="", launcher=[sys.executable, "-c", "raise SystemExit(1)"])
    crashed.arguments = ["boom"]
    with pytest.raises(AirflowException, match="exit code 1"):
        crashed.execute({})


def test_one_real_run_finishes_a_night_that_was_cut_short(dag, market, first, tmp_path):
    """Every task runs as a process: those whose work is there leave it, the others do theirs, the last publishes."""
    home = copy_home(market, tmp_path / "home")
    spark_settings(home, driver_extraJavaOptions=SHORT_LIVED, sql_shuffle_partitions=2)
    for table in ("prefix_match_features", "ranker_metrics", "sid_coverage", "releases"):
        shutil.rmtree(home.root / "tables" / table)
    shutil.rmtree(home.root / "audits")
    kept = rows(home, "item_sids")
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session

    with create_session() as session:
        Pool.create_or_update_pool("gpu", 1, "one slot a GPU", False, session=session)
    for task in dag.tasks:
        task.retry_delay = timedelta(seconds=1)
    run = dag.test(run_conf={"home": str(home.root), "date": str(LAST_DAY)})
    assert run.state == "success"
    from jobs import releases

    assert releases.current(home.store)["release"] == first
    assert rows(home, "item_sids") == kept
    features = rows(home, "prefix_match_features", {"release": first})
    assert features == rows(market, "prefix_match_features", {"release": first}) != []
