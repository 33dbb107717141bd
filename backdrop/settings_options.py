"""The options of every command that takes settings: --set, --config, --show-settings, --save-config."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from backdrop.command_line import print_result
from backdrop.command_options import Decorator, overrides_option, path_type
from backdrop.settings import table
from backdrop.settings.config_files import save_config
from backdrop.settings.given import Given

config_option = click.option(
    "--config", type=path_type, default=None, help="What --set sets, as a TOML file or a run's settings.json."
)


def settings_options(what: str, metavar: str = "NAME=VALUE") -> Decorator:
    """Return the four options as one decorator; the command gets overrides, config, show_settings, save_settings.

    Args: what: the help of --set. metavar: what is given to it.
    """
    show = click.option("--show-settings", is_flag=True, help="Print every setting: value, range, source; do no more.")
    save = click.option("--save-config", "save_settings", type=path_type, help="Write every setting to this TOML file.")

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (save, show, config_option, overrides_option(what, metavar=metavar)):
            command = option(command)
        return command

    return decorate


def showed_or_saved(
    record: Any,
    given: Sequence[Given],
    otherwise: str,
    *,
    show_settings: bool,
    save_settings: Path | None,
    following: Callable[[Any], dict[str, tuple[str, str]]] | None = None,
) -> bool:
    """Do what --show-settings and --save-config ask for, and return whether the command ends with that.

    Args: record: the settings that would be used. given: what the user changed in them. otherwise: where the others
        come from that are not their field's default. following: gives what is shown after them: what follows from them
        and what that is of, by name.
    """
    if save_settings is not None:
        save_config(record, save_settings)
    if show_settings:
        rows = table.rows(record, given, otherwise) + table.following_rows(following(record) if following else {})
        print_result(rows, table.text(rows))
    return show_settings
