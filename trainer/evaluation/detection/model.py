"""Faster and Mask R-CNN around a pretrained ResNet, as detectron2 assembles them, out of torchvision's parts.

Two forms. C4 (He et al. 2017, arXiv 1703.06870; MoCo's `detection/`): the RPN on conv4's map (stride 16), RoIAlign to
14 x 14, conv5 with one more BatchNorm as the head of every region, its mean for class and box, its 7 x 7 map for the
mask. FPN (Lin et al. 2017; VirTex's settings, used by CAST): BatchNorms in the pyramid, two layers of 1,024 for class
and box, four convolutions for the mask.

Where torchvision's defaults are others than detectron2's, detectron2's stand here: RoIAlign is aligned and samples
adaptively; box losses are L1 without a smooth part, divided by the number of samples asked for; anchors are not
rounded, lie at multiples of the stride without an offset, and proposals have no least size; masks are pasted by
sampling at pixel centres; nothing is frozen and every BatchNorm learns.

What still differs from detectron2: batches come in one process, so BatchNorm sees the whole batch, which is what
(naive)SyncBN computes over 8 GPUs of 2 images; mask targets are cut from bitmaps of the resized polygons (its
"bitmask" format) instead of from the polygons; a batch holds images of one orientation as a whole, not in pairs; the
background has box outputs that no loss and no prediction uses.

Legend: B images, N boxes, K classes without background, C H W channels, rows, columns. Boxes here are as torchvision's
parts want them, (left, top, right, bottom) in pixels from the image's corner; labels are 1 .. K, 0 is background.
"""

import copy
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import roi_align
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from backdrop.errors import UserError
from backdrop.stores.images.imagenet_statistics import IMAGENET_MEAN, IMAGENET_STD
from backdrop.trainer.parts.backbones import Backbone

FORMS = ("c4", "fpn")
ASPECT_RATIOS = (0.5, 1.0, 2.0)  # height / width of an anchor
ANCHOR_SIZES_PX = (32.0, 64.0, 128.0, 256.0, 512.0)
C4_STRIDE_PX = 16
FPN_STRIDES_PX = (4, 8, 16, 32, 64)
FPN_CHANNELS = 256
_POSITIVE_REGIONS = 0.25  # share of the regions drawn, at most
_STEM = ("conv1", "bn1", "relu", "maxpool")
_STAGES = ("layer1", "layer2", "layer3", "layer4")
Target = dict[str, Tensor]


class Detector(nn.Module):
    """Images to losses where it learns, else to what is found in each of them."""

    rpn: "Rpn"
    roi_heads: "RoiHeads"

    def __init__(self, trunk: nn.Module, rpn: "Rpn", roi_heads: "RoiHeads", size_divisor_px: int) -> None:
        super().__init__()
        self.trunk, self.rpn, self.roi_heads = trunk, rpn, roi_heads
        self.size_divisor_px = size_divisor_px

    def forward(
        self, images: Sequence[Tensor], targets: list[Target] | None = None
    ) -> dict[str, Tensor] | list[Target]:
        """Return losses by name in training mode, else one record of boxes, labels, scores (and masks) per image.

        Args: images: uint8 (3, H, W) RGB each, resized. targets: boxes float32 (N, 4), labels int64 (N,), and for masks
            uint8 (N, H, W) in {0, 1}, 1 = object.
        """
        batch = padded(images, self.size_divisor_px)
        features = self.trunk(batch.tensors)
        proposals, losses = self.rpn(batch, features, targets)
        found, roi_losses = self.roi_heads(features, proposals, batch.image_sizes, targets)
        return losses | roi_losses if self.training else found

    def reseed(self, seed: int) -> None:
        """Have the anchors and regions of the next step drawn from this seed."""
        self.rpn.fg_bg_sampler.reseed(2 * seed)
        self.roi_heads.fg_bg_sampler.reseed(2 * seed + 1)


def build_detector(
    backbone: Backbone, form: str, num_classes: int, *, has_masks: bool, seed: int, regions_per_image: int = 512
) -> Detector:
    """Build a detector that starts at a backbone's weights.

    Args: backbone: a ResNet; copied. form: "c4" or "fpn". num_classes: K. has_masks: Mask R-CNN instead of Faster.
        seed: of the new layers' weights. regions_per_image: regions that are learned from in each image.
    Raises: UserError: another form, or no ResNet with its first convolution of stride 2.
    """
    if form not in FORMS:
        raise UserError(f"form={form!r}; allowed: {', '.join(FORMS)}")
    layers = dict(copy.deepcopy(backbone).named_children())
    if set(layers) != {*_STEM, *_STAGES} or layers["conv1"].stride != (2, 2):
        raise UserError("detectors are built on ResNets for images of ordinary size (no cifar_stem); score another one")
    channels = _channels(layers)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        build = _c4 if form == "c4" else _fpn
        detector = build(layers, channels, num_classes, has_masks)
    detector.roi_heads.fg_bg_sampler = Sampler(regions_per_image, _POSITIVE_REGIONS)
    return detector


