"""Run the measurements named on the command line (default: all) and write bench.json.

python -m tests.bench [detectors] [dense_crf] [stores] [sampler] [loader] [backgrounds] [trainer] [checkpoint]
    [processes] [evaluation]
"""

import json
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import cli  # noqa: F401  it sets for torch what every command runs with, for all sides alike

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
OUT = Path("bench.json")


def main() -> None:
    """Measure, print a line per result, merge them into bench.json."""
    chosen = sys.argv[1:] or BENCHES
    unknown = sorted(set(chosen) - set(BENCHES))
    if unknown:
        sys.exit(f"no measurement {', '.join(unknown)}; there are: {', '.join(BENCHES)}")
    results = json.loads(OUT.read_text()) if OUT.exists() else {}
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            measured = import_module(f"tests.bench.{name}").measure(Path(folder))
        for line, entry in measured.items():
            beside = "" if entry["peer"] is None else f"   peer {entry['peer']:.3g}   ratio {entry['ratio']:.2f}"
            print(f"{line:50s} {entry['value']:10.4g} {entry['unit']}{beside}")
        results.update(measured)
        OUT.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
