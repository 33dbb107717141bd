"""Visual grounding: does a query attend to the foreground that it has in common with a masked key (CAST, section 4.4)?

Two crops of each image under CAST's constraint; the second one's background is taken away and it goes through the key
network; Grad-CAM (Selvaraju et al. 2017; CAST Eq. 1 and 2) of q . k_m on the query's last feature map, scaled to
[0, 1], cut at 0.5, against the mask of the query's crop: intersection over union, mean over images. Fig. 7, on COCO
val2017: .24 MoCo, .24 with the crop constraint, .41 CAST. No script was released; what the paper leaves open is in
`Options`.

Neither temperature nor queue is needed: a map that is scaled to [0, 1] does not see a factor.

Two facts go with the score. IoU grows with the masks: a map that is foreground everywhere has the share of foreground
as its own, and small masks (a detector's, cut at 0.9) allow only a small one. And a map that Eq. 2's ReLU leaves zero
everywhere has none: were the head without biases, the signed map's sum over its cells would be 0 (a cosine does not
see how long the features are); with them that sum has a sign, and on the few cells of a small view all may be negative.
A BatchNorm in the head, which takes a mean off, does most: of CAST on 48-px views (2 x 2 cells) after 400 steps, half
of the maps of the sample's images were zero with `algorithm.head=bn_mlp` (IoU .11; .09 untrained), none with `mlp`
(.24, trained on photographs for 300 steps, cast.weight 3 instead of 1); foreground everywhere has .22 there.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from backdrop.disk_errors import disk_errors
from backdrop.durable_files import write_aside
from backdrop.errors import UserError, program
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.loader.reference_loader import ReferenceLoader
from backdrop.pipeline.views.device_stage import DeviceStage, Views
from backdrop.pipeline.views.view_plan import View, ViewPlan
from backdrop.progress import stage_bar
from backdrop.ranks import present
from backdrop.settings import SEEDS, check_settings, one_of, within
from backdrop.stores.datasets import reopen_index
from backdrop.stores.format.reader import Store, open_store
from backdrop.stores.pages.curves import density_chart, standalone
from backdrop.trainer import cast
from backdrop.trainer.evaluation.harness.defaults import no_problems
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import Subject
from backdrop.trainer.losses.saliency_attention import attention_target, grad_cam, importance
from backdrop.trainer.parts.collectives import num_processes
from backdrop.trainer.parts.pieces import Done, done_by_all, own_pieces
from backdrop.trainer.parts.pretraining_method import PretrainingMethod, QueryKeyMethod
from backdrop.trainer.run.trained_method import trained_method, untrained_method

DATA = "coco"
LAYOUT = "ROOT/val2017/*.jpg, and a store of their masks: build-store --dataset coco --split val --out STORE"
SOURCE = "https://cocodataset.org (val2017), masks from a detector of yours"
TAKES_DAYS = False
problems_of_data = no_problems
NUM_IMAGES = 5000
BATCH_SIZE = 32
# Bins of the density over IoU that Fig. 7 plots, and where ours is drawn.
NUM_BINS = 20
PLOT_FILE = "grounding.svg"
AXIS = "IoU of map and mask"
OURS, UNTRAINED = "this run", "untrained"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the paper leaves open."""

    store: Annotated[str, "The store with the images' masks"] = "artifacts/coco-val.zarr"
    resolution: Annotated[
        str,
        one_of(("view", "cells")),
        'Where map and mask meet: "view" = the map enlarged (bilinear) to the view, or "cells" = the mask'
        " averaged onto the feature map's cells and cut at 0.5",
    ] = "view"
    threshold: Annotated[
        float,
        within(0, 1),
        "The map is foreground above this, after scaling to [0, 1] (section 4.4)",
    ] = 0.5
    min_foreground: Annotated[float, within(0, 1), "Phi of the crops"] = cast.MIN_FOREGROUND
    seed: Annotated[int, SEEDS, "Decides the crops"] = 0
    beside: Annotated[
        tuple[str, ...],
        "Folders of other runs that were scored, whose densities are drawn over this one's, as in Fig. 7",
    ] = ()


def needed_beside(data: Path, options: Options) -> list[Path]:
    """Return what must be there besides the images."""
    return [Path(options.store)]


