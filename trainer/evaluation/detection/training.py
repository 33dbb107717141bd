"""Fine-tune a detector and let it look at the test images: detectron2's schedule, PreciseBN, and a file to go on from.

SGD with momentum, the rate warmed up linearly and cut to a tenth at given iterations (Goyal et al. 2017; MoCo's
`detection/configs`). At the end every BatchNorm's statistics become plain averages over batches of the finished
network (PreciseBN; Wu and Johnson 2021, arXiv 2105.07576, section 3).

Legend: N detections of one image.
"""

import json
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from backdrop.disk_errors import disk_errors
from backdrop.errors import ImageError, UserError, program
from backdrop.progress import stage_bar
from backdrop.settings import SEEDS, above, at_least, check_settings, from_below, within
from backdrop.stores.images.image_codec import sha256
from backdrop.tensor_files import named_below, read_tensors, write_tensors
from backdrop.trainer.evaluation.detection.images import (
    LabelledImage,
    Sizes,
    Visit,
    batches_of_visits,
    read_pixels,
    resized,
    resized_size,
    training_example,
)
from backdrop.trainer.evaluation.detection.model import Detector, Target, build_detector, paste_masks
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import Subject, pretrained_backbone, weights_digest
from backdrop.trainer.parts.collectives import num_processes
from backdrop.trainer.parts.learning_rates import linear_warmup, num_passed
from backdrop.trainer.parts.momenta import momenta, restore_momenta

_AHEAD = 2  # batches that are prepared while one is computed on
_CHECKPOINT_FORMAT = "backdrop detection 1"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a detector is fine-tuned. What is None comes from the method, see the evaluation's own table."""

    iterations: Annotated[int, at_least(1), "Batches in all"]
    tenth_at: Annotated[tuple[int, ...], at_least(0), "Batches after which the rate falls to a tenth"]
    batch_size: Annotated[
        int,
        at_least(1),
        "Images per batch: 2 on each of 8 GPUs in the papers. With fewer, scale `lr` with it",
    ] = 16
    regions_per_image: Annotated[
        int,
        at_least(1),
        "Regions (RoIs) that the heads learn from in each image; it is what most memory and time goes to",
    ] = 512
    lr: Annotated[float | None, above(0), "Learning rate after the warm-up"] = None
    warmup_iterations: Annotated[int | None, at_least(0), "Batches of linear warm-up"] = None
    warmup_start_fraction: Annotated[
        float | None,
        within(0, 1),
        "Fraction of the rate that the warm-up starts at",
    ] = None
    momentum: Annotated[float, from_below(0, 1), "Of SGD (detectron2's default)"] = 0.9
    weight_decay: Annotated[
        float,
        at_least(0),
        "Of all weights but BatchNorm's, which have none (detectron2: WEIGHT_DECAY_NORM = 0)",
    ] = 1e-4
    precise_bn_iterations: Annotated[
        int,
        at_least(0),
        "Batches over which BatchNorm's statistics are averaged at the end (PreciseBN); 0 = the running ones",
    ] = 200
    seed: Annotated[
        int,
        SEEDS,
        "Of the new layers, the order of the images and all draws; the papers average several",
    ] = 0
    checkpoint_iterations: Annotated[int, at_least(1), "A checkpoint is written every so many batches"] = 1_000

    def lr_at(self, iteration: int) -> float:
        """The learning rate of a batch, counted from 0."""
        assert self.lr is not None
        assert self.warmup_iterations is not None
        assert self.warmup_start_fraction is not None
        rate = self.lr * 0.1 ** num_passed(iteration, self.tenth_at)
        if iteration >= self.warmup_iterations:
            return rate
        return rate * linear_warmup(iteration, self.warmup_iterations, self.warmup_start_fraction)


