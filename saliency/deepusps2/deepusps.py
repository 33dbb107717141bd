"""DeepUSPS2: a saliency network trained on the noisy maps of classical detectors, without labels.

Stage 1, for each classical method on its own: a fresh network learns the method's maps; what it predicts on the way is
folded into a moving average per image, which is the next round's target. Stage 2: one fresh network learns the refined
maps of all methods at once. Both stages are phases of one loop (`training`); they differ in their targets.

Nguyen et al. 2019 ("DeepUSPS"), section 3 and its published code; Ryali et al. 2021, appendix A ("DeepUSPS2").
Shapes: B images, H rows, W columns (H = W = working size).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from backdrop.devices import num_cores
from backdrop.durable_files import write_aside
from backdrop.errors import UserError
from backdrop.progress import note, note_default, warn
from backdrop.ranks import Ranks, joined
from backdrop.saliency.deepusps2 import pseudo_labels, training_state
from backdrop.saliency.deepusps2.phases import Phase
from backdrop.saliency.deepusps2.random_streams import SUBSET, stream
from backdrop.saliency.deepusps2.settings import DeepUspsSettings, check, fine_tunes, is_papers
from backdrop.saliency.deepusps2.training import Training
from backdrop.saliency.deepusps2.training_log import LOG_FILE, VALIDATION_FILE
from backdrop.saliency.detector import Threshold
from backdrop.saliency.detectors import open_detector
from backdrop.saliency.networks.drn import PUBLISHED, DrnSegmenter, backbone_of, pretrained_as
from backdrop.saliency.networks.published_weights import load_published_backbone
from backdrop.saliency.scoring.metrics import evaluate_folder
from backdrop.saliency.scoring.sanity_check import measure
from backdrop.saliency.trained_detector.drn_detector import (
    PAPERS_THRESHOLD,
    DetectorDescription,
    DrnDetector,
    save_detector,
)
from backdrop.saliency.trained_detector.run_claim import claim
from backdrop.saliency.trained_detector.run_layout import DETECTOR_FILE
from backdrop.stores.indexes.dataset_index import DatasetIndex
from backdrop.tensor_files import read_tensors, weights_sha256

TRAINING_VERSION = 2  # raised by every change that makes the same settings give other weights
BACKBONE_FILE = "backbone.safetensors"
CLASSIFIER = "fc."  # of a supervised run, beside its backbone
# Left out of a run's identity where they are the papers', so that runs begun without them go on.
_ADDED_SETTINGS = (
    "label_softness",
    "label_share",
    "crf_share",
    "crf_test_weight",
    "mirrored_at_test",
    "companions",
    "companion_share",
)


def default_preset(*, has_weights: bool) -> str:
    """Return the preset taken when none was named, and say so: one that suits the initial weights and the machine.

    Args: has_weights: whether the training starts from a backbone's weights.
    """
    if has_weights:
        preset, why = "paper", "the papers' network and rates, which fine-tune given weights"
    elif torch.cuda.is_available():
        preset, why = "medium", "made for random weights, at the size of a GPU"
    else:
        preset, why = "small", "made for random weights; no GPU here, with one it would be medium"
    note_default("preset", preset, why)
    return preset


def train(
    index: DatasetIndex,
    out: Path | str,
    settings: DeepUspsSettings,
    *,
    seed: int = 0,
    backbone_weights: Path | str | None = None,
    validation: Path | str | None = None,
    num_workers: int | None = None,
) -> dict[str, Any] | None:
    """Train a detector on the images of a data set; the same call finishes what an interrupted one began.

    On a CPU, a training interrupted anywhere gives the same weights, bit for bit, as one that was not. Under torchrun
    the processes share the batches; the run folder must be one that all of them see.

    Args:
        index: the images; labels are not used.
        out: the run folder, made where it is absent.
        settings: a preset's, or others.
        seed: of the subset, the initial weights, the order of the images and the augmentations.
        backbone_weights: a run folder of `pretrain` or a safetensors file with the weights of a `Drn`; None = random.
        validation: a folder with `images` and true `masks`; every phase's network is scored on it into
            validation.jsonl. Nothing is chosen by it but the finished detector's threshold, on half of it; without
            one, drawn pictures serve (`sanity_check.measure`).
        num_workers: processes for the classical maps; None = one per core.

    Returns:
        JSON-able summary: run, num_images, num_left_out, left_out (keys), final_loss, sanity (what the
        finished detector scored). None on every rank but the first.

    Raises:
        UserError: the settings need what is missing, `out` cannot be used, or no image can be decoded.
    """
    check(settings)
    run = Path(out)
    initial = initial_weights(backbone_weights, settings.architecture)
    with joined() as ranks, _torch_threads(settings.cpu_threads):
        if not ranks.is_first:
            _follow(run, settings, seed, initial, ranks)
            return None
        if fine_tunes(settings) and backbone_weights is None:
            warn(
                f"warning: {settings.architecture} starts from random weights, at learning rates made to fine-tune "
                "--backbone-weights: hours for a detector that has learnt little. --preset medium or small is made for "
                "random weights; pretrain --recipe drn_d_105_byol_500 makes weights for drn_d_105, resnet50_s8 and "
                "vit_s16 take published ones"
            )
        claim(run, _run_identity(index, settings, seed, initial))
        with _complete_labels(run, index, settings, seed, num_workers or num_cores()) as file:
            _lead(run, file, settings, seed, initial, ranks, Path(validation) if validation else None)
            summary = _summary(run, file, index)
    score = measure(
        run,
        validation=Path(validation) if validation else None,
        kept=_kept_threshold(settings, is_measured_at_home=validation is not None or index.dataset == "sample"),
    )
    return {**summary, "sanity": asdict(score)}


def _kept_threshold(settings: DeepUspsSettings, *, is_measured_at_home: bool) -> Threshold | None:
    """The finished detector's threshold; None = the best one on the images that it is measured on.

    Of a network trained on photographs the best one on drawn pictures says nothing: small's was 0.95, where 0.0 to 0.94
    were equally good on 50 images of ECSSD. It is then cut where its training cuts its own labels.

    Args: is_measured_at_home: on images of the kind that it is for.
    """
    if is_papers(settings):
        return PAPERS_THRESHOLD
    if is_measured_at_home:
        return None
    source = "where its training cuts its own labels; --validation finds a better one"
    return Threshold(value=settings.refined_threshold, source=source)


def _follow(run: Path, settings: DeepUspsSettings, seed: int, initial: dict[str, Tensor], ranks: Ranks) -> None:
    """Every rank but the first: wait until there is something to train, and take part."""
    if ranks.from_first(None):
        Training(run, None, settings, seed, initial, ranks).run_to_end()


def _lead(
    run: Path,
    file: h5py.File,
    settings: DeepUspsSettings,
    seed: int,
    initial: dict[str, Tensor],
    ranks: Ranks,
    validation: Path | None,
) -> None:
    """The first rank: train what is left and write the detector."""
    is_unfinished = not (run / DETECTOR_FILE).is_file()
    ranks.from_first(is_unfinished)
    if not is_unfinished:
        return
    description = _description(settings)

    def validate(phase: Phase, model: DrnSegmenter) -> None:
        if validation is not None:
            detector = DrnDetector(model, description, ranks.device)
            scores = evaluate_folder(validation / "images", validation / "masks", detector)
            _keep_scores(run, phase, {name: value for name, value in scores.items() if name != "detector"})
            model.train()

    model = Training(run, file, settings, seed, initial, ranks).run_to_end(validate)
    save_detector(run, model, description)
    (run / training_state.FILE).unlink(missing_ok=True)


def _description(settings: DeepUspsSettings) -> DetectorDescription:
    return DetectorDescription(
        architecture=settings.architecture,
        working_size_px=settings.working_size_px,
        mean_RGB=settings.mean_RGB,
        std_RGB=settings.std_RGB,
        crf=settings.test_crf,
        crf_size_px=settings.crf_test_size_px or settings.working_size_px,
        mirrors=settings.mirrored_at_test,
        companions=settings.companions or (),
        companion_share=settings.companion_share,
    )


def _keep_scores(run: Path, phase: Phase, scores: dict[str, Any]) -> None:
    """One line per phase; a phase scored again after a kill replaces its line."""
    path = run / VALIDATION_FILE
    lines = path.read_text().splitlines() if path.is_file() else []
    records = [record for record in map(json.loads, lines) if record["phase"] != phase.title]
    records.append({"phase": phase.title, **scores})
    write_aside(path, "".join(json.dumps(record) + "\n" for record in records).encode())


@contextmanager
def _complete_labels(
    run: Path, index: DatasetIndex, settings: DeepUspsSettings, seed: int, num_workers: int
) -> Iterator[h5py.File]:
    """The run's pseudo-label file, with every image and its first labels."""
    path = run / pseudo_labels.FILE
    if not path.is_file():
        rows = _subset(len(index), settings, seed)
        pseudo_labels.create(path, rows, settings.array_names, settings.working_size_px)
    with pseudo_labels.open_labels(path) as file:
        if not (run / DETECTOR_FILE).is_file():
            sources = dict(zip(settings.array_names, settings.methods, strict=True))
            pseudo_labels.compute_first_labels(file, index, sources, num_workers)
            _require_images(file, index)
        yield file


