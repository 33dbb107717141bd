"""SHA-256 of the files of a folder, kept with their sizes and times: a file is read again only where it was touched.

Kept in ARTIFACTS/digests, a table a folder, 72 bytes a file, mapped by whoever looks into it. It may be removed at any
time: the next look reads the files again.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backdrop.data_folders import ARTIFACTS
from backdrop.disk_errors import disk_errors
from backdrop.durable_files import locked, written_aside
from backdrop.progress import stage_bar, warn

_FILE_DTYPE = np.dtype(
    [("name", "<u8", 2), ("size", "<i8"), ("modified_ns", "<i8"), ("changed_ns", "<i8"), ("sha256", "u1", 32)]
)
# A file that was written just before it was read may be written again under the same time.
_CLOCK_NS = 2_000_000_000
_BAR_AFTER_S = 2.0


@dataclass(frozen=True)
class _Table:
    """What is kept. rows: (N,) of _FILE_DTYPE, mapped, by name. names: uint64 (N,), the first half of each name."""

    rows: np.ndarray
    names: np.ndarray

    @staticmethod
    def of_file(path: Path) -> "_Table":
        """Open the table; one without rows where there is none, or a damaged one."""
        try:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            rows = np.zeros(0, _FILE_DTYPE)
        rows = rows if rows.dtype == _FILE_DTYPE else np.zeros(0, _FILE_DTYPE)
        return _Table(rows, np.ascontiguousarray(rows["name"][:, 0]))

    def row(self, facts: np.ndarray) -> np.void | None:
        """Return the row of the file of this name, None where it has none."""
        place = int(np.searchsorted(self.names, facts["name"][0]))
        is_there = place < len(self.rows) and (self.rows["name"][place] == facts["name"]).all()
        return self.rows[place] if is_there else None


class KeptDigests:
    """The table of one folder; of several processes that fill it one does, the others wait."""

    def __init__(self, folder: Path) -> None:
        """Args: folder: whose files are meant; nothing is read."""
        self._folder = folder
        self._table: _Table | None = None
        name = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:32]
        self._table_path = (ARTIFACTS / "digests" / f"{name}.npy").absolute()

    def of_files(self, files: Sequence[Path]) -> np.ndarray:
        """Return the SHA-256 of files below the folder, uint8 (N, 32), reading those that were touched, and keep them.

        Raises: OSError: a file cannot be read. UserError: the disk is full.
        """
        try:
            self._table_path.parent.mkdir(parents=True, exist_ok=True)
            can_keep = os.access(self._table_path.parent, os.W_OK)
        except OSError:
            can_keep = False
        if not can_keep:
            warn(f"warning: each start reads {self._folder} again, for {self._table_path.parent} cannot be written")
        with locked(self._table_path.with_suffix(".lock")) if can_keep else nullcontext():
            return self._filled(files, can_keep)

    def _filled(self, files: Sequence[Path], can_keep: bool) -> np.ndarray:
        begun_ns, table, kept = time.time_ns(), _Table.of_file(self._table_path), np.zeros(len(files), _FILE_DTYPE)
        is_new = False
        bar = stage_bar(files, stage=f"read {self._folder.name}", unit="file", shown_after_s=_BAR_AFTER_S)
        for at, path in enumerate(bar):
            kept[at] = facts = self._facts(path)
            there = table.row(facts)
            if there is not None and _is_untouched(there, facts):
                kept[at] = there
            else:
                kept["sha256"][at] = np.frombuffer(hashlib.sha256(path.read_bytes()).digest(), np.uint8)
                is_new = True
        if can_keep and (is_new or len(table.rows) != len(files)):
            is_settled = np.maximum(kept["modified_ns"], kept["changed_ns"]) < begun_ns - _CLOCK_NS
            settled = kept[is_settled]
            with disk_errors(self._table_path), written_aside(self._table_path) as aside, aside.open("wb") as file:
                np.save(file, settled[np.argsort(settled["name"][:, 0], kind="stable")], allow_pickle=False)
        return kept["sha256"]

    def is_same(self, path: Path, data: bytes) -> bool:
        """Whether what was read of a file is what the table says; True where it says nothing of it."""
        self._table = self._table or _Table.of_file(self._table_path)
        there = self._table.row(self._name(path))
        return there is None or hashlib.sha256(data).digest() == there["sha256"].tobytes()

    def _name(self, path: Path) -> np.ndarray:
        facts = np.zeros((), _FILE_DTYPE)
        text = os.fsencode(path.relative_to(self._folder))
        facts["name"] = np.frombuffer(hashlib.sha256(text).digest()[:16], "<u8")
        return facts

    def _facts(self, path: Path) -> np.ndarray:
        facts, state = self._name(path), path.stat()
        facts["size"], facts["modified_ns"], facts["changed_ns"] = state.st_size, state.st_mtime_ns, state.st_ctime_ns
        return facts


def _is_untouched(kept: np.void, facts: np.ndarray) -> bool:
    return all(kept[name] == facts[name] for name in ("size", "modified_ns", "changed_ns"))
