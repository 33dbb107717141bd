"""Run the measurements named on the command line (default: all); write bench.json, bench-runs.jsonl and bench.html.

python -m tests.bench [detectors] [dense_crf] [stores] [sampler] [loader] [backgrounds] [trainer] [checkpoint]
    [processes] [evaluation]
"""

import json
import os
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path

import cli  # noqa: F401  it sets for torch what every command runs with, for all sides alike
from tests.bench import page, runs

# numpy's own threads would wait for each other on the one core that the measurements are given.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

BENCHES = (
    "detectors",
    "dense_crf",
    "stores",
    "sampler",
    "loader",
    "backgrounds",
    "trainer",
    "checkpoint",
    "processes",
    "evaluation",
)
OUT, PAGE = Path("bench.json"), Path("bench.html")


def main() -> None:
    """Measure, print a line per result, merge them into bench.json, draw the last runs."""
    chosen = sys.argv[1:] or BENCHES
    unknown = sorted(set(chosen) - set(BENCHES))
    if unknown:
        sys.exit(f"no measurement {', '.join(unknown)}; there are: {', '.join(BENCHES)}")
    failed = [name for name in chosen if not _is_measured(name)]
    if runs.RUNS.exists():
        PAGE.write_text(page.bench_page(runs.kept()))
        print(f"page: {PAGE}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the others were measured")


def _is_measured(name: str) -> bool:
    """Measure a section and keep what it gave; False where it failed, which ends no other."""
    clock = runs.Clock(name)
    try:
        with tempfile.TemporaryDirectory() as folder:
            measured = import_module(f"tests.bench.{name}").measure(Path(folder))
    except Exception:
        traceback.print_exc()
        return False
    for line, entry in measured.items():
        beside = "" if entry["peer"] is None else f"   peer {entry['peer']:.3g}   ratio {entry['ratio']:.2f}"
        print(f"{line:50s} {entry['value']:10.4g} {entry['unit']}{beside}", flush=True)
    run = clock.ended(measured)
    print(f"{name}: {run.seconds:.0f} s")
    runs.keep(run)
    OUT.write_text(json.dumps((json.loads(OUT.read_text()) if OUT.exists() else {}) | measured, indent=2) + "\n")
    return True


if __name__ == "__main__":
    main()
