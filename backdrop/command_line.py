"""What every command has: its group, --quiet, --json and --plugin, how a result is printed, and how an error looks.

A floor's commands lie in its `commands.py`, which imports nothing but this, the options and the names of the open sets:
what a command needs to run is imported when it runs, so that `--help` is fast.
"""

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from backdrop.command_options import path_type
from backdrop.disk_errors import closed_folders
from backdrop.errors import UserError, printable, program, sentence
from backdrop.open_sets import PLUGINS_VARIABLE, use_plugin
from backdrop.progress import QUIET_VARIABLE, is_quiet
from backdrop.utf8_mode import restart_in_utf8_mode

# Of the context: where --json writes; "-" = standard output.
_JSON_KEY = "backdrop.json"


class _Mistake(click.ClickException):
    """A user's, as click prints it."""

    exit_code = 2


class _Interrupted(click.ClickException):
    """Ctrl-C, with how to go on."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        """Print the message below what the terminal shows of the bar and the key."""
        click.echo(f"\n{self.message}", file=file, err=file is None)


def _how_to_go_on(command: click.Command | None) -> str:
    """What to do after Ctrl-C: a command that goes on where it was says so in its help."""
    if command is None or "the same command" not in (command.help or "").lower():
        return "Interrupted."
    again = f"{program()} {shlex.join(sys.argv[1:])}"
    return f"Interrupted. What was finished is kept; the same command goes on:\n  {again}"


def quiet_option() -> click.Option:
    """Return the option that every command and group has."""
    words = "No bars, no notes: only results, warnings and errors."
    return click.Option(["--quiet"], is_flag=True, is_eager=True, expose_value=False, callback=_be_quiet, help=words)


def _be_quiet(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Leave out bars and notes until the command ends, in this process and those it starts."""
    if value and not is_quiet():
        os.environ[QUIET_VARIABLE] = "1"
        ctx.call_on_close(lambda: os.environ.pop(QUIET_VARIABLE, None))


def _use_plugins(ctx: click.Context, param: click.Parameter, value: tuple[Path, ...]) -> None:
    """Make the members of plug-in files known until the command ends, in this process and those it starts."""
    if not value:
        return
    before = os.environ.get(PLUGINS_VARIABLE)
    ctx.call_on_close(
        lambda: (
            os.environ.pop(PLUGINS_VARIABLE, None) if before is None else os.environ.update({PLUGINS_VARIABLE: before})
        )
    )
    for path in value:
        use_plugin(path)


class Command(click.Command):
    """Has a result, which --json prints as JSON; takes --quiet and --plugin."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        json_option = click.Option(
            ["--json"],
            is_flag=False,
            flag_value="-",
            metavar="[FILE]",
            type=click.Path(dir_okay=False, allow_dash=True),
            expose_value=False,
            callback=lambda ctx, param, value: ctx.meta.update({_JSON_KEY: value}),
            help="Print the result as JSON and nothing else on standard output; with FILE, write it there too.",
        )
        plugin_option = click.Option(
            ["--plugin"],
            multiple=True,
            type=path_type,
            is_eager=True,
            expose_value=False,
            callback=_use_plugins,
            metavar="FILE.py",
            help="A method, background, backbone, data set, ... of your own; may be repeated.",
        )
        self.params += [json_option, quiet_option(), plugin_option]


class Commands(click.Group):
    """A group whose commands are imported when one is called or listed.

    A user's mistake is printed as one message with exit code 2; anything else is ours and keeps its traceback.
    """

    def __init__(self, *args: Any, places: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        """Describe the group; nothing is imported.

        Args: places: name of a command -> "module:name" of it there; commands may also be added as to any group.
        """
        super().__init__(*args, **kwargs)
        self._places = dict(places or {})
        self.params.append(quiet_option())

    def main(self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any) -> Any:
        """Run what a command line says. Args: args: its words; None = this process's. rest, kwargs: Click's."""
        if args is None:
            restart_in_utf8_mode()
        return super().main(args, *rest, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, sorted."""
        return sorted({*super().list_commands(ctx), *self._places})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, importing it; None where there is none of that name."""
        if cmd_name not in self.commands and cmd_name in self._places:
            module, _, name = self._places[cmd_name].partition(":")
            self.add_command(getattr(import_module(module), name), cmd_name)
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> object:
        """Run the chosen command, turning `UserError` and Ctrl-C into click's own kind of error."""
        try:
            with closed_folders():
                return super().invoke(ctx)
        except UserError as error:
            raise _Mistake(sentence(str(error))) from error
        except KeyboardInterrupt as stop:
            name = ctx.invoked_subcommand
            raise _Interrupted(_how_to_go_on(self.get_command(ctx, name) if name else None)) from stop


def print_result(result: object, text: str | None = None) -> None:
    """Print a command's result on standard output, where nothing else goes, and where asked write it to a file.

    Args: result: JSON-able. text: what is printed for people unless JSON was asked for; None = JSON always.
    """
    json_to = click.get_current_context().meta.get(_JSON_KEY)
    as_json = json.dumps(result, indent=2, default=str)
    click.echo(as_json if text is None or json_to == "-" else printable(text))
    if json_to not in (None, "-"):
        _write_json(as_json, Path(json_to))


def _write_json(as_json: str, json_path: Path) -> None:
    """Write a result to the file of --json."""
    try:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(as_json + "\n")
    except OSError as error:
        raise UserError(f"--json {json_path} cannot be written: {error.strerror}. Give a writable file.") from error
