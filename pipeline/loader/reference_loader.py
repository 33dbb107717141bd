"""The same batches as `loader.Loader`, made slowly with numpy in float64 straight from a store.

Boxes, flips, donors and parameters are equal, masks too; pixels differ by what two ways of rounding differ. It is the
check on the fast path and a way to train where no .beton is wanted. Planes come from the loader's own decoder: Pillow
gives none at the resolution that a JPEG stores.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch

from backdrop.errors import UserError
from backdrop.pipeline.beton.hashed_images import HashedImages
from backdrop.pipeline.beton.plane_kernels import (
    Planes,
    close_decode_memory,
    decode_planes,
    is_stored,
    make_decode_memory,
    stored_planes,
)
from backdrop.pipeline.beton.reader import BetonSettings
from backdrop.pipeline.beton.scene import (
    background_blob,
    num_foreground_pixels,
    resize_mask,
    scene_of_row,
    shrunk_size,
)
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
        self._store, self.plan = store, plan
        self._images = HashedImages(store=store, root=index.root, archive=index.archive)
        self._settings = settings or BetonSettings()
        self.batch_size, self.seed = options.batch_size, options.seed
        self._may_shrink, self._order = options.shrink_on_decoding, options.order
        self._share = check_share(options.batch_size, options.rank, options.world_size, options.drop_last)
        trainable = np.flatnonzero(np.isin(store.status, [status for status in Status if status.has_mask]))
        self.num_left_out = store.num_rows - len(trainable)
        self._rows = (
            trainable.astype(np.int32) if options.rows is None else subset(options.rows, trainable, store.num_rows)
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
        order = epoch_rows(self._rows, self._share, self._order, seed=self.seed, epoch=epoch)
        for number in range(first_batch, self.num_batches):
            rows = order[number * self.batch_size : (number + 1) * self.batch_size].astype(np.int64)
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
        scene = scene_of_row(self._images, row, max_side_px=settings.max_side_px, jpeg_quality=settings.jpeg_quality)
        mask_HW = unpack_rows(scene.mask_packed, scene.width)
        foreground = crops.foreground(scene.mask_packed, scene.width)
        record_V = crops.draw_views(self.plan, foreground, self._donors, seed=self.seed, epoch=epoch, row=row)
        box_V = [tuple(int(record[name]) for name in ("top", "left", "height", "width")) for record in record_V]
        shrink = min(self._shrink(box, view) for box, view in zip(box_V, self.plan.views, strict=True))
        planes = decoded_planes(scene.image_blob, shrink)
        views = []
        for number, (view, record, box) in enumerate(zip(self.plan.views, record_V, box_V, strict=True)):
            is_flipped = bool(record["is_flipped"])
            image_HWC = crop_image(planes, box, shrink, view.size_px, is_flipped)
            mask = pack_rows(crop_mask(mask_HW, box, view.size_px, is_flipped))
            donor = self._donor(view, record) if crops.takes_donor(self.plan, number) else None
            views.append((image_HWC, mask, donor, record))
        return views

    def _donor(self, view: View, record: np.void) -> np.ndarray:
        if record["donor_row"] < 0:
            return np.zeros((view.size_px, view.size_px, 3), dtype=np.uint8)
        box = tuple(int(record[f"donor_{name}"]) for name in ("top", "left", "height", "width"))
        shrink = self._shrink(box, view)
        blob, size = background_blob(
            self._store.background_jpeg(int(record["donor_row"])), self._settings.background_side_px
        )
        planes, shrink = blob_planes(blob, size, shrink)
        return crop_image(planes, box, shrink, view.size_px, bool(record["donor_is_flipped"]))

    def _shrink(self, box: tuple[int, ...], view: View) -> int:
        """How many times smaller the image may be decoded for one box."""
        fitting = [shrink for shrink in (8, 4, 2) if min(box[2:]) >= shrink * view.size_px]
        return fitting[0] if fitting and self._may_shrink else 1


def decoded_planes(jpeg: bytes, shrink: int = 1) -> list[tuple[np.ndarray, int, int]]:
    """Decode a JPEG to what it stores.

    Args: shrink: how many times smaller the image is decoded.
    Returns: of Y, Cb and Cr, of a grey image of Y alone: float64 (H, W); rows and columns of the image that one of the
        plane's stands for.
    """
    header = jpeg_header(jpeg)
    assert header is not None
    height, width = (-(-side // shrink) for side in (header.height, header.width))
    memory = make_decode_memory(height, width)
    try:
        status, planes = decode_planes(memory, np.frombuffer(jpeg, np.uint8), height, width)
    finally:
        close_decode_memory(memory)
    assert status == 0, "a row with a mask has an image that can be decoded"
    return _as_arrays(planes)


def _as_arrays(planes: Planes) -> list[tuple[np.ndarray, int, int]]:
    found = []
    for number in range(3 if planes.has_colour else 1):
        sub_y, sub_x = (planes.sub_y, planes.sub_x) if number else (1, 1)
        rows, columns, stride = -(-planes.height // sub_y), -(-planes.width // sub_x), planes.strides[number]
        flat = planes.data[planes.starts[number] :][: rows * stride]
        found.append((flat.reshape(rows, stride)[:, :columns].astype(np.float64), sub_y, sub_x))
    return found


def blob_planes(blob: bytes, size: tuple[int, int], shrink: int) -> tuple[list[tuple[np.ndarray, int, int]], int]:
    """Return the planes of a background as of `decoded_planes`, and how many times smaller they are; stored ones never.

    Args: blob, size: of `background_blob`. shrink: how many times smaller a JPEG is decoded.
    """
    data = np.frombuffer(blob, np.uint8)
    if not is_stored(data, *size):
        return decoded_planes(blob, shrink), shrink
    return _as_arrays(stored_planes(data, *size)), 1


def crop_image(
    planes: list[tuple[np.ndarray, int, int]], box: tuple[int, ...], shrink: int, size_px: int, is_flipped: bool
) -> np.ndarray:
    """Cut, resize each plane (bilinear with antialias), flip and turn into RGB; beyond the image it is black.

    Args: planes: of `decoded_planes`. box: (top, left, height, width) in pixels of the whole image, of which `shrink`
        became one. size_px: side of the result.
    Returns: uint8 (size_px, size_px, 3).
    """
    resized = []
    for plane_HW, sub_y, sub_x in planes:
        weight_SH = _weights(box[0], box[2], shrink, sub_y, plane_HW.shape[0], size_px)
        weight_SW = _weights(box[1], box[3], shrink, sub_x, plane_HW.shape[1], size_px)
        resized.append(weight_SH @ plane_HW @ (weight_SW[::-1] if is_flipped else weight_SW).T)
    y, b, r = resized if len(resized) == 3 else (resized[0], np.float64(128), np.float64(128))
    b, r = b - 128, r - 128
    rgb_HWC = np.stack([y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b], axis=2)
    height, width = planes[0][0].shape
    is_inside_HW = crop_mask(np.ones((shrink * height, shrink * width), np.uint8), box, size_px, is_flipped)
    return np.clip(np.floor(rgb_HWC + 0.5), 0, 255).astype(np.uint8) * is_inside_HW[..., None]


def _weights(start: int, length: int, shrink: int, sub: int, num_source: int, size_px: int) -> np.ndarray:
    """Triangle filter of one side, float64 (size_px, num_source); `sub` pixels of the image have one of the plane."""
    factor = shrink * sub
    margin = 1 if sub > 1 else 0  # colour reaches over into its neighbours
    first, last = start // factor - margin, math.ceil((start + length) / factor) + margin
    scale = length / factor / size_px
    centre_S1 = start / factor + scale * (np.arange(size_px)[:, None] + 0.5)
    place_N = np.arange(num_source)
    weight_SN = np.maximum(0, 1 - np.abs(place_N + 0.5 - centre_S1) / max(scale, 1))
    weight_SN *= (place_N >= first) & (place_N < last)
    total_S1 = weight_SN.sum(axis=1, keepdims=True)  # 0 beyond the image
    return weight_SN / np.where(total_S1 > 0, total_S1, 1)


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


def _donors(store: Store, trainable: np.ndarray, plan: ViewPlan, settings: BetonSettings) -> crops.Donors:
    """The rows that lend backgrounds to a plan."""
    rows, sizes, fractions = [], [], []
    for row in trainable.tolist():
        jpeg = store.background_jpeg(row)
        header = jpeg_header(jpeg) if jpeg else None
        if header is not None:
            rows.append(row)
            side_px = settings.background_side_px or max(header.height, header.width)
            sizes.append(shrunk_size((header.height, header.width), side_px))
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
