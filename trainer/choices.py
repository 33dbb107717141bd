"""What a run is of - method, background, CAST - whether options name it or a file of settings does."""

from collections.abc import Iterable
from dataclasses import dataclass

from backdrop.errors import UserError
from backdrop.settings.given import Given

_OF_CONFIG = "--config"


@dataclass(frozen=True, kw_only=True)
class Choices:
    """method, background: files of the folders of that name. with_cast: add CAST's loss. named: who chose these."""

    method: str
    background: str
    with_cast: bool
    named: tuple[Given, ...]


def choices(
    given: Iterable[Given], *, method: str | None, background: str | None, with_cast: bool
) -> tuple[Choices, list[Given]]:
    """Return what a run is of, and the settings that are left to apply.

    Args:
        given: of `given_settings`; those of a file may be a whole run's, which name method, background and CAST.
        method, background, with_cast: as options gave them; None and False = they did not.

    Raises:
        UserError: no method is named, or the file names another.
    """
    named: dict[str, Given] = {}
    left = []
    for one in given:
        is_choice = one.source.startswith(_OF_CONFIG) and one.path in ("method", "background.name", "cast")
        if is_choice:
            named[one.path] = one
        else:
            left.append(one)
    has_cast = any(one.source.startswith(_OF_CONFIG) and one.path.startswith("cast.") for one in left)
    if with_cast and "cast" in named:
        raise UserError(f"--cast was given, and {named['cast'].source} is of a run without; leave out one of them")
    chosen_method = _agreed("--method", method, named.get("method"))
    if chosen_method is None:
        raise UserError("no method was named: give --method NAME, or a --config that says method = ...")
    chosen_background = _agreed("--bg", background, named.get("background.name")) or "none"
    by_option = {
        "method": Given(path="method", text=chosen_method, source="--method"),
        "background.name": Given(path="background.name", text=chosen_background, source="--bg"),
    }
    return Choices(
        method=chosen_method,
        background=chosen_background,
        with_cast=with_cast or has_cast,
        named=tuple({**by_option, **named}.values()),
    ), left


def _agreed(option: str, value: str | None, in_file: Given | None) -> str | None:
    if in_file is None:
        return value
    if value not in (None, in_file.text):
        raise UserError(f"{option} is {value}, and {in_file.source} says {in_file.text}; leave out one of them")
    return in_file.text
