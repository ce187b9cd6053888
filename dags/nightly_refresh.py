"""Nightly refresh of semantic IDs.

Turns yesterday's click log into a new release: corpus, item and query SIDs, ranker features, an audit, one publishing
commit. Every task is a `dsirm` subcommand; `plan` fixes the release id that the others work on.

**When a task fails** the release before goes on serving: only `publish-release`, the last task, changes what consumers
read. Exit code 65 means that data or settings are wrong: the task is not retried, its log names the rule, the figure
and the limit. Any other failure is retried; every task skips what it has done, so clearing it is always safe. A run of
an older day than that of the release that serves is not published by itself.

**Who notices:** the offline ranker and feature consumers stay on yesterday's release. Nothing is half-published.

Trainers run in the pool `gpu` (one slot a GPU). Set `DSIRM_HOME` for the workers. `DSIRM_SPARK_LAUNCHER` replaces the
command that Spark tasks start with, for example `spark-submit --master yarn /opt/dsirm/jobs/cli.py`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import DAG, BaseOperator, Param
from airflow.sdk.exceptions import AirflowException, AirflowFailException

EXIT_DATA = 65
LOCAL = [sys.executable, "-m", "jobs.cli"]
GPU_POOL = "gpu"

SPARK = ("aggregate-day", "build-corpus", "embed-items", "embed-queries", "assign-item-sids", "profile-users",
         "match-prefixes", "generate-recall", "measure-coverage", "audit")  # fmt: skip
TRAINING = ("train-quantizer", "pretrain-generator", "finetune-generator", "personalise-generator", "align-generator",
            "generate-query-sids", "generate-request-sids", "score-pairs")  # fmt: skip

# What each task waits for; `plan` comes before all of them.
NEEDS: dict[str, tuple[str, ...]] = {
    "aggregate-day": (),
    "build-corpus": ("aggregate-day",),
    "embed-items": (),
    "embed-queries": ("build-corpus",),
    "train-quantizer": ("embed-items", "embed-queries"),
    "assign-item-sids": ("train-quantizer",),
    # Only a profile with `generator.stages` has work for those beside finetune-generator, and for
    # generate-request-sids.
    "profile-users": ("aggregate-day",),
    "pretrain-generator": ("assign-item-sids",),
    "finetune-generator": ("pretrain-generator",),
    "personalise-generator": ("finetune-generator", "profile-users"),
    "align-generator": ("personalise-generator",),
    "generate-query-sids": ("align-generator",),
    "generate-request-sids": ("align-generator",),
    "generate-recall": ("generate-query-sids", "generate-request-sids"),
    "score-pairs": ("align-generator",),
    "match-prefixes": ("generate-query-sids", "score-pairs"),
    "train-ranker": ("match-prefixes",),
    "evaluate": ("match-prefixes",),
    "measure-coverage": ("generate-query-sids",),
    "audit": ("measure-coverage", "evaluate", "train-ranker", "generate-recall"),
    "publish-release": ("audit",),
}


class DsirmOperator(BaseOperator):
    """Runs one `dsirm` subcommand as a process of its own. Returns the last line it printed."""

    template_fields: Sequence[str] = ("arguments", "home")

    def __init__(self, *, arguments: list[str], home: str, launcher: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.arguments = arguments
        self.home = home
        self.launcher = launcher

    @property
    def command(self) -> list[str]:
        """The command line; options whose value rendered empty are left out."""
        words, skip = [], False
        for word, value in zip(self.arguments, [*self.arguments[1:], None], strict=True):
            if skip:
                skip = False
            elif word.startswith("--") and value == "":
                skip = True
            elif word:
                words.append(word)
        return [*self.launcher, *words]

    def execute(self, context: Any) -> str | None:
        """Run it. Raises AirflowFailException (no retry) on exit code 65, AirflowException on any other failure."""
        # Every commit of the run carries its id (`dsirm lineage`).
        environment = {**os.environ, "DSIRM_RUN_ID": str(context.get("run_id") or "")}
        environment |= {"DSIRM_HOME": self.home} if self.home else {}
        self.log.info("Running %s", shlex.join(self.command))
        lines: list[str] = []
        with subprocess.Popen(
            self.command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                self.log.info("%s", line.rstrip())
                lines.append(line.strip())
        if process.returncode == EXIT_DATA:
            raise AirflowFailException(f"dsirm {self.arguments[0]}: data error, not retried. {' '.join(lines[-3:])}")
        if process.returncode:
            raise AirflowException(f"dsirm {self.arguments[0]} ended with exit code {process.returncode}.")
        return next((line for line in reversed(lines) if line), None)


def _launcher(job: str) -> list[str]:
    given = os.environ.get("DSIRM_SPARK_LAUNCHER") if job in SPARK else None
    return shlex.split(given) if given else LOCAL


with DAG(
    dag_id="nightly_refresh",
    doc_md=__doc__,
    schedule="0 3 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "date": Param("", type="string", description="As-of day YYYY-MM-DD; empty: the day before the scheduled run."),
        "refit": Param(False, type="boolean", description="Train the models again, from the current ones."),
        "profile": Param("", type="string", description="Settings profile; empty: the home's own settings."),
        "home": Param("", type="string", description="Home; empty: DSIRM_HOME of the worker."),
    },
    tags=["dsirm"],
) as dag:
    yesterday = "{{ params.date or (macros.ds_add(ds, -1) if dag_run.run_type in ('scheduled', 'backfill') else '') }}"
    profile = ["--profile", "{{ params.profile }}"]
    plan = DsirmOperator(
        task_id="plan",
        arguments=["plan", "--date", yesterday, *profile, "{{ '--refit' if params.refit else '' }}"],
        home="{{ params.home }}",
        launcher=LOCAL,
        doc_md="Fixes the release: its id, model versions and input fingerprints.",
    )
    tasks = {
        job: DsirmOperator(
            task_id=job,
            arguments=[job, "--release", "{{ ti.xcom_pull(task_ids='plan') }}", *profile],
            home="{{ params.home }}",
            launcher=_launcher(job),
            pool=GPU_POOL if job in TRAINING else "default_pool",
        )
        for job in NEEDS
    }
    for job, needed in NEEDS.items():
        for before in needed or ("plan",):
            (plan if before == "plan" else tasks[before]) >> tasks[job]
