"""What a probe adds to the work that it cannot do without: decoding and the forward pass, or the matrix products."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from backdrop.stores.images.image_codec import decode_rgb
from backdrop.stores.images.imagenet_statistics import IMAGENET_MEAN, IMAGENET_STD
from backdrop.trainer.backbones import build_backbone
from backdrop.trainer.evaluation.data.images import Images
from backdrop.trainer.evaluation.data.transforms import resize_and_crop, standard
from backdrop.trainer.evaluation.probing.features import BATCH_SIZE, FeatureFile, features_of
from backdrop.trainer.evaluation.probing.probe import Fit, Schedule, epoch_batches, fit, new_head, on_device
from backdrop.trainer.parts import nearest_neighbours
from tests.bench.photographs import write_dataset
from tests.bench.timing import one_core, row

NUM_IMAGES = 256
# A fiftieth of ImageNet's training images, and queries for them.
NUM_TRAIN, NUM_TEST, NUM_FEATURES = 25_600, 1_024, 2_048
# All of them, and as many queries as take a minute.
NUM_IMAGENET, NUM_QUERIES = 1_281_167, 64
NUM_ROWS, STEP_ROWS, NUM_CLASSES = 4_096, 1_024, 1_000
ROUNDS = 5
_BLOCK_ROWS = 8_192
CPU = torch.device("cpu")


def measure(folder: Path) -> dict[str, dict]:
    """Return `evaluation.*`; ours and the peer take turns, so that a busy minute slows both."""
    with one_core():
        return _extraction(folder) | _epoch(folder) | _neighbours(folder) | _all_of_imagenet(folder)


def _in_turn(ours: Callable[[int], None], peer: Callable[[int], None]) -> tuple[float, float]:
    """Return the least seconds of each, of turns in which now the one and now the other goes first."""
    best = [float("inf"), float("inf")]
    for turn in range(ROUNDS + 1):
        pair = ((0, ours), (1, peer))
        for number, work in pair if turn % 2 else reversed(pair):
            begun = time.perf_counter()
            work(turn)
            if turn:  # the first is to warm up
                best[number] = min(best[number], time.perf_counter() - begun)
    return best[0], best[1]


def _extraction(folder: Path) -> dict[str, dict]:
    write_dataset(folder, NUM_IMAGES)
    keys = tuple(f"{number:04d}.jpg" for number in range(NUM_IMAGES))
    backbone = build_backbone("resnet18").eval()
    mean_C11, std_C11 = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))

    def ours(turn: int) -> None:
        features_of(
            backbone, Images(folder / "images", keys, np.zeros(len(keys), np.int64)), standard(),
            file=FeatureFile(folder=folder / "kept", name="bench"), identity=(str(turn),), device=CPU,
        )  # fmt: skip

    def plain(turn: int) -> None:
        with torch.inference_mode():
            for start in range(0, NUM_IMAGES, BATCH_SIZE):
                files = [folder / "images" / key for key in keys[start : start + BATCH_SIZE]]
                images = [resize_and_crop(decode_rgb(file.read_bytes()), 224) for file in files]
                image_BCHW = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
                backbone((image_BCHW - mean_C11) / std_C11)

    ours_s, plain_s = (NUM_IMAGES / seconds for seconds in _in_turn(ours, plain))
    what = "features of 500x375 JPEGs, ResNet-18, one core, kept on disk; peer: decode, cut, forward and nothing else"
    return {"evaluation.linear_extraction_vs_forward": row(
        ours_s, "img/s", peer=plain_s, ratio=ours_s / plain_s, what=what
    )}  # fmt: skip


def _epoch(folder: Path) -> dict[str, dict]:
    rng = np.random.default_rng(0)
    feature_ND = np.memmap(folder / "features", np.float16, "w+", shape=(NUM_ROWS, NUM_FEATURES))
    feature_ND[:] = rng.random((NUM_ROWS, NUM_FEATURES), dtype=np.float32)
    label_N = rng.integers(0, NUM_CLASSES, NUM_ROWS)
    schedule = Schedule(epochs=1, batch_size=STEP_ROWS, lr=0.1)

    def ours(turn: int) -> None:
        head = new_head(NUM_FEATURES, NUM_CLASSES, init_std=0.01, seed=0)
        state = Fit(model=head, groups=[{"params": list(head.parameters()), "lr_factor": 1.0}])
        steps = epoch_batches(np.arange(NUM_ROWS), schedule, seed=0, epoch=turn)
        batches = on_device(((feature_ND[rows], label_N[rows]) for rows in steps), CPU)
        path = folder / f"fit-{turn}"
        fit(state, schedule, lambda epoch: batches, lambda: first, num_rows=NUM_ROWS, path=path)

    first = list(on_device([(feature_ND[:8], label_N[:8])], CPU))
    dense_ND = torch.from_numpy(np.asarray(feature_ND, dtype=np.float32))
    weight_CD, error_NC = torch.randn(NUM_CLASSES, NUM_FEATURES), torch.randn(NUM_ROWS, NUM_CLASSES)

    def products(turn: int) -> None:
        for start in range(0, NUM_ROWS, STEP_ROWS):
            feature_BD, error_BC = dense_ND[start : start + STEP_ROWS], error_NC[start : start + STEP_ROWS]
            _ = feature_BD @ weight_CD.T, error_BC.T @ feature_BD

    ours_s, products_s = (NUM_ROWS / seconds for seconds in _in_turn(ours, products))
    what = "rows of 2,048 kept features through one epoch of 1,000 classes, its state written; peer: the products alone"
    return {"evaluation.linear_epoch_vs_products": row(
        ours_s, "rows/s", peer=products_s, ratio=ours_s / products_s, what=what
    )}  # fmt: skip


def _neighbours(folder: Path) -> dict[str, dict]:
    rng = np.random.default_rng(0)
    train, test = (_unit_features(folder / name, num, rng) for name, num in (("train", NUM_TRAIN), ("test", NUM_TEST)))

    def ours(turn: int) -> None:
        nearest_neighbours.top_accuracies(train, test, num_classes=NUM_CLASSES, k=(20, 200), temperature=0.07)

    test_MD = test.feature_ND.float()

    def products(turn: int) -> None:
        for start in range(0, NUM_TRAIN, 4096):
            _ = test_MD @ train.feature_ND[start : start + 4096].float().T

    ours_s, products_s = (NUM_TEST / seconds for seconds in _in_turn(ours, products))
    what = f"queries against {NUM_TRAIN:,} rows of {NUM_FEATURES:,}, k 20 and 200; peer: the similarities alone"
    return {"evaluation.knn_vs_products": row(
        ours_s, "queries/s", peer=products_s, ratio=ours_s / products_s, what=what
    )}  # fmt: skip


def _all_of_imagenet(folder: Path) -> dict[str, dict]:
    """Memory and time where the training features are as many as ImageNet's: 5.2 GB on disk, made and deleted here."""
    rng, path = np.random.default_rng(1), folder / "imagenet"
    train, test = _unit_features(path, NUM_IMAGENET, rng), _unit_features(folder / "queries", NUM_QUERIES, rng)
    begun = time.perf_counter()
    with _peak_memory() as grown_bytes:
        nearest_neighbours.top_accuracies(train, test, num_classes=NUM_CLASSES, k=(20, 200), temperature=0.07)
    taken_s = time.perf_counter() - begun
    path.unlink()
    whole = NUM_IMAGENET * NUM_FEATURES * 4
    what = f"{NUM_QUERIES} queries against {NUM_IMAGENET:,} rows of {NUM_FEATURES:,}, k 20 and 200, once"
    memory = f"{what}: growth of the process without its mapped files; peer: the training features as float32"
    return {
        "evaluation.knn_imagenet_s": row(taken_s, "s", what=what),
        "evaluation.knn_imagenet_memory_mib": row(
            grown_bytes[0] / 2**20, "MiB", peer=whole / 2**20, ratio=grown_bytes[0] / whole, what=memory
        ),
    }


