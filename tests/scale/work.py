"""What a stage does that is no command of the product: `python -m tests.scale.work STAGE ...`.

Each imports what it needs itself: a stage's time and memory are not to be those of torch where it has none.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from backdrop.stores.format.reader import open_store

NUM_CLASSES = 1000
NUM_EPOCHS = 800
BATCH_SIZE = 256
SAMPLE = 2048  # rows of an epoch, and rows read one by one
NUM_FEATURES = 512
NUM_TEST = 1024


def link(rows: str, out: str, *sources: str) -> None:
    """Give the photographs new names in 1,000 class folders, as images and masks; hard links, or copies."""
    pairs = [
        (image, Path(source) / "masks" / f"{image.stem}.png")
        for source in sources
        for image in sorted((Path(source) / "images").iterdir())
    ]
    pairs = [(image, mask) for image, mask in pairs if mask.exists()]
    local = Path(out) / "photographs"  # a link cannot lead to another disk, and would give a mount away
    local.mkdir(parents=True, exist_ok=True)
    for number, pair in enumerate(pairs):
        for file in pair:
            if not (copy := local / f"{number}{file.suffix}").exists():
                shutil.copyfile(file, copy)
    for name in range(min(NUM_CLASSES, int(rows))):
        for kind in ("images", "masks"):
            (Path(out) / kind / f"n{name:08d}").mkdir(parents=True, exist_ok=True)
    for row in range(int(rows)):
        number, key = row % len(pairs), f"n{row % NUM_CLASSES:08d}/n{row % NUM_CLASSES:08d}_{row // NUM_CLASSES}"
        for kind, file in zip(("images", "masks"), pairs[number], strict=True):
            with suppress(FileExistsError):
                os.link(local / f"{number}{file.suffix}", Path(out) / kind / f"{key}{file.suffix}")


def s3(store: str, out: str) -> None:
    """Publish to a server of this machine and pull from there, by the product's commands."""
    from tests.material.s3_server import BUCKET, S3Server, environment

    with tempfile.TemporaryDirectory() as folder:
        server, url = S3Server(Path(folder) / "log"), f"s3://{BUCKET}/rows"
        try:
            for words in (("publish", store, url), ("pull", url, "--out", out)):
                command = [sys.executable, "cli.py", "store", *words, "--quiet"]
                subprocess.run(command, check=True, env={**os.environ, **environment(server.port)})
        finally:
            server.stop()


def open_(store: str) -> None:
    """Open the store, read its columns, its keys, and some rows in no order."""
    opened = open_store(Path(store))
    assert opened.status.min() == 0
    assert len(opened.class_names) == min(NUM_CLASSES, opened.num_rows)
    for row in np.random.default_rng(0).integers(opened.num_rows, size=SAMPLE).tolist():
        opened.mask(row)
        opened.background_jpeg(row)


def epoch(store: str) -> None:
    """Go through one epoch of some rows of all, with two views of 224 px and random backgrounds."""
    from backdrop.pipeline.beton.beton_of_store import StoreSource, beton_of
    from backdrop.pipeline.loader.loader import Loader
    from backdrop.pipeline.loader.loader_options import LoaderOptions
    from backdrop.pipeline.views.view_plan import Background, View, ViewPlan

    source = beton_of(StoreSource(store=Path(store)))
    plan = ViewPlan(views=(View(size_px=224),) * 2, background=Background(name="random", probability=0.2))
    num_rows = open_store(Path(store)).num_rows
    rows = np.sort(np.random.default_rng(1).permutation(num_rows)[:SAMPLE])
    options = LoaderOptions(batch_size=min(BATCH_SIZE, len(rows)), seed=0, rows=rows, bad_rows="skip")
    loader = Loader(source, plan, options)
    try:
        assert sum(1 for _ in loader.epoch(0)) == loader.num_batches > 0
    finally:
        loader.close()


def log(rows: str, run: str) -> None:
    """Make up the log of 800 epochs at batch 256."""
    from tests.material.long_logs import write_log

    Path(run).mkdir(parents=True, exist_ok=True)
    write_log(Path(run) / "metrics.jsonl", NUM_EPOCHS * max(1, int(rows) // BATCH_SIZE))


def resume(run: str) -> None:
    """What a run does with its log when it is started again just before its end, and a report with it."""
    from backdrop.trainer.run import metrics_log

    last = metrics_log.last_metrics(Path(run))
    assert last is not None
    metrics_log.drop_metrics_from(Path(run), last["step"] - 100)
    records, _ = metrics_log.sampled_metrics(Path(run))
    assert records[-1]["step"] == last["step"] - 101


def features(rows: str, file: str) -> None:
    """Make up features of unit length around a centre for each class, float16, a chunk at a time."""
    import torch

    def seeded(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    centres = torch.nn.functional.normalize(torch.randn(NUM_CLASSES, NUM_FEATURES, generator=seeded(0)), dim=1)
    made = np.lib.format.open_memmap(file, "w+", np.float16, (int(rows) + NUM_TEST, NUM_FEATURES))
    for start in range(0, len(made), 8192):
        stop = min(start + 8192, len(made))
        near = centres[torch.arange(start, stop) % NUM_CLASSES]
        near = near + 0.1 * torch.randn(near.shape, generator=seeded(start + 1))
        made[start:stop] = torch.nn.functional.normalize(near, dim=1).half().numpy()
    made.flush()


def knn(file: str) -> None:
    """Score the last of the features by the neighbours among the others."""
    import torch

    from backdrop.trainer.parts.nearest_neighbours import Features, top_accuracies

    made = torch.from_numpy(np.load(file, mmap_mode="c"))
    label = torch.arange(len(made)) % NUM_CLASSES
    sets = [
        Features(feature_ND=made[part], label_N=label[part], corrupt=())
        for part in (slice(None, -NUM_TEST), slice(-NUM_TEST, None))
    ]
    found = top_accuracies(*sets, num_classes=NUM_CLASSES, k=(20, 200), temperature=0.07)
    assert all(0 <= top1 <= top5 <= 100 for top1, top5 in found)


STAGES: tuple[Callable[..., None], ...] = (link, s3, open_, epoch, log, resume, features, knn)
WORK = {stage.__name__.rstrip("_"): stage for stage in STAGES}

if __name__ == "__main__":
    WORK[sys.argv[1]](*sys.argv[2:])
