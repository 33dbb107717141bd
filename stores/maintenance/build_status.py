"""How far a build has come: what lies in the store, and from the log beside it how fast that came about."""

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from backdrop.stores.format import schema
from backdrop.stores.format.provenance import log_path
from backdrop.stores.format.writer import missing_parts, num_parts, read_attributes, rows_of_part, staging_folder
from backdrop.stores.maintenance.merge import ranges

# Events that say that parts are about to be written; "workers" and "engine" stand in them, where there are any.
BEGINNINGS = ("started", "merge started")


def status(path: Path | str) -> dict:
    """Count what is done and what is missing of a store, and estimate how long the rest takes.

    The speed is that of the last build that began: rows of the parts that came since, over the time until the last of
    them. Whether somebody is building now cannot be known without locks; `seconds_since_last_part` tells.

    Args:
        path: folder of the store, half built or finished.

    Returns:
        Plain JSON values: store, complete; parts and rows (total, done, missing), missing_parts as ranges "3-5, 9";
        failed_parts (part -> reason, of the last build that failed, if they are still missing); stages (parts being
        written, or left by a kill); rows_per_second, seconds_since_last_part and seconds_left, None where unknown;
        last_event; damaged_log_lines (cut off by a kill).

    Raises:
        UserError: there is no store.
        CorruptStore: its metadata are damaged.
    """
    path = Path(path)
    attributes = read_attributes(path)
    missing = missing_parts(path)
    total, rows_missing = attributes["num_rows"], sum(len(rows_of_part(attributes, part)) for part in missing)
    events, num_damaged = _events(path)
    speed, seconds_since = _speed(path, attributes, missing, events)
    left = rows_missing / speed if speed else None
    return {
        "store": str(path),
        "complete": (path / schema.MANIFEST).exists(),
        "parts": _counts(num_parts(attributes), len(missing)),
        "rows": _counts(total, rows_missing),
        "missing_parts": ranges(missing),
        "failed_parts": _failed(events, missing),
        "stages": sum(1 for _ in staging_folder(path).glob("part-*")),
        "rows_per_second": speed and round(speed, 2),
        "seconds_since_last_part": seconds_since and round(seconds_since, 1),
        "seconds_left": 0.0 if not missing else left and round(left, 1),
        "last_event": events[-1] if events else None,
        "damaged_log_lines": num_damaged,
    }


def _counts(total: int, missing: int) -> dict[str, int]:
    return {"total": total, "done": total - missing, "missing": missing}


def _events(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines of the log, and how many cannot be read: a kill or a full disk may cut a line off anywhere."""
    if not log_path(path).exists():
        return [], 0
    events, num_damaged = [], 0
    for line in log_path(path).read_bytes().splitlines():
        try:
            event = json.loads(line)
            events.append({**event, "seconds": _seconds(event["time"]), "event": str(event["event"])})
        except (ValueError, KeyError, TypeError):
            num_damaged += 1
    return events, num_damaged


def _seconds(written: str) -> float:
    return datetime.strptime(written, "%Y-%m-%dT%H:%M:%S%z").timestamp()


def _speed(path: Path, attributes: dict, missing: list[int], events: list[dict]) -> tuple[float | None, float | None]:
    """Rows per second since the last build began, and seconds since its last part; None where no part came since."""
    beginnings = [event["seconds"] for event in events if event["event"] in BEGINNINGS]
    if not beginnings:
        return None, None
    began, num_rows, last = beginnings[-1], 0, 0.0
    absent = set(missing)
    for part in range(num_parts(attributes)):
        if part not in absent:
            written = (path / schema.PARTS / schema.part_name(part) / schema.RECEIPT).stat().st_mtime
            if written >= began:
                num_rows, last = num_rows + len(rows_of_part(attributes, part)), max(last, written)
    if not num_rows:
        return None, None
    # The log counts whole seconds: a build may have begun up to one after what it says.
    return num_rows / max(last - began, 1.0), max(0.0, time.time() - last)


def _failed(events: list[dict], missing: list[int]) -> dict[str, str]:
    """Why the parts that are still missing failed when they were last tried, the last line of each reason."""
    reasons: dict[str, str] = {}
    for event in events:
        if event["event"] == "failed":
            reasons |= event.get("parts", {})
    return {str(part): reasons[str(part)].strip().splitlines()[-1] for part in missing if reasons.get(str(part))}
