"""The stages of a data set's way, each a command of its own, in the order in which they need each other."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

Stage = tuple[str, list[str]]
# A server of the tests keeps what is published in memory.
MOST_ROWS_ON_A_SERVER = 20_000
# Of the datasets in BACKDROP_DATA, those that have a true mask of every photograph.
WITH_MASKS = ("scenes-with-masks", "ecssd-dev", "pascal-s-dev", "sed2")


def stages(rows: int, out: Path, photographs: Path | None) -> Iterator[Stage]:
    """Name every stage and the command that runs it, as what follows `python`; each goes on where it was ended.

    Args: rows: of the data set. out: folder of the run. photographs: has images/ and masks/; None = BACKDROP_DATA's.
    """
    out = out.absolute()
    images, masks, store, pulled = (out / name for name in ("images", "masks", "rows.zarr", "pulled.zarr"))
    public = (out / "public").as_uri()
    build = ["--dataset", "folder", "--root", str(images), "--detector", f"masks:{masks}", "--background-px", "256"]
    yield "link", _work("link", str(rows), str(out), *map(str, _sources(photographs)))
    yield "build", _cli("build-store", *build, "--out", str(store), "--no-beton")
    yield "verify", _cli("store", "verify", str(store))
    yield "export", _cli("store", "export", str(store), "--root", str(images))
    yield "publish", _cli("store", "publish", str(store), public)
    yield "pull", _cli("store", "pull", public, "--out", str(pulled))
    if rows <= MOST_ROWS_ON_A_SERVER:
        yield "s3", _work("s3", str(store), str(out / "pulled-from-s3.zarr"))
    yield "open", _work("open", str(store))
    yield "epoch", _work("epoch", str(store))
    yield "log", _work("log", str(rows), str(out / "run"))
    yield "resume", _work("resume", str(out / "run"))
    yield "features", _work("features", str(rows), str(out / "features.npy"))
    yield "knn", _work("knn", str(out / "features.npy"))


def _sources(photographs: Path | None) -> list[Path]:
    if photographs is not None:
        return [photographs]
    if "BACKDROP_DATA" not in os.environ:
        sys.exit("give --photographs, or say in BACKDROP_DATA where the data sets lie")
    there = [Path(os.environ["BACKDROP_DATA"]) / name for name in WITH_MASKS]
    return [folder for folder in there if folder.is_dir()] or sys.exit(f"BACKDROP_DATA has none of {WITH_MASKS}")


def _cli(*words: str) -> list[str]:
    return ["cli.py", *words, "--quiet"]


def _work(*words: str) -> list[str]:
    return ["-m", "tests.scale.work", *words]