def facts_of_data(data: Path, options: Options) -> dict[str, Any]:
    """Return which masks a score is of. Raises: UserError: they are not there."""
    return {"store_id": _mask_store(options.store).store_id}


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Score a run's grounding, and that of the same networks untrained: mean IoU, and the density over IoU.

    The density, the share of images in each of 20 bins, is drawn as grounding.svg in the run's folder.
    """
    check_settings(options)
    densities_of(options.beside)  # what is missing is told before hours of work
    if subject.run is None:
        raise UserError("grounding needs the key network too: give --run FOLDER, not --weights")
    store = _mask_store(options.store)
    untrained = _with_key(untrained_method(subject.run, subject.device), subject)
    methods = {OURS: untrained if subject.untrained_seed is not None else load_method(subject), UNTRAINED: untrained}
    found = _scored(methods, _views(subject, store, data, options), options)
    if not len(found.foreground_share_N):
        raise UserError(f"no image of {options.store} has a foreground in both crops: nothing to score")
    result = Result(
        facts={
            "release": f"{store.dataset} {store.split}",
            "transform": f"two crops of {subject.image_size_px} that hold {options.min_foreground} of the mask, flips",
            "projection": "none",
            "resolution": options.resolution,
            "bn_mode": "eval",
            "skipped_without_foreground": found.num_skipped,
            "iou_of_foreground_everywhere": round(float(found.foreground_share_N.mean()), 4),
            "share_of_maps_that_are_zero": {name: round(zero, 4) for name, zero in found.zero_share_of.items()},
        }
    )
    if store.split != "val":
        result.problems.append(f"{options.store} is of the split {store.split!r}; the paper scores val")
    result.facts |= facts_of_data(data, options)
    result.expect("images", len(found.foreground_share_N) + found.num_skipped, NUM_IMAGES)
    result.metrics["mean_iou"] = float(found.iou_of[OURS].mean())
    result.untrained["mean_iou"] = float(found.iou_of[UNTRAINED].mean())
    share_of = {name: _shares(iou_N) for name, iou_N in found.iou_of.items()}
    result.facts["density"] = {name: share_B.round(4).tolist() for name, share_B in share_of.items()}
    share_of |= densities_of(options.beside)
    present(subject.device).by_first(lambda: _draw(subject, share_of))
    return result


def _draw(subject: Subject, share_of: dict[str, np.ndarray]) -> None:
    """Write the densities over IoU into the network's folder."""
    with disk_errors(subject.probe_folder):
        subject.probe_folder.mkdir(parents=True, exist_ok=True)
        write_aside(subject.probe_folder / PLOT_FILE, standalone(density_chart(share_of, AXIS)))


