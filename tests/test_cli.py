"""The command line: help at once, exit codes, JSON."""

import json
import subprocess
import sys

import pytest
import typer

from jobs.cli_errors import run_told

HEAVY = ("torch", "pyspark", "transformers", "great_expectations", "airflow", "pandas", "deltalake", "faiss")


def dsirm(*arguments, **environment):
    import os

    env = {k: v for k, v in os.environ.items() if not k.startswith("DSIRM_")} | environment
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments], capture_output=True, text=True, env=env, timeout=300
    )


def test_help_imports_nothing_heavy():
    code = (
        "import sys, jobs.cli as cli\n"
        "from typer.testing import CliRunner\n"
        "result = CliRunner().invoke(cli.app, ['train-quantizer', '--help'])\n"
        "assert result.exit_code == 0 and 'Reads' in result.output, result.output\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_every_job_says_what_it_reads_and_writes():
    listed = dsirm("--help").stdout
    for job in ("aggregate-day", "build-corpus", "train-quantizer", "match-prefixes", "audit", "publish-release"):
        assert job in listed
        text = dsirm(job, "--help").stdout
        assert "Reads" in text
        assert "Write" in text
        assert "--home" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nightly",), "There is no click log yet"),
        (("coverage",), "Nothing is published yet"),
        (("releases", "rollback", "2026-01-31-00000000"), "There is no published release"),
        (("build-corpus", "--release", "../../etc/passwd"), "is not a release id"),
        (("import", "icecat", "/nowhere"), "/nowhere does not exist"),
        (("nightly", "--profile", "nope"), "There is no profile"),
    ],
)
def test_a_data_error_is_one_line_and_exit_code_65(tmp_path, arguments, says):
    done = dsirm(*arguments, "--home", str(tmp_path))
    assert done.returncode == 65, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_was_vacuumed_away_is_told_with_what_to_do(monkeypatch, capsys):
    app = typer.Typer()

    @app.command()
    def job():
        raise RuntimeError("calling o1.save\n: [FAILED_READ_FILE.FILE_NOT_EXIST] file:/t/1.parquet\n\tat org")

    monkeypatch.setattr(sys, "argv", ["dsirm"])
    with pytest.raises(SystemExit) as ended:
        run_told(app)
    told = capsys.readouterr().err
    assert ended.value.code == 1
    assert told.startswith("Error: A file that this release was planned on is gone")
    assert "dsirm nightly" in told and "file:/t/1.parquet" in told and "at org" not in told


def test_status_of_an_empty_home_as_json(tmp_path):
    done = dsirm("status", "--home", str(tmp_path), "--json")
    assert json.loads(done.stdout) == {"home": str(tmp_path), "current": None, "log_days": None, "tables": []}
