"""Kinds of parameters that commands of several floors take, and the options that are said once for all of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from backdrop.open_sets import OpenSet

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

path_type = click.Path(path_type=Path)


class MemberOf(click.Choice):
    """A member of an open set: the project's own, an installed package's, or a plug-in file's."""

    def __init__(self, open_set: OpenSet[Any], *more: str, takes_argument: bool = False) -> None:
        """Describe the parameter; no member is imported.

        Args: open_set: the members. more: what is allowed besides (all). takes_argument: whether NAME:ARGUMENT is
            taken too, as it is given; the member judges the argument.
        """
        super().__init__([*open_set.built_in(), *more])
        self._open_set, self._more, self._takes_argument = open_set, more, takes_argument

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return the names, for --help."""
        return f"[{'|'.join(self._names())}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Look the name up, now that the plug-ins are known; what it is the name of is not imported yet."""
        self.choices = self._names()
        name = value.partition(":")[0] if self._takes_argument else value
        if name not in self.choices:
            raise self._open_set.unknown(name, *self._more)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the names, those of plug-ins too."""
        self.choices = self._names()
        return super().shell_complete(ctx, param, incomplete)

    def _names(self) -> tuple[str, ...]:
        return (*self._open_set.names(), *self._more)


def root_option(what: str) -> Decorator:
    """Return --root: the folder of a data set.

    Args: what: the beginning of its help, which says what lies there and when it is needed.
    """
    words = f"{what} Default: BACKDROP_DATA/<dataset>."
    return click.option("--root", type=path_type, default=None, help=words)


def overrides_option(what: str, metavar: str = "NAME=VALUE") -> Decorator:
    """Return --set, which may be repeated.

    Args: what: its help. metavar: what is given.
    """
    return click.option("--set", "overrides", multiple=True, metavar=metavar, help=what)