@contextmanager
def _torch_threads(num_threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def initial_weights(path: Path | str | None, architecture: str) -> dict[str, Tensor]:
    """Weights of a pretrained backbone; none for random ones.

    Args:
        path: a run folder of `pretrain` with that backbone, a safetensors file of one, or, for a ResNet-50 or a ViT,
            what others published.
        architecture: a name of `saliency.networks.drn.ARCHITECTURES`, which the weights must fit.

    Raises:
        UserError: there is nothing of the kind.
    """
    if path is None:
        return {}
    path = Path(path)
    if path.is_dir():
        path = path / BACKBONE_FILE
        if not path.is_file():
            raise UserError(f"{path.parent} holds no {BACKBONE_FILE}: give the folder of a finished `pretrain` run")
    elif architecture in PUBLISHED:
        published, said = load_published_backbone(path, architecture)
        note(f"{path.name}: {said}")
        return published
    tensors, texts = read_tensors(path, "give backbone weights in one")
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(CLASSIFIER)}
    trained = texts.get("backbone", "a network of another shape")
    with torch.device("meta"):
        expected = backbone_of(architecture).state_dict()
    if {name: tensor.shape for name, tensor in tensors.items()} != {name: t.shape for name, t in expected.items()}:
        raise UserError(
            f"the weights in {path} are of {trained}, the detector's network is {architecture}: give others, or "
            f"--set architecture=NAME; pretrain makes some with --backbone {pretrained_as(architecture)}"
        )
    return tensors


