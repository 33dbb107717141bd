"""Rows as a user names them: by number, or by the keys that the gallery wrote into a file."""

from pathlib import Path

import pytest

from backdrop.errors import UserError
from backdrop.stores.indexes.named_rows import named_rows, parse_rows, written_rows
from tests.material.gallery_store import KEYS


def test_numbers_and_ranges() -> None:
    assert parse_rows("5-9, 1,7", 10) == [1, 5, 6, 7, 8, 9]
    for text in ("", "1,", "a", "3-1", "10", "-1", "1-", "0-10"):
        with pytest.raises(UserError, match="--rows"):
            parse_rows(text, 10)


@pytest.mark.parametrize("rows", [[], [3], [0, 1, 2], [1, 5, 6, 7, 9], list(range(0, 40, 2))])
def test_rows_are_written_as_they_are_read(rows: list[int]) -> None:
    assert (parse_rows(written_rows(rows), 50) if rows else []) == rows
    assert written_rows([1, 5, 6, 7, 9]) == "1,5-7,9"


def test_a_file_of_keys(tmp_path: Path) -> None:
    """Also keys that no line can hold as they are, which stand there as JSON."""
    named = ["two\nlines", "b c.jpg", "\udcff.jpg", '"begins', "\u65e5\u672c.jpg"]
    keys = sorted([*named, "a.jpg", 'q"uoted', " blank"])
    lines = ['"two\\nlines"\r', "b c.jpg", "", '"\\udcff.jpg"', '"\\"begins"', "\u65e5\u672c.jpg", "b c.jpg"]
    (file := tmp_path / "bad.txt").write_text("\n".join(lines), encoding="utf-8", newline="")
    found = named_rows(f"@{file}", len(keys), keys.__getitem__, option="--rows")
    assert [keys[row] for row in found] == sorted(named)


def test_what_a_file_cannot_say_is_told(tmp_path: Path) -> None:
    for text, message in (
        (f"{KEYS[0]}\nants/1.jpg\ncats/1.jpg", r"2 of its 3 keys are no row .*'ants/1.jpg', 'cats/1.jpg'.*'ants/000"),
        ("\n\n", "holds no key"),
        ('"half', "cannot be read as keys"),
    ):
        (file := tmp_path / "bad.txt").write_text(text)
        with pytest.raises(UserError, match=message):
            named_rows(f"@{file}", len(KEYS), KEYS.__getitem__, option="--without")
    with pytest.raises(UserError, match=r"--without @.*nowhere.txt"):
        named_rows(f"@{tmp_path / 'nowhere.txt'}", len(KEYS), KEYS.__getitem__, option="--without")
