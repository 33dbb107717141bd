"""From a loader's uint8 crops to what a model sees, batched, on the device that trains.

Order: photometrics on [0, 1] floats, normalisation, then backgrounds (Ryali et al. 2021, section 2.2: after all other
augmentations), then the extra negative of BG_Swaps. Backgrounds come last because they only select pixels: normalised
before or after, the bytes are the same.
"""

from dataclasses import dataclass
from importlib import import_module

import numpy as np
import torch
from torch import Tensor

from pipeline.loader.batch import Batch, ViewBatch, WholeBatch
from pipeline.views import backgrounds, compositing, device_crops, photometric, photometric_cpu
from pipeline.views.view_plan import View, ViewPlan
from stores.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Views:
    """What a method trains on, in the plan's order.

    images: float32 (B, 3, H, W) per view, normalised. masks: float32 (B, 1, H, W) per view, 1 = foreground.
    boxes: int64 (B, 4) per view, the crops: top, left, height, width in pixels of the stored image. is_flipped: bool (B,)
    per view, whether the crop was then mirrored.
    negative: float32 (B, 3, H, W), normalised, one extra negative per query (BG_Swaps), else None.
    row_B, label_B: int64 (B,), as in the batch. epoch, step: position in the run.
    """

    images: list[Tensor]
    masks: list[Tensor]
    boxes: list[Tensor]
    is_flipped: list[Tensor]
    negative: Tensor | None
    row_B: Tensor
    label_B: Tensor
    epoch: int
    step: int


class DeviceStage:
    """Carries out what a loader drew."""

    def __init__(
        self,
        plan: ViewPlan,
        *,
        device: torch.device | str,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        """Prepare for one plan.

        Args: plan: the views. device: where the views are wanted. mean, std: per channel, of [0, 1] values.
        Raises: UserError when the plan names a background that does not exist.
        """
        name = plan.background.name
        if name not in backgrounds.NAMES:
            raise UserError(f"There is no background {name!r}. Choose one of: {', '.join(backgrounds.NAMES)}.")
        self.plan = plan
        self.device = torch.device(device)
        self._background = import_module(f"pipeline.views.backgrounds.{name}")
        self._mean = torch.tensor(mean, device=self.device)[:, None, None]
        self._std = torch.tensor(std, device=self.device)[:, None, None]

    def __call__(self, batch: Batch | WholeBatch) -> Views:
        """Make the views of one batch.

        Args: batch: uint8 crops with their records, views in the plan's order; or whole images with theirs.
        Returns: Views on the device; nothing of it shares memory with the batch's images.
        """
        if isinstance(batch, WholeBatch):
            batch = device_crops.cut(batch, self.plan, self.device)
        images: list[Tensor] = []
        masks: list[Tensor] = []
        negative = None
        for view, view_batch in zip(self.plan.views, batch.views, strict=True):
            plain_BCHW = self._augment(view_batch.image_BHWC, view_batch.record_B, view)
            mask_B1HW = compositing.unpack_mask(self._move(view_batch.mask_BHP), plain_BCHW.shape[-1])
            has_negative = self._background.HAS_NEGATIVE and not images
            own_BCHW = plain_BCHW.clone() if has_negative else plain_BCHW
            image_BCHW = self._replace_background(own_BCHW, mask_B1HW, view_batch, view)
            if has_negative:
                negative = _negative(image_BCHW, plain_BCHW, mask_B1HW, view_batch.record_B)
            images.append(image_BCHW)
            masks.append(mask_B1HW.float())
        return Views(
            images=images,
            masks=masks,
            boxes=[self._move(_boxes(view.record_B)) for view in batch.views],
            is_flipped=[self._move(torch.from_numpy(view.record_B["is_flipped"] != 0)) for view in batch.views],
            negative=negative,
            row_B=self._move(batch.row_B),
            label_B=self._move(batch.label_B),
            epoch=batch.epoch,
            step=batch.step,
        )

    def _augment(self, image_BHWC: Tensor, record_B: np.ndarray, view: View) -> Tensor:
        """Photometrics and normalisation; float32 (B, 3, H, W) on the device."""
        if self.device.type == "cpu":
            mean_3, std_3 = self._mean.view(3).numpy(), self._std.view(3).numpy()
            return photometric_cpu.augment(image_BHWC, record_B, view, mean_3, std_3, torch.get_num_threads())
        image_BCHW = self._move(image_BHWC).permute(0, 3, 1, 2).contiguous().float().div_(255.0)
        return self._normalise(photometric.augment(image_BCHW, record_B, view))

    def _replace_background(self, image_BCHW: Tensor, mask_B1HW: Tensor, batch: ViewBatch, view: View) -> Tensor:
        is_drawn_B = batch.record_B["has_background"] != 0
        if not view.is_global or not is_drawn_B.any():
            return image_BCHW
        record_D = batch.record_B[is_drawn_B]
        donor_DCHW = None
        if self._background.NEEDS_DONOR:
            assert batch.donor_BHWC is not None, "a loader hands over donors to a plan that needs them"
            # A donor takes the photometrics of the view it is pasted into: draws of its own would be as many again
            # for the same distribution.
            drawn = torch.from_numpy(np.flatnonzero(is_drawn_B)).to(batch.donor_BHWC.device)
            donor_DCHW = self._augment(batch.donor_BHWC[drawn], record_D, view)
        grey_D111 = self._move(torch.from_numpy(record_D["background_grey"]))[:, None, None, None]
        replacement = self._background.replacement(donor_DCHW, self._normalise(grey_D111))
        if replacement is None:
            return image_BCHW
        return compositing.composite(image_BCHW, mask_B1HW, replacement, is_drawn_B)

    def _move(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _normalise(self, image_BCHW: Tensor) -> Tensor:
        return (image_BCHW - self._mean) / self._std


def _boxes(record_B: np.ndarray) -> Tensor:
    sides = [record_B[name].astype(np.int64) for name in ("top", "left", "height", "width")]
    return torch.from_numpy(np.stack(sides, axis=1))


def _negative(query_BCHW: Tensor, plain_BCHW: Tensor, mask_B1HW: Tensor, record_B: np.ndarray) -> Tensor:
    source_B = compositing.negative_sources(record_B["negative_source"])
    is_matched_B = record_B["is_negative_matched"] != 0
    return compositing.extra_negative(query_BCHW, plain_BCHW, mask_B1HW, is_matched_B, source_B)
