"""CIFAR-10 and CIFAR-100: their pickles, read without running what a pickle may hold, and a linear classifier on them.

Ryali et al. 2021, A.8, Tables 17 and A26: SGD with momentum, 100 epochs, rate 0.08 for 256 images, 32 a step, cosine.
The paper leaves open how images are enlarged, what augments them, weight decay and BatchNorm; as in FAIR's VISSL,
images are resized to 224 and flipped, and nothing decays. Of each image there are two cuts only, so the features of
both are kept and an epoch is a pass over a file.

Legend: N images.
"""

import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from backdrop.errors import UserError
from backdrop.pipeline.views import random_streams
from backdrop.settings import SEEDS, at_least, check_settings, one_of
from backdrop.trainer.downstream_settings import Schedule
from backdrop.trainer.evaluation.data.images import ArrayImages
from backdrop.trainer.evaluation.data.transforms import resized_to_square
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import Subject, pretrained_backbone, weights_digest
from backdrop.trainer.evaluation.probing.features import FORMATS
from backdrop.trainer.evaluation.probing.frozen_backbone import Probing, fit_head

SIDE_PX = 32
NUM_TRAIN, NUM_TEST = 50_000, 10_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen."""

    epochs: Annotated[int, at_least(1), "Passes over the images"] = 100
    batch_size: Annotated[int, at_least(1), "Images a step"] = 32
    lr: Annotated[float, at_least(0), "Rate for 256 images a step: 0.01 for 32"] = 0.08
    weight_decay: Annotated[float, at_least(0), "L2 penalty of the classifier's weights"] = 0.0
    size_px: Annotated[
        int,
        at_least(1),
        "Side that the images of 32 px are resized to (VISSL; not stated in the paper)",
    ] = 224
    flip: Annotated[bool, "Whether half of the images are flipped in training"] = True
    dtype: Annotated[str, one_of(FORMATS), "Format of the features that are kept"] = "float16"
    seed: Annotated[int, SEEDS, "Of the classifier's weights, order and flips"] = 0
    score_epochs: Annotated[
        int,
        at_least(1),
        "The test images are scored after every so many epochs, and after the last",
    ] = 10


def evaluate(subject: Subject, train: ArrayImages, test: ArrayImages, options: Options, *, name: str) -> Result:
    """Fit a classifier and score it: top1, top5, best_top1, best_top5.

    Args: train, test: the images. name: of the evaluation.
    """
    check_settings(options)
    result = Result(
        facts={"release": f"{name}, python version", "projection": "none", "bn_mode": "eval", "reported": "last epoch"}
    )
    result.expect("train images", len(train.label_N), NUM_TRAIN)
    result.expect("test images", len(test.label_N), NUM_TEST)
    schedule = Schedule(
        epochs=options.epochs, batch_size=options.batch_size, lr=options.lr, weight_decay=options.weight_decay
    )
    plain, flipped = resized_to_square(options.size_px), resized_to_square(options.size_px, is_flipped=True)

    def is_flipped(epoch: int, rows: np.ndarray) -> np.ndarray:
        draws = [random_streams.uniform(options.seed, epoch, int(row), 0, random_streams.FLIP) for row in rows]
        return (np.array(draws) < 0.5).astype(np.int64) * options.flip

    backbone = pretrained_backbone(subject)
    probing = Probing(
        backbone=backbone,
        weights_sha256=weights_digest(backbone, None),
        name=name,
        folder=subject.folder,
        device=subject.device,
        train=train,
        val=test,
        num_classes=int(train.label_N.max()) + 1,
        val_transform=plain,
        cached_transforms=(plain, flipped) if options.flip else (plain,),
        cached_transform_of=is_flipped,
        cache_dtype=options.dtype,
    )
    fitted = fit_head(probing, schedule, seed=options.seed, score_epochs=options.score_epochs)
    for prefix, scores in {"": fitted.last, "best_": fitted.best}.items():
        result.metrics |= {f"{prefix}top{num}": scores[f"top{num}"] for num in (1, 5)}
    training = f"{plain.name}{', flip' if options.flip else ''}"
    result.facts |= {"pretrained_sha256": probing.weights_sha256}
    result.facts |= {"schedule": asdict(schedule), "transform": plain.name, "training transform": training}
    return result


def read_batches(folder: Path, names: tuple[str, ...], label_key: bytes, num_classes: int, layout: str) -> ArrayImages:
    """Read files of images.

    Args: folder: where they lie. names: of the files, in order. label_key: of the labels in them. layout: for messages.
    Raises: UserError: a file is not there or is no such file.
    """
    images, labels = zip(*(_read(folder / name, label_key, num_classes, layout) for name in names), strict=True)
    return ArrayImages(np.concatenate(images), np.concatenate(labels))


def found_folder(data: Path, name: str, layout: str) -> Path:
    """Return data/name, or data where it is that folder. Raises: UserError: neither."""
    folder = data if data.name == name else data / name
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}. Expected: {layout}")
    return folder


def _read(path: Path, label_key: bytes, num_classes: int, layout: str) -> tuple[np.ndarray, np.ndarray]:
    if not path.is_file():
        raise UserError(f"there is no file {path}. Expected: {layout}")
    content = read_pickle(path)
    data = content.get(b"data") if isinstance(content, dict) else None
    labels = content.get(label_key) if isinstance(content, dict) else None
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3 * SIDE_PX**2,):
        raise UserError(f"{path} holds no images of 3 x {SIDE_PX} x {SIDE_PX} bytes. Expected: {layout}")
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < num_classes for label in labels):
        raise UserError(f"{path} holds no labels of 0 .. {num_classes - 1}. Expected: {layout}")
    if len(labels) != len(data):
        raise UserError(f"{path} holds {len(data)} images and {len(labels)} labels. Expected: {layout}")
    # Each row: all red values, then all green, then all blue; each row by row.
    image_NHWC = data.reshape(-1, 3, SIDE_PX, SIDE_PX).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(image_NHWC), np.array(labels, dtype=np.int64)


def read_pickle(path: Path) -> Any:
    """Read a pickle of arrays, bytes, texts, numbers, lists and dicts, names as bytes.

    Raises: UserError: it asks for anything else, or is damaged. Nothing that it names is imported or called.
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read: {error}. Only arrays, bytes, lists and dicts are allowed in it."
        ) from error


class _PlainUnpickler(pickle.Unpickler):
    """Knows how arrays are put together and nothing else."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """Return what may be called."""
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("numpy.core.multiarray", "_reconstruct"): _empty_array,
            ("numpy._core.multiarray", "_reconstruct"): _empty_array,
            ("_codecs", "encode"): _latin1,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return known[module, name]


def _empty_array(kind: object, shape: object, code: object) -> np.ndarray:
    """The array that the pickle's next step fills."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError("it asks for an array of another kind")
    return np.empty(0, dtype=np.int8)


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in the second protocol."""
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"it asks for text as {encoding!r}")
    return text.encode("latin1")