def padded(images: Sequence[Tensor], size_divisor_px: int) -> ImageList:
    """Normalise images and lay them into one batch, zeros to their right and below (after normalisation)."""
    mean = torch.tensor(IMAGENET_MEAN, device=images[0].device)[:, None, None] * 255.0
    std = torch.tensor(IMAGENET_STD, device=images[0].device)[:, None, None] * 255.0
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    height, width = (-(-max(side) // size_divisor_px) * size_divisor_px for side in zip(*sizes, strict=True))
    batch = torch.zeros(len(images), 3, height, width, device=images[0].device)
    for slot, image in zip(batch, images, strict=True):
        slot[:, : image.shape[1], : image.shape[2]] = (image.float() - mean) / std
    return ImageList(batch, sizes)


def paste_masks(mask_N1HW: Tensor, box_N4: Tensor, height: int, width: int) -> Tensor:
    """Lay masks that were predicted inside boxes over the image.

    Args: mask_N1HW: float (N, 1, h, w) in [0, 1]. box_N4: float (N, 4), in the image's pixels. height, width: of it.
    Returns: bool (N, height, width), 1 = object: the mask, sampled bilinearly at each pixel's centre, is at least 0.5.
    """
    pasted = torch.zeros(len(box_N4), height, width, dtype=torch.bool, device=box_N4.device)
    y_H, x_W = (torch.arange(side, device=box_N4.device) + 0.5 for side in (height, width))
    for row, (left, top, right, bottom) in enumerate(box_N4):
        # From 0 .. side in pixels to -1 .. 1 over the box, as grid_sample counts; outside of it is no object.
        x, y = (x_W - left) / (right - left) * 2 - 1, (y_H - top) / (bottom - top) * 2 - 1
        grid_1HW2 = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=2)[None]
        pasted[row] = F.grid_sample(mask_N1HW[row : row + 1], grid_1HW2, align_corners=False)[0, 0] >= 0.5
    return pasted


# ------------------------------------------------------------------------------------------------------ two assemblies


def _c4(layers: dict[str, nn.Module], channels: dict[str, int], num_classes: int, has_masks: bool) -> Detector:
    trunk = _Stages({name: layers[name] for name in (*_STEM, *_STAGES[:3])}, {"layer3": "0"})
    head = nn.Sequential(OrderedDict(layer4=layers["layer4"], norm=nn.BatchNorm2d(channels["layer4"])))
    rpn = _rpn(channels["layer3"], (ANCHOR_SIZES_PX,), (C4_STRIDE_PX,), before_nms=(12_000, 6_000), after_nms=2_000)
    roi_heads = RoiHeads(
        box_pool=RoiPool((C4_STRIDE_PX,), 14),
        box_head=head,
        predictor=BoxPredictor(channels["layer4"], num_classes),
        mask_pool=None,
        mask_head=_mask_head(channels["layer4"], num_classes, num_convs=0) if has_masks else None,
    )
    return Detector(trunk, rpn, roi_heads, size_divisor_px=1)


def _fpn(layers: dict[str, nn.Module], channels: dict[str, int], num_classes: int, has_masks: bool) -> Detector:
    stages = _Stages(layers, {name: str(level) for level, name in enumerate(_STAGES)})
    pyramid = FeaturePyramidNetwork(
        [channels[name] for name in _STAGES], FPN_CHANNELS, LastLevelMaxPool(), norm_layer=nn.BatchNorm2d
    )
    rpn = _rpn(
        FPN_CHANNELS,
        tuple((size,) for size in ANCHOR_SIZES_PX),
        FPN_STRIDES_PX,
        before_nms=(2_000, 1_000),
        after_nms=1_000,
    )
    linear = [nn.Linear(FPN_CHANNELS * 7 * 7, 1024), nn.Linear(1024, 1024)]
    for layer in linear:
        nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.zeros_(layer.bias)
    roi_heads = RoiHeads(
        box_pool=RoiPool(FPN_STRIDES_PX[:4], 7),
        box_head=nn.Sequential(nn.Flatten(), linear[0], nn.ReLU(), linear[1], nn.ReLU()),
        predictor=BoxPredictor(1024, num_classes),
        mask_pool=RoiPool(FPN_STRIDES_PX[:4], 14) if has_masks else None,
        mask_head=_mask_head(FPN_CHANNELS, num_classes, num_convs=4) if has_masks else None,
    )
    return Detector(nn.Sequential(stages, pyramid), rpn, roi_heads, size_divisor_px=32)


class _Stages(nn.Module):
    """A ResNet's layers, one after the other; gives the maps of some of them by the names wanted."""

    def __init__(self, layers: dict[str, nn.Module], wanted: dict[str, str]) -> None:
        super().__init__()
        self.wanted = wanted
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, image_BCHW: Tensor) -> dict[str, Tensor]:
        features, maps = image_BCHW, OrderedDict()
        for name, layer in self.named_children():
            features = layer(features)
            if name in self.wanted:
                maps[self.wanted[name]] = features
        return maps


