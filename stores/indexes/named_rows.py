"""Rows as a user names them: numbers and ranges, or a file of keys, such as the gallery's list of bad rows.

1,5-9         numbers and ranges, both ends included
@bad.txt      a file with a key on each line; a key that cannot stand there as it is stands there as JSON's text
"""

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

from backdrop.errors import UserError

# Keys that are not found, that an error names.
_NAMED = 3


def named_rows(text: str, num_rows: int, key_of: Callable[[int], str], *, option: str) -> list[int]:
    """The rows that a user names, by number or in a file of keys, sorted.

    Args:
        text: as given, "1,5-9" or "@FILE".
        num_rows: of the store.
        key_of: row -> its key; keys ascend with the rows, as every store has them.
        option: that took the text, for messages.

    Raises:
        UserError: it is neither; a row or a key that is not there; the file cannot be read or names no row.
    """
    if not text.startswith("@"):
        return parse_rows(text, num_rows, option=option)
    keys = _keys_in(Path(text[1:]), option)
    rows = {key: _row_of(key, num_rows, key_of) for key in keys}
    missing = [key for key, row in rows.items() if row is None]
    if missing:
        named = ", ".join(map(repr, missing[:_NAMED]))
        raise UserError(
            f"{option} {text}: {len(missing)} of its {len(rows)} keys are no row of the store ({named}); keys are "
            f"paths like {key_of(0)!r}, one a line, of the data set that the store was built from"
        )
    return sorted(row for row in rows.values() if row is not None)


def parse_rows(text: str, num_rows: int, *, option: str = "--rows") -> list[int]:
    """Row numbers as a user writes them, "1,5-9" (both ends included), sorted.

    Args: text: as given. num_rows: of the store. option: that took it, for messages.
    Raises: UserError: not of this form, or beyond the store's `num_rows` rows.
    """
    rows: set[int] = set()
    for piece in text.split(","):
        matched = re.fullmatch(r"\s*([0-9]+)(?:-([0-9]+))?\s*", piece)
        if matched is None:
            raise UserError(f"{option} {text!r}: give row numbers and ranges such as 1,5-9, or @FILE with a key a line")
        first, last = int(matched[1]), int(matched[2] or matched[1])
        if not first <= last < num_rows:
            raise UserError(
                f"{option} {text!r}: {piece.strip()} is no row, or no range of rows, of 0 to {num_rows - 1}"
            )
        rows.update(range(first, last + 1))
    return sorted(rows)


def written_rows(rows: Iterable[int]) -> str:
    """Return rows as `parse_rows` reads them, neighbours as a range. Args: rows: ascending."""
    numbers = list(rows)
    if not numbers:
        return ""
    breaks = [(a, b) for a, b in pairwise(numbers) if b != a + 1]
    firsts, lasts = [numbers[0], *(b for _, b in breaks)], [*(a for a, _ in breaks), numbers[-1]]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(firsts, lasts, strict=True))


def _row_of(key: str, num_rows: int, key_of: Callable[[int], str]) -> int | None:
    """The row of a key, found by halving: a few keys of a million rows take no table of all of them."""
    row = bisect_left(range(num_rows), key, key=key_of)
    return row if row < num_rows and key_of(row) == key else None


def _keys_in(path: Path, option: str) -> list[str]:
    """The keys in a file. Raises: UserError: it cannot be read, or holds none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        keys = [json.loads(line) if line.startswith('"') else line for line in (line.rstrip("\r") for line in lines)]
    except (OSError, ValueError) as error:
        raise UserError(f"{option} @{path}: cannot be read as keys, one a line ({error})") from error
    if not any(keys):
        raise UserError(f"{option} @{path}: holds no key; give one a line, as the gallery of store view writes them")
    return [key for key in keys if key]
