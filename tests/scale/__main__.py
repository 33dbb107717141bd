"""Run every stage at a number of rows, measure it, and compare with the runs at other numbers that are kept.

BACKDROP_DATA=/data python -m tests.scale --rows 20000 --out /scratch/scale     # the same command goes on where it was
python -m tests.scale --keep /scratch/scale                                     # its rows into scale.jsonl and COSTS.md

Photographs are linked under new names, so that N of them take no more room than the few that there are; the store and
the .beton are of N rows. 1.28 million rows take about two hours on two cores and 100 GB.
"""

import argparse
import sys
from pathlib import Path

from backdrop.durable_files import write_aside
from tests.scale import growth, table
from tests.scale.measured import measure
from tests.scale.stages import stages

parser = argparse.ArgumentParser(description="Measure every stage of a data set of N rows.")
parser.add_argument("--rows", type=int, help="How many photographs the data set shall have.")
parser.add_argument("--out", type=Path, help="Folder of the run; has images, store, .beton and rows.jsonl afterwards.")
parser.add_argument("--photographs", type=Path, help="Has images/ and masks/. Default: BACKDROP_DATA's with masks.")
parser.add_argument("--only", action="append", help="Run this stage alone; may be repeated. It finds what it needs.")
parser.add_argument("--keep", type=Path, help="Instead: keep what was measured in this folder, make the table anew.")


def run(rows: int, out: Path, photographs: Path | None, only: list[str] | None) -> list[dict]:
    """Run the stages, or some alone, that have no row yet in out/rows.jsonl, one after another; all rows of the run."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "rows.jsonl"
    done = table.read_rows(file) if file.exists() else []
    chosen = [stage for stage in stages(rows, out, photographs) if only is None or stage[0] in only]
    for name, command in chosen:
        if name not in [row["stage"] for row in done]:
            done.append(measure(name, rows, command))
            write_aside(file, table.lines(done))
        print(table.line_of(done[[row["stage"] for row in done].index(name)]), flush=True)
    return done


def main() -> int:
    """Measure or keep; 1 where something grows faster than rows, or a process takes more memory than it may."""
    given = parser.parse_args()
    kept = table.read_rows(table.KEPT)
    if given.keep:
        kept = table.with_rows(kept, table.read_rows(given.keep / "rows.jsonl"))
        write_aside(table.KEPT, table.lines(kept))
        write_aside(table.COSTS, table.with_table(table.COSTS.read_text(), kept))
    else:
        if given.rows is None or given.out is None:
            parser.error("give --rows and --out, or --keep")
        kept = table.with_rows(kept, run(given.rows, given.out, given.photographs, given.only))
    complaints = growth.complaints(kept)
    print(*complaints, sep="\n")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