def _channels(layers: dict[str, nn.Module]) -> dict[str, int]:
    """Channels that leave each stage, found by sending one small image through."""
    stages = _Stages(layers, {name: name for name in _STAGES})
    device = next(stages.parameters()).device
    was_training = {name: module.training for name, module in stages.named_modules()}
    with torch.no_grad():
        maps = stages.eval()(torch.zeros(1, 3, 64, 64, device=device))
    for name, module in stages.named_modules():
        module.training = was_training[name]
    return {name: features.shape[1] for name, features in maps.items()}


# ----------------------------------------------------------------------------------------------------- region proposals


class Anchors(nn.Module):
    """Boxes of every size and aspect ratio at every place of a map; the first place is the image's corner."""

    def __init__(self, sizes_px: Sequence[Sequence[float]], strides_px: Sequence[int]) -> None:
        super().__init__()
        self.strides_px = strides_px
        self.cells = [
            torch.tensor(
                [
                    [-(width := size / ratio**0.5) / 2, -(height := size * ratio**0.5) / 2, width / 2, height / 2]
                    for size in sizes
                    for ratio in ASPECT_RATIOS
                ]
            )
            for sizes in sizes_px
        ]

    def forward(self, images: ImageList, features: Sequence[Tensor]) -> list[Tensor]:
        """Return float32 (N, 4) for each image: level by level, row by row, column by column."""
        levels = []
        for cell_A4, stride, feature in zip(self.cells, self.strides_px, features, strict=True):
            rows, columns = (torch.arange(side, device=feature.device) * stride for side in feature.shape[-2:])
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            corner = torch.stack([x, y, x, y], dim=2).reshape(-1, 1, 4)
            levels.append((corner + cell_A4.to(feature.device)).reshape(-1, 4))
        return [torch.cat(levels)] * len(images.image_sizes)


