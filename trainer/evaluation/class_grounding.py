"""Where a classifier looks: Grad-CAM of a class on ImageNet's validation images, beside their foregrounds.

CAST (Selvaraju et al. 2021), Figure 6: "Grad-CAM attention maps from a fully supervised network and the self-supervised
networks ... on ImageNet-1k" under linear classification. The classifier is the one that `evaluate linear` left, or that
a supervised run or a weights file has of its own. The map is Grad-CAM's (Selvaraju et al. 2017) of the class's logit
on the last feature map, ReLU, scaled to [0, 1]. A linear classifier of the map's spatial mean has its weights as
gradient, so the map needs no backward pass and is that of Zhou et al. 2016 (CAM) up to a factor and the ReLU.

The figure's pictures are drawn as class-grounding.html, with other networks beside. It has no numbers: the score, as
section 4.4 measures the pretext task's maps (cut at 0.5, intersection over union with the mask), is this project's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from backdrop.disk_errors import disk_errors
from backdrop.durable_files import write_aside
from backdrop.errors import UserError
from backdrop.ranks import present
from backdrop.settings import at_least, check_settings, one_of, within
from backdrop.stores.pages import document, pictures
from backdrop.stores.pages.document import Section
from backdrop.trainer.evaluation.classification import check_classes
from backdrop.trainer.evaluation.data.batches import ImageBatch, batches_of, forwarded, image_bar, prepared
from backdrop.trainer.evaluation.data.imagenet import LAYOUT as LAYOUT_OF_IMAGES
from backdrop.trainer.evaluation.data.imagenet import open_scored
from backdrop.trainer.evaluation.data.images import Images
from backdrop.trainer.evaluation.data.masks import Masks, check_size, folder_of, open_masks
from backdrop.trainer.evaluation.data.transforms import resize_and_crop, standard
from backdrop.trainer.evaluation.grounding import OURS, binary_iou, scaled
from backdrop.trainer.evaluation.harness.defaults import no_problems
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import Subject, open_subject, pretrained_backbone
from backdrop.trainer.losses.saliency_attention import grad_cam
from backdrop.trainer.parts.backbones import Backbone

DATA = "imagenet"
LAYOUT = f"{LAYOUT_OF_IMAGES}; and a store of the validation images' masks: build-store --split val --out STORE"
SOURCE = "https://www.image-net.org (ILSVRC2012), masks from a detector of yours"
TAKES_DAYS = False
problems_of_data = no_problems
BATCH_SIZE = 32
PAGE_FILE = "class-grounding.html"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the paper leaves open."""

    masks: Annotated[str, "The store with the images' masks, or a folder of maps, read as masks:DIR is"] = (
        "artifacts/imagenet-val.zarr"
    )
    mask_threshold: Annotated[
        float,
        within(0, 1),
        "Of the values / 255 of PNG masks; those of a store were cut when it was built",
    ] = 0.5
    of: Annotated[
        str,
        one_of(("label", "predicted")),
        'Whose map: "label" = of the image\'s class, the same for every network; "predicted" = of the best class',
    ] = "label"
    threshold: Annotated[float, within(0, 1), "The map is foreground above this, after scaling to [0, 1]"] = 0.5
    pictures: Annotated[int, at_least(0), "Images that are drawn, spread over all"] = 8
    beside: Annotated[
        tuple[str, ...],
        "Folders of other runs, or files of weights, with a classifier, whose maps are drawn beside this one's",
    ] = ()


def needed_beside(data: Path, options: Options) -> list[Path]:
    """Return what must be there besides the images."""
    return [folder_of(options.masks)]


def facts_of_data(data: Path, options: Options) -> dict[str, Any]:
    """Return which masks a score is of. Raises: UserError: they are not there."""
    return {"masks": open_masks(options.masks, options.mask_threshold).name}


@dataclass(frozen=True)
class _MaskedImages(Images):
    """Images that have a mask of their own size."""

    masks: Masks | None = None

    def pixels(self, row: int) -> np.ndarray:
        """The image's. Raises: ImageError: image or mask is damaged, or their sizes differ."""
        image_HWC = super().pixels(row)
        check_size(image_HWC, self.mask(row), self.keys[row])
        return image_HWC

    def mask(self, row: int) -> np.ndarray:
        """The mask, uint8 (H, W)."""
        assert self.masks is not None
        return self.masks.mask(self.keys[row])


