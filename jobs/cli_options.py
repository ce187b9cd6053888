"""What every subcommand shares: the same options, and how they become a home, a plan, an output."""

from __future__ import annotations

import ast
import datetime as dt
import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from jobs.home import Home
    from jobs.plan import Plan

HomeOption = Annotated[Path, typer.Option("--home", envvar="DSIRM_HOME", help="Where tables and models live.")]
ProfileOption = Annotated[
    str | None,
    typer.Option("--profile", envvar="DSIRM_PROFILE", help="Settings to start from: demo, dsirm, cqsid or cqsid-demo."),
]
SettingsOption = Annotated[
    Path | None, typer.Option("--settings", help="TOML file of settings; default HOME/dsirm.toml where there is one.")
]
DateOption = Annotated[
    dt.datetime | None,
    typer.Option("--date", formats=["%Y-%m-%d"], help="As-of day; default: the last day of the log."),
]
ReleaseOption = Annotated[
    str | None, typer.Option("--release", help="Release to work on; default: planned for --date from what is there.")
]
ShownReleaseOption = Annotated[str | None, typer.Option("--release", help="Release to show; default: the current one.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ReplaceOption = Annotated[
    bool, typer.Option("--replace", help="Empty the home first: its tables, models and releases are deleted.")
]
HOME = Path(".dsirm")


def doc(name: str) -> str:
    """A job's docstring, read without importing the job: the text of --help."""
    path = Path(__file__).with_name(f"{name.replace('-', '_')}.py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def module(name: str) -> Any:
    """A job's module, imported when it is run."""
    return importlib.import_module(f"jobs.{name.replace('-', '_')}")


def run(name: str, home: Home, *arguments: Any, call: str = "run", **options: Any) -> Any:
    """Run a job (or another function of its module), told to a lineage backend where the environment names one."""
    from jobs.lineage_events import job_run

    job = module(name)
    with job_run(home, job.JOB if call == "run" else f"{job.JOB}-{call.replace('_', '-')}"):
        return getattr(job, call)(home, *arguments, **options)


def open_home(home: Path, profile: str | None, settings: Path | None) -> Home:
    """The home with its settings."""
    from jobs.errors import DataError
    from jobs.home import Home

    try:
        if home.exists() and not home.is_dir():
            raise DataError(f"--home {home} is not a directory.")
        return Home(home, profile=profile, settings_file=settings)
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a loop of links, no such ~user
        raise DataError(f"--home {str(home)[:200]} cannot be used: {error}.") from error


def day(date: dt.datetime | None) -> dt.date | None:
    """The day of an option."""
    return None if date is None else date.date()


def planned(home: Home, date: dt.datetime | None, release: str | None) -> Plan:
    """The plan of a release, or the one that follows from what is there."""
    from jobs.plan import load_plan, make_plan

    return load_plan(home, release) if release else make_plan(home, day(date))


def show(data: dict[str, Any], as_json: bool, printer: str) -> None:
    """Data for people, or as JSON."""
    if as_json:
        typer.echo(json.dumps(data, indent=2, default=str, allow_nan=False))
        return
    getattr(importlib.import_module("jobs.printing"), printer)(data)
