"""A store's masks beside images that torch reads one by one: a data set for one's own training code."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from backdrop.errors import UserError
from backdrop.stores.format.reader import Store
from backdrop.stores.format.schema import Status
from backdrop.stores.images.image_codec import decode_rgb

# An image's path, with its class or alone.
Sample = tuple[str | Path, int] | str | Path


class MaskedImages(Dataset[tuple[Any, Any, int]]):
    """Images with their masks and classes, as torchvision's v2 transforms take them: (image, mask, class).

    image: `tv_tensors.Image`, uint8 (3, H, W) RGB. mask: `tv_tensors.Mask`, uint8 (1, H, W), 1 = foreground. Images
    whose row has no mask are left out (`num_left_out`); `rows` has the store's row of each that is here.
    """

    def __init__(
        self,
        store: Store,
        images: Iterable[Sample],
        transforms: Callable[..., Any] | None = None,
        *,
        root: str | Path | None = None,
    ) -> None:
        """Find the row of each image.

        Args:
            store: built from these images, or from more.
            images: torchvision's `ImageFolder`, or paths, or (path, class) as `ImageFolder.samples` has them; without a
                class it is the store's, -1 = none.
            transforms: of torchvision.transforms.v2, called with (image, mask, class) and returned as it answers.
            root: the folder that the store's keys are relative to; None = the ImageFolder's, or the one that all paths
                lie below.
        Raises: UserError: an image is not in the store.
        """
        samples = [_sample(each) for each in getattr(images, "samples", images)]
        found = root or getattr(images, "root", None) or _common_folder([path for path, _ in samples])
        rows = [store.row_of(Path(os.path.relpath(path, found)).as_posix()) for path, _ in samples]
        self.store, self.transforms = store, transforms
        kept = [place for place, row in enumerate(rows) if Status(int(store.status[row])).has_mask]
        self.num_left_out = len(rows) - len(kept)
        self.rows = [rows[place] for place in kept]
        self.paths = [samples[place][0] for place in kept]
        self.classes = [_class_of(store, rows[place], samples[place][1]) for place in kept]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Any:
        image_HWC, mask_HW = decode_rgb(Path(self.paths[place]).read_bytes()), self.store.mask(self.rows[place])
        assert mask_HW is not None, "rows without a mask were left out"
        if image_HWC.shape[:2] != mask_HW.shape:
            raise UserError(
                f"{self.paths[place]} has {image_HWC.shape[:2]} px, the mask of its row {mask_HW.shape}: it is not the "
                f"image that {self.store.path} was built from"
            )
        image = tv_tensors.Image(torch.from_numpy(image_HWC).permute(2, 0, 1).contiguous())
        sample = image, tv_tensors.Mask(torch.from_numpy(mask_HW)[None]), self.classes[place]
        return sample if self.transforms is None else self.transforms(*sample)


def _sample(given: Sample) -> tuple[str | Path, int | None]:
    return given if isinstance(given, tuple) else (given, None)


def _common_folder(paths: list[str | Path]) -> str:
    if not paths:
        raise UserError("there are no images: give an ImageFolder, or paths")
    return os.path.commonpath([os.path.dirname(path) for path in paths])


def _class_of(store: Store, row: int, given: int | None) -> int:
    return int(store.label[row]) if given is None else given
