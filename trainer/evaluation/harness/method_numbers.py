"""Whose numbers an evaluation takes: those that the run's method states, or those of a method that the user names."""

from collections.abc import Callable
from typing import TypeVar

from backdrop.errors import UserError
from backdrop.trainer.downstream_settings import Downstream
from backdrop.trainer.methods import METHODS

# Of weights that no run of ours made: most published ones are evaluated as MoCo's are.
_OF_A_WEIGHTS_FILE = "moco"
Stated = TypeVar("Stated")


def stated_by(
    method: str, chosen: str, setting: str, what: str, part: Callable[[Downstream], Stated | None]
) -> tuple[str, Stated]:
    """Return a method's name and what it states for an evaluation.

    Args: method: of the run, "" for a weights file. chosen: the method that the user named in `setting`, "" = none.
        what: the numbers, for messages. part: they, of a method's statement.
    Raises: UserError: that method states none, or there is no such method.
    """
    name = chosen or method or _OF_A_WEIGHTS_FILE
    found = part(METHODS.load(name).DOWNSTREAM) if name in METHODS.names() else None
    if found is not None:
        return name, found
    stating = [each for each in METHODS.names() if part(METHODS.load(each).DOWNSTREAM) is not None]
    if chosen:
        raise UserError(f"{setting}={chosen!r}: no method of that name states a {what}; allowed: {', '.join(stating)}")
    raise UserError(
        f"the method {name!r} of this run states no {what}, and another method's numbers would not be its score: "
        f"choose with --set {setting}=NAME, one of {', '.join(stating)}, and change its numbers with --set"
    )
