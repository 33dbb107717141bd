"""The pictures of a row: its image, soft map, mask and background, as small JPEGs."""

import numpy as np

from backdrop.errors import ImageError
from backdrop.pipeline.gallery.source_images import SourceImages
from backdrop.stores.format.reader import Store
from backdrop.stores.format.schema import Status
from backdrop.stores.images.image_codec import decode_rgb, encode_jpeg
from backdrop.stores.pages.pictures import grey_to_rgb, thumbnail, with_contour

# In the order of the page. "saliency" is the soft map.
KINDS = ("image", "saliency", "mask", "background")
# Longer side: that of the stored backgrounds, which therefore are shown as they are.
SIDE_PX = 256
_QUALITY = 82
# Under a mask whose image is missing: light where foreground, dark elsewhere.
_PAPER = 190


def keeps_soft_maps(store: Store) -> bool:
    """Whether rows of a store may have soft maps, by what it says of itself."""
    return store.identity.get("soft_maps", "not said") is not None


class RowPictures:
    """Draws the pictures of rows. May be used from several threads.

    Args: store, images: of the rows. side_px: longer side of the pictures.
    """

    def __init__(self, store: Store, images: SourceImages, side_px: int = SIDE_PX) -> None:
        self._store = store
        self._images = images
        self._side_px = side_px

    def expected(self, row: int) -> dict[str, str]:
        """What `draw` will say of a row, without decoding anything: kind -> "", or why there is no such picture.

        An image that turns out to be another one, or damaged, is found by `draw` alone.
        """
        why = dict.fromkeys(KINDS, "")
        if not self._images.is_there(row):
            why["image"] = "its image is not at hand"
        if not self._has_blob("saliency", row):
            why["saliency"] = "no soft map" if keeps_soft_maps(self._store) else "the store keeps no soft maps"
        if not Status(int(self._store.status[row])).has_mask:
            why["mask"] = "no mask"
        if not self._has_blob("background", row):
            why["background"] = "no background to lend"
        return why

    def draw(self, row: int) -> tuple[dict[str, bytes], dict[str, str]]:
        """Draw a row.

        Returns:
            kind -> JPEG of the pictures there are, and kind -> reason of those there are not.

        Raises:
            CorruptStore: the store is damaged there.
        """
        why = self.expected(row)
        image_HWC = self._image(row, why)
        jpegs = {} if image_HWC is None else {"image": _jpeg(image_HWC)}
        if not why["saliency"]:
            saliency_HW = self._store.saliency(row)
            assert saliency_HW is not None
            jpegs["saliency"] = _jpeg(grey_to_rgb(thumbnail(saliency_HW, self._side_px)))
        if not why["mask"]:
            mask_HW = self._store.mask(row)
            assert mask_HW is not None
            under_HWC = np.full((*mask_HW.shape, 3), _PAPER, np.uint8) if image_HWC is None else image_HWC
            jpegs["mask"] = _jpeg(with_contour(under_HWC, mask_HW, self._side_px, line_px=max(1, self._side_px // 128)))
        if not why["background"]:
            jpegs["background"] = self._background(row)
        return jpegs, {kind: reason for kind, reason in why.items() if reason}

    def _image(self, row: int, why: dict[str, str]) -> np.ndarray | None:
        """The image of a row as a thumbnail; where there is none, `why` then has the reason."""
        if why["image"]:
            return None
        try:
            # Decoded no larger than it needs to be, but for pictures of the usual size, which are to be as they were.
            least_side_px = self._side_px if self._side_px < SIDE_PX else 0
            return thumbnail(self._images.read(row, least_side_px), self._side_px)
        except ImageError as error:
            why["image"] = str(error)
            return None

    def _background(self, row: int) -> bytes:
        jpeg = self._store.background_jpeg(row)
        if self._side_px >= SIDE_PX:
            return jpeg
        return _jpeg(thumbnail(decode_rgb(jpeg, least_side_px=self._side_px), self._side_px))

    def _has_blob(self, name: str, row: int) -> bool:
        number, at = divmod(row, self._store.part_rows)
        return len(self._store.part(number).blob(name, at)) > 0


def _jpeg(image_HWC: np.ndarray) -> bytes:
    return encode_jpeg(np.ascontiguousarray(image_HWC), _QUALITY)