def _unit_features(path: Path, num: int, rng: np.random.Generator) -> nearest_neighbours.Features:
    """Rows of unit length, in a file; further blocks are the first one with its columns turned."""
    feature_ND = np.memmap(path, np.float16, "w+", shape=(num, NUM_FEATURES))
    values = torch.from_numpy(rng.standard_normal((min(_BLOCK_ROWS, num), NUM_FEATURES), dtype=np.float32))
    block_ND = nn.functional.normalize(values, dim=1).half().numpy()
    for number, start in enumerate(range(0, num, _BLOCK_ROWS)):
        feature_ND[start : start + _BLOCK_ROWS] = np.roll(block_ND, number, axis=1)[: num - start]
    label_N = torch.from_numpy(rng.integers(0, NUM_CLASSES, num))
    return nearest_neighbours.Features(feature_ND=torch.from_numpy(feature_ND), label_N=label_N, corrupt=())


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """Give a list whose one number is, at the end, by how many bytes the process's own memory grew at most."""
    grown, is_done = [0], threading.Event()
    start = _own_bytes()

    def watch() -> None:
        while not is_done.wait(0.005):
            grown[0] = max(grown[0], _own_bytes() - start)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield grown
    finally:
        is_done.set()
        watcher.join()


def _own_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
