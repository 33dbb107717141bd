"""The image files that a store was built from, read for its .beton, each known to be the one that was."""

import os
from dataclasses import dataclass
from pathlib import Path

from backdrop.errors import UserError
from backdrop.stores.format.reader import Store
from backdrop.stores.images.image_codec import sha256
from backdrop.stores.indexes.dataset_index import Archive, read_listed

# How far the clock of a file server may be off ours.
CLOCKS_APART_S = 600.0


@dataclass(frozen=True, kw_only=True)
class HashedImages:
    """The images of a store.

    root: the folder that keys are relative to. archive: where images are read that are no files of their own.
    hashed_since: seconds since 1970, after which the build on this machine hashed all of them; a file that has not been
    touched since is not hashed again. None = each is.
    """

    store: Store
    root: Path
    archive: Archive | None = None
    hashed_since: float | None = None

    def read(self, row: int) -> bytes:
        """Return the bytes of a row's image file.

        Raises: UserError: it is not there any more, or not the one the store was built from.
        """
        key = self.store.key(row)
        path = self.root / key
        data = read_listed(path, size_bytes=1) if self.archive is None else self.archive.read(key)
        if not self._is_untouched(path) and sha256(data) != bytes(self.store.source_sha256(row)):
            raise UserError(
                f"row {row}, {key}: the image file is not the one the store {self.store.path} was built from; "
                "restore the file, or build the store again"
            )
        return data

    def _is_untouched(self, path: Path) -> bool:
        """Whether the file system has noted no change since the image was hashed; nothing but it sets that time."""
        if self.hashed_since is None or self.archive is not None:
            return False
        return os.stat(path).st_ctime < self.hashed_since - CLOCKS_APART_S
