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
from backdrop.pipeline.beton.scene import num_foreground_pixels, resize_mask, scene_of_row, shrunk_size
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
        crops.view_specs(plan), crops.epoch_code(plan, 0)  # refuse a plan that cannot be carried out now
        nobody = crops.donors(*np.zeros((3, 0), np.int64))
        self._donors = _donors(store, trainable, plan, self._settings) if needs_donor else nobody
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
    """Cut, resize (bilinear with antialias) and flip; where the box reaches beyond the image, black.

    Args: image_CHW: uint8 RGB. box: (top, left, height, width). size_px: side of the result.
    Returns: uint8 (size_px, size_px, 3).
    """
    crop = functional.resized_crop(image_CHW.float(), *box, [size_px, size_px], antialias=True)
    crop = _without_the_beyond(crop, image_CHW.shape[1:], box, size_px)
    crop = crop.flip(-1) if is_flipped else crop
    return (crop + 0.5).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def _without_the_beyond(crop: torch.Tensor, size: tuple[int, ...], box: tuple[int, ...], size_px: int) -> torch.Tensor:
    """Take out of a resized crop, float (3, S, S), the zeros that stood for what lies beyond the image."""
    top, left, height, width = box
    if top >= 0 and left >= 0 and top + height <= size[0] and left + width <= size[1]:
        return crop
    share = functional.resized_crop(torch.ones(1, *size), *box, [size_px, size_px], antialias=True)
    is_inside = torch.from_numpy(crop_mask(np.ones(size, np.uint8), box, size_px, False)) != 0
    return torch.where(is_inside, crop / share, 0.0)


def crop_shrunk_image(jpeg: bytes, box: tuple[int, ...], shrink: int, size_px: int, is_flipped: bool) -> np.ndarray:
    """Do what `crop_image` does, of an image that Pillow decodes `shrink` times smaller; box: in its full pixels."""
    with Image.open(io.BytesIO(jpeg)) as image:
        image.draft("RGB", (image.width // shrink, image.height // shrink))
        small = image.convert("RGB")
    top, left, height, width = (side / shrink for side in box)
    touched = (math.floor(left), math.floor(top), math.ceil(left + width), math.ceil(top + height))
    place = (left - touched[0], top - touched[1], left - touched[0] + width, top - touched[1] + height)

    def resized(plane: Image.Image) -> np.ndarray:
        return np.array(plane.crop(touched).resize((size_px, size_px), Image.Resampling.BILINEAR, box=place))

    crop = resized(small)
    if min(touched[:2]) < 0 or touched[2] > small.width or touched[3] > small.height:
        share = resized(Image.fromarray(np.ones((small.height, small.width), np.float32)))[..., None]
        exact = np.stack([resized(plane.convert("F")) for plane in small.split()], axis=-1)
        whole = np.ones((shrink * small.height, shrink * small.width), np.uint8)
        is_inside = crop_mask(whole, box, size_px, False)[..., None] != 0
        crop = np.where(is_inside, exact / np.where(is_inside, share, 1.0) + 0.5, 0.0).astype(np.uint8)
    return np.ascontiguousarray(crop[:, ::-1] if is_flipped else crop)


def crop_mask(mask_HW: np.ndarray, box: tuple[int, ...], size_px: int, is_flipped: bool) -> np.ndarray:
    """Cut, resize to the pixel under each centre, and flip; mask_HW uint8 {0, 1}, returns uint8 (size_px, size_px).

    What lies beyond the mask is background.
    """
    top, left, height, width = box
    centres = 2 * np.arange(size_px) + 1
    rows, columns = top + centres * height // (2 * size_px), left + centres * width // (2 * size_px)
    is_row, is_column = ((at >= 0) & (at < side) for at, side in zip((rows, columns), mask_HW.shape, strict=True))
    crop = mask_HW[np.ix_(rows * is_row, columns * is_column)] * (is_row[:, None] & is_column)
    return np.ascontiguousarray(crop[:, ::-1] if is_flipped else crop)


def _decode(jpeg: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(jpeg)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _donors(store: Store, trainable: np.ndarray, plan: ViewPlan, settings: BetonSettings) -> crops.Donors:
    """The rows that lend backgrounds to a plan."""
    rows, sizes, fractions = [], [], []
    for row in trainable.tolist():
        jpeg = store.background_jpeg(row)
        header = jpeg_header(jpeg) if jpeg else None
        if header is not None:
            rows.append(row)
            sizes.append((header.height, header.width))
            fractions.append(_foreground_fraction(store, row, settings) if crops.moves_foreground(plan) else 0.0)
    row_N, fraction_N = np.array(rows, dtype=np.int64), np.array(fractions)
    height_N, width_N = np.array(sizes, dtype=np.int64).reshape(-1, 2).T
    lends = crops.lends_to(plan, fraction_N)
    return crops.donors(row_N[lends], height_N[lends], width_N[lends], fraction_N[lends])


def _foreground_fraction(store: Store, row: int, settings: BetonSettings) -> float:
    """Share of a row's image that its foreground covers, in the mask that training sees."""
    full_size = int(store.height[row]), int(store.width[row])
    size = shrunk_size(full_size, settings.max_side_px)
    packed = resize_mask(store.mask_packed(row), full_size, size)
    return num_foreground_pixels(packed, size[1]) / (size[0] * size[1])
