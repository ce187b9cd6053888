"""The subcommands about what was published: `dsirm releases ...`."""

from __future__ import annotations

import typer

from jobs.cli_options import HOME, HomeOption, JsonOption, ProfileOption, SettingsOption, open_home, show

releases = typer.Typer(help="List, compare, pin and roll back releases.", no_args_is_help=True)


@releases.command("list", help="Every release, oldest first, with its state now. Reads releases.")
def releases_list(
    home: HomeOption = HOME,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    from jobs import views

    show(views.release_list(open_home(home, profile, settings)), as_json, "release_list")


@releases.command("diff", help="What moved between releases A and B. Reads releases and item_sids.")
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


@releases.command("pin", help="Keep a release from retention for good. Appends to releases.")
def releases_pin(
    release: str, home: HomeOption = HOME, profile: ProfileOption = None, settings: SettingsOption = None
) -> None:
    from jobs.releases import pin

    pin(open_home(home, profile, settings).store, release)
    typer.echo(f"{release} is pinned.")


@releases.command("rollback", help="Go back to RELEASE; given the current one, to the one before it. One commit.")
def releases_rollback(
    release: str, home: HomeOption = HOME, profile: ProfileOption = None, settings: SettingsOption = None
) -> None:
    from jobs.releases import roll_back

    typer.echo(f"{roll_back(open_home(home, profile, settings).store, release)} is current.")
