"""The same batches as `loader.Loader`, made slowly with Pillow, torchvision and numpy straight from a store.

Boxes, flips, donors and parameters are equal, masks too; pixels differ by what two JPEG decoders and two ways of
rounding differ. It is the check on the fast path and a way to train where no .beton is wanted.
"""

import io
import math
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from backdrop.errors import UserError
from backdrop.pipeline.beton.reader import BetonSettings
from backdrop.pipeline.beton.scene import scene_of_row
from backdrop.pipeline.loader.epoch_order import check_share, epoch_rows, num_batches, subset, too_few_rows
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.views import crops
from backdrop.pipeline.views.batch import Batch, ViewBatch
from backdrop.pipeline.views.view_plan import View, ViewPlan
from backdrop.stores.format.mask_codec import pack_rows, unpack_rows
from backdrop.stores.format.reader import Store
from backdrop.stores.format.schema import Status
from backdrop.stores.images.image_codec import jpeg_header
from backdrop.stores.indexes.dataset_index import DatasetIndex


class ReferenceLoader:
    """Batches of views of a store and its images."""

    def __init__(
        self,
        store: Store,
        index: DatasetIndex,
        plan: ViewPlan,
        options: LoaderOptions,
        *,
        settings: BetonSettings | None = None,
    ) -> None:
        """Prepare for one plan; reads the header of every background.

        Args: store, index: masks, backgrounds and images. plan: the views. options: those of `loader.Loader`; threads,
            batches ahead, geometry and damaged rows are none of this loader's. settings: of the .beton to be equal to
            (its defaults).
        Raises: UserError as there.
        """
        self._store, self._index, self.plan = store, index, plan
        self._settings = settings or BetonSettings()
        self.batch_size, self.seed = options.batch_size, options.seed
        self._may_shrink = options.shrink_on_decoding
        self._share = check_share(options.batch_size, options.rank, options.world_size, options.drop_last)
        trainable = np.flatnonzero(np.isin(store.status, [status for status in Status if status.has_mask]))
        self.num_left_out = store.num_rows - len(trainable)
        self._rows = (
            trainable.astype(np.int64) if options.rows is None else subset(options.rows, trainable, store.num_rows)
        )
        needs_donor, _ = crops.background_needs(plan)
        self._donors = _donors(store, trainable) if needs_donor else crops.donors(*np.zeros((3, 0), np.int64))
        crops.view_specs(plan), crops.epoch_code(plan, 0)  # refuse a plan that cannot be carried out now
        if not self.num_batches:
            raise UserError(too_few_rows(len(self._rows), self._share, self.batch_size))

    @property
    def num_rows(self) -> int:
        """Rows visited per epoch by all ranks together."""
        return len(self._rows)

    @property
    def num_batches(self) -> int:
        """Batches per epoch of this rank."""
        return num_batches(len(self._rows), self._share, self.batch_size)

    @property
    def store_id(self) -> str | None:
        """Identity of the store."""
        return self._store.store_id

    def epoch(self, epoch: int, *, first_batch: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch, from first_batch on."""
        order = epoch_rows(self._rows, self._share, seed=self.seed, epoch=epoch)
        for number in range(first_batch, self.num_batches):
            rows = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield self._batch(rows, epoch, epoch * self.num_batches + number)

    def close(self) -> None:
        """Nothing is held open."""

    def _batch(self, rows: np.ndarray, epoch: int, step: int) -> Batch:
        samples = [self._views_of(int(row), epoch) for row in rows]
        views = []
        for number in range(len(self.plan.views)):
            images, masks, donors, records = zip(*(sample[number] for sample in samples), strict=True)
            views.append(
                ViewBatch(
                    image_BHWC=torch.from_numpy(np.stack(images)),
                    mask_BHP=torch.from_numpy(np.stack(masks)),
                    donor_BHWC=None if donors[0] is None else torch.from_numpy(np.stack(donors)),
                    record_B=np.stack(records),
                )
            )
        labels = torch.from_numpy(self._store.label[rows].astype(np.int64))
        return Batch(views=tuple(views), row_B=torch.from_numpy(rows), label_B=labels, epoch=epoch, step=step)

    def _views_of(self, row: int, epoch: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]]:
        """(image_HWC, packed mask, donor_HWC, record) of every view of one row."""
        settings = self._settings
        scene = scene_of_row(
            self._store, self._index, row, max_side_px=settings.max_side_px, jpeg_quality=settings.jpeg_quality
        )
        mask_HW = unpack_rows(scene.mask_packed, scene.width)
        foreground = crops.foreground(scene.mask_packed, scene.width)
        record_V = crops.draw_views(self.plan, foreground, self._donors, seed=self.seed, epoch=epoch, row=row)
        box_V = [tuple(int(record[name]) for name in ("top", "left", "height", "width")) for record in record_V]
        shrink = min(self._shrink(box, view) for box, view in zip(box_V, self.plan.views, strict=True))
        views = []
        for number, (view, record, box) in enumerate(zip(self.plan.views, record_V, box_V, strict=True)):
            image_HWC = self._crop(scene.image_jpeg, box, shrink, view, bool(record["is_flipped"]))
            mask = pack_rows(crop_mask(mask_HW, box, view.size_px, bool(record["is_flipped"])))
            donor = self._donor(view, record) if crops.takes_donor(self.plan, number) else None
            views.append((image_HWC, mask, donor, record))
        return views

    def _donor(self, view: View, record: np.void) -> np.ndarray:
        if record["donor_row"] < 0:
            return np.zeros((view.size_px, view.size_px, 3), dtype=np.uint8)
        jpeg = self._store.background_jpeg(int(record["donor_row"]))
        box = tuple(int(record[f"donor_{name}"]) for name in ("top", "left", "height", "width"))
        return self._crop(jpeg, box, self._shrink(box, view), view, bool(record["donor_is_flipped"]))

    def _shrink(self, box: tuple[int, ...], view: View) -> int:
        """How many times smaller the image may be decoded for one box."""
        fitting = [shrink for shrink in (8, 4, 2) if min(box[2:]) >= shrink * view.size_px]
        return fitting[0] if fitting and self._may_shrink else 1

    def _crop(self, jpeg: bytes, box: tuple[int, ...], shrink: int, view: View, is_flipped: bool) -> np.ndarray:
        if shrink == 1:
            return crop_image(_decode(jpeg), box, view.size_px, is_flipped)
        return crop_shrunk_image(jpeg, box, shrink, view.size_px, is_flipped)


def crop_image(image_CHW: torch.Tensor, box: tuple[int, ...], size_px: int, is_flipped: bool) -> np.ndarray:
    """Cut, resize (bilinear with antialias) and flip.

    Args: image_CHW: uint8 RGB. box: (top, left, height, width). size_px: side of the result.
    Returns: uint8 (size_px, size_px, 3).
    """
    crop = functional.resized_crop(image_CHW.float(), *box, [size_px, size_px], antialias=True)
    crop = crop.flip(-1) if is_flipped else crop
    return (crop + 0.5).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def crop_shrunk_image(jpeg: bytes, box: tuple[int, ...], shrink: int, size_px: int, is_flipped: bool) -> np.ndarray:
    """Do what `crop_image` does, of an image that Pillow decodes `shrink` times smaller; box: in its full pixels."""
    with Image.open(io.BytesIO(jpeg)) as image:
        image.draft("RGB", (image.width // shrink, image.height // shrink))
        small = image.convert("RGB")
    top, left, height, width = (side / shrink for side in box)
    touched = (math.floor(left), math.floor(top), math.ceil(left + width), math.ceil(top + height))
    place = (left - touched[0], top - touched[1], left - touched[0] + width, top - touched[1] + height)
    crop = small.crop(touched).resize((size_px, size_px), Image.Resampling.BILINEAR, box=place)
    return np.ascontiguousarray(np.array(crop)[:, ::-1] if is_flipped else np.array(crop))


def crop_mask(mask_HW: np.ndarray, box: tuple[int, ...], size_px: int, is_flipped: bool) -> np.ndarray:
    """Cut, resize to the pixel under each centre, and flip; mask_HW uint8 {0, 1}, returns uint8 (size_px, size_px)."""
    top, left, height, width = box
    centres = 2 * np.arange(size_px) + 1
    rows, columns = top + centres * height // (2 * size_px), left + centres * width // (2 * size_px)
    crop = mask_HW[np.ix_(rows, columns)]
    return np.ascontiguousarray(crop[:, ::-1] if is_flipped else crop)


def _decode(jpeg: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(jpeg)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _donors(store: Store, trainable: np.ndarray) -> crops.Donors:
    rows, sizes = [], []
    for row in trainable:
        jpeg = store.background_jpeg(int(row))
        header = jpeg_header(jpeg) if jpeg else None
        if header is not None:
            rows.append(row)
            sizes.append((header.height, header.width))
    height, width = np.array(sizes, dtype=np.int64).reshape(-1, 2).T
    return crops.donors(np.array(rows, dtype=np.int64), height, width)
