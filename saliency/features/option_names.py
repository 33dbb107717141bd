"""`WEIGHTS:solver:tau=0.3`: what may stand after a file in a detector's name. Imports no NumPy."""

from collections.abc import Collection
from pathlib import Path

from backdrop.errors import UserError


def path_and_options(text: str, allowed: Collection[str]) -> tuple[str, dict[str, str]]:
    """Split a name into what it begins with and its options.

    Args:
        text: without the detector's prefix; a colon within a path stays in it.
        allowed: words, and words with `=` behind them where a value follows.

    Returns: the beginning; option -> its value, "" where it is a word alone. The last of two equal ones counts.
    """
    options: dict[str, str] = {}
    while ":" in text:
        rest, _, last = text.rpartition(":")
        word, equals, value = last.partition("=")
        if word + equals not in allowed:
            break
        text = rest
        options.setdefault(word, value)
    return text, options


def number_of(options: dict[str, str], word: str, default: float) -> float:
    """Return the number of an option. Raises: UserError: it is none."""
    try:
        return float(options.get(word, default))
    except ValueError as error:
        raise UserError(f"{word}={options[word]} is no number: write {word}={default:g}, say") from error


def whole_number_of(options: dict[str, str], word: str, default: int) -> int:
    """Return the whole number of an option. Raises: UserError: it is none."""
    number = number_of(options, word, default)
    if not number.is_integer():
        raise UserError(f"{word}={options[word]} is no whole number: write {word}={default}, say")
    return int(number)


def file_of(text: str, allowed: Collection[str]) -> Path:
    """Return the file that a name means. Raises: UserError: there is none, perhaps because of a misspelt option."""
    path = Path(text)
    if not path.is_file():
        may_stand = ", ".join(f":{word}NUMBER" if word.endswith("=") else f":{word}" for word in allowed)
        raise UserError(f"there is no file {path}: give published weights; after them may stand {may_stand}")
    return path
