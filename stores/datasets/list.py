"""Images that a list names, anywhere below the folder: `--dataset list:FILE --root FOLDER`.

FILE is a CSV (`.csv`), or a text with a path a line and, after a tab, its label:

    path,label
    birds/1.jpg,bird
    more/dogs/7.png,dog

The first line may be that header. All lines have a label column, or none. Labels that are all whole numbers are the
classes; otherwise they are names, and classes are the ranks of the sorted names. An empty label is no class. What a
store records is the digest of paths, classes and sizes, as of every data set: neither FILE nor where it lies.
"""

import csv
import re
from io import TextIOWrapper
from pathlib import Path, PurePosixPath

from backdrop.bounded_files import open_plain
from backdrop.errors import CorruptStore, UserError
from backdrop.stores.indexes.dataset_index import Listing
from backdrop.stores.indexes.given_keys import listing_of_keys

LAYOUT = "the images that the list names, with paths relative to it"
SOURCE = "your own images"
SPLITS: tuple[str, ...] = ()
ARGUMENT = "FILE"
DEFAULT_ROOT: Path | None = None
HEADER = ("path", "label")
MAX_LABEL = 2**31 - 1  # int32

_EXPECTED = "Expected: a path and, optionally, a label on each line, between them a comma (.csv) or a tab (others)"


def images(root: Path, split: str) -> Path:
    """Return the folder itself."""
    return root


def listing(root: Path, split: str, argument: str) -> Listing:
    """List the images that a file names.

    Args: argument: path of the list.
    Raises: UserError: the list cannot be read, is empty or inconsistent; a path is given twice, leads out of the
        folder, or is no file; a number that is no class.
    """
    file = Path(argument)
    label_of = _read(file)
    class_of, class_names = _classes(file, label_of)
    return listing_of_keys(root, class_of, class_names, named_by=f"the list {file}")


def _read(file: Path) -> dict[str, str]:
    """Key -> label as it is written, "" = none."""
    try:
        with TextIOWrapper(open_plain(file), encoding="utf-8-sig", newline="") as text:
            is_csv = file.suffix.lower() == ".csv"
            reader = (
                csv.reader(text, strict=True) if is_csv else csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
            )
            lines = [(reader.line_num, [field.strip() for field in fields]) for fields in reader]
    except OSError as error:
        raise UserError(f"the list {file} cannot be read: {error.strerror}. Give list:FILE.") from error
    except CorruptStore as error:
        raise UserError(f"the list {error}. Give list:FILE.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"the list {file} is no text in UTF-8 of that form: {error}. {_EXPECTED}") from error
    lines = [(number, fields) for number, fields in lines if any(fields)]
    if lines and tuple(field.lower() for field in lines[0][1]) in (HEADER, HEADER[:1]):
        num_columns = len(lines.pop(0)[1])
    else:
        num_columns = len(lines[0][1]) if lines else 1
    if not lines:
        raise UserError(f"the list {file} names no image. {_EXPECTED}")
    label_of: dict[str, str] = {}
    for number, fields in lines:
        where = f"line {number} of the list {file}"
        if len(fields) != num_columns or num_columns > len(HEADER):
            raise UserError(f"{where} has {len(fields)} columns, its first {num_columns}. {_EXPECTED}")
        key = _key(fields[0], where)
        if key in label_of:
            raise UserError(f"{where} names {key} a second time: give every image once")
        label_of[key] = fields[1] if num_columns == len(HEADER) else ""
    return label_of


def _key(path: str, where: str) -> str:
    """A path as the key of a row: without "." and double slashes."""
    key = PurePosixPath(path)
    if not key.parts or key.is_absolute() or ".." in key.parts or "\0" in path:
        raise UserError(f"{where}: {path!r} is no path below the folder. Give one relative to --root, without '..'")
    return str(key)


def _classes(file: Path, label_of: dict[str, str]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Key -> class, and the names of the classes."""
    given = sorted({label for label in label_of.values() if label})
    if not all(re.fullmatch(r"-?[0-9]+", label) for label in given):
        rank = {name: number for number, name in enumerate(given)}
        return {key: rank.get(label, -1) for key, label in label_of.items()}, tuple(given)
    for label in given:
        if len(label) > len(str(MAX_LABEL)) or not 0 <= int(label) <= MAX_LABEL:
            raise UserError(
                f"the list {file} has the label {label}; allowed: 0 to {MAX_LABEL}, a name, or nothing for no class"
            )
    return {key: int(label) if label else -1 for key, label in label_of.items()}, ()
