"""Train and score every cell that study.csv lacks, and print the table.

python -m tests.study [--data NAME] [--masks NAME] [--seeds 0,1,2] [--plan] [--scenes DIR] [--folder DIR] [--workers N]

The plan and an estimate of its time come first. A finished cell is a row of the file at once; killed, the same command
goes on with the cells that are not there yet.
"""

import os
import platform
from concurrent.futures import as_completed
from pathlib import Path

import click
import torch

import cli  # noqa: F401  it sets for torch what every command runs with
from backdrop.progress import stage_bar, warn
from tests.study import data, table
from tests.study.cells import CELLS, SEEDS, Cell
from tests.study.trial import timed_trial
from tests.study.workers import worker_pool

ROWS = Path(__file__).parents[1] / "golden" / "study.csv"
FOLDER = Path("artifacts/study")
MASKS = tuple(dict.fromkeys(cell.masks for cell in CELLS))
SCENES = Path("../shared/data/scenes-with-masks")
# Minutes of one core that a cell took where the first rows were made, on a CPU with bf16: for the estimate alone.
MINUTES = {"moco": 1.5, "cast": 4.0, "byol": 2.5, "swav": 4.0}


@click.command()
@click.option("--data", "names", multiple=True, type=click.Choice(data.NAMES), help="Only these. Default: all.")
@click.option("--masks", multiple=True, type=click.Choice(MASKS), help="Only these. Default: all.")
@click.option("--seeds", default=",".join(map(str, SEEDS)), show_default=True, help="Comma-separated.")
@click.option("--plan", is_flag=True, help="Only say what would be done.")
@click.option("--scenes", type=click.Path(path_type=Path), default=SCENES, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True, help="Data and stores.")
@click.option("--workers", type=click.IntRange(min=1), default=None, help="Default: one per core, with a GPU too.")
def main(
    names: tuple[str, ...],
    masks: tuple[str, ...],
    seeds: str,
    plan: bool,
    scenes: Path,
    folder: Path,
    workers: int | None,
) -> None:
    """Do masks help? Train and score every cell of the study, and print the table."""
    workers = workers or os.cpu_count() or 1
    chosen = [cell for cell in CELLS if cell.data in (names or data.NAMES) and cell.masks in (masks or MASKS)]
    todo = _missing([int(seed) for seed in seeds.split(",")], chosen)
    minutes = sum(MINUTES[cell.method] for cell, _ in todo) / workers
    click.echo(f"{len(todo)} runs to do, {workers} at a time: about {minutes:.0f} minutes on CPU cores with bf16")
    for cell in dict.fromkeys(cell for cell, _ in todo):
        click.echo(f"  {cell.data:12s} {cell.name:16s} {cell.size_px} px, masks {cell.masks}")
    if not plan:
        _run_all(todo, folder, scenes, workers)
    click.echo(table.markdown(table.read_rows(ROWS)))


def _missing(seeds: list[int], cells: list[Cell]) -> list[tuple[Cell, int]]:
    """Cells without a row: a seed of all cells before the next seed, so that every comparison is there early."""
    there = {tuple(row[name] for name in (*table.KEY, "seed")) for row in table.read_rows(ROWS)}
    return [(cell, seed) for seed in seeds for cell in cells if (*_key(cell), str(seed)) not in there]


def _key(cell: Cell) -> tuple[str, ...]:
    """A cell's values of the table's key."""
    return cell.data, cell.name, str(cell.size_px), cell.masks


def _run_all(todo: list[tuple[Cell, int]], folder: Path, scenes: Path, workers: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    roots = {name: data.prepared(name, folder, scenes) for name in dict.fromkeys(cell.data for cell, _ in todo)}
    for name, masks, split in _stores(todo):
        data.build_if_absent(roots[name], masks, split)
    with (
        worker_pool(workers) as pool,
        stage_bar(total=len(todo), stage="study", unit="run") as bar,
    ):
        jobs = {pool.submit(timed_trial, cell, seed, roots[cell.data], folder): (cell, seed) for cell, seed in todo}
        num_failed = 0
        for job in as_completed(jobs):
            bar.update()
            if job.exception() is not None:  # the others go on
                num_failed += 1
                warn(f"{jobs[job]} failed: {job.exception()!r}")
                continue
            table.add_row(ROWS, job.result() | {"hardware": _hardware(workers)})
    if num_failed:
        raise click.ClickException(f"{num_failed} runs failed; the same command tries them again")


def _stores(todo: list[tuple[Cell, int]]) -> list[tuple[str, str, str]]:
    """(data, masks, split) of every store that the runs and their scores read."""
    needed = [(cell.data, cell.masks, "train") for cell, _ in todo]
    return list(dict.fromkeys([*needed, *((cell.data, "true", "val") for cell, _ in todo)]))


def _hardware(workers: int) -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name().replace(",", " ")
    return f"{os.cpu_count()} CPU cores ({platform.machine()}) with {workers} runs at a time"


if __name__ == "__main__":
    main()