@dataclass(frozen=True, kw_only=True)
class _Network:
    """A backbone in evaluation mode and its classifier. size_px: side of its images."""

    backbone: Backbone
    head: nn.Linear
    size_px: int
    device: torch.device


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Score where a classifier looks: mean IoU of a class's map and the mask; the pictures in the run's folder.

    Raises: UserError: no classifier of the images' classes, here or beside; another layout; no masks of the images.
    """
    check_settings(options)
    result = Result(facts={"projection": "none", "bn_mode": subject.bn_mode, "classifier": subject.classifier})
    images, num_classes, is_imagenet = open_scored(data, result)
    masked = _with_masks(images, options, result)
    subjects = {OURS: subject, **_others(options.beside, subject.device)}
    networks = {name: _network(each, num_classes, is_imagenet=is_imagenet) for name, each in subjects.items()}
    iou_N, share_N, num_zero = _ious(networks[OURS], masked, options, result)
    if not len(iou_N):
        raise UserError(f"no crop of {data} has a foreground by {options.masks}: nothing to score")
    result.metrics["mean_iou"] = float(iou_N.mean())
    result.facts |= facts_of_data(data, options)
    result.facts |= {
        "transform": standard(subject.image_size_px).name,
        "of": options.of,
        "images_scored": len(iou_N),
        "skipped_without_foreground": len(masked) - len(iou_N),
        "iou_of_foreground_everywhere": round(float(share_N.mean()), 4),
        "share_of_maps_that_are_zero": round(num_zero / len(iou_N), 4),
    }
    present(subject.device).by_first(lambda: _draw(subject, networks, masked, options))
    return result


def _draw(subject: Subject, networks: dict[str, _Network], images: _MaskedImages, options: Options) -> None:
    """Write the page of pictures into the network's folder."""
    rows = np.unique(np.linspace(0, len(images) - 1, min(options.pictures, len(images))).round().astype(np.int64))
    with disk_errors(subject.probe_folder):
        subject.probe_folder.mkdir(parents=True, exist_ok=True)
        write_aside(subject.probe_folder / PAGE_FILE, _page(networks, images, rows, options))


def class_cam(head: nn.Linear, map_BDhw: Tensor, class_B: Tensor) -> Tensor:
    """Return Grad-CAM of a class's logit, which is linear in the map's spatial mean: its gradient is the weights.

    Args: head: features to logits. map_BDhw: float32 (B, D, h, w). class_B: int64 (B,). Returns: (B, h, w), 0 or more.
    """
    return grad_cam(head.weight[class_B], map_BDhw)


def _others(beside: Sequence[str], device: torch.device) -> dict[str, Subject]:
    """Other networks by the names of their folders or files. Raises: UserError: two have one name."""
    found: dict[str, Subject] = {}
    for path in map(Path, beside):
        if path.name in found or path.name == OURS:
            raise UserError(f"beside: two networks are called {path.name!r}; give folders that have other names")
        found[path.name] = open_subject(path, device)
    return found


def _network(subject: Subject, num_classes: int, *, is_imagenet: bool) -> _Network:
    """A subject's backbone and the classifier that stands on it, of the images' classes."""
    head = subject.head if is_imagenet else subject.own_head
    if head is None:
        what = subject.run or subject.folder.with_suffix("")
        raise UserError(
            f"{what} has no classifier of these images' classes; fit one first: python cli.py evaluate linear --run RUN"
        )
    check_classes(head, "" if is_imagenet else subject.own_classes, num_classes, is_imagenet=is_imagenet)
    # What `evaluate linear` adapted since belongs to its classifier alone.
    backbone = subject.backbone if is_imagenet else pretrained_backbone(subject)
    return _Network(backbone=backbone, head=head, size_px=subject.image_size_px, device=subject.device)


def _with_masks(images: Images, options: Options, result: Result) -> _MaskedImages:
    """The images that have a mask; how many have none is a problem."""
    masks = open_masks(options.masks, options.mask_threshold)
    rows = [row for row, key in enumerate(images.keys) if masks.has(key)]
    if len(rows) < len(images):
        result.problems.append(f"{len(images) - len(rows)} images have no mask in {options.masks}: left out")
    kept = images.subset(rows, f"masks of images such as {images.keys[0]} in {options.masks}")
    return _MaskedImages(kept.root, kept.keys, kept.label_N, masks=masks)


