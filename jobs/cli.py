"""The `dsirm` command. Every job is a subcommand with the same options; lazy imports let --help answer at once."""

from __future__ import annotations

import datetime as dt
import logging
import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from jobs.cli_options import (
    HOME,
    DateOption,
    HomeOption,
    JsonOption,
    ProfileOption,
    ReleaseOption,
    SettingsOption,
    ShownReleaseOption,
    day,
    doc,
    module,
    open_home,
    planned,
    show,
)
from jobs.cli_sources import imports, simulate

app = typer.Typer(
    name="dsirm",
    help="Semantic IDs for e-commerce search: from click logs to ranker features.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
releases_app = typer.Typer(help="List, compare, pin and roll back releases.", no_args_is_help=True)
app.add_typer(imports, name="import")
app.add_typer(simulate, name="simulate")
app.add_typer(releases_app, name="releases")

# Subcommand -> what of its module to call. In the order of the chain.
PLANNED = (
    "build-corpus", "embed-items", "embed-queries", "train-quantizer", "assign-item-sids", "finetune-generator",
    "generate-query-sids", "score-pairs", "match-prefixes", "train-ranker", "measure-coverage", "audit",
)  # fmt: skip


def _register(name: str) -> None:
    def command(
        home: HomeOption = HOME,
        profile: ProfileOption = None,
        settings: SettingsOption = None,
        date: DateOption = None,
        release: ReleaseOption = None,
    ) -> None:
        opened = open_home(home, profile, settings)
        module(name).run(opened, planned(opened, date, release))

    app.command(name, help=doc(name))(command)


@app.command("plan", help=doc("plan"))
def plan_command(
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    date: DateOption = None,
    refit: Annotated[bool, typer.Option("--refit", help="Train the models again.")] = False,
) -> None:
    from jobs.plan import make_plan

    # The release alone on the last line: Airflow passes it on to the tasks after.
    typer.echo(make_plan(open_home(home, profile, settings), day(date), refit=refit).release)


@app.command("aggregate-day", help=doc("aggregate-day"))
def aggregateday(
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    date: DateOption = None,
    release: ReleaseOption = None,
) -> None:
    from jobs.plan import load_plan, window

    opened = open_home(home, profile, settings)
    if release:
        days = [dt.date.fromisoformat(day) for day in load_plan(opened, release).days]
    else:
        days = [window(opened, day(date))[0]]
    module("aggregate-day").run(opened, days)


for _name in PLANNED:
    _register(_name)


@app.command("publish-release", help=doc("publish-release"))
def publish_release(
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    date: DateOption = None,
    release: ReleaseOption = None,
    again: Annotated[bool, typer.Option("--again", help="Publish a release that was rolled back.")] = False,
) -> None:
    opened = open_home(home, profile, settings)
    module("publish-release").run(opened, planned(opened, date, release), again=again)


@app.command("demo", help=doc("demo"))
def demo(home: HomeOption = Path(".demo"), as_json: JsonOption = False) -> None:
    show(module("demo").run(home), as_json, "demo")


@app.command("nightly", help=doc("nightly"))
def nightly(
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    date: DateOption = None,
    refit: Annotated[bool, typer.Option("--refit", help="Train the models again, from the current ones.")] = False,
    as_json: JsonOption = False,
) -> None:
    opened = open_home(home, profile, settings)
    module("nightly").run(opened, day(date), refit=refit)
    from jobs import views

    show(views.summary(opened), as_json, "summary")


@app.command("evaluate", help=doc("evaluate"))
def evaluate(
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    release: ShownReleaseOption = None,
    study: Annotated[
        bool, typer.Option("--study", help="What SIDs are worth: baselines, ablations, intervals. Hours; resumable.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="With --study: minutes, to see that it runs.")] = False,
    as_json: JsonOption = False,
) -> None:
    from jobs import views
    from jobs.plan import load_plan

    opened = open_home(home, profile, settings)
    if study:
        show(module("study").run(opened, quick=quick), as_json, "study")
        return
    name = release or views.current_release(opened)
    if not opened.store.count("ranker_metrics", {"release": name}):
        module("evaluate").run(opened, load_plan(opened, name))
    show(views.ranker_metrics(opened, name), as_json, "ranker_metrics")


@app.command("status", help="What a home holds: tables, rows, who wrote them last, what is current.")
def status(
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    from jobs import views

    show(views.status(open_home(home, profile, settings)), as_json, "status")


@app.command("coverage", help="How well semantic IDs cover items, queries and traffic. Reads sid_coverage.")
def coverage(
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    release: ShownReleaseOption = None,
    as_json: JsonOption = False,
) -> None:
    from jobs import views

    show(views.coverage(open_home(home, profile, settings), release), as_json, "coverage")


@app.command("backfill", help=doc("backfill"))
def backfill(
    first: Annotated[dt.datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First day.")],
    last: Annotated[dt.datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day.")],
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    opened = open_home(home, profile, settings)
    show(module("backfill").run(opened, first.date(), last.date(), dry_run=dry_run), as_json, "backfilled")


@app.command("forget", help=doc("forget"))
def forget(
    user: Annotated[str | None, typer.Option("--user", help="Id of the person, as the source has it.")] = None,
    pseudonym: Annotated[str | None, typer.Option("--pseudonym", help="Or the pseudonym, as tables have it.")] = None,
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    opened = open_home(home, profile, settings)
    show(module("forget").run(opened, user=user, known_as=pseudonym), as_json, "forgotten")


@app.command("lineage", help=doc("lineage"))
def lineage(
    release: str,
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    show(module("lineage").run(open_home(home, profile, settings), release), as_json, "lineage")


@app.command("maintain", help=doc("maintain"))
def maintain(
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; change nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    show(module("maintain").run(open_home(home, profile, settings), dry_run=dry_run), as_json, "maintained")


@app.command("encoder", help=doc("encoder-paths"))
def encoder(
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    from jobs.encoder_paths import compare

    show(compare(open_home(home, profile, settings)), as_json, "encoder")


@app.command("explain", help=doc("explain"))
def explain_command(
    query: Annotated[str, typer.Option("--query", help="Query as a shopper types it.")],
    item: Annotated[str | None, typer.Option("--item", help="Item id.")] = None,
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    from jobs.explain import explain

    show(explain(open_home(home, profile, settings), query, item), as_json, "explanation")


@releases_app.command("list", help="Every release, oldest first, with its state now. Reads releases.")
def releases_list(
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    from jobs import views

    show(views.release_list(open_home(home, profile, settings)), as_json, "release_list")


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

    show(views.release_diff(open_home(home, profile, settings), a, b), as_json, "release_diff")


@releases_app.command("pin", help="Keep a release from retention for good. Appends to releases.")
def releases_pin(
    release: str, home: HomeOption = HOME, profile: ProfileOption = None, settings: SettingsOption = None
) -> None:
    from jobs import releases

    releases.pin(open_home(home, profile, settings).store, release)
    typer.echo(f"{release} is pinned.")


@releases_app.command("rollback", help="Go back to RELEASE; given the current one, to the one before it. One commit.")
def releases_rollback(
    release: str, home: HomeOption = HOME, profile: ProfileOption = None, settings: SettingsOption = None
) -> None:
    from jobs import releases

    typer.echo(f"{releases.roll_back(open_home(home, profile, settings).store, release)} is current.")


def main() -> None:
    """Entry point: runs a command and turns what went wrong into a message and an exit code."""
    # Threads that spin while they wait starve Spark on a small machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _configure_logging()
    from jobs.errors import EXIT_DATA, EXIT_TRANSIENT, DataError, TransientError

    try:
        app()
    except TransientError as error:
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