def densities_of(runs: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the densities over IoU of runs that were scored, float64 (20,), by the folders' names.

    Raises: UserError: a folder has no such score, or two have one name.
    """
    found: dict[str, np.ndarray] = {}
    for run in map(Path, runs):
        file = run / "grounding.json"
        if not file.is_file():
            raise UserError(f"beside={run}: it was not scored yet; do so first: evaluate grounding --run {run}")
        if run.name in found or run.name in (OURS, UNTRAINED):
            raise UserError(f"beside: two runs are called {run.name!r}; give runs whose folders have other names")
        found[run.name] = np.array(json.loads(file.read_text())["facts"]["density"][OURS], dtype=np.float64)
    return found


def _mask_store(path: str) -> Store:
    """Open the store of the images' masks. Raises: UserError: it is not there, with the command that makes one."""
    try:
        return open_store(Path(path))
    except UserError as error:
        raise UserError(
            f"grounding needs a store of the images' masks, and {error} "
            f"Make one: {program()} build-store --dataset coco --split val --out {path}; "
            "one elsewhere: --set store=STORE, with evaluate all --set grounding.store=STORE"
        ) from error


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """N images with foreground in both crops.

    iou_of: float32 (N,) by whose maps they are. zero_share_of: the share of maps that are zero everywhere, likewise.
    foreground_share_N: float32, of each query's crop. num_skipped: images without foreground.
    """

    iou_of: dict[str, np.ndarray]
    zero_share_of: dict[str, float]
    foreground_share_N: np.ndarray
    num_skipped: int


def _scored(methods: dict[str, QueryKeyMethod], own_views: Iterator[Views], options: Options) -> _Scored:
    """Score the maps of each method. Args: own_views: the batches that are this process's."""
    ious, zeros = ({name: [np.zeros(0, np.float32)] for name in methods} for _ in range(2))
    shares, num_skipped = [np.zeros(0, np.float32)], 0
    for batch in done_by_all(_scored_batch(methods, views, options) for views in own_views):
        share_B, *of_methods = (each.numpy() for each in batch.tensors)
        shares.append(share_B)
        num_skipped += batch.words
        for name, iou_B, is_zero_B in zip(methods, of_methods[::2], of_methods[1::2], strict=True):
            ious[name].append(iou_B)
            zeros[name].append(is_zero_B)
    share_N = np.concatenate(shares)
    return _Scored(
        iou_of={name: np.concatenate(found) for name, found in ious.items()},
        zero_share_of={
            name: float(np.concatenate(found).sum()) / max(len(share_N), 1) for name, found in zeros.items()
        },
        foreground_share_N=share_N,
        num_skipped=num_skipped,
    )


def _scored_batch(methods: dict[str, QueryKeyMethod], views: Views, options: Options) -> Done:
    """Of the images with foreground in both crops its share of the query's, then for each method IoU and whether the
    map is zero, each float32; and how many images are skipped."""
    of_methods: list[Tensor] = []
    for method in methods.values():
        cam_Bhw = query_cam(method, views)
        iou_B, is_counted_B = cam_iou(cam_Bhw, views, options)
        is_zero_B = (cam_Bhw[is_counted_B].flatten(1).amax(dim=1) == 0).float()
        of_methods += [iou_B[is_counted_B].cpu(), is_zero_B.cpu()]
    share_B = _target(views, cam_Bhw, options)[is_counted_B].float().mean(dim=(1, 2))
    return Done(tensors=(share_B.cpu(), *of_methods), words=int((~is_counted_B).sum()))


def _shares(iou_N: np.ndarray) -> np.ndarray:
    """The share of images in each bin, float64 (20,)."""
    return np.histogram(iou_N, bins=NUM_BINS, range=(0.0, 1.0))[0] / len(iou_N)


def load_method(subject: Subject) -> QueryKeyMethod:
    """Return a run's method with the weights of its latest checkpoint, in evaluation mode.

    Raises: UserError: its method has no key network, or there is no checkpoint.
    """
    assert subject.run is not None
    return _with_key(trained_method(subject.run, subject.device), subject)


def _with_key(method: PretrainingMethod, subject: Subject) -> QueryKeyMethod:
    if not isinstance(method, QueryKeyMethod):
        raise UserError(f"grounding compares a query with a key; {subject.method} has none")
    return method


def cam_iou(cam_Bhw: Tensor, views: Views, options: Options) -> tuple[Tensor, Tensor]:
    """Return each image's IoU, float32 (B,), and whether both crops hold any foreground, bool (B,).

    Args: cam_Bhw: maps of `query_cam`. views: two views each, query and key.
    """
    cam_BHW, target_BHW = cam_Bhw, _target(views, cam_Bhw, options)
    if options.resolution == "view":
        cam_BHW = functional.interpolate(cam_Bhw[:, None], target_BHW.shape[1:], mode="bilinear")[:, 0]
    has_both_B = (target_BHW.flatten(1).any(dim=1)) & (views.masks[1].flatten(1).amax(dim=1) > 0)
    return binary_iou(scaled(cam_BHW) > options.threshold, target_BHW), has_both_B


def _target(views: Views, cam_Bhw: Tensor, options: Options) -> Tensor:
    """The query's mask where it meets the map, bool (B, H, W) or (B, h, w)."""
    mask_B1HW = views.masks[0]
    return (mask_B1HW[:, 0] if options.resolution == "view" else attention_target(mask_B1HW, cam_Bhw.shape[1:])) > 0.5


def query_cam(method: QueryKeyMethod, views: Views, *, is_key_masked: bool = True) -> Tensor:
    """Return Grad-CAM of q . k_m on the query's last feature map (CAST Eq. 1 and 2), float32 (B, h, w), 0 or more.

    Args: method: in evaluation mode. views: two views each, query and key. is_key_masked: False = of q . k, the key
        with its background (CAST Figure 5, e and f).
    """
    map_BDhw = method.backbone.forward_map(views.images[0]).detach()
    pooled_BD = map_BDhw.mean(dim=(2, 3)).requires_grad_()
    with torch.no_grad():
        key_B3HW = views.images[1]
        key_BD = method.embed_key(cast.masked_key(key_B3HW, views.masks[1]) if is_key_masked else key_B3HW)
    similarity_B = functional.cosine_similarity(method.embed_query(pooled_BD), key_BD, dim=1)
    return grad_cam(importance(similarity_B, pooled_BD).detach(), map_BDhw)


def plain_plan(size_px: int, min_foreground: float) -> ViewPlan:
    """Return two constrained crops without colour augmentation. Args: size_px: their side. min_foreground: phi."""
    view = View(
        size_px=size_px,
        min_foreground=min_foreground,
        jitter_probability=0.0,
        greyscale_probability=0.0,
        blur_probability=0.0,
    )
    return ViewPlan(views=(view, view))


def scaled(cam_BHW: Tensor) -> Tensor:
    """Return maps scaled to [0, 1], each by its own least and largest value; a constant map becomes 0."""
    low_B11, high_B11 = cam_BHW.amin(dim=(1, 2), keepdim=True), cam_BHW.amax(dim=(1, 2), keepdim=True)
    return (cam_BHW - low_B11) / (high_B11 - low_B11 + 1e-7)


def binary_iou(a_BHW: Tensor, b_BHW: Tensor) -> Tensor:
    """Return intersection over union of boolean maps, float32 (B,); 0 where both are empty."""
    intersection_B = (a_BHW & b_BHW).flatten(1).sum(dim=1)
    union_B = (a_BHW | b_BHW).flatten(1).sum(dim=1)
    return intersection_B.float() / union_B.clamp(min=1)


def _views(subject: Subject, store: Store, data: Path, options: Options) -> Iterator[Views]:
    """Two constrained crops of every image of this process's batches, without colour augmentation."""
    root = None if str(data) == "sample" else data
    index = reopen_index(store, root)
    plan = plain_plan(subject.image_size_px, options.min_foreground)
    loader = ReferenceLoader(
        store, index, plan, LoaderOptions(batch_size=BATCH_SIZE, seed=options.seed, drop_last=False)
    )
    stage = DeviceStage(plan, device=subject.device)
    numbers = range(loader.num_batches)
    with stage_bar(stage="grounding", unit="batch", total=len(numbers), is_inner=True) as bar:
        for number in own_pieces(numbers):
            yield stage(next(loader.epoch(0, first_batch=number)))
            bar.update(min(num_processes(), len(numbers) - number))
