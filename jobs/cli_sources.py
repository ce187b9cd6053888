"""The subcommands that fill a home: `dsirm import ...` and `dsirm simulate ...`."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from jobs.cli_options import HOME, HomeOption, ProfileOption, ReplaceOption, SettingsOption, open_home, run

imports = typer.Typer(help="Bring a catalogue, a log or judgments into a home.", no_args_is_help=True)
simulate = typer.Typer(help="Make a marketplace, or clicks over any catalogue.", no_args_is_help=True)


@imports.command("icecat", help="The Icecat catalogue and its human judgments. Writes catalog and relevance_labels.")
def import_icecat(
    directory: Path,
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    replace: ReplaceOption = False,
) -> None:
    run("import-source", open_home(home, profile, settings), directory, call="icecat", replace=replace)


@imports.command("ubi", help="User Behavior Insights events (JSON lines or Parquet). Writes click_log.")
def import_ubi(
    file: Path,
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    replace: ReplaceOption = False,
) -> None:
    run("import-source", open_home(home, profile, settings), file, call="ubi", replace=replace)


@imports.command("esci", help="The published ESCI parquet files. Writes catalog, relevance_labels and click_log.")
def import_esci(
    directory: Path,
    locale: Annotated[str, typer.Option("--locale", help="us, es or jp.")] = "us",
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    replace: ReplaceOption = False,
) -> None:
    run("import-source", open_home(home, profile, settings), directory, locale=locale, call="esci", replace=replace)


@imports.command("table", help="Any Parquet, CSV or Delta table, columns named by a mapping file.")
def import_table(
    path: Path,
    mapping: Annotated[Path, typer.Option("--mapping", help="TOML: our columns and theirs (docs/imports.md).")],
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    replace: ReplaceOption = False,
) -> None:
    run("import-source", open_home(home, profile, settings), path, mapping, call="table", replace=replace)


@simulate.command("catalogue", help="A made-up marketplace. Writes catalog and users.")
def simulate_catalogue(
    items: Annotated[int, typer.Option("--items", min=10, max=100_000_000, help="Items.")] = 20_000,
    users: Annotated[int, typer.Option("--users", min=1, max=100_000_000, help="Users.")] = 5_000,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Another seed, another world.")] = 1,
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    replace: ReplaceOption = False,
) -> None:
    opened = open_home(home, profile, settings)
    run("simulate", opened, call="catalogue", items=items, users=users, seed=seed, replace=replace)


@simulate.command("clicks", help="Searches and clicks over the home's catalogue. Writes click_log and true grades.")
def simulate_clicks(
    days: Annotated[int, typer.Option("--days", min=1, max=3_650, help="Days of log.")] = 30,
    queries: Annotated[int, typer.Option("--queries", min=10, max=100_000_000, help="Distinct queries.")] = 12_000,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**31 - 1, help="Another seed, other queries, searches and clicks.")
    ] = 1,
    until: Annotated[
        dt.datetime,
        typer.Option("--until", formats=["%Y-%m-%d"], show_default="2026-01-31", help="Last day of the log."),
    ] = dt.datetime(2026, 1, 31),
    unseen_share: Annotated[
        float,
        typer.Option("--unseen-share", min=0, max=1, help="Share of queries whose shoppers go by what no text tells."),
    ] = 0.0,
    held_out: Annotated[
        int, typer.Option("--held-out", min=1, max=100_000, help="Queries that nobody types and that get true grades.")
    ] = 200,
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
) -> None:
    opened = open_home(home, profile, settings)
    run(
        "simulate",
        opened,
        call="clicks",
        days=days,
        queries=queries,
        seed=seed,
        last_day=until.date(),
        unseen_share=unseen_share,
        held_out=held_out,
    )
