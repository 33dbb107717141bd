"""Images that something names, a list or a store, instead of a scan of their folder."""

import os
from collections.abc import Mapping
from pathlib import Path

from backdrop.errors import UserError
from backdrop.stores.indexes.dataset_index import Listing


def listing_of_keys(
    folder: Path, class_of: Mapping[str, int], class_names: tuple[str, ...], *, named_by: str
) -> Listing:
    """List images by their keys.

    Args: folder: keys are relative to it. class_of: key -> class, -1 = none. named_by: what names them, for messages.
    Raises: UserError: one of them is no file.
    """
    found = [(key, _size_bytes(folder, key, named_by)) for key in class_of]
    return Listing(found=found, class_of=lambda key: class_of[key], class_names=class_names)


def _size_bytes(folder: Path, key: str, named_by: str) -> int:
    path = folder / key
    if not os.path.isfile(path):  # no error where it may not be looked at, or no file can have that name
        problem = "is not a file" if os.path.exists(path) else "does not exist"
        raise UserError(
            f"{path} {problem}, but {named_by} names it: give with --root the folder that its paths are relative to"
        )
    return path.stat().st_size
