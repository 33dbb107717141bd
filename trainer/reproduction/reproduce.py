"""From what was asked for to the result's folder."""

from dataclasses import dataclass
from pathlib import Path

from backdrop.disk_errors import disk_errors
from backdrop.progress import note, warn
from backdrop.trainer.reproduction import result_folder
from backdrop.trainer.reproduction.execution import Workers, execute
from backdrop.trainer.reproduction.jobs import Wanted, jobs
from backdrop.trainer.reproduction.plan import Plan, plan, plan_text
from backdrop.trainer.reproduction.stores import Stores


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of it. page: the HTML. failed: run's name -> {"training" or an evaluation's name: why}."""

    page: Path
    markdown: str
    failed: dict[str, dict[str, str]]


def planned(wanted: Wanted, out: Path, stores: Path) -> Plan:
    """Return what `reproduce` would do; nothing is computed. Args: stores: where the stores of masks are."""
    return plan(jobs(wanted), out, _place(out, stores))


def reproduce(wanted: Wanted, out: Path, stores: Path, workers: Workers) -> Result:
    """Train what is missing, score it, fill the tables in; the same call goes on.

    Args: wanted: which tables. out: the result's folder. stores: where the stores of masks are, as
        <data>-train-<masks>.zarr. workers: who computes.
    Raises: UserError: no such table, row, scale or engine, a full disk. What fails in one row is said, and the others
        go on.
    """
    found = jobs(wanted)
    place = _place(out, stores)
    note(plan_text(plan(found, out, place)))
    with disk_errors(out):
        result_folder.keep(wanted, out)
        failed = execute(found, out, place, workers)
        return report(out, failed)


def report(out: Path, failed: dict[str, dict[str, str]] | None = None) -> Result:
    """Write the result anew from what is there; nothing is computed. Raises: UserError: `out` is no result."""
    with disk_errors(out):
        tables = result_folder.write(out)
    for name, reasons in (failed or {}).items():
        for what, why in reasons.items():
            warn(f"failed: {name}, {what}: {why}")
    return Result(page=out / result_folder.PAGE, markdown=result_folder.markdown(tables), failed=failed or {})


def _place(out: Path, stores: Path) -> Stores:
    return Stores(given=stores, own=out / "stores")
