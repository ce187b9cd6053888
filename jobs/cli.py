"""The `dsirm` command. Every job is a subcommand with the same options; lazy imports let --help answer at once."""

from __future__ import annotations

import ast
import datetime as dt
import importlib
import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from jobs.home import Home
    from jobs.plan import Plan

app = typer.Typer(
    name="dsirm",
    help="Semantic IDs for e-commerce search: from click logs to ranker features.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
imports = typer.Typer(help="Bring a catalogue, a log or judgments into a home.", no_args_is_help=True)
simulate = typer.Typer(help="Make a marketplace, or clicks over any catalogue.", no_args_is_help=True)
releases_app = typer.Typer(help="List, compare, pin and roll back releases.", no_args_is_help=True)
app.add_typer(imports, name="import")
app.add_typer(simulate, name="simulate")
app.add_typer(releases_app, name="releases")

HomeOption = Annotated[Path, typer.Option("--home", envvar="DSIRM_HOME", help="Where tables and models live.")]
ProfileOption = Annotated[
    str | None, typer.Option("--profile", envvar="DSIRM_PROFILE", help="Settings to start from: demo or dsirm.")
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

# Subcommand -> what of its module to call. In the order of the chain.
PLANNED = (
    "build-corpus", "embed-items", "embed-queries", "train-quantizer", "assign-item-sids", "finetune-generator",
    "generate-query-sids", "score-pairs", "match-prefixes", "train-ranker", "measure-coverage", "audit",
)  # fmt: skip


def _doc(name: str) -> str:
    """A job's docstring, read without importing the job: the text of --help."""
    path = Path(__file__).with_name(f"{name.replace('-', '_')}.py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _module(name: str) -> Any:
    return importlib.import_module(f"jobs.{name.replace('-', '_')}")


def _open(home: Path, profile: str | None, settings: Path | None) -> Home:
    from jobs.home import Home

    return Home(home, profile=profile, settings_file=settings)


def _day(date: dt.datetime | None) -> dt.date | None:
    return None if date is None else date.date()


def _plan(home: Home, date: dt.datetime | None, release: str | None) -> Plan:
    from jobs.plan import load_plan, make_plan

    return load_plan(home, release) if release else make_plan(home, _day(date))


def _show(data: dict[str, Any], as_json: bool, printer: str) -> None:
    if as_json:
        typer.echo(json.dumps(data, indent=2, default=str, allow_nan=False))
        return
    getattr(importlib.import_module("jobs.printing"), printer)(data)


def _register(name: str) -> None:
    def command(
        home: HomeOption = HOME,
        profile: ProfileOption = None,
        settings: SettingsOption = None,
        date: DateOption = None,
        release: ReleaseOption = None,
    ) -> None:
        opened = _open(home, profile, settings)
        _module(name).run(opened, _plan(opened, date, release))

    app.command(name, help=_doc(name))(command)


@app.command("plan", help=_doc("plan"))
def plan_command(
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    date: DateOption = None,
    refit: Annotated[bool, typer.Option("--refit", help="Train the models again.")] = False,
) -> None:
    from jobs.plan import make_plan

    # The release alone on the last line: Airflow passes it on to the tasks after.
    typer.echo(make_plan(_open(home, profile, settings), _day(date), refit=refit).release)


@app.command("aggregate-day", help=_doc("aggregate-day"))
def aggregate_day(
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    date: DateOption = None,
    release: ReleaseOption = None,
) -> None:
    from jobs.plan import load_plan, window

    opened = _open(home, profile, settings)
    if release:
        days = [dt.date.fromisoformat(day) for day in load_plan(opened, release).days]
    else:
        days = [window(opened, _day(date))[0]]
    _module("aggregate-day").run(opened, days)


for _name in PLANNED:
    _register(_name)


@app.command("publish-release", help=_doc("publish-release"))
def publish_release(
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    date: DateOption = None,
    release: ReleaseOption = None,
    again: Annotated[bool, typer.Option("--again", help="Publish a release that was rolled back.")] = False,
) -> None:
    opened = _open(home, profile, settings)
    _module("publish-release").run(opened, _plan(opened, date, release), again=again)


@app.command("demo", help=_doc("demo"))
def demo(home: HomeOption = Path(".demo"), as_json: JsonOption = False) -> None:
    _show(_module("demo").run(home), as_json, "demo")


@app.command("nightly", help=_doc("nightly"))
def nightly(
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    date: DateOption = None,
    refit: Annotated[bool, typer.Option("--refit", help="Train the models again, from the current ones.")] = False,
    as_json: JsonOption = False,
) -> None:
    opened = _open(home, profile, settings)
    _module("nightly").run(opened, _day(date), refit=refit)
    from jobs import views

    _show(views.summary(opened), as_json, "summary")


@app.command("evaluate", help=_doc("evaluate"))
def evaluate(
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    release: ShownReleaseOption = None,
    as_json: JsonOption = False,
) -> None:
    from jobs import views
    from jobs.plan import load_plan

    opened = _open(home, profile, settings)
    name = release or views.current_release(opened)
    if not opened.store.count("ranker_metrics", {"release": name}):
        _module("evaluate").run(opened, load_plan(opened, name))
    _show(views.ranker_metrics(opened, name), as_json, "ranker_metrics")


@app.command("status", help="What a home holds: tables, rows, who wrote them last, what is current.")
def status(
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    from jobs import views

    _show(views.status(_open(home, profile, settings)), as_json, "status")


@app.command("coverage", help="How well semantic IDs cover items, queries and traffic. Reads sid_coverage.")
def coverage(
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    release: ShownReleaseOption = None,
    as_json: JsonOption = False,
) -> None:
    from jobs import views

    _show(views.coverage(_open(home, profile, settings), release), as_json, "coverage")


@app.command("explain", help=_doc("explain"))
def explain_command(
    query: Annotated[str, typer.Option("--query", help="Query as a shopper types it.")],
    item: Annotated[str | None, typer.Option("--item", help="Item id.")] = None,
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    from jobs.explain import explain

    _show(explain(_open(home, profile, settings), query, item), as_json, "explanation")


@releases_app.command("list", help="Every release, oldest first, with its state now. Reads releases.")
def releases_list(
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    from jobs import views

    _show(views.release_list(_open(home, profile, settings)), as_json, "release_list")


@releases_app.command("diff", help="What moved between releases A and B. Reads releases and item_sids.")
def releases_diff(
    a: str,
    b: str,
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    from jobs import views

    _show(views.release_diff(_open(home, profile, settings), a, b), as_json, "release_diff")


@releases_app.command("pin", help="Keep a release from retention for good. Appends to releases.")
def releases_pin(
    release: str, home: HomeOption = HOME, profile: ProfileOption = None, settings: SettingsOption = None
) -> None:
    from jobs import releases

    releases.pin(_open(home, profile, settings).store, release)
    typer.echo(f"{release} is pinned.")


@releases_app.command("rollback", help="Go back to RELEASE; given the current one, to the one before it. One commit.")
def releases_rollback(
    release: str, home: HomeOption = HOME, profile: ProfileOption = None, settings: SettingsOption = None
) -> None:
    from jobs import releases

    typer.echo(f"{releases.roll_back(_open(home, profile, settings).store, release)} is current.")


@imports.command("icecat", help="The Icecat catalogue and its human judgments. Writes catalog and relevance_labels.")
def import_icecat(
    directory: Path,
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    replace: ReplaceOption = False,
) -> None:
    _module("import-source").icecat(_open(home, profile, settings), directory, replace=replace)


@imports.command("ubi", help="User Behavior Insights events (JSON lines or Parquet). Writes click_log.")
def import_ubi(
    file: Path,
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    replace: ReplaceOption = False,
) -> None:
    _module("import-source").ubi(_open(home, profile, settings), file, replace=replace)


@imports.command("esci", help="The published ESCI parquet files. Writes catalog, relevance_labels and click_log.")
def import_esci(
    directory: Path,
    locale: Annotated[str, typer.Option("--locale", help="us, es or jp.")] = "us",
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    replace: ReplaceOption = False,
) -> None:
    _module("import-source").esci(_open(home, profile, settings), directory, locale=locale, replace=replace)


@imports.command("table", help="Any Parquet, CSV or Delta table, columns named by a mapping file.")
def import_table(
    path: Path,
    mapping: Annotated[Path, typer.Option("--mapping", help="TOML: our columns and theirs (docs/imports.md).")],
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    replace: ReplaceOption = False,
) -> None:
    _module("import-source").table(_open(home, profile, settings), path, mapping, replace=replace)


@simulate.command("catalogue", help="A made-up marketplace. Writes catalog and users.")
def simulate_catalogue(
    items: Annotated[int, typer.Option("--items", min=10, help="Items.")] = 20_000,
    users: Annotated[int, typer.Option("--users", min=1, help="Users.")] = 5_000,
    seed: Annotated[int, typer.Option("--seed", help="Another seed, another world.")] = 1,
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    replace: ReplaceOption = False,
) -> None:
    _module("simulate").catalogue(_open(home, profile, settings), items=items, users=users, seed=seed, replace=replace)


@simulate.command("clicks", help="Searches and clicks over the home's catalogue. Writes click_log and true grades.")
def simulate_clicks(
    days: Annotated[int, typer.Option("--days", min=1, help="Days of log.")] = 30,
    queries: Annotated[int, typer.Option("--queries", min=10, help="Distinct queries.")] = 12_000,
    seed: Annotated[int, typer.Option("--seed", help="Another seed, other shoppers.")] = 1,
    until: Annotated[
        dt.datetime, typer.Option("--until", formats=["%Y-%m-%d"], help="Last day of the log.")
    ] = dt.datetime(2026, 1, 31),
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
) -> None:
    opened = _open(home, profile, settings)
    _module("simulate").clicks(opened, days=days, queries=queries, seed=seed, last_day=until.date())


def main() -> None:
    """Entry point: runs a command and turns what went wrong into a message and an exit code."""
    # Threads that spin while they wait starve Spark on a small machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _configure_logging()
    from jobs.errors import EXIT_DATA, EXIT_TRANSIENT, ConcurrentWrite, DataError

    try:
        app()
    except ConcurrentWrite as error:
        _fail(str(error), EXIT_TRANSIENT)
    except DataError as error:
        _fail(str(error), EXIT_DATA)
    except Exception as error:
        message = _about_data(error)
        if message is None:
            raise
        _fail(message, EXIT_DATA)


def _about_data(error: Exception) -> str | None:
    """The message of an error about data that a room below raised, here or in a Spark worker; None for any other.

    The classes are named rather than imported, since their modules are heavy.
    """
    ours = ("ContractError", "ArtifactError", "EncoderError")
    if type(error).__name__ in ours:
        return str(error)
    if type(error).__name__ == "PythonException":
        told = re.findall(rf"(?:{'|'.join(ours)}): (.+)", str(error))
        return told[-1] if told else None
    return None


def _fail(message: str, code: int) -> None:
    if os.environ.get("DSIRM_DEBUG"):
        logging.getLogger(__name__).exception("details")
    typer.echo(f"Error: {message}", err=True)
    sys.exit(code)


def _configure_logging() -> None:
    logging.basicConfig(
        level=os.environ.get("DSIRM_LOG_LEVEL", "WARNING"),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )
    logging.getLogger("great_expectations").setLevel("WARNING")
    for room in ("jobs", "dsirm_models"):
        logging.getLogger(room).setLevel(os.environ.get("DSIRM_LOG_LEVEL", "INFO"))


if __name__ == "__main__":
    main()
