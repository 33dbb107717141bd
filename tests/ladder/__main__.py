"""Make the ladder's tables in the documents from the kept cells, after taking in newly measured ones.

python cli.py saliency ladder --detector artifacts/detector --json ladder-result.json
python -m tests.ladder ladder-result.json --name "artifacts/detector=saliency train --preset small"
"""

import argparse
import json
from pathlib import Path

from backdrop.durable_files import write_aside
from backdrop.saliency.scoring.ladder import Cell
from tests.ladder.tables import documents, keep, kept_cells

parser = argparse.ArgumentParser(description="Tables of saliency/DETECTORS.md and README.md.")
parser.add_argument("result", type=Path, nargs="?", help="What `saliency ladder --json FILE` wrote.")
parser.add_argument("--name", action="append", default=[], help="DETECTOR=NAME: its name in the documents.")

if __name__ == "__main__":
    given = parser.parse_args()
    if given.result:
        cells = [Cell(**cell) for cell in json.loads(given.result.read_bytes())["cells"]]
        keep(cells, dict(pair.split("=", 1) for pair in given.name))
    for path, text in documents(kept_cells()).items():
        write_aside(path, text.encode())