def _maps(network: _Network, images: _MaskedImages, batch: ImageBatch, options: Options) -> tuple[Tensor, Tensor]:
    """Maps (B, h, w) and classes int64 (B,) of a batch, in which some image has pixels."""
    with torch.no_grad():
        class_B = torch.from_numpy(images.label_N[batch.row_B]).to(network.device)
        map_BDhw = network.backbone.forward_map(batch.image_BCHW)
        if options.of == "predicted":
            class_B = network.head(map_BDhw.mean(dim=(2, 3))).argmax(dim=1)
        return class_cam(network.head, map_BDhw, class_B), class_B


def _ious(
    network: _Network, images: _MaskedImages, options: Options, result: Result
) -> tuple[np.ndarray, np.ndarray, int]:
    """IoU of the images with foreground in the crop, float32 (N,), its share of the crop, and how many maps are 0."""

    def scores_of(batch: ImageBatch) -> tuple[Tensor, Tensor, Tensor]:
        cam_Bhw, _ = _maps(network, images, batch, options)
        mask_BHW = torch.from_numpy(np.stack([_cropped_mask(images, row, network.size_px) for row in batch.row_B]))
        iou_B = binary_iou(_enlarged(cam_Bhw, network.size_px).cpu() > options.threshold, mask_BHW == 1)
        return iou_B, mask_BHW.float().mean(dim=(1, 2)), cam_Bhw.flatten(1).amax(dim=1).cpu() == 0

    ious, shares, num_zero = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)], 0
    corrupt: list[str] = []
    asked = ((images, rows) for rows in batches_of(len(images), BATCH_SIZE))
    with image_bar(len(images), "class-grounding") as bar:
        for batch in forwarded(asked, standard(network.size_px), scores_of, device=network.device, bar=bar):
            corrupt += [images.keys[row] for row in batch.corrupt_rows]
            if batch.outputs:
                iou_B, share_B, is_zero_B = batch.outputs
                ious.append(iou_B[share_B > 0].numpy())
                shares.append(share_B[share_B > 0].numpy())
                num_zero += int(is_zero_B[share_B > 0].sum())
    result.note_corrupt(corrupt)
    return np.concatenate(ious), np.concatenate(shares), num_zero


def _cropped_mask(images: _MaskedImages, row: int, size_px: int) -> np.ndarray:
    """The mask as the network's crop cuts it, uint8 (H, W)."""
    return resize_and_crop(images.mask(row), size_px, resample=Image.Resampling.NEAREST)


def _enlarged(cam_Bhw: Tensor, size_px: int) -> Tensor:
    """Maps at the crop's size, scaled to [0, 1]."""
    return scaled(functional.interpolate(cam_Bhw[:, None], (size_px, size_px), mode="bilinear")[:, 0])


def _page(networks: dict[str, _Network], images: _MaskedImages, rows: np.ndarray, options: Options) -> str:
    """The figure: a line an image, with the map of each network."""
    figures: dict[int, list[str]] = {int(row): [] for row in rows}
    for name, network in networks.items():
        asked, transform = [(images, rows)] if len(rows) else [], standard(network.size_px)
        for batch in prepared(asked, transform, device=network.device):
            if not len(batch.row_B):
                continue
            cam_Bhw, class_B = _maps(network, images, batch, options)
            maps = zip(
                batch.row_B.tolist(), _enlarged(cam_Bhw, network.size_px).cpu().numpy(), class_B.tolist(), strict=True
            )
            for row, map_HW, number in maps:
                crop_HWC = standard(network.size_px).apply(images.pixels(row), row)
                if name == OURS:
                    outlined = pictures.with_contour(crop_HWC, _cropped_mask(images, row, network.size_px))
                    figures[row] += [_figure(crop_HWC, "image"), _figure(outlined, "mask")]
                figures[row].append(_figure(pictures.with_heat(crop_HWC, map_HW), f"{name}, class {number}"))
    strips = {images.keys[row]: "".join(strip) for row, strip in figures.items() if strip}
    body = "".join(
        f'<article class="example"><h3>{escape(key)}</h3><div class="strip">{strip}</div></article>'
        for key, strip in strips.items()
    )
    words = (
        "Grad-CAM of the classifier: which parts of the image speak for the class (its number below). Red counts most, "
        "blue nothing. CAST, Figure 6."
    )
    lead = f'<p class="note">{words}</p>'
    return document.page("Where the classifier looks", lead, [Section(anchor="maps", heading="Maps", body=body)])


def _figure(image_HWC: np.ndarray, caption: str) -> str:
    return document.picture(pictures.img(pictures.thumbnail(image_HWC), caption), escape(caption))
