"""What a user gives to change settings: a file, options of their own, `--set`; in the order in which it is applied."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backdrop.settings import leaves, written
from backdrop.settings.config_files import read_config
from backdrop.settings.overrides import split_override


@dataclass(frozen=True, kw_only=True)
class Given:
    """A changed setting. path: its name. text: the value as written. source: who gave it, such as "--set"."""

    path: str
    text: str
    source: str

    @property
    def override(self) -> str:
        """The text that `--set` takes."""
        return f"{self.path}={self.text}"


def given_settings(
    *, config: Path | None = None, options: Mapping[str, tuple[str, Any]] | None = None, overrides: Sequence[str] = ()
) -> list[Given]:
    """Return what was given, the weakest first: a later one for the same setting counts.

    Args:
        config: a file, see `config_files`.
        options: the settings that have an option of their own, {"--lr": ("optimiser.lr", 0.1)}; None = not given.
        overrides: `name=value` texts of `--set`.

    Raises:
        UserError: the file cannot be read, or a text is no `name=value`.
    """
    given = [
        Given(path=path, text=text, source=f"--config {config}")
        for path, text in (read_config(config) if config else {}).items()
    ]
    given += [
        Given(path=path, text=written(value), source=option)
        for option, (path, value) in (options or {}).items()
        if value is not None
    ]
    for override in overrides:
        path, text = split_override(override)
        given.append(Given(path=path, text=text, source="--set"))
    return given


def sources_of(record: Any, given: Iterable[Given]) -> dict[str, str]:
    """Return which of a record's settings were given, and by what: {"views.0.size_px": "--set"}.

    Args:
        record: the settings.
        given: of `given_settings`; `views.size_px` is that of every view.
    """
    sources = {}
    for one in given:
        for leaf in leaves(record):
            if one.path in (leaf.path, ".".join(part for part in leaf.path.split(".") if not part.isdecimal())):
                sources[leaf.path] = one.source
    return sources