@dataclass
class Progress:
    """Where a fine-tuning stands; unreadable: images that were left out, and why."""

    iteration: int = 0
    is_finished: bool = False
    unreadable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that decides a fine-tuned detector. name: of the evaluation, for files and bars. schedule: nothing None."""

    name: str
    form: str
    num_classes: int
    has_masks: bool
    schedule: Schedule
    sizes: Sizes


def resolved(schedule: Schedule, defaults: dict[str, Any]) -> Schedule:
    """Fill what the user left to the method. Raises: UserError: a value out of range."""
    missing = {name: value for name, value in defaults.items() if getattr(schedule, name) is None}
    whole = replace(schedule, **missing)
    check_settings(whole, "schedule")
    return whole


def check_alone(task: str) -> None:
    """Raise UserError where torchrun started several processes. Args: task: the evaluation."""
    if num_processes() > 1:
        raise UserError(
            f"{task} fine-tunes its detector in one process, whose BatchNorm sees the whole batch: start it without "
            f"torchrun. detectron2 does it on many GPUs: {program()} export-backbone --to detectron2"
        )


def fine_tune_and_detect(
    subject: Subject, train: Sequence[LabelledImage], test: Sequence[LabelledImage], job: Job, result: Result
) -> Iterator[tuple[LabelledImage, Target]]:
    """Fine-tune a detector on the images that have an object, and look at the test images.

    Args: result: gets what decides the detector among its facts, and what cannot be read among its problems.
    Yields: each test image that can be read, with what was found in it; see `detect`.
    Raises: UserError: no image to train on has an object; see `fine_tuned`.
    """
    schedule = job.schedule
    with_objects = [image for image in train if len(image.class_N)]
    # The classifier of `evaluate linear` and the BN statistics it adapted play no part here.
    backbone = pretrained_backbone(subject)
    pretrained = replace(subject, backbone=backbone, head=None, weights_sha256=weights_digest(backbone, None))
    result.facts |= {
        "pretrained_sha256": pretrained.weights_sha256,
        "precision": "float32",
        "projection": "none",
        "form": job.form,
        "schedule": asdict(schedule),
        "transform": job.sizes.name,
        "bn_mode": f"trained, then averaged over {schedule.precise_bn_iterations} batches",
        "training images with objects": len(with_objects),
    }
    if not with_objects:
        raise UserError(f"none of the {len(train)} images to train on has an object: are these the annotations?")
    detector, progress = fine_tuned(pretrained, with_objects, job)
    result.problems += [f"{key} {reason}" for key, reason in sorted(progress.unreadable.items())]
    for image, found in detect(detector, test, job, subject.device):
        if isinstance(found, str):
            result.problems.append(f"{image.key} {found}: nothing is found in it")
        else:
            yield image, found


def fine_tuned(subject: Subject, images: Sequence[LabelledImage], job: Job) -> tuple[Detector, Progress]:
    """Return a detector trained from a network's weights: now, from where a killed run stopped, or from its file.

    Args: subject: without what was fitted since it was pretrained; its backbone is copied. images: each with an object.
    Raises: UserError: no ResNet; no image can be read; the training diverged; the file beside the network is damaged.
    """
    schedule = job.schedule
    detector = build_detector(
        subject.backbone,
        job.form,
        job.num_classes,
        has_masks=job.has_masks,
        seed=schedule.seed,
        regions_per_image=schedule.regions_per_image,
    ).to(subject.device)
    detector.train().requires_grad_(True)
    optimiser = _optimiser(detector, schedule)
    path = subject.folder / f"{job.name}-{_digest(subject, images, job)[:16]}.safetensors"
    progress = _load(path, detector, optimiser) if path.exists() else Progress()
    if progress.is_finished:
        return detector.eval(), progress
    with closing(_training_batches(images, job, progress, subject.device)) as batches:
        _train(detector, optimiser, batches, job, progress, lambda: _save(path, detector, optimiser, progress))
        measure_batch_norm(detector, islice(batches, schedule.precise_bn_iterations), schedule)
    progress.is_finished = True
    _save(path, detector, optimiser, progress)
    return detector.eval(), progress


def _train(
    detector: Detector,
    optimiser: torch.optim.Optimizer,
    batches: Iterator[Any],
    job: Job,
    progress: Progress,
    save: Callable[[], None],
) -> None:
    schedule = job.schedule
    with stage_bar(
        total=schedule.iterations, initial=progress.iteration, stage=f"{job.name}: train", unit="batch"
    ) as bar:
        for pixels, targets in islice(batches, schedule.iterations - progress.iteration):
            losses = _step(detector, optimiser, pixels, targets, schedule, progress.iteration)
            progress.iteration += 1
            bar.update()
            bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()})
            if progress.iteration % schedule.checkpoint_iterations == 0:
                save()


def detect(
    detector: Detector, images: Sequence[LabelledImage], job: Job, device: torch.device
) -> Iterator[tuple[LabelledImage, Target | str]]:
    """Look at test images, one at a time as detectron2 does.

    Yields: each image with what was found in it (boxes in its own pixels, classes from 0, scores, and masks as bool
        (N, H, W)), or with the reason why it cannot be read.
    """

    def read(image: LabelledImage) -> Tensor | str:
        size = resized_size(image.height, image.width, job.sizes.test_short_px, job.sizes.max_long_px)
        try:
            return resized(read_pixels(image), *size)
        except ImageError as error:
            return str(error)

    detector.eval()
    with stage_bar(total=len(images), stage=f"{job.name}: test", unit="img") as bar:
        for image, pixels in zip(images, _ahead(read, images, 2 * _AHEAD), strict=True):
            bar.update()
            if isinstance(pixels, str):
                yield image, pixels
                continue
            with torch.inference_mode():
                (found,) = detector([pixels.to(device)])
                yield image, _in_image(found, pixels, image)


def measure_batch_norm(detector: Detector, batches: Iterator[Any], schedule: Schedule) -> None:
    """Make every BatchNorm's statistics the plain average of those of each batch; nothing else changes."""
    if not schedule.precise_bn_iterations:
        return
    layers = [layer for layer in detector.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch: the cumulative average
    with torch.no_grad():
        for number, (pixels, targets) in enumerate(batches):
            detector.reseed(_step_seed(schedule, schedule.iterations + number))
            detector(pixels, targets)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def _step(
    detector: Detector,
    optimiser: torch.optim.Optimizer,
    pixels: list[Tensor],
    targets: list[Target],
    schedule: Schedule,
    iteration: int,
) -> dict[str, float]:
    for group in optimiser.param_groups:
        group["lr"] = schedule.lr_at(iteration)
    detector.reseed(_step_seed(schedule, iteration))
    losses = detector(pixels, targets)
    loss_L = torch.stack(list(losses.values()))
    values = loss_L.tolist()
    if not math.isfinite(sum(values)):
        raise UserError(
            f"the loss is not finite at iteration {iteration}: the training diverged; lower schedule.lr, "
            f"which is {schedule.lr} for batches of {schedule.batch_size}"
        )
    optimiser.zero_grad(set_to_none=True)
    loss_L.sum().backward()
    optimiser.step()
    return dict(zip(losses, values, strict=True))


def _step_seed(schedule: Schedule, iteration: int) -> int:
    return schedule.seed * 1_000_003 + iteration


def _optimiser(detector: Detector, schedule: Schedule) -> torch.optim.SGD:
    norms = [layer for layer in detector.modules() if isinstance(layer, nn.BatchNorm2d)]
    of_norms = {id(parameter) for layer in norms for parameter in layer.parameters()}
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in detector.parameters():
        groups[id(parameter) in of_norms].append(parameter)
    return torch.optim.SGD(
        [
            {"params": groups[False], "weight_decay": schedule.weight_decay},
            {"params": groups[True], "weight_decay": 0.0},
        ],
        lr=0.0,
        momentum=schedule.momentum,
    )


# -------------------------------------------------------------------------------------------------------------- batches


def _training_batches(
    images: Sequence[LabelledImage], job: Job, progress: Progress, device: torch.device
) -> Generator[tuple[list[Tensor], list[Target]], None, None]:
    """Yield batches from where `progress` stands, without end; what cannot be read is noted there and left out."""

    def read(visit: Visit) -> tuple[Tensor, Target] | ImageError:
        try:
            return training_example(
                images[visit.row], visit, job.sizes, seed=job.schedule.seed, has_masks=job.has_masks
            )
        except ImageError as error:
            return error

    batch_size = job.schedule.batch_size
    batches = islice(batches_of_visits(images, batch_size, job.schedule.seed), progress.iteration, None)
    visits = (visit for batch in batches for visit in batch)
    examples = _ahead(lambda visit: (visit, read(visit)), visits, _AHEAD * batch_size)
    while batch := list(islice(examples, batch_size)):
        pixels, targets = [], []
        for visit, example in batch:
            if isinstance(example, ImageError):
                progress.unreadable[images[visit.row].key] = str(example)
                continue
            pixels.append(example[0].to(device, non_blocking=True))
            targets.append({name: value.to(device, non_blocking=True) for name, value in example[1].items()})
        if not pixels:
            key, reason = next(reversed(progress.unreadable.items()))
            raise UserError(f"no image of a whole batch can be read, e.g. {key} {reason}; repair the data set")
        yield pixels, targets


def _ahead(read: Callable[[Any], Any], items: Any, num_ahead: int) -> Iterator[Any]:
    """Yield read(item) in order; so many are being read by threads beforehand."""
    items = iter(items)
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(read, item) for item in islice(items, num_ahead)]
        while waiting:
            result = waiting.pop(0).result()
            waiting += [pool.submit(read, item) for item in islice(items, 1)]
            yield result