class Sampler:
    """Draws so many boxes of each image, a share of them positive, from a seed of its own."""

    def __init__(self, num_per_image: int, positive_fraction: float) -> None:
        self.num_per_image = num_per_image
        self.num_positive = int(num_per_image * positive_fraction)
        self.generator = torch.Generator()

    def reseed(self, seed: int) -> None:
        """Draw from this seed from now on."""
        self.generator.manual_seed(seed)

    def __call__(self, labels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return which boxes are drawn as positive and as negative: uint8 (N,) each per image.

        Args: labels: (N,) of each image: 1 or more positive, 0 negative, below 0 neither.
        """
        drawn = [self._drawn(label_N) for label_N in labels]
        return [positive for positive, _ in drawn], [negative for _, negative in drawn]

    def _drawn(self, label_N: Tensor) -> tuple[Tensor, Tensor]:
        positive = self._subset(label_N >= 1, self.num_positive)
        return positive, self._subset(label_N == 0, self.num_per_image - int(positive.sum()))

    def _subset(self, is_candidate_N: Tensor, num: int) -> Tensor:
        chosen_N = torch.zeros_like(is_candidate_N, dtype=torch.uint8)
        candidates = is_candidate_N.nonzero()[:, 0]
        order = torch.randperm(len(candidates), generator=self.generator).to(candidates.device)
        chosen_N[candidates[order[:num]]] = 1
        return chosen_N


class Rpn(RegionProposalNetwork):
    """torchvision's, with detectron2's losses: L1, and both divided by the number of anchors asked for."""

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return (objectness loss, box loss) over drawn anchors of all images."""
        drawn = self.fg_bg_sampler(labels)
        is_positive, is_negative = (torch.cat(each).bool() for each in drawn)
        is_drawn = is_positive | is_negative
        num_asked = len(labels) * self.fg_bg_sampler.num_per_image
        target = torch.cat(regression_targets)
        box_loss = F.l1_loss(pred_bbox_deltas[is_positive], target[is_positive], reduction="sum")
        objectness_loss = F.binary_cross_entropy_with_logits(
            objectness.flatten()[is_drawn], torch.cat(labels)[is_drawn], reduction="sum"
        )
        return objectness_loss / num_asked, box_loss / num_asked


def _rpn(
    channels: int,
    sizes_px: Sequence[Sequence[float]],
    strides_px: Sequence[int],
    *,
    before_nms: tuple[int, int],
    after_nms: int,
) -> Rpn:
    rpn = Rpn(
        Anchors(sizes_px, strides_px),
        RPNHead(channels, len(sizes_px[0]) * len(ASPECT_RATIOS)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": before_nms[0], "testing": before_nms[1]},
        post_nms_top_n={"training": after_nms, "testing": 1_000},
        nms_thresh=0.7,
    )
    rpn.fg_bg_sampler = Sampler(256, 0.5)
    rpn.min_size = torch.finfo(torch.float32).tiny  # every box that is not empty
    return rpn


# -------------------------------------------------------------------------------------------------------- region heads


class RoiPool(nn.Module):
    """RoIAlign, aligned, with adaptive sampling; of several maps, the one that fits the box's size (FPN, Eq. 1)."""

    def __init__(self, strides_px: Sequence[int], size: int) -> None:
        super().__init__()
        self.strides_px, self.size = strides_px, size

    def forward(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Return float32 (N of all images, C, size, size). Args: features: by level. boxes: (N, 4) of each image."""
        maps = list(features.values())[: len(self.strides_px)]
        image_N = torch.repeat_interleave(
            torch.arange(len(boxes), device=maps[0].device),
            torch.tensor([len(box_N4) for box_N4 in boxes], device=maps[0].device),
        )
        box_N4 = torch.cat(list(boxes))
        roi_N5 = torch.cat([image_N[:, None].to(box_N4.dtype), box_N4], dim=1)
        level_N = self._level(box_N4)
        pooled = maps[0].new_zeros(len(roi_N5), maps[0].shape[1], self.size, self.size)
        for level, (feature, stride) in enumerate(zip(maps, self.strides_px, strict=True)):
            rows = (level_N == level).nonzero()[:, 0]
            found = roi_align(feature, roi_N5[rows], self.size, 1.0 / stride, sampling_ratio=0, aligned=True)
            pooled = found if len(maps) == 1 else pooled.index_copy(0, rows, found)
        return pooled

    def _level(self, box_N4: Tensor) -> Tensor:
        side_N = ((box_N4[:, 2] - box_N4[:, 0]) * (box_N4[:, 3] - box_N4[:, 1])).clamp(min=0).sqrt()
        level_N = torch.floor(4 + torch.log2(side_N / 224 + 1e-8)) - 2  # level 2 has stride 4 and comes first
        return level_N.clamp(0, len(self.strides_px) - 1).long()


class BoxPredictor(nn.Module):
    """A region's features, averaged where they are a map, to K + 1 class logits and a box for each class."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(num_features, num_classes + 1)
        self.bbox_pred = nn.Linear(num_features, 4 * (num_classes + 1))
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, K + 1) and box deltas (N, 4 (K + 1))."""
        vector_ND = features.mean(dim=(2, 3)) if features.ndim == 4 else features
        return self.cls_score(vector_ND), self.bbox_pred(vector_ND)


class RoiHeads(RoIHeads):
    """torchvision's sampling and suppression with detectron2's losses and features.

    mask_pool: where masks have features of their own; None = they are predicted from the box head's map (C4).
    """

    def __init__(
        self,
        *,
        box_pool: RoiPool,
        box_head: nn.Module,
        predictor: BoxPredictor,
        mask_pool: RoiPool | None,
        mask_head: nn.Module | None,
    ) -> None:
        super().__init__(
            box_pool,
            box_head,
            predictor,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=512,
            positive_fraction=_POSITIVE_REGIONS,
            bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=100,
            mask_roi_pool=mask_pool,
            mask_head=mask_head,
        )

    def check_targets(self, targets: list[Target] | None) -> None:
        """Targets are ours."""
        assert targets is not None

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[Target], dict[str, Tensor]]:
        """Return (found, {}) or, in training mode, ([], losses)."""
        if self.training:
            assert targets is not None
            return [], self._losses(features, proposals, targets)
        region = self.box_head(self.box_roi_pool(features, proposals))
        parts = self.postprocess_detections(*self.box_predictor(region), proposals, image_shapes)
        found = [
            {"boxes": boxes, "scores": scores, "labels": labels} for boxes, scores, labels in zip(*parts, strict=True)
        ]
        if self.mask_head is not None:
            label_N = torch.cat([each["labels"] for each in found])
            mask_N1HW = self._mask_logits(features, [each["boxes"] for each in found], label_N).sigmoid()
            for each, masks in zip(found, mask_N1HW.split([len(each["labels"]) for each in found]), strict=True):
                each["masks"] = masks
        return found, {}

    def _losses(self, features: dict[str, Tensor], proposals: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        boxes, matched, labels, deltas = self.select_training_samples(proposals, targets)
        region = self.box_head(self.box_roi_pool(features, boxes))
        logits, found_deltas = self.box_predictor(region)
        label_N, target_N4 = torch.cat(labels), torch.cat(deltas)
        positive = (label_N > 0).nonzero()[:, 0]
        own_N4 = found_deltas.reshape(len(label_N), -1, 4)[positive, label_N[positive]]
        losses = {
            "class": F.cross_entropy(logits, label_N),
            "box": F.l1_loss(own_N4, target_N4[positive], reduction="sum") / len(label_N),
        }
        if self.mask_head is not None:
            is_positive = [label > 0 for label in labels]
            chosen = [box_N4[chosen_N] for box_N4, chosen_N in zip(boxes, is_positive, strict=True)]
            rows = [row_N[chosen_N] for row_N, chosen_N in zip(matched, is_positive, strict=True)]
            logits = self._mask_logits(features, chosen, label_N[positive], region[positive])
            losses["mask"] = _mask_loss(logits, chosen, rows, [target["masks"] for target in targets])
        return losses

    def _mask_logits(
        self, features: dict[str, Tensor], boxes: list[Tensor], label_N: Tensor, region: Tensor | None = None
    ) -> Tensor:
        """Logits (N, 1, h, w) of each box's own class; region: the box head's maps, where they are known."""
        if self.mask_roi_pool is not None:
            region = self.mask_roi_pool(features, boxes)
        elif region is None:
            region = self.box_head(self.box_roi_pool(features, boxes))
        logit_NKHW = self.mask_head(region)
        return logit_NKHW[torch.arange(len(label_N), device=label_N.device), label_N - 1][:, None]


def _mask_loss(logit_N1HW: Tensor, boxes: list[Tensor], rows: list[Tensor], masks: list[Tensor]) -> Tensor:
    """Mean cross-entropy against the objects' masks, cut to the boxes; 0 where there is no box.

    Args: boxes: (N, 4) of each image. rows: int64 (N,), each box's object. masks: uint8 (objects, H, W), 1 = object.
    """
    if not len(logit_N1HW):
        return logit_N1HW.sum() * 0
    size = logit_N1HW.shape[-1]
    cut = []
    for box_N4, row_N, mask in zip(boxes, rows, masks, strict=True):
        roi_N5 = torch.cat([row_N[:, None].to(box_N4.dtype), box_N4], dim=1)
        cut.append(roi_align(mask[:, None].float(), roi_N5, size, sampling_ratio=0, aligned=True))
    return F.binary_cross_entropy_with_logits(logit_N1HW, (torch.cat(cut) >= 0.5).float())


def _mask_head(in_channels: int, num_classes: int, *, num_convs: int) -> nn.Sequential:
    """Convolutions, one that doubles the resolution, and a mask for each class: (N, C, h, w) to (N, K, 2h, 2w)."""
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        layers += [nn.Conv2d(in_channels, 256, kernel_size=3, padding=1), nn.ReLU()]
        in_channels = 256
    layers += [nn.ConvTranspose2d(in_channels, 256, kernel_size=2, stride=2), nn.ReLU()]
    predictor = nn.Conv2d(256, num_classes, kernel_size=1)
    head = nn.Sequential(*layers, predictor)
    for name, parameter in head.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter is predictor.weight:
            nn.init.normal_(parameter, std=0.001)
        else:
            nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")
    return head
