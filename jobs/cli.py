"""The `dsirm` command. Every job is a subcommand with the same options; lazy imports let --help answer at once."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import Annotated

import typer

from jobs.cli_errors import run_told
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
    run,
    show,
)
from jobs.cli_releases import releases
from jobs.cli_sources import imports, simulate

app = typer.Typer(
    name="dsirm",
    help="Semantic IDs for e-commerce search: from click logs to ranker features.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(imports, name="import")
app.add_typer(simulate, name="simulate")
app.add_typer(releases, name="releases")

# Subcommand -> what of its module to call. In the order of the chain.
PLANNED = (
    "build-corpus", "profile-users", "embed-items", "embed-queries", "train-quantizer", "assign-item-sids",
    "pretrain-generator", "finetune-generator", "personalise-generator", "align-generator", "generate-query-sids",
    "generate-request-sids", "generate-recall", "score-pairs", "match-prefixes", "train-ranker", "measure-coverage",
    "audit",
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
        run(name, opened, planned(opened, date, release))

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
        plan = load_plan(opened, release)
        days = [dt.date.fromisoformat(day) for day in plan.days]
        run("aggregate-day", opened, days, plan.versions.get("click_log"))
    else:
        run("aggregate-day", opened, [window(opened, day(date))[0]])


def generate_query_sids(
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    date: DateOption = None,
    release: ReleaseOption = None,
    shard: Annotated[
        list[int] | None, typer.Option("--shard", min=0, max=15, help="Generate this shard alone (repeatable).")
    ] = None,
) -> None:
    opened = open_home(home, profile, settings)
    run("generate-query-sids", opened, planned(opened, date, release), shards=shard or ())


for _name in PLANNED:
    if _name == "generate-query-sids":
        app.command(_name, help=doc(_name))(generate_query_sids)
    else:
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
    run("publish-release", opened, planned(opened, date, release), again=again)


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
    recall: Annotated[
        bool,
        typer.Option(
            "--recall",
            help="How much of what people wanted is recalled, beside other channels. With --study: what generative "
            "recall is worth, on a marketplace of its own.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    from jobs import views
    from jobs.plan import load_plan

    opened = open_home(home, profile, settings)
    if study and recall:
        show(run("recall-study", opened, quick=quick), as_json, "recall_study")
        return
    if study:
        show(run("study", opened, quick=quick), as_json, "study")
        return
    name = release or views.current_release(opened)
    if recall:
        show(run("evaluate-recall", opened, load_plan(opened, name)), as_json, "recall_metrics")
        return
    if not opened.store.count("ranker_metrics", {"release": name}):
        run("evaluate", opened, load_plan(opened, name))
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
    show(run("backfill", opened, first.date(), last.date(), dry_run=dry_run), as_json, "backfilled")


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
    show(run("forget", opened, user=user, known_as=pseudonym), as_json, "forgotten")


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
    show(run("maintain", open_home(home, profile, settings), dry_run=dry_run), as_json, "maintained")


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


@app.command("recall", help=doc("recall"))
def recall_command(
    query: Annotated[str, typer.Option("--query", help="Query as a shopper types it.")],
    user: Annotated[str | None, typer.Option("--user", help="Pseudonym of a user, as in the tables.")] = None,
    beam: Annotated[int, typer.Option("--beam", min=1, max=1000, help="SIDs to look behind.")] = 20,
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    release: ShownReleaseOption = None,
    as_json: JsonOption = False,
) -> None:
    from jobs.recall import recall

    found = recall(open_home(home, profile, settings), query, user=user, beams=beam, release=release)
    show(found, as_json, "recalled")


def main() -> None:
    """Entry point: runs a command and turns what went wrong into a message and an exit code."""
    # Threads that spin while they wait starve Spark on a small machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    run_told(app)


if __name__ == "__main__":
    main()