def _run_identity(
    index: DatasetIndex, settings: DeepUspsSettings, seed: int, initial: dict[str, Tensor]
) -> dict[str, Any]:
    identity = {
        "training_version": TRAINING_VERSION,
        "seed": seed,
        "dataset": {
            "name": index.dataset,
            "split": index.split,
            "num_images": len(index),
            "digest": index.digest,
        },
        "backbone_weights_sha256": weights_sha256(initial) if initial else None,
        "first_labels": [open_detector(method).identity for method in settings.methods],
        "settings": _decisive(settings),
    }
    return json.loads(json.dumps(identity))  # tuples become lists, as they come back from the file


def _decisive(settings: DeepUspsSettings) -> dict[str, Any]:
    """All settings, but of those that there were not always only the ones that change something."""
    papers = DeepUspsSettings()
    return {
        name: value
        for name, value in asdict(settings).items()
        if name not in _ADDED_SETTINGS or value != getattr(papers, name)
    }


def _subset(num_rows: int, settings: DeepUspsSettings, seed: int) -> np.ndarray:
    order = stream(seed, SUBSET).permutation(num_rows)
    return np.sort(order[: settings.max_images])


def _require_images(file: h5py.File, index: DatasetIndex) -> None:
    left_out = pseudo_labels.unreadable_keys(file, index)
    if left_out:
        warn(
            f"warning: {len(left_out)} of {len(file['rows'])} images cannot be decoded and are left out: "
            f"{', '.join(left_out[:5])}{', ...' if len(left_out) > 5 else ''}"
        )
    if len(pseudo_labels.usable(file)) == 0:
        raise UserError(f"none of the {len(left_out)} images below {index.root} can be decoded: give other images")


def _summary(run: Path, file: h5py.File, index: DatasetIndex) -> dict[str, Any]:
    left_out = pseudo_labels.unreadable_keys(file, index)
    last = json.loads((run / LOG_FILE).read_text().splitlines()[-1])
    return {
        "run": str(run),
        "num_images": len(pseudo_labels.usable(file)),
        "num_left_out": len(left_out),
        "left_out": left_out,
        "final_loss": last["loss"],
    }