def _in_image(found: Target, pixels_CHW: Tensor, image: LabelledImage) -> Target:
    """Bring detections from the resized image to the original one, clipped; empty boxes go."""
    ratio = torch.tensor([image.width / pixels_CHW.shape[2], image.height / pixels_CHW.shape[1]] * 2)
    limit = torch.tensor([image.width, image.height] * 2, device=found["boxes"].device)
    box_N4 = (found["boxes"] * ratio.to(limit.device)).clamp(min=0).minimum(limit)
    is_kept_N = (box_N4[:, 2:] > box_N4[:, :2]).all(dim=1)
    result = {
        "boxes": box_N4[is_kept_N],
        "classes": found["labels"][is_kept_N] - 1,
        "scores": found["scores"][is_kept_N],
    }
    if "masks" in found:
        result["masks"] = paste_masks(found["masks"][is_kept_N], result["boxes"], image.height, image.width).cpu()
    return {name: value.cpu() for name, value in result.items()}


# ----------------------------------------------------------------------------------------------------------- checkpoint


def _digest(subject: Subject, images: Sequence[LabelledImage], job: Job) -> str:
    settings = asdict(job)
    del settings["schedule"]["checkpoint_iterations"]
    del settings["sizes"]["test_short_px"]
    labels = [[image.key, image.box_N4.tolist(), image.class_N.tolist()] for image in images]
    return sha256(json.dumps([subject.weights_sha256, settings, labels], sort_keys=True).encode()).hex()


def _save(path: Path, detector: Detector, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
    tensors = {f"model.{name}": value for name, value in detector.state_dict().items()}
    if not progress.is_finished:
        tensors |= {f"momentum.{name}": value for name, value in momenta(detector, optimiser).items()}
    state = {"format": _CHECKPOINT_FORMAT, "progress": json.dumps(asdict(progress))}
    with disk_errors(path):
        write_tensors(path, tensors, state)


def _load(path: Path, detector: Detector, optimiser: torch.optim.Optimizer) -> Progress:
    tensors, state = read_tensors(path, "delete it to start anew")
    if state.get("format") != _CHECKPOINT_FORMAT:
        raise UserError(f"{path} is no checkpoint of a detector; delete it to start anew")
    try:
        detector.load_state_dict(named_below(tensors, "model."))
    except RuntimeError as error:
        raise UserError(f"{path} does not fit this detector ({error}); delete it to start anew") from error
    restore_momenta(detector, optimiser, named_below(tensors, "momentum."))
    return Progress(**json.loads(state["progress"]))
