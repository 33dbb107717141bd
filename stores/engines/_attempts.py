"""What has become of each part: its receipt, or how often it failed and why; one rule for every engine."""

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from backdrop.disk_errors import TOO_MANY_FILES, too_many_open_files
from backdrop.errors import PartsFailed, UserError
from backdrop.stores.engines import RunPart

MAX_ATTEMPTS = 3


@dataclass
class Attempts:
    """The books of one run; whoever waits for the workers keeps them."""

    receipts: dict[int, dict] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    failures: dict[int, int] = field(default_factory=dict)
    failed_starts: int = 0

    def done(self, part: int, receipt: dict) -> None:
        """Note that a part is computed."""
        self.receipts[part] = receipt

    def failed(self, part: int, how: str) -> bool:
        """Note that a part failed; whether it is to be tried again."""
        self.failures[part] = self.failures.get(part, 0) + 1
        if self.failures[part] < MAX_ATTEMPTS:
            return True
        self.give_up(part, how)
        return False

    def give_up(self, part: int, how: str) -> None:
        """Note that a part failed as often as it may."""
        self.errors[part] = how

    def started(self) -> None:
        """Note that a worker came to life."""
        self.failed_starts = 0

    def failed_to_start(self, how: str) -> None:
        """Note that a worker ended before its first part.

        Raises:
            UserError: so did the last few, and none came to life in between: the next would not either.
        """
        self.failed_starts += 1
        if self.failed_starts >= MAX_ATTEMPTS:
            raise UserError(f"no worker can be started: {how.strip()}")

    def outcome(self, parts: Iterable[int]) -> list[dict]:
        """The receipts, in the order of `parts`.

        Raises:
            PartsFailed: there are parts that failed too often.
        """
        if self.errors:
            raise PartsFailed(self._message(), self.errors)
        return [self.receipts[part] for part in parts]

    def _message(self) -> str:
        lines = [f"part {part}: {how.strip()}" for part, how in sorted(self.errors.items())]
        return (
            f"{len(lines)} of {len(lines) + len(self.receipts)} parts failed {MAX_ATTEMPTS} times; the others are "
            "done. The same command tries those again.\n" + "\n".join(lines[:5]) + ("\n..." if len(lines) > 5 else "")
        )


def attempt(run_part: RunPart, spec: object, part: int, rows_done: Callable[[int], None]) -> tuple[str, Any]:
    """Compute a part, in a worker.

    Returns:
        "done" and the receipt, "user error" and its message, which ends everything, or "error" and the traceback.
    """
    try:
        return "done", run_part(spec, part, rows_done)
    except UserError as error:
        return "user error", str(error)
    except OSError as error:
        if error.errno in TOO_MANY_FILES:
            return "user error", str(too_many_open_files())
        return "error", traceback.format_exc()
    except Exception:  # one part's failure must not end the others: it is tried again, then reported
        return "error", traceback.format_exc()
