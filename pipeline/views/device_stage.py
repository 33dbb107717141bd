"""From a loader's uint8 crops to what a model sees, batched, on the device that trains.

Order: photometrics on [0, 1] floats, normalisation, then backgrounds (Ryali et al. 2021, section 2.2: after all other
augmentations; `Background.order` puts them first), and the extra negatives of BG_Swaps.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backdrop.errors import UserError
from backdrop.pipeline.views import dense_form, device_crops, row_form
from backdrop.pipeline.views.batch import Batch, WholeBatch
from backdrop.pipeline.views.view_plan import ViewPlan
from backdrop.pipeline.views.view_work import ViewWork, mean_std, view_works
from backdrop.stores.images.imagenet_statistics import IMAGENET_MEAN, IMAGENET_STD

# How the work is put: on the drawn rows alone; on all rows, shapes fixed; the same through torch.compile.
FORMS = ("rows", "dense", "compiled")

# Image, mask and negatives of one view.
Made = tuple[Tensor, Tensor, Tensor | None]


@dataclass(frozen=True, kw_only=True)
class Views:
    """What a method trains on, in the plan's order.

    images: float32 (B, 3, H, W) per view, normalised.
    masks: float32 (B, 1, H, W) per view, 1 = foreground, unperturbed.
    negative: float32 (M * B, 3, H, W), normalised, M extra negatives per query (BG_Swaps), else None; negative m of
        query b stands at m * B + b.
    boxes: int32 (B, 4) per view, top, left, height, width in pixels of the stored image. is_flipped: bool (B,) per
        view, whether the crop was mirrored.
    row_B, label_B: int64 (B,), as in the batch. epoch, step: position in the run.
    """

    images: list[Tensor]
    masks: list[Tensor]
    negative: Tensor | None
    boxes: list[Tensor]
    is_flipped: list[Tensor]
    row_B: Tensor
    label_B: Tensor
    epoch: int
    step: int

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Views":
        """Return them on another device, as `Tensor.to` does; what Lightning moves a batch with."""

        def moved(value: Any) -> Any:
            if isinstance(value, list):
                return [moved(each) for each in value]
            return value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor) else value

        return replace(self, **{name: moved(value) for name, value in vars(self).items()})


class DeviceStage:
    """Carries out what a loader drew."""

    def __init__(
        self,
        plan: ViewPlan,
        *,
        device: torch.device | str,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        form: str = "rows",
        channels_last: bool = False,
        compile_backend: str = "inductor",
    ) -> None:
        """Prepare for one plan.

        Args: plan: the views. device: where the views are wanted. mean, std: per channel, of [0, 1] values.
            form: one of FORMS; the results are equal but for rounding. channels_last: memory format of the images.
            compile_backend: of torch.compile, for form "compiled", which takes 8 different views in a process.
        Raises: UserError when the plan names a background that does not exist, or form is none of FORMS.
        """
        if form not in FORMS:
            raise UserError(f"form is {form!r}; allowed: {', '.join(FORMS)}")
        self.plan, self.form = plan, form
        self.device = torch.device(device)
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._works = view_works(plan, mean, std)
        # One function per view that differs from the others: each compiles once.
        self._dense: dict[ViewWork, Callable[..., Made]] = {
            work: partial(dense_form.make_view, work=work) for work in self._works
        }
        if form == "compiled":
            self._dense = {
                work: torch.compile(function, fullgraph=True, dynamic=False, backend=compile_backend)
                for work, function in self._dense.items()
            }

    def __call__(self, batch: Batch | WholeBatch) -> Views:
        """Make the views of one batch.

        Args: batch: uint8 crops with their records, views in the plan's order; or whole images with theirs.
        Returns: Views on the device; nothing of it shares memory with the batch's images.
        """
        if isinstance(batch, WholeBatch):
            batch = device_crops.cut(batch, self.plan, self.device)
        made = self._make_rows(batch) if self.form == "rows" else self._make_dense(batch)
        images, masks, negatives = zip(*made, strict=True)
        negative = next((each for each in negatives if each is not None), None)
        place_VB5 = self._move(torch.from_numpy(np.stack([_places(view.record_B) for view in batch.views])))
        return Views(
            images=[image.contiguous(memory_format=self._format) for image in images],
            masks=[mask.float() for mask in masks],
            negative=None if negative is None else negative.contiguous(memory_format=self._format),
            boxes=list(place_VB5[:, :, :4]),
            is_flipped=list(place_VB5[:, :, 4] != 0),
            row_B=self._move(batch.row_B),
            label_B=self._move(batch.label_B),
            epoch=batch.epoch,
            step=batch.step,
        )

    def _make_rows(self, batch: Batch) -> list[Made]:
        pairs = zip(batch.views, self._works, strict=True)
        return [row_form.make_view(view, work, self.device) for view, work in pairs]

    def _make_dense(self, batch: Batch) -> list[Made]:
        """All parameters of all views go to the device in one copy."""
        packed = [dense_form.pack(view.record_B, work) for view, work in zip(batch.views, self._works, strict=True)]
        flat = torch.from_numpy(np.concatenate([each.reshape(-1) for each in packed]))
        flat = self._move(flat.pin_memory() if self.device.type == "cuda" else flat)
        parts = flat.split([each.size for each in packed])
        made = []
        for view, work, each, part in zip(batch.views, self._works, packed, parts, strict=True):
            donor = None if view.donor_BHWC is None else self._move(view.donor_BHWC)
            image, mask = self._move(view.image_BHWC), self._move(view.mask_BHP)
            made.append(self._dense[work](image, mask, donor, part.view(each.shape), mean_std(work, self.device)))
        return made

    def _move(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)


def _places(record_B: np.ndarray) -> np.ndarray:
    """Boxes and flips of one view, int32 (B, 5)."""
    return np.stack(
        [record_B[name] for name in ("top", "left", "height", "width", "is_flipped")], axis=1, dtype=np.int32
    )
